package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

func TestCommandWait(t *testing.T) {
	t.Parallel()
	one := sent(1)
	one.Scope, one.Recipient = api.ScopeAgent, "web-1"
	answered := delivered("web-1", api.CommandAcknowledged, "")
	answered.Result = json.RawMessage(`{"text":"<a> & b","list":[1,2]}`)
	for name, tc := range map[string]struct {
		args           string
		end            api.CommandProgress
		code           int
		stdout, stderr string
	}{
		"one": {"--agent web-1", progress(one, answered), exitOK, `{
  "text": "<a> & b",
  "list": [
    1,
    2
  ]
}
`, "drain to agent web-1, command c1\n✓ drain: web-1 acknowledged\n"},
		"one without an answer": {
			"--agent web-1", progress(one, delivered("web-1", api.CommandAcknowledged, "")), exitOK, "",
			"drain to agent web-1, command c1\n✓ drain: web-1 acknowledged\n",
		},
		"one fails": {"--agent web-1", progress(one, delivered("web-1", api.CommandFailed, "the disk\nis \x1b[2Jfull")), exitFailed, "", `drain to agent web-1, command c1
✗ drain: 1 failed
AGENT  STATE   REASON
web-1  failed  the disk is �[2Jfull
`},
		"all": {
			"--all --yes", progress(sent(2), delivered("web-1", api.CommandAcknowledged, ""), delivered("web-2", api.CommandAcknowledged, "")), exitOK, "",
			"drain reaches 3 live agents: web-1, web-2, web-3\ndrain to group web, command c1\n✓ drain: all 2 agents acknowledged\n",
		},
		"some": {
			"--group web --yes", progress(sent(3), delivered("web-1", api.CommandExpired, "no agent took it"), delivered("web-2", api.CommandAcknowledged, ""), delivered("web-3", api.CommandFailed, "no")),
			exitFailed, "", `drain reaches 3 live agents of group web: web-1, web-2, web-3
drain to group web, command c1
✗ drain: 1 acknowledged, 1 failed, 1 expired
AGENT  STATE    REASON
web-3  failed   no
web-1  expired  no agent took it
`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, term := commanding(t, tc.end)
			code := term.run(t.Context(), append([]string{"command", "send", "drain", "--wait"}, strings.Fields(tc.args)...)...)
			if code != tc.code {
				t.Errorf("exit code %d", code)
			}
			if diff := cmp.Diff(tc.stdout, term.stdout); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tc.stderr, term.stderr); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// As data, there is everything: also the answers of those that did well.
func TestCommandWaitAsData(t *testing.T) {
	t.Parallel()
	end := progress(sent(2), delivered("web-1", api.CommandAcknowledged, ""), delivered("web-2", api.CommandFailed, "no"))
	end.Deliveries[0].Result = json.RawMessage(`7`)
	_, term := commanding(t, end)
	if code := term.run(t.Context(), "command", "send", "drain", "--wait", "--all", "--yes", "-o", "json"); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	var have api.CommandProgress
	if err := json.Unmarshal([]byte(term.stdout), &have); err != nil {
		t.Fatalf("%v: %s", err, term.stdout)
	}
	if diff := cmp.Diff(end, have); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(term.stderr, "✗ drain: 1 acknowledged, 1 failed") {
		t.Errorf("%s", term.stderr)
	}
}

// Of very many that did not answer, the first are named.
func TestCommandWaitNamesTheFirst(t *testing.T) {
	t.Parallel()
	var all []api.CommandDelivery
	for i := range 2 * unansweredShown {
		all = append(all, delivered("web-"+string(rune('a'+i%26)), api.CommandExpired, "x"))
	}
	_, term := commanding(t, progress(sent(len(all)), all...))
	if code := term.run(t.Context(), "command", "send", "drain", "--wait", "--all", "--yes"); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if n := strings.Count(term.stderr, "expired  x"); n != unansweredShown || !strings.HasSuffix(term.stderr, "… and 50 more: `stella command show c1 --state failed` and `--state expired` show them\n") {
		t.Errorf("%d rows: %s", n, term.stderr)
	}
}

// An interrupt leaves the command to itself, and says how to get back to it.
func TestCommandWaitInterrupted(t *testing.T) {
	t.Parallel()
	f, term := commanding(t, progress(sent(1)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.answer("POST /api/v1/agents/web-1/commands", sent(1))
	f.answer("GET /api/v1/commands/c1", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	if code := term.run(ctx, "command", "send", "drain", "--agent", "web-1", "--wait"); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	if want := "detached: command c1 goes on without you\nnext: `stella command show c1`"; !strings.Contains(term.stderr, want) || strings.Contains(term.stderr, "error:") {
		t.Errorf("%s", term.stderr)
	}
}

// A server that is lost on the way takes nothing back.
func TestCommandWaitLosesTheServer(t *testing.T) {
	t.Parallel()
	f, term := commanding(t, progress(sent(1)))
	f.answer("POST /api/v1/agents/web-1/commands", sent(1))
	f.answer("GET /api/v1/commands/c1", &api.Problem{Status: 401, Title: "Unauthorized", Detail: "the token is revoked"})
	code := term.run(t.Context(), "command", "send", "drain", "--agent", "web-1", "--wait")
	if code != exitNotAllowed || !strings.Contains(term.stderr, "error: the token is revoked\nnext: the command goes on by itself: `stella command show c1`") {
		t.Errorf("exit code %d, %s", code, term.stderr)
	}
}

func TestDrainOneAgent(t *testing.T) {
	t.Parallel()
	one := sent(1)
	one.Scope, one.Recipient = api.ScopeAgent, "web-1"
	for args, want := range map[string]string{
		"agent drain web-1": `{"type":"drain"}`,
		"agent drain web-1 --reason kernel\"update --expires 5s": `{"type":"drain","payload":{"reason":"kernel\"update"},"expiresIn":5}`,
		"agent resume web-1": `{"type":"resume"}`,
	} {
		f, term := commanding(t, progress(one, delivered("web-1", api.CommandAcknowledged, "")))
		term.must(t, strings.Fields(args)...)
		if diff := cmp.Diff(want, string(f.bodies["POST /api/v1/agents/web-1/commands"])); diff != "" {
			t.Errorf("%s: %s", args, diff)
		}
		if !strings.HasSuffix(term.stderr, "✓ drain: web-1 acknowledged\n") {
			t.Errorf("%s: %s", args, term.stderr)
		}
	}
}
