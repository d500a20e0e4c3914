package limit_test

import (
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/server/limit"
)

// clock is a time that only the test moves.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newClock() *clock { return &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

// However a caller spreads its requests, it never gets more than its burst and
// what its rate has given since; one that waits as long as it is told gets in;
// and what one caller does is nothing to another.
func TestRateIsKept(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		r := limit.Rate{PerSecond: rapid.Float64Range(0.05, 200).Draw(t, "rate"), Burst: rapid.IntRange(1, 30).Draw(t, "burst")}
		s := limit.NewStrangers(limit.Options{Refused: r}, c.now)
		began, passed, over := c.at, 0, int64(0)
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			c.at = c.at.Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond)
			exhausted := s.Exhausted("192.0.2.1:1")
			err := s.Refused(fmt.Sprintf("192.0.2.1:%d", rapid.IntRange(1, 65535).Draw(t, "port")))
			if exhausted != (err != nil) {
				t.Fatalf("exhausted %t, and then %v", exhausted, err)
			}
			if err == nil {
				passed++
			} else {
				over++
				f := fault.As(err)
				if f == nil || f.Kind != fault.RateLimited || f.Code != "rate_limited" || f.RetryAfter < time.Second || f.RetryAfter%time.Second != 0 {
					t.Fatalf("%+v", f)
				}
				if rapid.IntRange(0, 5).Draw(t, "patient") == 0 {
					c.at = c.at.Add(f.RetryAfter)
					if err := s.Refused("192.0.2.1"); err != nil {
						t.Fatalf("it waited for %s, and again: %v", f.RetryAfter, err)
					}
					passed++
				}
			}
			if most := float64(r.Burst) + r.PerSecond*c.at.Sub(began).Seconds() + 1e-6; float64(passed) > math.Floor(most) {
				t.Fatalf("%d passed, and no more than %f may", passed, most)
			}
		}
		if refused, anonymous := s.TurnedAway(); refused != over || anonymous != 0 {
			t.Fatalf("%d were turned away, and %d and %d are counted", over, refused, anonymous)
		}
		if err := s.Refused("192.0.2.2:1"); err != nil {
			t.Fatalf("another address pays: %v", err)
		}
		if err := s.Anonymous("192.0.2.1:1"); err != nil {
			t.Fatalf("another kind of request pays, although it has no limit: %v", err)
		}
	})
}

// IPv6 hosts have a whole /64; IPv4 addresses are one each, however written.
func TestWhoIsCountedTogether(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:9", true},
		{"[2001:db8:0:1::1]:1", "[2001:db8:0:1:ffff:ffff:ffff:ffff]:2", true},
		{"[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1", false},
		{"[fe80::1%eth0]:1", "[fe80::1%eth1]:1", true},
		{"2001:db8::1", "[2001:db8::2]:443", true},
		{"agent:a", "agent:a", true},
		{"agent:a", "agent:b", false},
		{"", "", true},
	} {
		s := limit.NewStrangers(limit.Options{Anonymous: limit.Rate{PerSecond: 1, Burst: 1}}, newClock().now)
		if err := s.Anonymous(c.a); err != nil {
			t.Fatal(err)
		}
		over := s.Anonymous(c.b) != nil
		if over != c.same {
			t.Errorf("%q and %q are counted together: %t", c.a, c.b, over)
		}
		if refused, anonymous := s.TurnedAway(); refused != 0 || anonymous == 1 != over {
			t.Errorf("%d and %d are counted", refused, anonymous)
		}
	}
}

// A zero rate, and no Strangers at all, limit nobody.
func TestNoLimit(t *testing.T) {
	t.Parallel()
	var none *limit.Strangers
	for _, s := range []*limit.Strangers{none, limit.NewStrangers(limit.Options{}, time.Now)} {
		for range 1000 {
			if s.Refused("192.0.2.1:1") != nil || s.Anonymous("192.0.2.1:1") != nil || s.Exhausted("192.0.2.1:1") {
				t.Fatal("somebody was limited")
			}
		}
		if refused, anonymous := s.TurnedAway(); refused != 0 || anonymous != 0 {
			t.Errorf("%d and %d are counted", refused, anonymous)
		}
	}
}

// A million addresses take no more room than those that are remembered, and
// one that goes on asking among them is not forgotten.
func TestAMillionAddresses(t *testing.T) { //nolint:paralleltest // it measures the heap
	c := newClock()
	s := limit.NewStrangers(limit.Options{Refused: limit.PerMinute(1, 5)}, c.now)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const eager = "192.0.2.1:1"
	told := 0
	addr := netip.MustParseAddr("10.0.0.0")
	for i := range 1 << 20 {
		addr = addr.Next()
		if err := s.Refused(addr.String()); err != nil {
			t.Fatalf("%s has asked once: %v", addr, err)
		}
		if i%10_000 == 0 && s.Refused(eager) == nil {
			told++
		}
	}
	if told != 5 {
		t.Errorf("who asked all the time was answered %d times, and not 5", told)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 48<<20 {
		t.Errorf("a million addresses hold %d MiB", grown>>20)
	}
	runtime.KeepAlive(s)
}
