package load_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/load"
	"stella-ops.org/stella/internal/testkit"
)

const agents = 20

func options(cp *testkit.ControlPlane, transport, identities string) load.Options {
	return load.Options{
		Connection: load.Connection{URL: cp.URL, Token: cp.AdminToken, CA: cp.CA}, Agents: agents, Transport: transport,
		Identities: identities, PollInterval: 100 * time.Millisecond,
	}
}

// scenarios are all that connect agents, each for about a second.
func scenarios(cp *testkit.ControlPlane) map[string]func(ctx context.Context, o load.Options) (*load.Report, error) {
	return map[string]func(ctx context.Context, o load.Options) (*load.Report, error){
		"idle": func(ctx context.Context, o load.Options) (*load.Report, error) {
			return load.Idle(ctx, o, load.IdleOptions{Settle: time.Second})
		},
		"heartbeat": func(ctx context.Context, o load.Options) (*load.Report, error) {
			return load.Heartbeat(ctx, o, load.HeartbeatOptions{Rate: 200, Duration: time.Second, Limit: time.Second})
		},
		"fanout": func(ctx context.Context, o load.Options) (*load.Report, error) {
			return load.Fanout(ctx, o, load.FanoutOptions{Rounds: 2})
		},
		"dispatch": func(ctx context.Context, o load.Options) (*load.Report, error) {
			return load.Dispatch(ctx, o, load.DispatchOptions{Tasks: 20})
		},
		"dispatch at a rate": func(ctx context.Context, o load.Options) (*load.Report, error) {
			return load.Dispatch(ctx, o, load.DispatchOptions{Rate: 50, Duration: time.Second})
		},
		"cut": func(ctx context.Context, o load.Options) (*load.Report, error) {
			return load.Storm(ctx, o, load.StormOptions{Cut: true, Wait: time.Minute, Limit: time.Minute})
		},
		"restart": func(ctx context.Context, o load.Options) (*load.Report, error) {
			return load.Storm(ctx, o, load.StormOptions{Wait: time.Minute, Limit: time.Minute, Restart: func(context.Context) error {
				if err := cp.Stop(); err != nil {
					return err
				}
				cp.Start() //nolint:contextcheck // the server outlives the scenario
				return nil
			}})
		},
	}
}

// Every scenario runs against a real server, over each carrier, and loses
// nothing; the identities are registered once.
func TestScenarios(t *testing.T) {
	t.Parallel()
	for _, transport := range load.Transports() {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			cp := testkit.StartServer(t)
			identities := filepath.Join(t.TempDir(), "ids.json")
			for name, measure := range scenarios(cp) {
				report, err := measure(t.Context(), options(cp, transport, identities))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if len(report.Failures) > 0 {
					t.Errorf("%s: %q", name, report.Failures)
				}
				check(t, name, report)
			}
			registered(t, cp, agents)
			n, err := load.Clean(t.Context(), options(cp, transport, "").Connection, nil)
			if err != nil || n != agents {
				t.Errorf("cleaned %d, %v", n, err)
			}
			registered(t, cp, 0)
		})
	}
}

