package fleet_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

func TestParseNumber(t *testing.T) {
	t.Parallel()
	for nonce, want := range map[string]fleet.Number{
		"1.1": {Boot: 1, Number: 1}, "7.42": {Boot: 7, Number: 42}, "9223372036854775807.9223372036854775807": {Boot: 1<<63 - 1, Number: 1<<63 - 1},
	} {
		if n, err := fleet.ParseNumber(nonce); err != nil || n != want {
			t.Errorf("%s: %+v, %v", nonce, n, err)
		}
	}
	for _, nonce := range []string{"", ".", "1", "1.", ".1", "0.1", "1.0", "-1.1", "1.-1", "+1.1", "01.1", "1.01", "1.1.1", " 1.1", "1.1 ", "1,1", "a.b", "9223372036854775808.1", "1e3.1"} {
		if n, err := fleet.ParseNumber(nonce); err == nil {
			t.Errorf("%q is taken as %+v (%v)", nonce, n, err)
		}
	}
}

// What is written is read, and the order is that of boots, and then of numbers.
func TestNumbersAreOrdered(t *testing.T) {
	t.Parallel()
	number := rapid.Custom(func(t *rapid.T) fleet.Number {
		return fleet.Number{Boot: rapid.Int64Range(1, 3).Draw(t, "boot"), Number: rapid.Int64Range(1, 3).Draw(t, "number")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		if n, err := fleet.ParseNumber(api.SignatureNonce(a.Boot, a.Number)); err != nil || n != a {
			t.Fatal(n, err)
		}
		after := a.Boot > b.Boot || a.Boot == b.Boot && a.Number > b.Number
		if (a.Compare(b) > 0) != after || a.Compare(b) != -b.Compare(a) || (a.Compare(b) == 0) != (a == b) {
			t.Fatalf("%+v and %+v: %d", a, b, a.Compare(b))
		}
	})
}

func TestMustSign(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ signs, required, refused bool }{{false, false, false}, {true, false, true}, {false, true, true}, {true, true, true}} {
		a := &fleet.Agent{ID: "a", SignsHeartbeats: c.signs}
		err := a.MustSign(c.required, "heartbeat")
		if (err != nil) != c.refused || c.refused && (fault.KindOf(err) != fault.Unauthenticated || fault.CodeOf(err) != api.CodeHeartbeatUnsigned) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// heard takes a number, and reports which boot is known when it is refused.
func (m *monitored) heard(a *fleet.Agent, boot, number int64) (refused int64) {
	m.t.Helper()
	err := m.Number(a, fleet.Number{Boot: boot, Number: number})
	if err == nil {
		return 0
	}
	old, ok := errors.AsType[*fleet.OldNumber](err)
	if !ok || fault.CodeOf(err) != api.CodeNumberRefused || old.Given != (fleet.Number{Boot: boot, Number: number}) {
		m.t.Fatal(err)
	}
	return old.Known.Boot
}

// Each number is heard once and none after a higher one, by what this server has
// heard, and by what the store knows.
func TestNumbersAreHeardOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, stop := monitor(t, newMemory(1))
		defer stop()
		a, b := &fleet.Agent{TenantID: "t", ID: "a0"}, &fleet.Agent{TenantID: "other", ID: "a0"}
		for _, c := range []struct{ boot, number, known int64 }{
			{3, 1, 0}, {3, 1, 3}, {3, 2, 0}, {2, 9, 3}, {3, 9, 0}, {3, 8, 3}, {4, 1, 0}, {3, 10, 4}, {1 << 61, 1, 0}, {5, 1, 1 << 61},
		} {
			if known := m.heard(a, c.boot, c.number); known != c.known {
				t.Errorf("boot %d number %d: refused by %d, want %d", c.boot, c.number, known, c.known)
			}
		}
		if known := m.heard(b, 1, 1); known != 0 {
			t.Errorf("another tenant's agent is refused by %d", known)
		}
		// A server that has heard nothing, as after a restart, has what is stored.
		fresh, stopFresh := monitor(t, newMemory(1))
		defer stopFresh()
		a.Signed = fleet.Number{Boot: 7, Number: 5}
		for _, c := range []struct{ boot, number, known int64 }{{7, 5, 7}, {6, 100, 7}, {7, 6, 0}, {7, 6, 7}} {
			if known := fresh.heard(a, c.boot, c.number); known != c.known {
				t.Errorf("with boot 7 number 5 in the store, boot %d number %d: refused by %d, want %d", c.boot, c.number, known, c.known)
			}
		}
		for _, n := range []fleet.Number{{}, {Boot: 8}, {Number: 8}, {Boot: -1, Number: 1}} {
			if err := fresh.Number(a, n); fault.KindOf(err) != fault.Invalid {
				t.Errorf("%+v: %v", n, err)
			}
		}
	})
}

// A number is in memory until the store has it, and for a while after, whatever
// was read of the agent before; then it is not kept any more.
func TestNumbersAreKeptUntilTheyAreStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMemory(1)
		m, stop := monitor(t, store)
		defer stop()
		a := &fleet.Agent{TenantID: "t", ID: "a0"} // as it was read before anything was stored
		m.heard(a, 3, 1)
		store.set(func(s *memory) { s.down = errors.New("down") })
		m.Beat(fleet.Heartbeat{TenantID: "t", AgentID: "a0", At: time.Now(), Signed: fleet.Number{Boot: 3, Number: 1}})
		m.pass(time.Hour)
		if m.heard(a, 3, 1) != 3 {
			t.Error("it is forgotten, and the store does not have it")
		}
		// What comes after it on the link is stored with it, and not without.
		m.Beat(fleet.Heartbeat{TenantID: "t", AgentID: "a0", At: time.Now(), Status: "later"})
		store.set(func(s *memory) { s.down = nil })
		m.pass(2 * time.Second)
		batches := store.got()
		if last := batches[len(batches)-1][0]; last.Status != "later" || last.Signed != (fleet.Number{Boot: 3, Number: 1}) {
			t.Errorf("stored: %+v", last)
		}
		m.pass(30 * time.Second)
		if m.heard(a, 3, 1) != 3 {
			t.Error("it is forgotten at once: who was read before it was stored could repeat it")
		}
		m.pass(10 * time.Minute)
		if m.heard(a, 3, 1) != 0 {
			t.Error("it is kept for ever")
		}
	})
}

// A flush that fails while newer heartbeats come does not lose a number.
func TestNumbersOutliveAFailedFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMemory(1)
		m, stop := monitor(t, store)
		defer stop()
		store.set(func(s *memory) { s.slow, s.down = 500*time.Millisecond, errors.New("down") })
		m.pass(900 * time.Millisecond)
		m.Beat(fleet.Heartbeat{TenantID: "t", AgentID: "a0", At: time.Now(), Signed: fleet.Number{Boot: 3, Number: 1}})
		m.pass(300 * time.Millisecond) // it is being flushed
		m.Beat(fleet.Heartbeat{TenantID: "t", AgentID: "a0", At: time.Now(), Status: "newer"})
		m.pass(400 * time.Millisecond)
		store.set(func(s *memory) { s.slow, s.down = 0, nil })
		m.pass(2 * time.Second)
		batches := store.got()
		if last := batches[len(batches)-1][0]; last.Status != "newer" || last.Signed.Boot != 3 {
			t.Errorf("stored: %+v", last)
		}
	})
}
