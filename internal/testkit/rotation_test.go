package testkit_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
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

// The certificates of the suite, and what follows from their life: they begin a
// tenth of it before they are issued, and are renewed in the tenth that ends
// when two thirds of the whole are over.
const (
	rotationLife     = 30 * time.Second
	rotationValid    = rotationLife + rotationLife/10
	rotationLatest   = rotationValid*2/3 - rotationLife/10
	rotationEarliest = rotationLatest - rotationValid/10
)

// The phases of the suite; nothing may be refused in undisturbed ones.
const (
	undisturbed = "undisturbed"
	restarting  = "server restarted"
	provoked    = "provoked"
)

// rotationSize is how many agents work for how long.
type rotationSize struct {
	agents int
	lasts  time.Duration
	every  time.Duration // each gets a task this often
}

// soakForVariable says how long the suite lasts when it soaks, as in 3m.
const soakForVariable = "STELLA_SOAK_FOR"

func rotationSizeNow(t *testing.T) rotationSize {
	t.Helper()
	if !soak() {
		return rotationSize{agents: 20, lasts: 2 * time.Minute, every: 5 * time.Second}
	}
	s := rotationSize{agents: 200, lasts: 10 * time.Minute, every: 8 * time.Second}
	if text := os.Getenv(soakForVariable); text != "" {
		lasts, err := time.ParseDuration(text)
		if err != nil || lasts < time.Minute {
			t.Fatalf("%s: %q is no duration of a minute or more", soakForVariable, text)
		}
		s.lasts = lasts
	}
	return s
}

// Agents whose certificates live for half a minute work without a pause, over
// every carrier, while their certificates are renewed again and again, and the
// authority is replaced in the middle. No connection and no request is refused,
// no link ends before the next one stands, every task runs once and succeeds,
// those that outlive several certificates among them; and nobody renews more
// often than there is cause for.
//
// `make soak` does the same with ten times the agents and for longer, restarts
// the server too, and keeps the figures.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	size := rotationSizeNow(t)
	rig := newRotationRig(t, size)
	began := time.Now()
	until := began.Add(size.lasts)

	for i, name := range rig.names {
		if i < len(rig.names)/4 {
			rig.load.command(name, name+"/long", size.lasts*3/4)
		}
	}
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		rig.load.run(until)
	}()

	rig.at(began.Add(size.lasts / 4))
	rig.replaceAuthority()
	if soak() {
		rig.at(began.Add(size.lasts * 3 / 4))
		rig.restartServer()
	}
	<-done
	rig.load.ended(time.Minute)
	rig.renewals.bounded(t, rig)
	rig.trustMoved()
	rig.watch.none(t, undisturbed)
	rig.standstills.enough(t)
	rig.conclude(size, began)
	rig.provoke()
}

// rotationRig is a server, its agents, and what is known of them.
type rotationRig struct {
	*testing.T
	cp     *testkit.ControlPlane
	watch  *watch
	load   *load
	names  []string
	agents map[string]*rotating
	first  string // a credential of the authority that is replaced
	oldCA  []byte

	standstills *standstills
	renewals    *renewalBook
	cost        *costMeter
}

// rotating is an agent of the suite.
type rotating struct {
	id, data string
	stop     func()
}

func newRotationRig(t *testing.T, size rotationSize) *rotationRig {
	t.Helper()
	rig := &rotationRig{T: t, standstills: noticeStandstills(t), renewals: &renewalBook{}, agents: map[string]*rotating{}}
	rig.watch = newWatch(undisturbed, rig.standstills)
	rig.cp = testkit.StartServerLogging(t, rig.watch.server(), func(cfg *server.Config) {
		cfg.AgentCertLife, cfg.CertRecovery = rotationLife, time.Hour
		cfg.HeartbeatInterval, cfg.StaleAfter, cfg.DeadAfter = 5*time.Second, 30*time.Second, time.Minute
		cfg.TaskLease = 2 * time.Minute
	})
	rig.cost = startCostMeter(t)
	home := t.TempDir()
	for i := range size.agents {
		name := fmt.Sprintf("a%03d", i)
		rig.names = append(rig.names, name)
		rig.start(name, filepath.Join(home, name), []string{"websocket", "grpc", "poll"}[i%3])
	}
	for _, name := range rig.names {
		rig.agents[name].id = rig.cp.WaitOnline(name).ID
	}
	rig.load = newLoad(t, rig.cp.Client, rig.names, size.every)
	rig.first, rig.oldCA = rig.credential(rig.names[0]), rig.cp.CA
	return rig
}

