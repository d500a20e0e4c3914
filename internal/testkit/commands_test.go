package testkit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// onEachTransport runs a test with agents that use one transport.
func onEachTransport(t *testing.T, test func(t *testing.T, cp *testkit.ControlPlane, use func(*agent.Config))) {
	t.Helper()
	for _, name := range []string{"websocket", "grpc", "poll"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cp := testkit.StartServer(t, func(c *server.Config) { c.HeartbeatInterval = 200 * time.Millisecond })
			test(t, cp, func(c *agent.Config) { c.Transport = name })
		})
	}
}

// taught gives an agent executables, by the type of command.
func taught(t *testing.T, scripts map[string]string) func(*agent.Config) {
	t.Helper()
	folder := t.TempDir()
	for kind, script := range scripts {
		if err := os.WriteFile(filepath.Join(folder, kind), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return func(c *agent.Config) { c.CommandsDir = folder }
}

func inGroup(name string) func(*agent.Config) { return func(c *agent.Config) { c.Group = name } }

// over waits until a command is done and returns what came of it.
func over(t *testing.T, cp *testkit.ControlPlane, sent *api.Command, err error) *api.CommandProgress {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var last *api.CommandProgress
	testkit.Eventually(t, 20*time.Second, sent.Type+" to be done", func() (bool, string) {
		p, err := cp.Client.Command(t.Context(), sent.ID, client.DeliveryFilter{})
		if err != nil {
			return false, err.Error()
		}
		last = p
		return p.Done, fmt.Sprintf("%+v", p.Counts)
	})
	return last
}

// wantRefused checks what a request that is not taken is answered.
func wantRefused(t *testing.T, err error, status int, text string) {
	t.Helper()
	var p *api.Problem
	if !errors.As(err, &p) || p.Status != status || !strings.Contains(p.Error(), text) {
		t.Errorf("%v, want %d %s", err, status, text)
	}
}

const greet = `#!/bin/sh
read -r command
echo "greeting" >&2
printf '{"on": "%s", "heard": %s}' "$STELLA_COMMAND_TYPE" "$command"
`

// large answers with what some encoders make six times as long.
const large = `#!/bin/sh
printf '"'; head -c 250000 /dev/zero | tr '\0' '<'; printf '"'
`

func TestCommandsReachTheirAgents(t *testing.T) {
	t.Parallel()
	onEachTransport(t, func(t *testing.T, cp *testkit.ControlPlane, use func(*agent.Config)) {
		for _, name := range []string{"web-1", "web-2"} {
			cp.StartAgent(name, use, inGroup("web"), taught(t, map[string]string{"greet": greet}))
		}
		cp.StartAgent("db-1", use, inGroup("db"), taught(t, map[string]string{"fail": "#!/bin/sh\necho no >&2\nexit 7", "large": large}))
		ctx := t.Context()

		req := api.CommandRequest{Type: "greet", Payload: json.RawMessage(`{"name":"<you> & \"me\""}`)}
		sent, err := cp.Client.SendCommand(ctx, "web-1", req)
		p := over(t, cp, sent, err)
		var answer struct {
			On    string           `json:"on"`
			Heard api.AgentCommand `json:"heard"`
		}
		if p.Counts.Acknowledged != 1 || json.Unmarshal(p.Deliveries[0].Result, &answer) != nil {
			t.Fatalf("to one: %+v", p)
		}
		var payload struct{ Name string }
		if err := json.Unmarshal(answer.Heard.Payload, &payload); err != nil || answer.On != "greet" || answer.Heard.ID != p.ID || payload.Name != `<you> & "me"` {
			t.Errorf("the executable heard %+v, %v", answer, err)
		}

		sent, err = cp.Client.SendCommandToGroup(ctx, "web", req)
		if p = over(t, cp, sent, err); p.Recipients != 2 || p.Counts.Acknowledged != 2 {
			t.Errorf("to a group: %+v", p)
		}
		sent, err = cp.Client.SendCommandToAll(ctx, req) // those that declare it
		if p = over(t, cp, sent, err); p.Recipients != 2 || p.Counts.Acknowledged != 2 {
			t.Errorf("to all that declare it: %+v", p)
		}
		sent, err = cp.Client.SendCommand(ctx, "db-1", api.CommandRequest{Type: "fail"})
		if p = over(t, cp, sent, err); p.Counts.Failed != 1 || p.Deliveries[0].Error != "fail ended with exit code 7: no" {
			t.Errorf("one that fails: %+v", p)
		}
		sent, err = cp.Client.SendCommand(ctx, "db-1", api.CommandRequest{Type: "large"})
		p = over(t, cp, sent, err)
		var text string
		if d := p.Deliveries[0]; p.Counts.Acknowledged != 1 || json.Unmarshal(d.Result, &text) != nil || text != strings.Repeat("<", 250_000) {
			t.Errorf("a large answer: %s, %d bytes, %s", d.State, len(text), d.Error)
		}

		sent, err = cp.Client.SendCommandToAll(ctx, api.CommandRequest{Type: "collect-logs", Payload: json.RawMessage(`{"lines":1000}`)})
		if p = over(t, cp, sent, err); p.Recipients != 3 || p.Counts.Acknowledged != 3 {
			t.Fatalf("to all: %+v", p)
		}
		for _, d := range p.Deliveries {
			var logs struct{ Lines []string }
			err := json.Unmarshal(d.Result, &logs)
			text := strings.Join(logs.Lines, "\n")
			if err != nil || !strings.Contains(text, "msg=\"agent starts\"") || strings.HasPrefix(d.AgentName, "web") != strings.Contains(text, "text=greeting") {
				t.Errorf("the log of %s: %v\n%s", d.AgentName, err, text)
			}
		}

		_, err = cp.Client.SendCommandToAll(ctx, api.CommandRequest{Type: "unheard-of"})
		wantRefused(t, err, http.StatusUnprocessableEntity, "no agent declares the capability command.unheard-of")
		_, err = cp.Client.SendCommandToGroup(ctx, "db", req)
		wantRefused(t, err, http.StatusUnprocessableEntity, `no agent of group "db" declares the capability command.greet`)
		_, err = cp.Client.SendCommand(ctx, "db-1", req)
		wantRefused(t, err, http.StatusUnprocessableEntity, "agent db-1 declares the capability command.greet")
		_, err = cp.Client.SendCommandToGroup(ctx, "nowhere", req)
		wantRefused(t, err, http.StatusNotFound, `no agent in group "nowhere"`)
	})
}

// A drained agent takes no task, and a restart does not make it take one.
func TestDrainedAgentTakesNoTasks(t *testing.T) {
	t.Parallel()
	onEachTransport(t, func(t *testing.T, cp *testkit.ControlPlane, use func(*agent.Config)) {
		a := cp.StartAgent("web-1", use)
		if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "app", Kind: "host", Agent: "web-1", Config: api.TargetConfig{Directory: filepath.Join(t.TempDir(), "app")}}); err != nil {
			t.Fatal(err)
		}
		ask := func(kind, payload string) *api.CommandProgress {
			t.Helper()
			sent, err := cp.Client.SendCommand(t.Context(), "web-1", api.CommandRequest{Type: kind, Payload: json.RawMessage(payload)})
			p := over(t, cp, sent, err)
			if p.Counts.Acknowledged != 1 {
				t.Fatalf("%s: %+v", kind, p)
			}
			return p
		}
		// beats waits for more heartbeats: who takes tasks would have taken one.
		beats := func(n int) *api.Agent {
			t.Helper()
			var now *api.Agent
			for last := time.Now(); n > 0; n-- {
				testkit.Eventually(t, 20*time.Second, "a heartbeat", func() (bool, string) {
					var err error
					if now, err = cp.Client.Agent(t.Context(), "web-1"); err != nil {
						return false, err.Error()
					}
					return now.LastHeartbeat != nil && now.LastHeartbeat.After(last), fmt.Sprint(now.LastHeartbeat)
				})
				last = *now.LastHeartbeat
			}
			return now
		}
		waits := func(id, when string) {
			t.Helper()
			if k, err := cp.Client.Task(t.Context(), id); err != nil || k.State != api.TaskQueued {
				t.Fatalf("%s the task is %+v, %v", when, k, err)
			}
		}

		p := ask("drain", `{"reason":"kernel update"}`)
		if string(p.Deliveries[0].Result) != `{"accepting":false,"running":0}` {
			t.Errorf("answer: %s", p.Deliveries[0].Result)
		}
		id := submitCommand(t, cp, 60, "/bin/true")
		if now := beats(3); now.NotAccepting != "kernel update" {
			t.Errorf("the agent is shown with %q", now.NotAccepting)
		}
		waits(id, "while the agent is drained")
		for range 2 {
			if err := a.Stop(); err != nil {
				t.Fatal(err)
			}
			a.Start("")
			if now := beats(3); now.NotAccepting != "kernel update" {
				t.Errorf("after its restart the agent is shown with %q", now.NotAccepting)
			}
			waits(id, "after a restart")
		}
		ask("resume", "")
		if k := cp.WaitTask(id, 20*time.Second); k.State != api.TaskSucceeded {
			t.Errorf("the task that waited: %s %s", k.State, k.Reason)
		}
		// What came while it was away is done when it is back.
		if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
		sent, err := cp.Client.SendCommand(t.Context(), "web-1", api.CommandRequest{Type: "drain"})
		a.Start("")
		if p := over(t, cp, sent, err); p.Counts.Acknowledged != 1 {
			t.Errorf("sent while it was away: %+v", p)
		}
	})
}

