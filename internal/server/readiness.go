package server

import (
	"context"
	"sync"
	"time"
)

// readiness asks the store at most once a second: anybody may ask the server.
type readiness struct {
	check func(ctx context.Context) error

	mu   sync.Mutex
	at   time.Time
	last error
}

// Check returns nil when the store takes reads and writes.
func (r *readiness) Check(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) < time.Second {
		return r.last
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	r.last, r.at = r.check(ctx), time.Now()
	return r.last
}
