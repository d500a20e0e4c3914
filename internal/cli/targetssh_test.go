package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

func TestTargetUpdateSSH(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.answer("GET /api/v1/targets/web", api.Target{
		ID: "id-web", Name: "web", Kind: "ssh", AgentID: "id-a",
		Config: api.TargetConfig{Directory: "/opt/a", SSH: &api.SSHConfig{
			SSHHop: api.SSHHop{Host: "app-1", Username: "deploy", KnownHosts: "/etc/kh", PrivateKeyRef: "secret://k"},
			Sudo:   true, SudoUser: "web",
		}},
	})
	f.answer("PUT /api/v1/targets/id-web", api.Target{Name: "web"})
	newTerminal(t, f).must(t, "target", "update", "web", "--host-key", "ssh-ed25519 AAAA", "--jump", "root@bastion:2200", "--sudo=false")
	got := taken[api.TargetRequest](t, f, "PUT /api/v1/targets/id-web")
	want := &api.SSHConfig{
		SSHHop: api.SSHHop{Host: "app-1", Username: "deploy", HostKeys: []string{"ssh-ed25519 AAAA"}, PrivateKeyRef: "secret://k"},
		Jumps:  []api.SSHHop{{Host: "bastion", Port: 2200, Username: "root", PrivateKeyRef: "secret://k"}},
	}
	if diff := cmp.Diff(want, got.Config.SSH); diff != "" {
		t.Error(diff)
	}
}

func TestTargetAddSSHRefuses(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--host h --user u --ssh-agent":                                                   "an ssh target needs the folder that is deployed to",
		"--dir /a --user u --ssh-agent":                                                   "how the host is reached",
		"--dir /a --host h --user u":                                                      "how to log in to h",
		"--dir /a --host h --user u --ssh-agent --jump a:port":                            "is no host with a port",
		"--dir /a --host h --user u --ssh-agent --known-hosts /k --host-key ssh-rsa/AAAA": "both say which key",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			term := newTerminal(t, newFakeAPI(t))
			code := term.run(t.Context(), append([]string{"target", "add", "ssh", "web", "--agent", "a1"}, strings.Fields(args)...)...)
			if code != exitUsage || !strings.Contains(term.stderr, want) {
				t.Errorf("exit code %d, %s", code, term.stderr)
			}
		})
	}
}

func TestDeploySSH(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	_, p := deployed(t, "ssh", newTerminal(t, f), f, "--script", "targetssh_test.go", "--start", "./run &", "--stop", "./stop", "--keep-previous")
	if len(p.Artifacts) != 1 || p.Artifacts[0].Type != "deploy_script" || p.Config.Start != "./run &" || p.Config.Stop != "./stop" || *p.Config.CleanupPrevious {
		t.Errorf("%+v", p.Config)
	}
}

// scanning answers a scan by the agent web-1 with what is given.
func scanning(t *testing.T, state api.CommandState, result, reason string) (*fakeAPI, *terminal) {
	t.Helper()
	f := newFakeAPI(t)
	c := api.Command{ID: "c1", Type: "ssh-scan", Scope: api.ScopeAgent, Recipient: "web-1", Recipients: 1, CreatedAt: at, ExpiresAt: at}
	f.answer("POST /api/v1/agents/web-1/commands", c)
	c.Done = true
	f.answer("GET /api/v1/commands/c1", api.CommandProgress{Command: c, Deliveries: []api.CommandDelivery{
		{AgentID: "a", AgentName: "web-1", State: state, Result: json.RawMessage(result), Error: reason},
	}})
	return f, newTerminal(t, f)
}

func TestTargetScan(t *testing.T) {
	t.Parallel()
	f, term := scanning(t, api.CommandAcknowledged,
		`{"host":"app-1","port":2222,"keys":[{"type":"ssh-ed25519","fingerprint":"SHA256:abc","key":"ssh-ed25519 AAAA"}]}`, "")
	term.must(t, "target", "scan", "app-1:2222", "--agent", "web-1")
	req := taken[api.CommandRequest](t, f, "POST /api/v1/agents/web-1/commands")
	if string(req.Payload) != `{"host":"app-1","port":2222}` || req.Type != "ssh-scan" {
		t.Errorf("%+v", req)
	}
	want := "TYPE         FINGERPRINT\nssh-ed25519  SHA256:abc\n\n--host-key 'ssh-ed25519 AAAA'\n"
	if diff := cmp.Diff(want, term.stdout); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(term.stderr, "Compare a fingerprint with what the host's owner says") {
		t.Error(term.stderr)
	}

	_, term = scanning(t, api.CommandFailed, "", "app-1:22 refused the connection")
	if code := term.run(t.Context(), "target", "scan", "app-1", "--agent", "web-1"); code != 1 || !strings.Contains(term.stderr, "web-1 could not look at app-1: app-1:22 refused") {
		t.Errorf("exit code %d: %s", code, term.stderr)
	}
	if code := term.run(t.Context(), "target", "scan", "app-1"); code != exitUsage {
		t.Errorf("without --agent: exit code %d: %s", code, term.stderr)
	}
}