// A command to an agent that is away is recorded, expires, and is told of.
func TestCommandToAStoppedAgent(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	if err := cp.StartAgent("gone").Stop(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, linkPatience, "the server to see that it is gone", func() (bool, string) { // or it writes into the void
		a, err := cp.Client.Agent(t.Context(), "gone")
		return err == nil && a.Transport == "", fmt.Sprintf("%+v, %v", a, err)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var sent *api.Command
	var heard []string
	f := client.EventFilter{Kinds: []string{"command"}, Agent: "gone", Connected: func() {
		if sent != nil {
			return
		}
		var err error
		if sent, err = cp.Client.SendCommand(ctx, "gone", api.CommandRequest{Type: "drain", ExpiresIn: 1}); err != nil {
			t.Errorf("send: %v", err)
			cancel()
		}
	}}
	for e, err := range cp.Client.Events(ctx, f) {
		if err != nil {
			t.Fatalf("%v; heard %v", err, heard)
		}
		if heard = append(heard, e.Kind+" "+e.CommandID); e.Kind == api.EventCommandExpired {
			break
		}
	}
	if want := fmt.Sprintf("[command.sent %[1]s command.expired %[1]s]", sent.ID); fmt.Sprint(heard) != want {
		t.Errorf("heard %v", heard)
	}
	p := over(t, cp, sent, nil)
	if d := p.Deliveries[0]; p.Counts.Expired != 1 || d.State != api.CommandExpired || d.DeliveredAt != nil || d.Error == "" {
		t.Errorf("%+v", p)
	}
}

// By REST, the first answer stands, and only who was asked can answer.
func TestCommandAcksByREST(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	one, other := newHandmade(t, cp, "one"), newHandmade(t, cp, "other")
	sent, err := cp.Client.SendCommand(t.Context(), "one", api.CommandRequest{Type: "replay"})
	if err != nil {
		t.Fatal(err)
	}
	path := "/commands/" + sent.ID + "/ack"
	status, body := call(t, other.http2(), http.MethodPost, other.url(path), nil, api.CommandAck{})
	if p := problem(t, body); status != http.StatusForbidden || p.Code != "not_a_recipient" {
		t.Errorf("of an agent that was not asked: %d %s", status, body)
	}
	status, body = call(t, other.http2(), http.MethodPost, one.url(path), nil, api.CommandAck{})
	if status != http.StatusForbidden {
		t.Errorf("of an agent in another's name: %d %s", status, body)
	}
	for i, ack := range []api.CommandAck{
		{Result: json.RawMessage(`{"n":1}`)}, {Result: json.RawMessage(`{"n":1}`)}, {Status: api.CommandFailed, Error: "it changed its mind"},
	} {
		var res api.CommandAckResponse
		status, body = call(t, one.http2(), http.MethodPost, one.url(path), nil, ack)
		if err := json.Unmarshal(body, &res); err != nil || status != http.StatusOK || !res.Acknowledged || res.State != api.CommandAcknowledged {
			t.Errorf("answer %d: %d %s", i, status, body)
		}
	}
	p := over(t, cp, sent, nil)
	if d := p.Deliveries[0]; p.Counts.Acknowledged != 1 || p.Counts.Failed != 0 || string(d.Result) != `{"n":1}` || d.Error != "" {
		t.Errorf("what stands: %+v", p)
	}
	status, body = call(t, one.http2(), http.MethodPost, one.url("/commands/none/ack"), nil, api.CommandAck{})
	if status != http.StatusNotFound {
		t.Errorf("of no command: %d %s", status, body)
	}
}

// TestCommandsPage runs the commands of docs/commands.md.
func TestCommandsPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```sh\n")[1:]
	for i := range blocks {
		var ended bool
		if blocks[i], _, ended = strings.Cut(blocks[i], "```"); !ended {
			t.Fatal("a block of the page does not end")
		}
	}
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cp := testkit.StartServer(t)
	folder := t.TempDir()
	run := func(script string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "bash", "-c", "set -euo pipefail\n"+script)
		cmd.Env = append(os.Environ(), "COMMANDS="+folder, "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), "STELLA_CLI_CONFIG="+filepath.Join(t.TempDir(), "config.yaml"),
			"STELLA_SERVER="+cp.URL, "STELLA_TOKEN="+cp.AdminToken, "STELLA_CA="+filepath.Join(cp.Data, "ca.pem"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("the page's commands: %v\n%s", err, out)
		}
		return string(out)
	}
	run(blocks[0]) // before the agent starts, so that it need not look again
	cp.StartAgent("prod-01", inGroup("web"), func(c *agent.Config) { c.CommandsDir = folder })
	out := run(strings.Join(blocks[1:], ""))
	t.Logf("%d blocks\n%s", len(blocks), out)
	for _, want := range []string{
		"✓ disk-usage: prod-01 acknowledged", `"usedPercent":`, `"freeBytes":`,
		"disk-usage ended with exit code 1: there is no folder /no/such/folder", "✓ drain: prod-01 acknowledged", `"accepting": true`, `"lines": [`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
}
