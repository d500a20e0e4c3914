package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"golang.org/x/sys/windows/svc"

	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/config"
	"stella-ops.org/stella/internal/obs"
)

// manager is the service manager's side of a service.
type manager struct {
	*testing.T
	requests chan svc.ChangeRequest
	status   chan svc.Status
	ended    chan [2]uint32 // whether the exit code is the service's own, and the code
	events   chan uint32
	log      *strings.Builder
}

// start starts a service that runs run.
func start(t *testing.T, run func(ctx context.Context, running func()) error) *manager {
	t.Helper()
	m := &manager{T: t, requests: make(chan svc.ChangeRequest), status: make(chan svc.Status), ended: make(chan [2]uint32, 1), events: make(chan uint32, 10), log: &strings.Builder{}}
	s := &service{drain: 20 * time.Second, log: obs.NewLogger(m.log, "text", "info"), tell: func(id uint32, _ string) { m.events <- id }}
	s.ctx, s.stop = context.WithCancel(t.Context())
	s.run = func(running func()) error { return run(s.ctx, running) }
	go func() {
		specific, code := s.Execute(nil, m.requests, m.status)
		own := uint32(0)
		if specific {
			own = 1
		}
		m.ended <- [2]uint32{own, code}
	}()
	m.becomes(svc.StartPending)
	return m
}

// becomes waits for a state, with a checkpoint of at least so many, and returns its
// status.
func (m *manager) becomes(state svc.State, checkPoint ...uint32) svc.Status {
	m.Helper()
	for late := time.After(30 * time.Second); ; {
		select {
		case s := <-m.status:
			if s.State == state && (len(checkPoint) == 0 || s.CheckPoint >= checkPoint[0]) {
				return s
			}
		case <-late:
			m.Fatalf("it did not become %d, %v", state, checkPoint)
		}
	}
}

func (m *manager) wantEnd(own, code uint32, events ...uint32) {
	m.Helper()
	for {
		select {
		case <-m.status:
			continue
		case got := <-m.ended:
			if got != [2]uint32{own, code} {
				m.Errorf("it ended with %v, want %d %d; its log:\n%s", got, own, code, m.log)
			}
		case <-time.After(30 * time.Second):
			m.Fatal("it did not end")
		}
		break
	}
	close(m.events)
	var got []uint32
	for id := range m.events {
		got = append(got, id)
	}
	if diff := cmp.Diff(events, got); diff != "" {
		m.Errorf("events: %s", diff)
	}
}

// whole is an agent that runs until it is told to stop, and then as long as drained
// is open.
func whole(drained <-chan struct{}) func(context.Context, func()) error {
	return func(ctx context.Context, running func()) error {
		running()
		<-ctx.Done()
		<-drained
		return nil
	}
}

func TestServiceStops(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]svc.Cmd{"stop": svc.Stop, "shutdown": svc.Shutdown, "preshutdown": svc.PreShutdown} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			drained := make(chan struct{})
			m := start(t, whole(drained))
			if s := m.becomes(svc.Running); s.Accepts != svc.AcceptStop|svc.AcceptShutdown|svc.AcceptPreShutdown {
				t.Errorf("it accepts %b", s.Accepts)
			}
			for _, harmless := range []svc.Cmd{svc.Interrogate, svc.ParamChange, 200} {
				m.requests <- svc.ChangeRequest{Cmd: harmless}
				m.becomes(svc.Running)
			}
			m.requests <- svc.ChangeRequest{Cmd: by}
			if s := m.becomes(svc.StopPending); s.WaitHint != 30_000 || s.Accepts != 0 {
				t.Errorf("while its tasks end: %+v", s)
			}
			m.requests <- svc.ChangeRequest{Cmd: svc.Interrogate}
			m.becomes(svc.StopPending)
			m.becomes(svc.StopPending, 1) // it says that it goes on
			close(drained)
			m.wantEnd(0, 0, eventStarted, eventStopped)
		})
	}
}

// While it starts, for however long, the service manager hears of it.
func TestServiceStartsSlowly(t *testing.T) {
	t.Parallel()
	begin, drained := make(chan struct{}), make(chan struct{})
	close(drained)
	m := start(t, func(ctx context.Context, running func()) error {
		<-begin
		return whole(drained)(ctx, running)
	})
	m.becomes(svc.StartPending, 2)
	close(begin)
	m.becomes(svc.Running)
	m.requests <- svc.ChangeRequest{Cmd: svc.Stop}
	m.wantEnd(0, 0, eventStarted, eventStopped)
}

// An agent that fails, or ends though nobody told it to, has an exit code by which
// the service is started again.
func TestServiceFails(t *testing.T) {
	t.Parallel()
	gone := errors.New("the disk is gone")
	t.Run("at its start", func(t *testing.T) {
		t.Parallel()
		start(t, func(context.Context, func()) error { return gone }).wantEnd(1, 1, eventFailed)
	})
	t.Run("by itself", func(t *testing.T) {
		t.Parallel()
		start(t, func(context.Context, func()) error { return nil }).wantEnd(1, 1, eventFailed)
	})
	t.Run("while it runs", func(t *testing.T) {
		t.Parallel()
		fail := make(chan struct{})
		m := start(t, func(_ context.Context, running func()) error {
			running()
			<-fail
			return gone
		})
		m.becomes(svc.Running)
		close(fail)
		m.wantEnd(1, 1, eventStarted, eventFailed)
	})
	t.Run("while it stops", func(t *testing.T) {
		t.Parallel()
		m := start(t, func(ctx context.Context, running func()) error {
			running()
			<-ctx.Done()
			return gone
		})
		m.becomes(svc.Running)
		m.requests <- svc.ChangeRequest{Cmd: svc.Stop}
		m.wantEnd(1, 1, eventStarted, eventFailed)
	})
}

// A service's data folder and its log.
func TestServiceData(t *testing.T) {
	t.Setenv("STELLA_DATA", "")
	var cfg agent.Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.Flags(fs, &cfg)
	if err := config.Load(fs, &cfg, func(string) string { return "" }); err != nil || cfg.Data != defaultData {
		t.Fatalf("%q is the default, %v", cfg.Data, err)
	}
	for _, relative := range []string{"data", `.\data`, `\data`} {
		if err := serviceData(&agent.Config{Data: relative}); err == nil {
			t.Errorf("%s was taken", relative)
		}
	}
	cfg.Data = filepath.Join(t.TempDir(), "data")
	if err := serviceData(&cfg); err != nil {
		t.Fatal(err)
	}
	file, err := openLog(cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = debug.SetCrashOutput(nil, debug.CrashOptions{}) })
	obs.NewLogger(file, "", "info").Info("a line")
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(cfg.Data, "logs", "stella-agent.log"))
	if err != nil || !strings.Contains(string(text), `"msg":"a line"`) {
		t.Errorf("the log holds %q, %v", text, err)
	}
	// A file where the folder should be.
	if _, err := openLog(filepath.Join(cfg.Data, "logs", "stella-agent.log")); err == nil {
		t.Error("a log was opened that is nowhere")
	}
}
