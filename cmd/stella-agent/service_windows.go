package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"

	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/obs"
)

// serviceName is the agent's name for the service manager, and its source in the
// event log.
const serviceName = "stella-agent"

// Ids of what the agent writes to the event log.
const (
	eventStarted = 1
	eventStopped = 2
	eventFailed  = 3
)

const (
	// pendingEvery is how often the service manager is told that a start or a stop
	// goes on.
	pendingEvery = 2 * time.Second
	// pendingHint is for how long it waits to be told again.
	pendingHint = 30 * time.Second
	// stopGrace is how long the agent may take to stop beside what its tasks do.
	stopGrace = 10 * time.Second
)

// serve runs the agent until ctx ends; when the service manager has started this
// program, until that says so, with the log in the data folder.
func serve(ctx context.Context, a *agent.Agent) error {
	isService, err := svc.IsWindowsService()
	if err != nil {
		return fmt.Errorf("find out whether the service manager started this program: %w", err)
	}
	if !isService {
		return a.Run(ctx)
	}
	// Windows tells services of every user who logs off, and Go makes SIGTERM of
	// it. A service is ended by the service manager alone.
	signal.Reset(os.Interrupt, syscall.SIGTERM)
	if err := serviceData(&a.Config); err != nil {
		return err
	}
	file, err := openLog(a.Config.Data)
	if err != nil {
		return err
	}
	a.Log = obs.NewLogger(file, a.Config.LogFormat, a.Config.LogLevel)
	s := &service{log: a.Log, drain: a.Config.DrainTimeout, tell: writeEvent}
	s.run = func(running func()) error {
		a.OnRunning = running
		return a.Run(s.ctx)
	}
	s.ctx, s.stop = context.WithCancel(ctx)
	defer s.stop()
	if err := svc.Run(serviceName, s); err != nil {
		return fmt.Errorf("talk to the service manager: %w", err)
	}
	if s.failed != nil {
		return reported{s.failed}
	}
	return file.Close()
}

// reported is an error that the event log has already.
type reported struct{ error }

// reportFailure writes why the program ends into the event log, when the service
// manager started it: nobody reads its standard error.
func reportFailure(err error) {
	if isService, e := svc.IsWindowsService(); e != nil || !isService || errors.As(err, new(reported)) {
		return
	}
	writeEvent(eventFailed, "The agent cannot start: "+err.Error())
}

// writeEvent writes to the event log, as well as it can: where there is none to
// write to, nobody is left to be told.
func writeEvent(id uint32, text string) {
	l, err := eventlog.Open(serviceName)
	if err != nil {
		return
	}
	defer l.Close()
	if id == eventFailed {
		_ = l.Error(id, text)
		return
	}
	_ = l.Info(id, text)
}

// service is what the service manager talks to.
type service struct {
	// run is the agent: it calls running when its parts begin, and returns when stop
	// was called, or before with the reason.
	run   func(running func()) error
	ctx   context.Context //nolint:containedctx // the service manager calls Execute, and knows no context
	stop  func()
	drain time.Duration
	log   *slog.Logger
	tell  func(id uint32, text string)
	// failed is why the agent ended, unless it was told to.
	failed error
}

var _ svc.Handler = (*service)(nil)

// Execute implements svc.Handler: it runs the agent, and tells the service manager
// what becomes of it. It returns when the agent has ended, with an exit code other
// than 0 when it was not told to, so that the service's recovery begins.
func (s *service) Execute(args []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (specific bool, code uint32) {
	if len(args) > 0 {
		if err := allowShutdown(args[0], s.drain+stopGrace); err != nil {
			s.log.WarnContext(s.ctx, "when Windows shuts down it may end the agent before its tasks have ended; they are undone at the next start", "error", err)
		}
	}
	begun, ended := make(chan struct{}), make(chan error, 1)
	now := svc.Status{State: svc.StartPending, WaitHint: milliseconds(pendingHint)}
	status <- now
	go func() { ended <- s.run(func() { close(begun) }) }()
	tick := time.NewTicker(pendingEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return s.ended(err, now.State == svc.StopPending)
		case <-begun:
			begun = nil
			if now.State == svc.StopPending {
				continue
			}
			now = svc.Status{State: svc.Running, Accepts: svc.AcceptStop | svc.AcceptShutdown | svc.AcceptPreShutdown}
			s.tell(eventStarted, "The agent runs, version "+obs.BuildVersion()+".")
		case r := <-requests:
			// Others may come too: anybody who may control the service can send it numbers.
			asked := r.Cmd == svc.Stop || r.Cmd == svc.Shutdown || r.Cmd == svc.PreShutdown
			if asked && now.State != svc.StopPending {
				s.log.InfoContext(s.ctx, "the agent is told to stop", "running_tasks_may_take", s.drain.String())
				now = svc.Status{State: svc.StopPending, WaitHint: milliseconds(s.drain + stopGrace)}
				s.stop()
			}
		case <-tick.C:
			if now.State == svc.Running {
				continue
			}
			now.CheckPoint++
		}
		status <- now
	}
}

// ended says how the agent ended, to all who want to know.
func (s *service) ended(err error, told bool) (specific bool, code uint32) {
	if err == nil && !told {
		err = errors.New("it ended by itself")
	}
	if err == nil {
		s.log.InfoContext(s.ctx, "the agent has stopped")
		s.tell(eventStopped, "The agent has stopped.")
		return false, 0
	}
	s.failed = err
	s.log.ErrorContext(s.ctx, "the agent has failed", "error", err)
	s.tell(eventFailed, "The agent has failed: "+err.Error())
	return true, 1
}

// allowShutdown lets a service take so long to stop when Windows shuts down; left
// alone, Windows waits for ten seconds.
func allowShutdown(name string, limit time.Duration) error {
	manager, err := windows.OpenSCManager(nil, nil, windows.SC_MANAGER_CONNECT)
	if err != nil {
		return fmt.Errorf("open the service manager: %w", err)
	}
	defer func() { _ = windows.CloseServiceHandle(manager) }()
	text, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return err
	}
	handle, err := windows.OpenService(manager, text, windows.SERVICE_CHANGE_CONFIG)
	if err != nil {
		return fmt.Errorf("open service %s: %w", name, err)
	}
	defer func() { _ = windows.CloseServiceHandle(handle) }()
	timeout := milliseconds(limit)                                                                                         // SERVICE_PRESHUTDOWN_INFO has this and no more
	err = windows.ChangeServiceConfig2(handle, windows.SERVICE_CONFIG_PRESHUTDOWN_INFO, (*byte)(unsafe.Pointer(&timeout))) //nolint:gosec // it is how the call takes what differs in kind
	if err != nil {
		return fmt.Errorf("set how long service %s may take at a shutdown: %w", name, err)
	}
	return nil
}

func milliseconds(d time.Duration) uint32 {
	return uint32(min(d.Milliseconds(), int64(^uint32(0)>>1))) //nolint:gosec // it is no more than fits
}