func check(t *testing.T, name string, report *load.Report) {
	t.Helper()
	switch r := report.Result.(type) {
	case *load.IdleResult:
		if r.Connect.Count < agents {
			t.Errorf("%s: %+v", name, r)
		}
	case *load.HeartbeatResult:
		if r.Asked != 200 || r.Acked != 200 || r.Checked != agents || r.Missing != 0 || r.Latency.Count != 200 {
			t.Errorf("%s: %+v", name, r)
		}
	case *load.FanoutResult:
		if r.Receipt.Count != 2*agents || r.Acknowledged.Count != 2 {
			t.Errorf("%s: %+v", name, r)
		}
	case *load.DispatchResult:
		if r.Received != r.Sent || r.Finished != r.Sent || r.Sent < 20 {
			t.Errorf("%s: %+v", name, r)
		}
	case *load.StormResult:
		if r.Lost < agents || r.Back != agents || r.AllBackSeconds <= 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func registered(t *testing.T, cp *testkit.ControlPlane, want int) {
	t.Helper()
	list, err := cp.Client.AgentPage(t.Context(), client.AgentFilter{Group: load.Group, Limit: 1000})
	if err != nil || len(list.Items) != want {
		t.Errorf("%d agents are registered, want %d: %v", len(list.Items), want, err)
	}
}

func TestEnrol(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	identities := filepath.Join(t.TempDir(), "ids.json")
	report, err := load.Enrol(t.Context(), options(cp, load.GRPC, identities), load.EnrolOptions{Concurrency: 4})
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := report.Result.(*load.EnrolResult); !ok || r.Registered != agents || r.Registration.Count != agents || r.Rate <= 0 {
		t.Errorf("%+v", report.Result)
	}
	// They are good for the scenarios that follow.
	if _, err := load.Idle(t.Context(), options(cp, load.GRPC, identities), load.IdleOptions{}); err != nil {
		t.Error(err)
	}
	registered(t, cp, agents)
}

func TestRenew(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	report, err := load.Renew(t.Context(), options(cp, load.WebSocket, ""), load.RenewOptions{Concurrency: 4, Rounds: 3})
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := report.Result.(*load.RenewResult); !ok || r.Renewed != 3*agents || r.Renewal.Count != 3*agents || r.Rate <= 0 {
		t.Errorf("%+v", report.Result)
	}
	n := 0
	for e, err := range cp.Client.Audit(t.Context(), client.AuditFilter{Filter: "action=agent.renew and outcome=ok"}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq > 0 {
			n++
		}
	}
	if n != 3*agents {
		t.Errorf("%d renewals are in the audit log, want %d", n, 3*agents)
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	for _, transport := range load.Transports()[:2] {
		cp := testkit.StartServer(t)
		report, err := load.Revoke(t.Context(), options(cp, transport, ""), load.RevokeOptions{Agents: 5})
		if err != nil {
			t.Fatal(err)
		}
		if r, ok := report.Result.(*load.RevokeResult); !ok || r.Connected != agents || r.Cut.Count != 5 || r.NotCut != 0 || r.Lost != 0 || r.Cut.Max > 1000 {
			t.Errorf("%s: %+v", transport, report.Result)
		}
		if f := report.Failures; len(f) > 0 {
			t.Errorf("%s: %q", transport, f)
		}
	}
	cp := testkit.StartServer(t)
	for _, n := range []int{0, agents + 1} {
		if _, err := load.Revoke(t.Context(), options(cp, load.WebSocket, ""), load.RevokeOptions{Agents: n}); err == nil {
			t.Errorf("%d of %d were revoked", n, agents)
		}
	}
}

// What is wrong is said once, at once, with what to do, and without the token.
func TestBadInput(t *testing.T) {
	t.Parallel()
	cp, other := testkit.StartServer(t), testkit.StartServer(t)
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed := testkit.FreePort(t)
	viewer, err := cp.Client.CreateAPIToken(t.Context(), api.APITokenRequest{Name: "viewer", Role: api.RoleViewer})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(o *load.Options)
		says   string
	}{
		"no agents":       {func(o *load.Options) { o.Agents = 0 }, "say how many with --agents"},
		"below zero":      {func(o *load.Options) { o.Agents = -5 }, "say how many with --agents"},
		"far too many":    {func(o *load.Options) { o.Agents = 1 << 30 }, "several machines"},
		"no transport":    {func(o *load.Options) { o.Transport = "pigeon" }, "use websocket, grpc, poll"},
		"no server":       {func(o *load.Options) { o.URL = "" }, "name one with --server"},
		"no token":        {func(o *load.Options) { o.Token = "" }, "set STELLA_TOKEN"},
		"no URL":          {func(o *load.Options) { o.URL = "nonsense" }, "is no server URL"},
		"plain HTTP":      {func(o *load.Options) { o.URL = "http://" + cp.Listen }, "must begin with https://"},
		"nobody there":    {func(o *load.Options) { o.URL = "https://" + closed }, "nothing listens at"},
		"wrong CA":        {func(o *load.Options) { o.CA = other.CA }, "not trusted here"},
		"no CA":           {func(o *load.Options) { o.CA = []byte("x") }, "the CA certificate is not PEM"},
		"wrong token":     {func(o *load.Options) { o.Token = "stl_wrong" }, "refused the API token"},
		"a viewer":        {func(o *load.Options) { o.Token = viewer.Token }, "admin"},
		"no such process": {func(o *load.Options) { o.ServerPID = 1 << 30 }, "--server-pid"},
		"no folder":       {func(o *load.Options) { o.Identities = filepath.Join(t.TempDir(), "no", "ids.json") }, "keep the identities"},
	} {
		o := options(cp, load.GRPC, "")
		c.change(&o)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		_, err := load.Idle(ctx, o, load.IdleOptions{})
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "stl_") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s is told badly: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"no concurrency": second(load.Enrol(t.Context(), options(cp, load.GRPC, ""), load.EnrolOptions{})),
		"no rate":        second(load.Heartbeat(t.Context(), options(cp, load.GRPC, ""), load.HeartbeatOptions{Duration: time.Second, Limit: time.Second})),
		"no rounds":      second(load.Fanout(t.Context(), options(cp, load.GRPC, ""), load.FanoutOptions{})),
		"no tasks":       second(load.Dispatch(t.Context(), options(cp, load.GRPC, ""), load.DispatchOptions{})),
		"no limit":       second(load.Storm(t.Context(), options(cp, load.GRPC, ""), load.StormOptions{Cut: true})),
	} {
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func second(_ *load.Report, err error) error { return err }
