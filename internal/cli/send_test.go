package cli

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

func TestCommandSendRequests(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args, stdin, request, body string
	}{
		{"drain --agent web-1", "", "POST /api/v1/agents/web-1/commands", `{"type":"drain"}`},
		{`drain --agent web-1 --payload {"a":1}`, "", "POST /api/v1/agents/web-1/commands", `{"type":"drain","payload":{"a":1}}`},
		{"drain --agent web-1 --payload - --expires 1500ms", "[1,\n2]", "POST /api/v1/agents/web-1/commands", `{"type":"drain","payload":[1,2],"expiresIn":2}`},
		{"drain --group web --yes --payload @FILE", "", "POST /api/v1/agents/groups/web/commands", `{"type":"drain","payload":"from a file"}`},
		{"drain --all -y --expires 24h", "", "POST /api/v1/agents/commands", `{"type":"drain","expiresIn":86400}`},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			f, term := commanding(t, progress(sent(3)))
			file := filepath.Join(term.home, "payload.json")
			if err := os.WriteFile(file, []byte("\"from a file\"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c := sent(3)
			f.answer(tc.request, c)
			term.stdin = tc.stdin
			term.must(t, append([]string{"command", "send"}, strings.Fields(strings.ReplaceAll(tc.args, "FILE", file))...)...)
			if diff := cmp.Diff(tc.body, string(f.bodies[tc.request])); diff != "" {
				t.Error(diff)
			}
			if term.stdout != "c1\n" || !strings.Contains(term.stderr, "drain was sent to 3 agents and expires in 1 minute; `stella command show c1` shows what comes of it\n") {
				t.Errorf("%q, %s", term.stdout, term.stderr)
			}
		})
	}
}

func TestCommandSendRefuses(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"drain":                                        "it is not said who gets the command\nnext: give one of the three",
		"drain --agent a --all":                        "--agent and --all both say who gets the command",
		"drain --agent a --group g --all":              "--agent and --group and --all both say",
		"--all":                                        "stella command send TYPE",
		"drain --all x":                                "does not take 2 arguments",
		"drain --all --expires 0":                      "write it as in 90s",
		"drain --all --expires soon":                   "write it as in 90s",
		"drain --all --payload text":                   "the payload is no JSON: line 1, column 2: invalid character 'e' in literal true",
		`drain --all --payload {"a":1}}`:               "line 1, column 8: invalid character '}' after top-level value",
		`drain --all --payload {"a":`:                  "line 1, column 5: unexpected end of JSON input",
		"drain --all --payload @/no/such/file":         "the payload: open /no/such/file: no such file",
		"drain --all --payload -":                      "the payload from stdin is no JSON: line 3, column 4: invalid character 'x'",
		"drain --group web":                            "3 agents would get it, and there is nobody to ask\nnext: give --yes",
		"drain --all":                                  "drain reaches 3 live agents: web-1, web-2, web-3\nerror: 3 agents would get it",
		"drain --agent nobody":                         "there is no GET /api/v1/agents/nobody",
		"drain --agent web-1 --payload @" + os.DevNull: "the payload in /dev/null is empty\nnext: leave --payload out",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			f, term := commanding(t, progress(sent(3)))
			term.stdin = "{\"a\": [\n1,\n\"é\"x"
			code := term.run(t.Context(), append([]string{"command", "send"}, strings.Fields(args)...)...)
			wantCode := exitUsage
			if strings.Contains(args, "nobody") {
				wantCode = exitNotFound
			}
			if code != wantCode || !strings.Contains(term.stderr, want) || term.stdout != "" {
				t.Errorf("exit code %d, %s", code, term.stderr)
			}
			for _, r := range f.asked() {
				if strings.HasPrefix(r, "POST") {
					t.Errorf("it was sent: %s", r)
				}
			}
		})
	}
}

// On a terminal, more than one agent is asked about; no is no.
func TestCommandSendAsks(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]int{"y\n": exitOK, "\n": exitFailed} {
		f, term := commanding(t, progress(sent(3)))
		f.answer("POST /api/v1/agents/commands", sent(3))
		term.tty, term.stdin = true, answer
		if code := term.run(t.Context(), "command", "send", "drain", "--all"); code != want || !strings.Contains(term.stderr, "Send drain to these 3 agents? [y/N]") {
			t.Errorf("%q: exit code %d, %s", answer, code, term.stderr)
		}
		if went := f.bodies["POST /api/v1/agents/commands"] != nil; went != (want == exitOK) {
			t.Errorf("%q: sent %v", answer, went)
		}
	}
}

// Who gets a command is asked as the server will find them: a type that not
// every agent knows goes to those that declare it, by either name, once.
func TestCommandReach(t *testing.T) {
	t.Parallel()
	f, term := commanding(t, progress(sent(2)))
	f.answer("GET /api/v1/agents", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list := fleetOf("web-1", "web-2")
		if r.URL.Query().Get("capability") == "backup" {
			list = fleetOf("web-2", "web-3")
			list.Items[1].Lifecycle = api.LifecycleInactive
		}
		_ = json.NewEncoder(w).Encode(list)
	}))
	term.run(t.Context(), "command", "send", "backup", "--group", "web")
	want := []string{
		"GET /api/v1/agents?capability=command.backup&group=web&limit=500&status=live",
		"GET /api/v1/agents?capability=backup&group=web&limit=500&status=live",
	}
	if diff := cmp.Diff(want, f.asked()); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(term.stderr, "backup reaches 2 live agents of group web: web-1, web-2\n") {
		t.Errorf("%s", term.stderr)
	}
	var many []string
	for i := range 30 {
		many = append(many, "n"+string(rune('a'+i%26))+string(rune('a'+i/26)))
	}
	if got := someOf(many); !strings.HasSuffix(got, "nha and 22 more") {
		t.Error(got)
	}
}

func TestCommandReachesNobody(t *testing.T) {
	t.Parallel()
	f, term := commanding(t, progress(sent(0)))
	f.answer("GET /api/v1/agents", fleetOf())
	f.answer("POST /api/v1/agents/groups/web/commands", sent(0))
	code := term.run(t.Context(), "command", "send", "drain", "--group", "web", "--wait")
	if want := "nobody got the command: no agent of group web is live that could take it\nnext: `stella agent list`"; code != exitFailed || !strings.Contains(term.stderr, want) {
		t.Errorf("exit code %d, %s", code, term.stderr)
	}
	dead := fleetOf("web-1").Items[0]
	dead.Liveness = api.Dead
	f.answer("GET /api/v1/agents/web-1", dead)
	f.answer("POST /api/v1/agents/web-1/commands", sent(1))
	term.must(t, "command", "send", "drain", "--agent", "web-1")
	if want := "warning: web-1 is dead: the command waits for it until it expires\n"; !strings.HasPrefix(term.stderr, want) {
		t.Errorf("%s", term.stderr)
	}
}
