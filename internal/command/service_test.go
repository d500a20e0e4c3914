package command_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// idle is a service that does not run: nothing of what is tested here needs it.
func (b *bench) idle() *server { return &server{Service: b.service(b.store, command.Options{})} }

func TestSend(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.agent("b")
	b.agent("dead", func(a *fleet.Agent) { a.Liveness, a.Group = api.Dead, "silent" })
	b.agent("inactive", func(a *fleet.Agent) { a.Lifecycle = api.LifecycleInactive })
	b.agent("gone", func(a *fleet.Agent) { a.Lifecycle = api.LifecycleRevoked })
	b.agent("able", func(a *fleet.Agent) { a.Group, a.Capabilities = "special", []string{"command.prune"} })
	b.agent("plain", func(a *fleet.Agent) { a.Group, a.Capabilities = "special", []string{"prune"} })
	b.agent("unable", func(a *fleet.Agent) { a.Group, a.Capabilities = "special", []string{"docker"} })
	b.agent("sleeper", func(a *fleet.Agent) { a.Group, a.Liveness, a.Capabilities = "silent", api.Stale, []string{"wake"} })
	s := b.idle()

	for what, c := range map[string]struct {
		to   command.Recipient
		kind string
		want []string
	}{
		"an agent by its id":            {toAgent(a.ID), "doctor", []string{"id-a"}},
		"an agent by its name":          {toAgent("a"), "doctor", []string{"id-a"}},
		"a dead agent":                  {toAgent("dead"), "update", []string{"id-dead"}},
		"an inactive agent":             {toAgent("inactive"), "resume", []string{"id-inactive"}},
		"a group":                       {toWeb, "replay", []string{"id-a", "id-b"}},
		"a group of which nobody lives": {command.Recipient{Scope: api.ScopeGroup, Name: "silent"}, "drain", nil},
		"all":                           {toAll, "config-update", []string{"id-a", "id-able", "id-b", "id-plain", "id-unable"}},
		"one who can":                   {toAgent("able"), "prune", []string{"id-able"}},
		"those of a group who can":      {command.Recipient{Scope: api.ScopeGroup, Name: "special"}, "prune", []string{"id-able", "id-plain"}},
		"all who can":                   {toAll, "prune", []string{"id-able", "id-plain"}},
		"who could if they lived":       {toAll, "wake", nil},
	} {
		b.told.reset()
		sent := b.send(s, c.to, api.CommandRequest{Type: c.kind, Payload: []byte(`{"a": 1}`), ExpiresIn: 5})
		var got []string
		for id := range b.deliveries(sent.ID) {
			got = append(got, id)
		}
		slices.Sort(got)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		if sent.Recipients != len(c.want) || sent.Done() != (len(c.want) == 0) || sent.ExpiresAt.Sub(sent.CreatedAt) != 5*time.Second {
			t.Errorf("%s: %+v", what, sent)
		}
		event := api.Event{At: sent.CreatedAt, Kind: api.EventCommandSent, CommandID: sent.ID, Type: c.kind, By: "tester"}
		if c.to.Scope == api.ScopeAgent {
			event.AgentID, event.AgentName = c.want[0], strings.TrimPrefix(c.want[0], "id-")
			c.to.Name = event.AgentName
		}
		if sent.To != c.to {
			t.Errorf("%s: recorded as sent to %+v", what, sent.To)
		}
		if diff := cmp.Diff([]api.Event{event}, b.told.events, cmp.AllowUnexported(api.Event{})); diff != "" {
			t.Errorf("%s: events (-want +got):\n%s", what, diff)
		}
		if woken := slices.Equal(b.told.sent, []string{sent.ID}); woken != (len(c.want) > 0) {
			t.Errorf("%s: servers were woken for %v", what, b.told.sent)
		}
	}
}

