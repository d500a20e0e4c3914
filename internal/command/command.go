// Package command knows the commands that people send to agents: to one, to a
// group or to all that are live, and what came of each with each recipient.
//
// Who gets a command is fixed when it is sent, in the transaction that records
// it. From then on each recipient goes its own way, and ends once, whatever the
// number of servers, lost messages and answers that come twice:
//
//	pending ──written to its link──▶ delivered ──answer──▶ acknowledged | failed
//	   │                                 │
//	   ├──────────answer─────────────────┼───▶ acknowledged | failed  (it overtook the mark)
//	   └──────────time is over───────────┴───▶ expired
//
// Marks and answers come in crowds: they are collected in memory and written in
// batches (see [Service.Run]), and nobody who answers is told so before the
// commit.
//
// The package knows no SQL, no HTTP and no carrier.
package command

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// Limits and times of commands.
const (
	DefaultExpiry   = 60 * time.Second
	MaxExpiry       = 24 * time.Hour
	MaxPayloadBytes = 256 << 10
	MaxResultBytes  = 256 << 10
	// maxErrorBytes bounds what an agent may say about why it failed.
	maxErrorBytes = 4096
)

// Command is one command as it was sent.
type Command struct {
	ID       string
	TenantID string
	Type     string
	Payload  json.RawMessage // nil: none
	To       Recipient
	// Recipients is how many agents it was sent to; it does not change.
	Recipients int
	Counts     api.CommandCounts
	CreatedBy  string
	CreatedAt  time.Time
	ExpiresAt  time.Time
	DoneAt     time.Time // when the last recipient ended; zero before that
}

// Done reports whether every recipient has ended.
func (c *Command) Done() bool { return !c.DoneAt.IsZero() }

// Recipient says whom a command is for. Name is the agent's id or name, or the
// group's name; it is empty for all.
type Recipient struct {
	Scope api.CommandScope
	Name  string
}

// Delivery is a command with one of its recipients.
type Delivery struct {
	AgentID     string
	AgentName   string // as it was when the command was sent
	State       api.CommandState
	DeliveredAt time.Time       // zero: nobody noted it
	EndedAt     time.Time       // zero: it is open
	Result      json.RawMessage // nil: none
	Error       string
}

// Received is a command as one of its recipients has it.
type Received struct {
	*Command
	State api.CommandState
}

// Ref names a command with one recipient.
type Ref struct {
	TenantID  string
	CommandID string
	AgentID   string
}

// known are the types that every agent understands.
var known = []string{
	"config-update", "deep-trace", "replay",
	"doctor", "renew-certificate", "update", "drain", "resume", "collect-logs", "ssh-scan",
}

// Known reports whether every agent understands a type of command. Any other
// needs the agent's capability.
func Known(kind string) bool { return slices.Contains(known, kind) }

var typePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)

func validateType(kind string) error {
	if !typePattern.MatchString(kind) {
		return fault.InvalidField("body.type", "%q is no usable type: give 1 to 64 lower-case letters, digits and . _ -, beginning with a letter or digit", clip(kind))
	}
	return nil
}

// unknownType refuses a type that nobody who was asked declares.
func unknownType(kind, who string) error {
	return fault.InvalidField("body.type", "%q is none of the types that every agent knows (%s), and %s declares the capability command.%s",
		clip(kind), strings.Join(known, ", "), who, clip(kind))
}

// capabilities returns those of which one makes an agent understand a type;
// none for the types that every agent knows.
func capabilities(kind string) []string {
	if Known(kind) {
		return nil
	}
	return []string{"command." + kind, kind}
}

// clip keeps an error readable whatever was sent.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
