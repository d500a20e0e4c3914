package limit

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// buckets are token buckets, one for each caller that was seen lately. There
// are never more than most of them: a new caller takes the place of the one
// that was silent for the longest. Whoever owns so many addresses begins anew
// with each of them anyway.
type buckets struct {
	rate Rate
	most int

	mu     sync.Mutex
	known  map[string]*list.Element // of *bucket
	recent list.List                // the one that was seen last is in front
}

type bucket struct {
	key     string
	limiter *rate.Limiter
}

func newBuckets(r Rate, most int) *buckets {
	return &buckets{rate: r, most: most, known: map[string]*list.Element{}}
}

// take takes one token. It returns zero when there was one, and otherwise how
// long it is until there is; nothing is taken then.
func (b *buckets) take(key string, now time.Time) (wait time.Duration) {
	if b.rate.PerSecond <= 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.of(key)
	r := l.ReserveN(now, 1)
	if wait = r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// empty reports whether there is no token to take. Who was never seen is not
// remembered for it.
func (b *buckets) empty(key string, now time.Time) bool {
	if b.rate.PerSecond <= 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.known[key]
	if !ok {
		return false
	}
	// Asked as take asks, so that both round in the same way.
	reserved := limiterOf(e).ReserveN(now, 1)
	defer reserved.CancelAt(now)
	return reserved.DelayFrom(now) > 0
}

// of returns a caller's bucket; b.mu is held.
func (b *buckets) of(key string) *rate.Limiter {
	if e, ok := b.known[key]; ok {
		b.recent.MoveToFront(e)
		return limiterOf(e)
	}
	for len(b.known) >= b.most {
		oldest := b.recent.Back()
		delete(b.known, bucketOf(b.recent.Remove(oldest)).key)
	}
	added := &bucket{key: key, limiter: b.rate.limiter()}
	b.known[key] = b.recent.PushFront(added)
	return added.limiter
}

func limiterOf(e *list.Element) *rate.Limiter { return bucketOf(e.Value).limiter }

func bucketOf(v any) *bucket {
	b, _ := v.(*bucket) // there is nothing else in the list
	return b
}
