package cli

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

// fleetOf makes live agents of the group web.
func fleetOf(names ...string) api.AgentList {
	list := api.AgentList{Items: []api.Agent{}}
	for _, n := range names {
		list.Items = append(list.Items, api.Agent{ID: "id-" + n, Name: n, Group: "web", Liveness: api.Live, Lifecycle: api.LifecycleActive})
	}
	return list
}

// sent is a command to a group as it was just recorded.
func sent(recipients int) api.Command {
	return api.Command{
		ID: "c1", Type: "drain", Scope: api.ScopeGroup, Recipient: "web", Recipients: recipients, Counts: api.CommandCounts{Pending: recipients},
		CreatedBy: "joe", CreatedAt: at.Add(-90 * time.Second), ExpiresAt: at.Add(-30 * time.Second),
	}
}

func progress(c api.Command, deliveries ...api.CommandDelivery) api.CommandProgress {
	for _, d := range deliveries {
		switch d.State {
		case api.CommandAcknowledged:
			c.Counts.Acknowledged++
		case api.CommandFailed:
			c.Counts.Failed++
		case api.CommandExpired:
			c.Counts.Expired++
		case api.CommandPending, api.CommandDelivered:
		}
	}
	c.Counts.Pending, c.Recipients, c.Done = 0, len(deliveries), true
	return api.CommandProgress{Command: c, Deliveries: deliveries}
}

func delivered(name string, state api.CommandState, reason string) api.CommandDelivery {
	d := api.CommandDelivery{AgentID: "id-" + name, AgentName: name, State: state, Error: reason, DeliveredAt: ago(89960 * time.Millisecond)}
	if state.Final() {
		d.EndedAt = ago(88500 * time.Millisecond)
	}
	return d
}

// commanding returns a fake where a command to the group web comes to an end:
// at the third look.
func commanding(t *testing.T, end api.CommandProgress) (*fakeAPI, *terminal) {
	t.Helper()
	f := newFakeAPI(t)
	f.answer("GET /api/v1/agents", fleetOf("web-1", "web-2", "web-3"))
	f.answer("GET /api/v1/agents/web-1", fleetOf("web-1").Items[0])
	open := end.Command
	open.Done, open.Counts = false, api.CommandCounts{Pending: open.Recipients}
	f.answer("POST /api/v1/agents/web-1/commands", open)
	f.answer("POST /api/v1/agents/groups/web/commands", open)
	f.answer("POST /api/v1/agents/commands", open)
	var looks atomic.Int64
	f.answer("GET /api/v1/commands/c1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := end
		if looks.Add(1) < 3 {
			p.Command = open
		}
		if state := r.URL.Query().Get("state"); state != "" {
			p.Deliveries = nil
			for _, d := range end.Deliveries {
				if string(d.State) == state {
					p.Deliveries = append(p.Deliveries, d)
				}
			}
		}
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(p)
	}))
	return f, newTerminal(t, f)
}

