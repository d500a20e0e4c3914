package cli

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

// hostAgent answers at a socket, as the agent of this host would.
func hostAgent(t *testing.T, s *api.LocalStatus) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(s) })}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) }) // until it is closed
	t.Cleanup(func() {
		_ = srv.Close()
		serving.Wait()
	})
	return socket
}

func TestStatusOfThisHostsAgent(t *testing.T) {
	t.Parallel()
	online := &api.LocalStatus{
		AgentID: "id-1", Name: "prod-01", Version: "1.2.3", Server: "https://stella.example.com:8443", Status: api.StatusOnline,
		Connected: true, Transport: "websocket", ConnectedSince: ago(3 * time.Hour), LastConnected: ago(0), LastHeartbeat: ago(4 * time.Second),
		Certificate: &api.LocalCertificate{Serial: "ab12", NotBefore: at.Add(-time.Hour), NotAfter: at.Add(48 * time.Hour), RenewsAt: at.Add(24 * time.Hour)},
		Tasks:       []api.LocalTask{{ID: "t1", Type: api.TaskDeploy, Attempt: 1, Since: at.Add(-time.Minute)}, {ID: "t2", Type: api.TaskInspect, Attempt: 2, Since: at}},
		Boot:        7, PID: 4711, StartedAt: at.Add(-49 * time.Hour), UptimeSeconds: 49 * 3600,
	}
	away := &api.LocalStatus{
		AgentID: "id-1", Name: "prod-01", Version: "1.2.3", Server: "https://stella.example.com:8443", Status: api.StatusOffline, Broken: "docker: no engine",
		LastConnected: ago(time.Hour), Failures: 12, LastError: "the connection is refused:\x1b[2J see that it runs", LastErrorAt: ago(0),
		NotAccepting: "new disks", Boot: 7, PID: 4711, StartedAt: at,
	}
	for name, tc := range map[string]struct {
		status *api.LocalStatus
		code   int
		want   string
	}{
		"online": {online, 0, `
Name         prod-01
Id           id-1
Server       https://stella.example.com:8443
Status       online
Connection   websocket, since 3h ago
Heartbeat    4s ago
Certificate  valid until 2026-05-06T12:00:00Z, renews by itself 2026-05-05T12:00:00Z, serial ab12
New tasks    taken
Tasks        t1 deploy, attempt 1, since 1m ago
  t2 inspect, attempt 2, since now
Version      1.2.3
Process      4711, started 2d ago, boot 7
`},
		"away": {away, 1, `
Name        prod-01
Id          id-1
Server      https://stella.example.com:8443
Status      offline (docker: no engine)
Connection  not connected, was 1h ago: the connection is refused:�[2J see that it runs
Heartbeat   never
New tasks   not taken: new disks
Tasks       none
Version     1.2.3
Process     4711, started now, boot 7
`},
		"new": {&api.LocalStatus{Status: api.StatusDegraded, StartedAt: at, PID: 1, Boot: 1}, 1, `
Status      degraded
Connection  not connected: it has only begun to connect
Heartbeat   never
New tasks   taken
Tasks       none
Process     1, started now, boot 1
`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := hostAgent(t, tc.status)
			term := newTerminal(t, nil)
			if code := term.run(t.Context(), "agent", "status", "--socket", socket); code != tc.code || term.stderr != "" {
				t.Errorf("exit code %d: %s", code, term.stderr)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.want, "\n"), term.stdout); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var again api.LocalStatus
			if code := term.run(t.Context(), "agent", "status", "--socket", socket, "-o", "json"); code != tc.code || json.Unmarshal([]byte(term.stdout), &again) != nil {
				t.Errorf("exit code %d: %s%s", code, term.stdout, term.stderr)
			}
			if diff := cmp.Diff(tc.status, &again); diff != "" {
				t.Errorf("as JSON (-want +got):\n%s", diff)
			}
		})
	}
}

// Whoever talks to a server asks the server, unless this host's agent is asked for.
func TestWhoseStatus(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.answer("GET /api/v1/agents", api.AgentList{Items: []api.Agent{}})
	f.answer("GET /api/v1/agents/prod-01", api.Agent{Name: "prod-01", Status: api.StatusOnline})
	socket := hostAgent(t, &api.LocalStatus{AgentID: "of-this-host", Connected: true, Status: api.StatusOnline})
	none := filepath.Join(t.TempDir(), "none")
	for name, tc := range map[string]struct {
		server *fakeAPI
		args   []string
		code   int
		want   string
	}{
		"a server is known":          {f, nil, 0, "0 agents"},
		"a server, and --local":      {f, []string{"--local"}, 0, "of-this-host"},
		"no server is known":         {nil, nil, 0, "of-this-host"},
		"no server, by name":         {nil, []string{"prod-01"}, 2, "no server is known"},
		"by name":                    {f, []string{"prod-01"}, 0, "prod-01 is online"},
		"by name, and --local":       {f, []string{"prod-01", "--local"}, 2, "not for prod-01"},
		"another socket":             {f, []string{"--socket", none}, 1, "does not answer at " + none},
		"another socket, by --local": {nil, []string{"--local", "--socket", none}, 1, "is the agent running?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			term := newTerminal(t, tc.server)
			term.env["STELLA_AGENT_SOCKET"] = socket
			if code := term.run(t.Context(), append([]string{"agent", "status"}, tc.args...)...); code != tc.code || !strings.Contains(term.stdout+term.stderr, tc.want) {
				t.Errorf("exit code %d: %s%s", code, term.stdout, term.stderr)
			}
		})
	}
}

// Who may not open the socket is told how to.
func TestSocketThatMayNotBeOpened(t *testing.T) {
	t.Parallel()
	denied := &client.LocalError{Socket: "/run/stella-agent/agent.sock", Err: &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}}
	e, ok := errors.AsType[*Error](explainLocal(denied))
	if !ok || e.Code != exitFailed || !strings.Contains(e.What, "may not be opened") || !strings.Contains(e.Next, "usermod -aG stella-agent") {
		t.Errorf("%+v", e)
	}
}
