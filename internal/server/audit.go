package server

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/store"
)

// auditor writes the audit log to the store. What cannot be written there is
// in the log at least.
type auditor struct {
	store *store.Store
	log   *slog.Logger
}

// Audit notes an event; it does not fail what was done.
func (a *auditor) Audit(ctx context.Context, e access.Event) {
	if e.At.IsZero() {
		e.At = now()
	}
	if e.TenantID == "" {
		e.TenantID = access.DefaultTenant
	}
	if err := a.store.Audit(ctx, e); err != nil {
		a.log.ErrorContext(ctx, "the audit log was not written", "error", err,
			"actor", e.Actor, "action", e.Action, "object", e.Object, "outcome", e.Outcome, "detail", e.Detail)
	}
}

// AuditEvents reads the log, the newest first unless the filter says another
// order.
func (a *auditor) AuditEvents(ctx context.Context, tenant string, f access.Filter) ([]*access.Event, error) {
	return a.store.AuditEvents(ctx, tenant, f)
}

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