func TestCommandRendering(t *testing.T) {
	t.Parallel()
	some := progress(sent(2), delivered("web-1", api.CommandAcknowledged, ""), delivered("web-2", api.CommandFailed, "no\nspace"))
	some.Payload = json.RawMessage(`{"reason":"x"}`)
	open := sent(3)
	open.ID, open.Counts, open.ExpiresAt = "c2", api.CommandCounts{Pending: 1, Delivered: 2}, at.Add(30*time.Second)
	one := sent(1)
	one.ID, one.Scope, one.Recipient = "c3", api.ScopeAgent, "web-1"
	answered := delivered("web-1", api.CommandAcknowledged, "")
	answered.Result = json.RawMessage(`{"a":1}`)
	all := sent(0)
	all.ID, all.Scope, all.Recipient, all.Done, all.CreatedAt = "c4", api.ScopeAll, "", true, at
	late := delivered("web-3", api.CommandExpired, "it did not answer")
	late.DeliveredAt = nil
	for args, tc := range map[string]struct {
		path   string
		answer any
		want   string
	}{
		"command list": {"/api/v1/commands", api.CommandList{Items: []api.Command{some.Command, open, all}}, `
ID  TYPE   TO         RECIPIENTS  COUNTS                    STATE  AGE  BY
c1  drain  group web  2           1 acknowledged, 1 failed  done   1m   joe
c2  drain  group web  3           2 delivered, 1 pending    open   1m   joe
c4  drain  all        0                                     done   now  joe
`},
		"command show c1": {"/api/v1/commands/c1", some, `
Command     c1
Type        drain
To          group web
Payload     {"reason":"x"}
State       done
Recipients  2 agents: 1 acknowledged, 1 failed
By          joe
Sent        2026-05-04T11:58:30Z (1m ago)

AGENT  STATE         DELIVERED AFTER  ANSWERED AFTER  ERROR
web-1  acknowledged  40ms             1.5s
web-2  failed        40ms             1.5s            no space
`},
		"command show c2": {"/api/v1/commands/c2", api.CommandProgress{Command: open, Deliveries: []api.CommandDelivery{
			delivered("web-1", api.CommandDelivered, ""), {AgentName: "web-2", State: api.CommandPending}, late,
		}}, `
Command     c2
Type        drain
To          group web
State       open
Recipients  3 agents: 2 delivered, 1 pending
By          joe
Sent        2026-05-04T11:58:30Z (1m ago)
Expires     in 30s

AGENT  STATE      DELIVERED AFTER  ANSWERED AFTER  ERROR
web-1  delivered  40ms
web-2  pending
web-3  expired                                     it did not answer
`},
		"command show c3": {"/api/v1/commands/c3", progress(one, answered), `
Command     c3
Type        drain
To          agent web-1
State       done
Recipients  1 agent: 1 acknowledged
By          joe
Sent        2026-05-04T11:58:30Z (1m ago)

AGENT  STATE         DELIVERED AFTER  ANSWERED AFTER  ERROR
web-1  acknowledged  40ms             1.5s

{
  "a": 1
}
`},
		"command show c4": {"/api/v1/commands/c4", api.CommandProgress{Command: all}, `
Command     c4
Type        drain
To          all
State       done
Recipients  0 agents
By          joe
Sent        2026-05-04T12:00:00Z (now)
`},
		"agent show web-1": {"/api/v1/agents/web-1", api.Agent{
			Name: "web-1", Status: api.StatusOnline, Lifecycle: api.LifecycleActive, Liveness: api.Live, Transport: "websocket",
			Capabilities: []string{"command.backup", "command.dot.ted", "host.deploy"}, LastHeartbeat: ago(0), CreatedAt: at,
		}, `
Name          web-1
Status        online
Life cycle    active
Liveness      live
Heartbeat     now
Connection    websocket
Capabilities  host.deploy
Commands      backup, dot.ted
Registered    now
`},
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			f := newFakeAPI(t)
			f.answer("GET "+tc.path, tc.answer)
			term := newTerminal(t, f)
			term.must(t, strings.Fields(args)...)
			if diff := cmp.Diff(tc.want, "\n"+term.stdout); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCommandQueries(t *testing.T) {
	t.Parallel()
	f, term := commanding(t, progress(sent(2), delivered("web-1", api.CommandAcknowledged, ""), delivered("web-2", api.CommandFailed, "no")))
	f.answer("GET /api/v1/commands", api.CommandList{})
	term.must(t, "command", "list", "--type", "drain", "--limit", "7")
	if !strings.Contains(term.stderr, "There are no such commands") {
		t.Errorf("%s", term.stderr)
	}
	term.must(t, "command", "list")
	if !strings.Contains(term.stderr, "`stella command send` sends one") {
		t.Errorf("%s", term.stderr)
	}
	term.must(t, "command", "show", "c1", "--state", "failed", "--limit", "1")
	term.must(t, "command", "show", "c1", "--state", "pending")
	if !strings.Contains(term.stderr, "With no agent is it pending.") {
		t.Errorf("%s", term.stderr)
	}
	term.must(t, "command", "show", "c1", "--limit", "1")
	if !strings.Contains(term.stderr, "… and 1 more: --limit 0 shows all") || strings.Contains(term.stdout, "web-2") {
		t.Errorf("%s%s", term.stdout, term.stderr)
	}
	term.must(t, "command", "show", "c1", "-o", "yaml")
	want := []string{
		"GET /api/v1/commands?limit=7&type=drain", "GET /api/v1/commands?limit=20",
		"GET /api/v1/commands/c1?limit=1", "GET /api/v1/commands/c1?limit=1&state=failed",
		"GET /api/v1/commands/c1?limit=1", "GET /api/v1/commands/c1?limit=100&state=pending",
		"GET /api/v1/commands/c1?limit=1", "GET /api/v1/commands/c1?limit=1",
		"GET /api/v1/commands/c1?limit=1", "GET /api/v1/commands/c1?limit=500",
	}
	if diff := cmp.Diff(want, f.asked()); diff != "" {
		t.Error(diff)
	}
	if code := term.run(t.Context(), "command", "show", "c1", "--state", "lost"); code != exitUsage || !strings.Contains(term.stderr, "use pending, delivered, acknowledged, failed or expired") {
		t.Errorf("exit code %d, %s", code, term.stderr)
	}
}

func TestCommandCompletion(t *testing.T) {
	t.Parallel()
	f, term := commanding(t, progress(sent(1)))
	agents := fleetOf("web-1", "web-2")
	agents.Items[0].Capabilities = []string{"command.double-check", "host.deploy"}
	agents.Items[1].Group = "db"
	f.answer("GET /api/v1/agents", agents)
	f.answer("GET /api/v1/commands", api.CommandList{Items: []api.Command{sent(1)}})
	for args, want := range map[string]string{
		"command send do":                  "double-check\ndoctor\tlook whether the agent and its host are well\n:4\n",
		"command send doctor ":             ":4\n",
		"command send drain --group ":      "db\nweb\n:4\n",
		"command send drain --agent web-2": "web-2\n:4\n",
		"command list --type dr":           "drain\ttake no new tasks\n:4\n",
		"command show ":                    "c1\tdrain to group web\n:4\n",
		"agent drain web-":                 "web-1\nweb-2\n:4\n",
		"events --kind agent.s":            "agent.stale\n:4\n",
		"events --kind task,agent.de":      "task,agent.dead\ntask,agent.deactivated\ntask,agent.deleted\n:4\n",
		"events --agent web-1":             "web-1\n:4\n",
	} {
		term.must(t, append([]string{"__complete"}, strings.Split(args, " ")...)...)
		if diff := cmp.Diff(want, term.stdout); diff != "" {
			t.Errorf("%s: %s", args, diff)
		}
	}
	f.server.Close()
	term.must(t, "__complete", "command", "send", "dra")
	if diff := cmp.Diff("drain\ttake no new tasks\n:4\n", term.stdout); diff != "" {
		t.Error(diff)
	}
}
