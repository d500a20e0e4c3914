package access

import (
	"context"
	"strings"
	"time"
)

// Event is one line of the audit log.
type Event struct {
	// Seq is the line's number in its tenant; 0 in a new one. It rises by one.
	Seq      int64
	TenantID string
	At       time.Time // to the microsecond
	Actor    string    // token:<id> (<name>), agent:<id>, anonymous, system
	Action   string    // as in agent.revoke
	Object   string    // what it was done to
	Remote   string    // from where
	Outcome  string    // ok, denied or failed
	Detail   string
	// Previous is the hash of the line before, and Hash that of this line, as
	// Sum makes it. Lines from before the log was a chain have neither.
	Previous, Hash []byte
}

// Auditor writes to the audit log. A write that fails is logged, and does not
// fail what was done.
type Auditor interface {
	Audit(ctx context.Context, e Event)
}

// What the log says of itself, by the actor system.
const (
	actorSystem = "system"
	// actionBroken: a server found, before it added this line, that somebody
	// else had changed the log.
	actionBroken = "audit.broken"
	// actionRemoved: retention removed old lines.
	actionRemoved = "audit.removed"
)

// tellsBreak reports whether the line says that the log was found changed.
// Nobody can cause such a line by what he does: the actor system is the
// server itself.
func (e *Event) tellsBreak() bool { return e.Actor == actorSystem && e.Action == actionBroken }

// settle brings a line's texts into the form in which every database keeps
// them, so that its hash is the same when it is read again: PostgreSQL refuses
// NUL, and bytes that are no UTF-8.
func (e *Event) settle() {
	for _, text := range []*string{&e.TenantID, &e.Actor, &e.Action, &e.Object, &e.Remote, &e.Outcome, &e.Detail} {
		*text = strings.ReplaceAll(strings.ToValidUTF8(*text, "\ufffd"), "\x00", "\ufffd")
	}
}
