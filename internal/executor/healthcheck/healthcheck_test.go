package healthcheck_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/healthcheck"
)

// TestSuccessesInARow: a failure in between begins the count anew.
func TestSuccessesInARow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answers := []bool{false, true, true, false, true, true, true}
		n := 0
		err := healthcheck.Wait(t.Context(), &api.HealthCheck{Type: "tcp", Successes: 3}, func(context.Context) error {
			n++
			if answers[n-1] {
				return nil
			}
			return errors.New("no")
		})
		if err != nil || n != len(answers) {
			t.Errorf("%v after %d tries", err, n)
		}
	})
}

func TestTimeoutSaysTheLastAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began, n := time.Now(), 0
		err := healthcheck.Wait(t.Context(), &api.HealthCheck{Type: "http", Timeout: 5, IntervalMs: 500}, func(context.Context) error {
			n++
			return fmt.Errorf("answer %d", n)
		})
		var failed *deploy.Error
		if !errors.As(err, &failed) || failed.Type != api.ErrHealthCheckFailed || !strings.Contains(failed.Message, fmt.Sprintf("answer %d", n)) {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took != 5*time.Second || n < 10 {
			t.Errorf("%d tries in %v", n, took)
		}
	})
}

func TestProbeThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := healthcheck.Wait(t.Context(), &api.HealthCheck{Type: "http", Timeout: 15}, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if err == nil || time.Since(began) != 15*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestDeadIsFinal(t *testing.T) {
	t.Parallel()
	err := healthcheck.Wait(t.Context(), &api.HealthCheck{Type: "tcp"}, func(context.Context) error {
		return healthcheck.Dead(errors.New("exit code 1"))
	})
	if err == nil || !strings.Contains(err.Error(), "exit code 1") {
		t.Error(err)
	}
}

func TestCancelIsNotAFailure(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	err := healthcheck.Wait(ctx, &api.HealthCheck{Type: "tcp"}, func(context.Context) error {
		cancel(deploy.ErrCancelled)
		return errors.New("no")
	})
	if !errors.Is(err, deploy.ErrCancelled) {
		t.Error(err)
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			http.Error(w, "the database is away", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "all is well")
	}))
	t.Cleanup(server.Close)
	for name, c := range map[string]struct {
		check api.HealthCheck
		says  string
	}{
		"good":         {api.HealthCheck{URL: server.URL}, ""},
		"body":         {api.HealthCheck{URL: server.URL, ExpectedBody: "well"}, ""},
		"another body": {api.HealthCheck{URL: server.URL, ExpectedBody: "ill"}, "all is well"},
		"bad":          {api.HealthCheck{URL: server.URL + "/bad"}, "503 Service Unavailable: the database is away"},
		"expected":     {api.HealthCheck{URL: server.URL + "/bad", ExpectedStatus: 503}, ""},
		"unexpected":   {api.HealthCheck{URL: server.URL, ExpectedStatus: 204}, "200 OK"},
	} {
		err := healthcheck.HTTP(&c.check)(t.Context())
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

func TestTCP(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	probe := healthcheck.TCP(&api.HealthCheck{Address: l.Addr().String()})
	if err := probe(t.Context()); err != nil {
		t.Error(err)
	}
	_ = l.Close()
	if err := probe(t.Context()); err == nil {
		t.Error("a closed port passes")
	}
}
