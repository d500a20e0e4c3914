package testkit

import (
	"context"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
)

// Agent is an agent that runs in the test's process.
type Agent struct {
	t      testing.TB
	Config agent.Config
	stop   context.CancelFunc
	done   chan error
}

// StartAgent registers an agent with a one-time token, starts it, and waits
// until it is online. It is stopped when the test ends.
func (cp *ControlPlane) StartAgent(name string, change ...func(*agent.Config)) *Agent {
	cp.t.Helper()
	a := &Agent{t: cp.t, Config: agent.Config{
		Data: cp.t.TempDir(), Server: cp.URL, Name: name, MaxConcurrentTasks: 5, Transport: "auto",
		ReconnectBackoff: 100 * time.Millisecond, MaxReconnectAttempts: 10, PollInterval: 100 * time.Millisecond, DrainTimeout: 5 * time.Second,
		CertAutoRenew: true, CertRenewalThreshold: 7 * 24 * time.Hour,
	}}
	for _, c := range change {
		c(&a.Config)
	}
	a.Start(cp.Token())
	cp.t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			cp.t.Errorf("agent %s: %v", name, err)
		}
	})
	cp.WaitOnline(name)
	return a
}

// AgentOf returns an agent that is configured like another one, which is to be
// started. It is stopped when the test ends.
func AgentOf(t testing.TB, like agent.Config, change func(*agent.Config)) *Agent {
	t.Helper()
	a := &Agent{t: t, Config: like}
	change(&a.Config)
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Errorf("agent %s: %v", a.Config.Name, err)
		}
	})
	return a
}

// WaitOnline waits until an agent has connected and is online.
func (cp *ControlPlane) WaitOnline(name string) *api.Agent {
	cp.t.Helper()
	var got *api.Agent
	Eventually(cp.t, 20*time.Second, "agent "+name+" to be online", func() (bool, string) {
		v, err := cp.Client.Agent(cp.t.Context(), name)
		if err != nil {
			return false, err.Error()
		}
		got = v
		return v.Status == api.StatusOnline && (v.Transport != "" || v.ResourceUsage != nil), string(v.Status) + " " + v.Transport
	})
	return got
}

// Start starts the agent, again after Stop; the token is needed once.
func (a *Agent) Start(token string) {
	ctx, stop := context.WithCancel(context.Background())
	run := &agent.Agent{Config: a.Config, Log: Logger(a.t, "agent "+a.Config.Name), Token: token}
	done := make(chan error, 1)
	go func() { done <- run.Run(ctx) }()
	a.stop, a.done = stop, done
}

// Stop stops the agent and waits until it has; it is idempotent.
func (a *Agent) Stop() error {
	if a.stop == nil {
		return nil
	}
	a.stop()
	a.stop = nil
	return <-a.done
}