// start registers an agent and runs it until the test ends.
func (rig *rotationRig) start(name, data, carrier string) {
	rig.Helper()
	run := &agent.Agent{
		Config: agent.Config{
			Data: data, Server: rig.cp.URL, Name: name, Capabilities: []string{"host"}, MaxConcurrentTasks: 5, Transport: carrier,
			ReconnectBackoff: time.Second, MaxReconnectAttempts: 10, PollInterval: time.Second, DrainTimeout: 5 * time.Second,
			CertAutoRenew: true, CertRenewalThreshold: 7 * 24 * time.Hour, DockerHost: "unix:///nowhere/docker.sock",
		},
		Log: rig.watch.agent(name), Token: rig.cp.Token(),
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(rig.Context()))
	done := make(chan error, 1)
	go func() { done <- run.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			rig.Errorf("agent %s: %v", name, err)
		}
	}
	rig.agents[name] = &rotating{data: data, stop: stop}
	rig.Cleanup(stop)
}

// at waits until a time has come.
func (rig *rotationRig) at(when time.Time) {
	rig.Helper()
	select {
	case <-time.After(time.Until(when)):
	case <-rig.Context().Done():
		rig.FailNow()
	}
}

func (rig *rotationRig) credential(name string) string {
	rig.Helper()
	return rig.read(name, "client.pem")
}

func (rig *rotationRig) read(name, file string) string {
	rig.Helper()
	data, err := os.ReadFile(filepath.Join(rig.agents[name].data, file))
	if err != nil {
		rig.Fatal(err)
	}
	return string(data)
}

// replaceAuthority goes from one authority to the next, as `stella ca` does.
func (rig *rotationRig) replaceAuthority() {
	rig.Helper()
	ctx := rig.Context()
	step := func(name string, do func(context.Context) (*api.CAStatus, error), want api.CAPhase) {
		rig.Helper()
		if s, err := do(ctx); err != nil || s.Phase != want {
			rig.Fatalf("%s: %+v, %v; want %s", name, s, err, want)
		}
	}
	retire := func(ctx context.Context) (*api.CAStatus, error) {
		return rig.cp.Client.RetireCA(ctx, api.CARetireRequest{LoseDead: true})
	}
	refused := func(when, code string) {
		rig.Helper()
		s, err := retire(ctx)
		if p, ok := errors.AsType[*api.Problem](err); !ok || p.Code != code {
			rig.Errorf("retired %s: %+v, %v; want %s", when, s, err, code)
		}
	}
	refused("before there is a next one", "ca_phase")
	step("prepare", rig.cp.Client.PrepareCA, api.CAPrepared)
	rig.followed()
	rig.logIn(2) // people who trust both need not again when the old one is gone
	refused("before the next one issues", "ca_phase")
	step("activate", rig.cp.Client.ActivateCA, api.CAActivated)
	refused("before anybody has followed", "agents_would_be_lost")
	rig.followed()
	step("retire", retire, api.CASteady)
	rig.followed()
	rig.logIn(1)
}

// followed waits until every agent has a certificate under the present trust.
func (rig *rotationRig) followed() {
	rig.Helper()
	testkit.Eventually(rig, time.Minute, "all to follow", func() (bool, string) {
		s, err := rig.cp.Client.CA(rig.Context())
		if err != nil {
			return false, err.Error()
		}
		return s.Agents.Followed == len(rig.names) && s.Agents.Waiting == 0, fmt.Sprintf("%+v", s.Agents)
	})
}

