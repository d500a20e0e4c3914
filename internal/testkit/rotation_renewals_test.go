package testkit_test

import (
	"slices"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

// renewalBook is when each agent got its certificates, as the audit log has it.
type renewalBook struct {
	count             int
	shortest, longest time.Duration // between two that nobody asked for
}

// stepsOfRotation is how often the authority asks each agent to renew while it
// is replaced: there is one more to trust, another one issues, and there is one
// less to trust.
const stepsOfRotation = 3

// bounded fails the test for every agent that was ever late, so that its
// certificate ended, and for each that renewed when nothing was due.
func (b *renewalBook) bounded(t *testing.T, rig *rotationRig) {
	t.Helper()
	got := map[string][]time.Time{} // by agent
	lines := func(action string, take func(*api.AuditEvent)) {
		t.Helper()
		for e, err := range rig.cp.Client.Audit(t.Context(), client.AuditFilter{Filter: "action=" + action}) {
			if err != nil {
				t.Fatal(err)
			}
			take(&e)
		}
	}
	note := func(e *api.AuditEvent) {
		if e.Outcome != "ok" {
			t.Errorf("%s %s: %s %s", e.Action, e.Object, e.Outcome, e.Detail)
		}
		got[e.Object] = append(got[e.Object], e.At)
	}
	lines("agent.register", note)
	lines("agent.renew", func(e *api.AuditEvent) {
		b.count++
		note(e)
	})
	lines("agent.recover", func(e *api.AuditEvent) {
		if !rig.standstills.explain(e.At) {
			t.Errorf("%s had to recover at %s", e.Object, e.At)
		}
		note(e)
	})

	now := time.Now()
	b.shortest = rotationLife
	for _, name := range rig.names {
		at := got[rig.agents[name].id]
		slices.SortFunc(at, time.Time.Compare)
		asked := 0
		for i, since := range at {
			until := now
			if i+1 < len(at) {
				until = at[i+1]
			}
			gap := until.Sub(since)
			if gap-rig.standstills.within(since, until) > rotationLife {
				t.Errorf("%s had no new certificate for %s after %s", name, gap, since.Format("15:04:05.000"))
			}
			if i+1 == len(at) {
				continue
			}
			// The line is written a moment after the certificate.
			if gap < rotationEarliest-time.Second {
				asked++
				continue
			}
			b.shortest, b.longest = min(b.shortest, gap), max(b.longest, gap)
		}
		if asked > stepsOfRotation {
			t.Errorf("%s renewed %d times before it was due; a rotation asks for %d: %v", name, asked, stepsOfRotation, at)
		}
	}
}
