package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent/command"
	"stella-ops.org/stella/internal/agent/link"
)

// An agent that cannot reach its server is degraded, and offline after as many
// failures as it is told; it says why, and since when. When it gets through, it is
// online, and says nothing of what was.
func TestStatusFollowsTheLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		cfg := Config{Data: t.TempDir(), Name: "web", ReconnectBackoff: time.Second, MaxReconnectAttempts: 3, MaxConcurrentTasks: 1, DrainTimeout: time.Second}
		a := &Agent{Config: cfg, Log: log, capabilities: &capabilities{log: log}, boot: &boot{count: 7}, started: time.Now()}
		id := &identity{AgentID: "a1", ServerURL: "https://stella.example.com"}
		run := newRunner(nil, nil, cfg.Data, 1, log)
		var dialled []string
		carrier := &way{name: "best", log: &dialled, mu: &sync.Mutex{}}
		c := &connector{
			follow: func(string, time.Duration, bool) {},
			agent:  a, id: id, run: run, commands: command.NewRunner("", nil, anew, log), log: log, beat: make(chan struct{}, 1), carriers: []link.Carrier{carrier},
		}
		began := time.Now().UTC()
		want := &api.LocalStatus{
			AgentID: "a1", Name: "web", Version: a.status(id, run).Version, Server: id.ServerURL, Status: api.StatusDegraded,
			Tasks: []api.LocalTask{}, Boot: 7, PID: os.Getpid(), StartedAt: began,
		}
		same := func(when string) {
			t.Helper()
			if diff := cmp.Diff(want, a.status(id, run)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		same("before it has tried")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		synctest.Wait()
		want.Failures, want.LastError, want.LastErrorAt = 1, "it does not get through", &began
		same("after one failure")
		for s := a.status(id, run); s.Failures < 3; s = a.status(id, run) {
			if s.Status != api.StatusDegraded {
				t.Errorf("%s after %d failures", s.Status, s.Failures)
			}
			<-time.After(100 * time.Millisecond)
		}
		if s := a.status(id, run); s.Status != api.StatusOffline {
			t.Errorf("%s after %d failures", s.Status, s.Failures)
		}
		carrier.mu.Lock()
		carrier.works, carrier.breaks = true, time.Hour
		carrier.mu.Unlock()
		for !a.link.connected() {
			<-time.After(100 * time.Millisecond)
		}
		s := a.status(id, run)
		if s.Status != api.StatusOnline || !s.Connected || s.Transport != "best" || s.LastError != "" || s.Failures != 0 || time.Since(*s.ConnectedSince) > time.Second {
			t.Errorf("when it got through: %+v", s)
		}
		a.capabilities.missing, a.capabilities.allowed = map[string]string{"docker": "no engine"}, []string{"docker"}
		if s := a.status(id, run); s.Status != api.StatusDegraded || s.Broken != "docker: no engine" || !s.Connected {
			t.Errorf("without what it is to offer: %+v", s)
		}
		carrier.mu.Lock()
		carrier.works = false
		carrier.mu.Unlock()
		<-time.After(time.Hour)
		if s := a.status(id, run); s.Connected || s.Transport != "" || s.ConnectedSince != nil || s.LastConnected == nil || s.LastError == "" {
			t.Errorf("when the link had ended: %+v", s)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// The certificate, the reason for taking nothing, and what runs are of this very
// moment; what has ended, and waits for the server to have heard of it, does not run.
func TestStatusOfWhatIsOnDisk(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	a := &Agent{Config: Config{Data: t.TempDir(), CertRenewalThreshold: time.Hour}, Log: log, capabilities: &capabilities{log: log}, boot: &boot{}}
	run := newRunner(nil, nil, a.Config.Data, 1, log)
	at := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	run.mu.Lock()
	for i, result := range [][]byte{nil, []byte("{}"), nil} {
		run.add(fmt.Sprint("t", i), api.TaskDeploy, int64(i+1), at.Add(-time.Duration(i)*time.Minute), nil).result = result
	}
	run.mu.Unlock()
	a.link.beats("cpu above its limit")
	s := a.status(&identity{}, run)
	want := []api.LocalTask{
		{ID: "t2", Type: api.TaskDeploy, Attempt: 3, Since: at.Add(-2 * time.Minute)},
		{ID: "t0", Type: api.TaskDeploy, Attempt: 1, Since: at},
	}
	if diff := cmp.Diff(want, s.Tasks); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s.Certificate != nil || s.NotAccepting != "cpu above its limit" {
		t.Errorf("%+v, %q", s.Certificate, s.NotAccepting)
	}
	if err := a.drain(json.RawMessage(`{"reason":"new disks"}`)); err != nil {
		t.Fatal(err)
	}
	if s := a.status(&identity{}, run); s.NotAccepting != "new disks" {
		t.Errorf("drained: %q", s.NotAccepting)
	}
}

// A link that is handed over was never down.
func TestLinkHandedOver(t *testing.T) {
	t.Parallel()
	var l linkState
	first := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	l.failed(errors.New("nobody there"), 2, first)
	l.up("websocket", first)
	l.up("websocket", first.Add(time.Hour))
	var s api.LocalStatus
	l.tell(&s, 3, first.Add(2*time.Hour))
	if !s.Connected || !s.ConnectedSince.Equal(first) || s.LastError != "" || !s.LastConnected.Equal(first.Add(2*time.Hour)) {
		t.Errorf("%+v", s)
	}
	l.down(first.Add(3 * time.Hour))
	l.failed(errors.New("nobody there"), 100, first.Add(4*time.Hour))
	s = api.LocalStatus{}
	l.tell(&s, 0, first.Add(5*time.Hour))
	if s.Connected || !s.LastConnected.Equal(first.Add(3*time.Hour)) || !strings.Contains(s.LastError, "nobody") || s.Status != api.StatusDegraded {
		t.Errorf("without a limit: %+v", s)
	}
}
