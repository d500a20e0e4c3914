package testkit_test

import (
	"sync"
	"testing"
	"time"
)

// standstill is a gap in which nothing of this process ran, so long that a
// certificate of half a minute may have ended in it: the third of its life that
// is left when it is to be renewed at the latest is not much longer.
const standstill = 3 * time.Second

// standstills are when this machine stood still, as a busy or virtual one does:
// whoever sleeps for ten seconds finds that certificates have ended, and no
// program can help it. What follows within a certificate's life is no fault of
// an agent or a server; that no task is lost holds all the same. It is safe for
// concurrent use.
type standstills struct {
	began time.Time

	mu  sync.Mutex
	all []span
}

type span struct{ from, to time.Time }

// noticeStandstills looks until the test ends.
func noticeStandstills(t *testing.T) *standstills {
	t.Helper()
	s := &standstills{began: time.Now()}
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-t.Context().Done():
				return
			case <-tick.C:
			}
			now := time.Now()
			s.saw(last, now)
			last = now
		}
	}()
	return s
}

func (s *standstills) saw(last, now time.Time) {
	if now.Sub(last) < standstill {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, span{last, now})
}

// explain reports whether what happened then may be for a standstill before it.
func (s *standstills) explain(at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.all {
		if at.After(p.from) && at.Before(p.to.Add(rotationLife)) {
			return true
		}
	}
	return false
}

// within is for how long the machine stood still in a time.
func (s *standstills) within(from, to time.Time) (sum time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.all {
		begin, end := p.from, p.to
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		sum += max(0, end.Sub(begin))
	}
	return sum
}

// enough fails the test when so much of its time is explained that what is left
// says nothing.
func (s *standstills) enough(t *testing.T) {
	t.Helper()
	const step = time.Second
	looked, good := 0, 0
	for at := s.began; at.Before(time.Now()); at = at.Add(step) {
		looked++
		if !s.explain(at) {
			good++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.all {
		t.Logf("this machine stood still for %s at %s", p.to.Sub(p.from).Round(time.Millisecond), p.from.Format("15:04:05.000"))
	}
	if good < looked/4 {
		t.Errorf("this machine stood still so often that of %d s only %d say anything about certificates: run it again where there is less to do", looked, good)
	}
}

// A standstill explains what comes within a certificate's life after it, and
// nothing else.
func TestStandstills(t *testing.T) {
	t.Parallel()
	at := time.Now()
	s := &standstills{}
	s.saw(at, at.Add(standstill-time.Millisecond))
	if s.explain(at.Add(time.Second)) {
		t.Error("a short gap explains something")
	}
	s.saw(at, at.Add(10*time.Second))
	for after, want := range map[time.Duration]bool{
		-time.Second: false, time.Second: true, 10 * time.Second: true, 10*time.Second + rotationLife - 1: true, 10*time.Second + rotationLife: false,
	} {
		if s.explain(at.Add(after)) != want {
			t.Errorf("%s after it: want %v", after, want)
		}
	}
	if d := s.within(at.Add(-time.Minute), at.Add(4*time.Second)); d != 4*time.Second {
		t.Errorf("within: %s", d)
	}
	if d := s.within(at.Add(20*time.Second), at.Add(time.Minute)); d != 0 {
		t.Errorf("behind it: %s", d)
	}
}
