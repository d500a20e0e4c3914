package testkit_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/testkit"
)

// An agent whose clock is wrong works, renews its certificate in time by the
// server's clock, and says that its own is wrong. When it is so wrong that
// certificates are no good by it, that is what it names as the cause.
func TestClockThatIsWrong(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, shortLived)
	for _, off := range []time.Duration{-48 * time.Hour, -10 * time.Minute, 10 * time.Minute, 48 * time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			t.Parallel()
			name := "off-by" + strings.ReplaceAll(off.String(), "+", "")
			a := startOff(t, cp, name, off)
			shown := cp.WaitOnline(name)
			first := shown.CertificateFingerprint
			testkit.Eventually(t, 20*time.Second, "the certificate to be renewed", func() (bool, string) {
				shown, err := cp.Client.Agent(t.Context(), name)
				if err != nil {
					return false, err.Error()
				}
				return shown.CertificateFingerprint != first && shown.Status == api.StatusOnline && shown.Transport != "", fmt.Sprintf("%+v", shown)
			})
			if said := a.said.String(); !strings.Contains(said, "this machine's clock and the server's differ") || !strings.Contains(said, (-off).String()) {
				t.Errorf("it does not say how wrong its clock is:\n%s", said)
			}
			if n := renewals(t, cp, name); n > 3 {
				t.Errorf("it has renewed %d times", n)
			}
		})
	}
	for _, off := range []time.Duration{-10 * 24 * time.Hour, 200 * 24 * time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			t.Parallel()
			a := startOff(t, cp, "far"+off.String(), off)
			testkit.Eventually(t, 20*time.Second, "the clock to be named as the cause", func() (bool, string) {
				return strings.Contains(a.said.String(), "set this machine's clock right"), a.said.String()
			})
		})
	}
}

type offAgent struct{ said safeBuffer }

// startOff starts an agent whose clock is off.
func startOff(t *testing.T, cp *testkit.ControlPlane, name string, off time.Duration) *offAgent {
	t.Helper()
	a := &offAgent{}
	run := &agent.Agent{
		Config: agent.Config{
			Data: t.TempDir(), Server: cp.URL, Name: name, MaxConcurrentTasks: 5, Transport: "auto", CertAutoRenew: true, Socket: t.TempDir() + "/s",
			ReconnectBackoff: 100 * time.Millisecond, MaxReconnectAttempts: 10, PollInterval: 100 * time.Millisecond, DrainTimeout: 5 * time.Second,
		},
		Log: slog.New(slog.NewTextHandler(&a.said, nil)), Token: cp.Token(),
		Clock: func() time.Time { return time.Now().Add(off) },
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = run.Run(ctx) // what is wrong is in its log
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return a
}
