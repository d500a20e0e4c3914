package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/agent/command"
	"stella-ops.org/stella/internal/agent/link"
)

// way is a carrier whose connections come about, or do not.
type way struct {
	name  string
	log   *[]string
	mu    *sync.Mutex
	works bool
	// breaks, when set, is how long its connections stand.
	breaks time.Duration
}

func (w *way) Name() string { return w.name }

func (w *way) Dial(ctx context.Context, _ *stellav1.Hello) (link.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*w.log = append(*w.log, w.name)
	if !w.works {
		return nil, errors.New("it does not get through")
	}
	ctx, cancel := context.WithCancel(ctx)
	if w.breaks > 0 {
		time.AfterFunc(w.breaks, cancel)
	}
	c := &pipe{ctx: ctx, cancel: cancel, down: make(chan *stellav1.ConnectResponse, 1)}
	c.down <- &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Welcome{Welcome: &stellav1.Welcome{HeartbeatIntervalMs: 30_000}}}
	return c, nil
}

// pipe is a connection on which nothing but the welcome comes.
type pipe struct {
	ctx    context.Context
	cancel context.CancelFunc
	down   chan *stellav1.ConnectResponse
}

func (p *pipe) Send(*stellav1.ConnectRequest) error { return p.ctx.Err() }
func (p *pipe) Close()                              { p.cancel() }
func (p *pipe) Recv() (*stellav1.ConnectResponse, error) {
	select {
	case f := <-p.down:
		return f, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

// lines keeps what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// anew takes every command for one that was not begun before.
func anew(*api.AgentCommand) error { return nil }

// dials runs a connector for a while and returns which carriers it dialled, in
// order, and what it logged.
func dials(t *testing.T, d time.Duration, ways ...way) ([]string, string) {
	var dialled []string
	var mu sync.Mutex
	var said lines
	log := slog.New(slog.NewTextHandler(&said, nil))
	cfg := Config{Data: t.TempDir(), ReconnectBackoff: time.Second, MaxReconnectAttempts: 10, MaxConcurrentTasks: 1, DrainTimeout: time.Second}
	a := &Agent{Config: cfg, Log: log, capabilities: &capabilities{log: log}, boot: &boot{}}
	c := &connector{
		follow: func(string, time.Duration, bool) {},
		agent:  a, id: &identity{}, run: newRunner(nil, nil, cfg.Data, 1, log), commands: command.NewRunner("", nil, anew, log), log: log, beat: make(chan struct{}, 1),
	}
	for i := range ways {
		ways[i].log, ways[i].mu = &dialled, &mu
		c.carriers = append(c.carriers, &ways[i])
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := c.Run(ctx); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	mu.Lock()
	defer mu.Unlock()
	return dialled, said.text.String()
}

func TestConnectorStaysWithTheBest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got, _ := dials(t, time.Hour, way{name: "best", works: true}, way{name: "lesser", works: true})
		if !slices.Equal(got, []string{"best"}) {
			t.Errorf("dialled %v", got)
		}
	})
}

func TestConnectorFallsBackAndLooksForTheBestAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got, _ := dials(t, 10*time.Minute, way{name: "best"}, way{name: "lesser", works: true})
		want := []string{"best", "best", "best", "lesser", "best", "lesser", "best", "lesser"}
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Fatalf("dialled %v", got)
		}
		if len(got) > 16 {
			t.Errorf("the best carrier was tried too often in ten minutes: %v", got)
		}
	})
}

func TestConnectorNeverGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got, said := dials(t, time.Hour, way{name: "best"}, way{name: "lesser"})
		if n := len(got); n < 60 || n > 400 {
			t.Errorf("%d attempts in an hour", n)
		}
		if !slices.Contains(got, "best") || !slices.Contains(got, "lesser") {
			t.Errorf("not every carrier was tried: %v", got)
		}
		if n := strings.Count(said, "unhealthy"); n != 1 || !strings.Contains(said, fmt.Sprintf("attempts=%d", 10)) {
			t.Errorf("it called itself unhealthy %d times", n)
		}
	})
}

// When the agent stops, commands have as long as tasks to end, and no longer.
func TestConnectorEndsCommands(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		var took time.Duration
		commands := command.NewRunner("", map[string]command.Builtin{
			"hang": func(ctx context.Context, _ json.RawMessage) (any, error) {
				began := time.Now()
				<-ctx.Done()
				took = time.Since(began)
				return nil, context.Cause(ctx)
			},
		}, anew, log)
		cfg := Config{Data: t.TempDir(), ReconnectBackoff: time.Second, MaxConcurrentTasks: 1, DrainTimeout: 5 * time.Second}
		a := &Agent{Config: cfg, Log: log, capabilities: &capabilities{log: log}, boot: &boot{}}
		var dialled []string
		c := &connector{
			follow: func(string, time.Duration, bool) {},
			agent:  a, id: &identity{}, run: newRunner(nil, nil, cfg.Data, 1, log), commands: commands, log: log, beat: make(chan struct{}, 1),
			carriers: []link.Carrier{&way{name: "best", log: &dialled, mu: &sync.Mutex{}, works: true}},
		}
		now := time.Now()
		commands.Take(&api.AgentCommand{ID: "c1", Type: "hang", CreatedAt: now, ExpiresAt: now.Add(time.Hour)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if took != time.Minute+cfg.DrainTimeout {
			t.Errorf("the command was ended after %s", took)
		}
	})
}

// What lets streams begin and then breaks them is found out, and trying them
// again costs each one try and no waiting.
func TestConnectorAmongStreamsThatBreak(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const breaks = 300 * time.Millisecond
		got, said := dials(t, 30*time.Minute, way{name: "best", works: true, breaks: breaks}, way{name: "middle", works: true, breaks: breaks}, way{name: "least", works: true})
		want := []string{
			"best", "best", "best", "middle", "middle", "middle", "least", "best", "middle", "least", "best", "middle", "least",
		}
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Fatalf("dialled %v", got)
		}
		if len(got) > 50 {
			t.Errorf("the better carriers were tried too often in half an hour: %v", got)
		}
		if n := strings.Count(said, "the link is down"); n != 2*carrierTries {
			t.Errorf("it waited %d times, want %d", n, 2*carrierTries)
		}
	})
}

// After the server was away, whichever carrier is the first to get through, the
// best is tried again soon.
func TestConnectorFindsTheBestAfterAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ways := []way{{name: "best"}, {name: "lesser"}}
		time.AfterFunc(time.Hour, func() {
			ways[1].mu.Lock()
			defer ways[1].mu.Unlock()
			ways[0].works, ways[1].works = true, true
		})
		got, said := dials(t, 2*time.Hour, ways...)
		if got[len(got)-1] != "best" {
			t.Errorf("it stays with %v", got[len(got)-1])
		}
		var lesserAt, bestAt time.Time
		for line := range strings.Lines(said) {
			at, err := time.Parse("time="+time.RFC3339Nano, strings.Fields(line)[0])
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case strings.Contains(line, "msg=connected") && strings.Contains(line, "transport=lesser"):
				lesserAt = at
			case strings.Contains(line, "msg=connected") && strings.Contains(line, "transport=best"):
				bestAt = at
			}
		}
		if bestAt.IsZero() || !lesserAt.IsZero() && bestAt.Sub(lesserAt) > time.Minute {
			t.Errorf("the lesser one stands at %s, and the best at %s", lesserAt, bestAt)
		}
	})
}
