package link

import (
	"testing"
	"time"

	"stella-ops.org/stella/internal/fleet"
)

func TestPollers(t *testing.T) {
	t.Parallel()
	const silent = 90 * time.Second
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var p pollers
	heard := func(who string, after time.Duration, want string) {
		t.Helper()
		at = at.Add(after)
		if kept := p.heard("agent", fleet.Caller{Instance: who, Place: "host of " + who}, at, silent); kept != want {
			t.Errorf("%s after %s: held off for %q, want %q", who, after, kept, want)
		}
	}
	// Restarts, however many, are let in at once.
	for _, who := range []string{"a", "a", "b", "b", "c"} {
		heard(who, 10*time.Second, "")
	}
	// One that was replaced and comes back was never gone: it is the older one.
	heard("b", time.Second, "")
	for range 20 {
		heard("c", time.Second, "host of b")
		heard("b", 9*time.Second, "")
	}
	if kept := p.rival("agent", fleet.Caller{Instance: "c"}, at, silent); kept != "host of b" {
		t.Errorf("the one that is held off may act: %q", kept)
	}
	if kept := p.rival("agent", fleet.Caller{Instance: "b"}, at, silent); kept != "" {
		t.Errorf("the one that works may not act: %q", kept)
	}
	// The one that works is restarted while a copy waits, and the copy stays out.
	heard("b2", time.Second, "")
	heard("c", time.Second, "host of b2")
	heard("b2", time.Second, "")
	// When the one that works is gone, the other is let in.
	heard("c", silent+time.Second, "")
	heard("c", time.Second, "")
	// Others are not concerned, and nobody is known for ever.
	if kept := p.heard("another", fleet.Caller{Instance: "x"}, at, silent); kept != "" {
		t.Error(kept)
	}
	p.heard("another", fleet.Caller{Instance: "x"}, at.Add(2*pollersKept), silent)
	if len(p.known) != 1 {
		t.Errorf("%d are known", len(p.known))
	}
}