func TestSendRefuses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.agent("a", func(a *fleet.Agent) { a.Capabilities = []string{"docker"} })
	b.agent("gone", func(a *fleet.Agent) { a.Lifecycle = api.LifecycleRevoked })
	s := b.idle()
	large := slices.Concat([]byte(`"`), bytes.Repeat([]byte("x"), command.MaxPayloadBytes), []byte(`"`))
	doctor := api.CommandRequest{Type: "doctor"}
	for what, c := range map[string]struct {
		to   command.Recipient
		req  api.CommandRequest
		kind fault.Kind
		code string
		says string
	}{
		"nobody":                 {toAgent("nobody"), doctor, fault.NotFound, "agent_not_found", "stella agent list"},
		"a revoked agent":        {toAgent("gone"), doctor, fault.Conflict, "agent_revoked", "register the host again"},
		"an empty group":         {command.Recipient{Scope: api.ScopeGroup, Name: "none"}, doctor, fault.NotFound, "group_not_found", "stella agent list"},
		"a group without a name": {command.Recipient{Scope: api.ScopeGroup}, doctor, fault.Invalid, "invalid", "names no group"},
		"no scope":               {command.Recipient{Name: "a"}, doctor, fault.Invalid, "invalid", "use agent, group or all"},
		"an odd type":            {toAll, api.CommandRequest{Type: "Doctor!"}, fault.Invalid, "invalid", "body.type"},
		"no type":                {toAll, api.CommandRequest{}, fault.Invalid, "invalid", "body.type"},
		"a long type":            {toAll, api.CommandRequest{Type: strings.Repeat("a", 65)}, fault.Invalid, "invalid", "body.type"},
		"one who does not know":  {toAgent("a"), api.CommandRequest{Type: "prune"}, fault.Invalid, "invalid", "agent a declares the capability command.prune"},
		"none who knows":         {toAll, api.CommandRequest{Type: "prune"}, fault.Invalid, "invalid", "config-update, deep-trace, replay, doctor"},
		"no group that knows":    {toWeb, api.CommandRequest{Type: "prune"}, fault.Invalid, "invalid", `no agent of group "web"`},
		"no JSON":                {toAll, api.CommandRequest{Type: "doctor", Payload: []byte("{")}, fault.Invalid, "invalid", "body.payload"},
		"a large payload":        {toAll, api.CommandRequest{Type: "doctor", Payload: large}, fault.TooLarge, "payload_too_large", "257 KiB"},
		"for ever":               {toAll, api.CommandRequest{Type: "doctor", ExpiresIn: 86401}, fault.Invalid, "invalid", "body.expiresIn"},
		"since yesterday":        {toAll, api.CommandRequest{Type: "doctor", ExpiresIn: -1}, fault.Invalid, "invalid", "body.expiresIn"},
	} {
		_, err := s.Send(b.ctx, tenant, "tester", c.to, c.req)
		if fault.KindOf(err) != c.kind || fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v (kind %d, code %s), want kind %d, code %s and %q", what, err, fault.KindOf(err), fault.CodeOf(err), c.kind, c.code, c.says)
		}
	}
	if list, err := s.List(b.ctx, tenant, command.Filter{}); err != nil || len(list) != 0 || len(b.told.events) != 0 || len(b.told.sent) != 0 {
		t.Errorf("after refusals there are %d commands, events %v, wake-ups %v, error %v", len(list), b.told.events, b.told.sent, err)
	}
}

func TestSendDefaults(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.agent("a")
	s := b.idle()
	c := b.send(s, command.Recipient{Scope: api.ScopeAll, Name: "ignored"}, api.CommandRequest{Type: "doctor", Payload: []byte("null")})
	if c.ExpiresAt.Sub(c.CreatedAt) != time.Minute || c.Payload != nil || c.To.Name != "" {
		t.Errorf("%+v", c)
	}
	got, err := s.Get(b.ctx, tenant, c.ID)
	must(t, err)
	c.CreatedAt, c.ExpiresAt = c.CreatedAt.UTC().Truncate(time.Microsecond), c.ExpiresAt.UTC().Truncate(time.Microsecond)
	if diff := cmp.Diff(c, got); diff != "" {
		t.Errorf("as it was sent and as it is stored:\n%s", diff)
	}
	max := b.send(s, toAll, api.CommandRequest{Type: "doctor", ExpiresIn: 86400})
	if max.ExpiresAt.Sub(max.CreatedAt) != command.MaxExpiry {
		t.Errorf("expires after %v", max.ExpiresAt.Sub(max.CreatedAt))
	}
}