// logIn has people trust what the server's folder says, once that is so many
// roots.
func (rig *rotationRig) logIn(roots int) {
	rig.Helper()
	testkit.Eventually(rig, 20*time.Second, fmt.Sprintf("%d roots in the server's folder", roots), func() (bool, string) {
		data, err := os.ReadFile(filepath.Join(rig.cp.Data, "ca.pem"))
		return strings.Count(string(data), "BEGIN CERTIFICATE") == roots, fmt.Sprint(string(data), err)
	})
	rig.cp.Reload()
	rig.load.client.Store(rig.cp.Client)
}

// restartServer stops the server and starts it again. What the agents meet
// meanwhile is counted apart.
func (rig *rotationRig) restartServer() {
	rig.Helper()
	rig.watch.enter(restarting)
	if err := rig.cp.Stop(); err != nil {
		rig.Fatal(err)
	}
	rig.cp.Start()
	rig.load.client.Store(rig.cp.Client)
	began := time.Now()
	testkit.Eventually(rig, time.Minute, "all to be back", func() (bool, string) {
		back := 0
		for a, err := range rig.cp.Client.Agents(rig.Context(), client.AgentFilter{}) {
			if err != nil {
				return false, err.Error()
			}
			if a.LastHeartbeat != nil && a.LastHeartbeat.After(began) && a.Transport != "" {
				back++
			}
		}
		return back == len(rig.names), fmt.Sprintf("%d of %d", back, len(rig.names))
	})
	rig.watch.enter(undisturbed)
}

// trustMoved: what the agents hold is of the new authority and trusts it alone,
// and what was of the old one is worth nothing.
func (rig *rotationRig) trustMoved() {
	rig.Helper()
	if string(rig.oldCA) == string(rig.cp.CA) {
		rig.Error("the authority is the one that it was")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(rig.cp.CA)
	for _, name := range rig.names {
		leaf, between := chainOf(rig.T, rig.credential(name))
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if err != nil {
			rig.Errorf("the certificate of %s: %v", name, err)
		}
		if trusts := rig.read(name, "ca.pem"); strings.TrimSpace(trusts) != strings.TrimSpace(string(rig.cp.CA)) {
			rig.Errorf("%s trusts not the new root alone:\n%s", name, trusts)
		}
	}
}

func chainOf(t *testing.T, credential string) (leaf *x509.Certificate, between *x509.CertPool) {
	t.Helper()
	pair := keyPair(t, credential)
	between = x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	return pair.Leaf, between
}

// provoke does what must not have happened, so that it is known that the watch
// would have seen it.
func (rig *rotationRig) provoke() {
	rig.Helper()
	rig.watch.enter(provoked)
	seen := func(what, name string, do func()) {
		rig.Helper()
		before := rig.watch.of(provoked, name)
		do()
		testkit.Eventually(rig, 10*time.Second, "the watch to see "+what, func() (bool, string) {
			return rig.watch.of(provoked, name) > before, fmt.Sprint(before)
		})
	}
	old := keyPair(rig.T, rig.first)
	seen("a certificate of the old authority", handshakeRefused, func() {
		if _, _, err := try(rig, httpClient(tlsConfig(rig.cp, old)), http.MethodPost, rig.cp.URL+"/api/v1/agents/token", nil, nil); err == nil {
			rig.Error("a certificate of the old authority gets through the handshake")
		}
	})
	self := "/api/v1/agents/" + rig.agents[rig.names[0]].id
	for _, door := range []string{self + "/heartbeat", self + "/task-stream", "/stella.v1.LinkService/Connect"} {
		seen("nobody at "+door, requestRefused, func() {
			method := http.MethodPost
			if strings.HasSuffix(door, "task-stream") {
				method = http.MethodGet
			}
			_, _ = call(rig, httpClient(tlsConfig(rig.cp)), method, rig.cp.URL+door, map[string]string{"Content-Type": "application/grpc"}, nil)
		})
	}
	seen("a link that ends", linkEnded, rig.agents[rig.names[0]].stop)
}
