package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"stella-ops.org/stella/api"
)

// DispatchOptions are what the scenario dispatch may be told.
type DispatchOptions struct {
	// Tasks are sent one after the other, each when the one before was
	// received, after some that are not counted.
	Tasks int
	// Rate, when it is above 0, sends tasks at fixed times instead, for
	// Duration.
	Rate     float64
	Duration time.Duration
}

// DispatchResult is what it finds out.
type DispatchResult struct {
	Targets int `json:"targets"`
	// AskedRate is 0 for tasks one after the other.
	AskedRate float64 `json:"askedRate,omitempty"`
	Rate      float64 `json:"ratePerSecond"`
	Sent      int64   `json:"sent"`
	Received  int64   `json:"received"`
	Finished  int64   `json:"finished"`
	Refused   int64   `json:"refused"`
	// Receipt is from the request, or from when it was due, to the agent's
	// receipt.
	Receipt Quantiles `json:"receipt"`
	Lost    int       `json:"lostConnections"`
	Costs

	refusal   error
	lossCause error
}

const (
	// dispatchTargets bounds how many agents get a target.
	dispatchTargets = 200
	// maxWarmUp bounds how many tasks, a tenth, are sent before those that count.
	maxWarmUp = 100
	// taskPatience is how long a task may take.
	taskPatience = 30 * time.Second
)

// Dispatch measures tasks: from the request to the agent's receipt.
func Dispatch(ctx context.Context, o Options, d DispatchOptions) (*Report, error) {
	if d.Rate < 0 || d.Rate == 0 && d.Tasks < 1 || d.Rate > 0 && d.Duration <= 0 {
		return nil, errors.New("say how many tasks to send, or a rate and for how long, above 0")
	}
	r, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer r.end()
	f, err := r.fleet(ctx)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	targets, err := r.targets(ctx, f)
	if err != nil {
		return nil, err
	}
	t := &taskTracker{run: r, targets: targets, tasks: map[string]*taskInFlight{}, took: newLatencies()}
	f.hooks.Store(&hooks{task: t.received, resultAck: t.finished})
	defer f.hooks.Store(nil)
	for i := range max(1, min(d.Tasks, maxWarmUp*10)/10) {
		if err := t.one(ctx, i); err != nil {
			return nil, err
		}
	}
	t.reset()
	m, err := r.startMeters()
	if err != nil {
		return nil, err
	}
	defer m.drop()
	began := time.Now()
	if d.Rate > 0 {
		err = t.atRate(ctx, d)
	} else {
		stop := every(progressEvery, func() { r.progress("sending tasks: %d of %d", t.receivedCount.Load(), d.Tasks) })
		for i := 0; i < d.Tasks && err == nil; i++ {
			err = t.one(ctx, i)
		}
		stop()
	}
	took := time.Since(began)
	if err != nil {
		return nil, err
	}
	if _, err := waitFor(ctx, taskPatience, t.allFinished); err != nil {
		return nil, err
	}
	res := &DispatchResult{
		Targets: len(targets), AskedRate: d.Rate, Sent: t.sentCount.Load(), Received: t.receivedCount.Load(), Finished: t.finishedCount.Load(),
		Refused: t.refusedCount.Load(), Receipt: t.took.quantiles(), refusal: t.refusal,
	}
	res.Rate = float64(res.Received) / took.Seconds()
	if res.Costs, err = r.costs(m); err != nil {
		return nil, err
	}
	res.Lost, res.lossCause = f.lost()
	return r.report("dispatch", res), nil
}

// targets gives the first agents a target each, of their own name; one that is
// left of an earlier run is used again.
func (r *run) targets(ctx context.Context, f *Fleet) ([]string, error) {
	names := make([]string, min(len(f.agents), dispatchTargets))
	err := each(ctx, len(names), enrolWorkers, func(ctx context.Context, i int) error {
		id := f.agents[i].id
		names[i] = id.Name
		_, err := r.api.CreateTarget(ctx, api.TargetRequest{Name: id.Name, Kind: "host", Agent: id.ID, Config: api.TargetConfig{Directory: "/opt/stella-load"}})
		if p, ok := errors.AsType[*api.Problem](err); ok && p.Status == http.StatusConflict {
			return nil
		}
		if err != nil {
			return fmt.Errorf("make a target for %s: %w", id.Name, err)
		}
		return nil
	})
	return names, err
}

// taskTracker sends tasks and recognises them at the agents: by a number in
// their payload, for the request's answer, with the id, may come later.
type taskTracker struct {
	run     *run
	targets []string
	took    *latencies

	number atomic.Int64

	sentCount, receivedCount, finishedCount, refusedCount atomic.Int64

	mu      sync.Mutex
	tasks   map[string]*taskInFlight // by that number
	ids     map[string]bool          // of tasks that were received
	refusal error
}

type taskInFlight struct {
	due      time.Time
	received chan struct{}
}

func (t *taskTracker) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ids, t.took = map[string]bool{}, newLatencies()
	t.sentCount.Store(0)
	t.receivedCount.Store(0)
	t.finishedCount.Store(0)
}

// submit sends a task that was due at some time.
func (t *taskTracker) submit(ctx context.Context, i int, due time.Time) (*taskInFlight, error) {
	number := fmt.Sprint(t.number.Add(1))
	flight := &taskInFlight{due: due, received: make(chan struct{})}
	t.mu.Lock()
	t.tasks[number] = flight
	t.mu.Unlock()
	t.sentCount.Add(1)
	payload, err := json.Marshal(map[string][]string{"command": {"true", number}})
	if err != nil {
		return nil, fmt.Errorf("encode the task: %w", err)
	}
	_, err = t.run.api.SubmitTask(ctx, api.TaskRequest{Type: api.TaskExecuteCommand, Target: t.targets[i%len(t.targets)], Payload: payload})
	if err != nil {
		return nil, fmt.Errorf("send a task: %w", err)
	}
	return flight, nil
}

// received is what agents call.
func (t *taskTracker) received(task *api.AgentTask, at time.Time) {
	var p struct {
		Command []string `json:"command"`
	}
	if json.Unmarshal(task.Payload, &p) != nil || len(p.Command) != 2 {
		return // of somebody else
	}
	t.mu.Lock()
	flight := t.tasks[p.Command[1]]
	delete(t.tasks, p.Command[1])
	if flight != nil && t.ids != nil {
		t.ids[task.ID] = true
	}
	took := t.took
	t.mu.Unlock()
	if flight == nil {
		return // handed out again, or of an earlier run
	}
	took.record(at.Sub(flight.due))
	t.receivedCount.Add(1)
	close(flight.received)
}

func (t *taskTracker) finished(id string, _ time.Time) {
	t.mu.Lock()
	known := t.ids[id]
	delete(t.ids, id)
	t.mu.Unlock()
	if known {
		t.finishedCount.Add(1)
	}
}

func (t *taskTracker) allFinished() bool {
	return t.finishedCount.Load()+t.refusedCount.Load() >= t.sentCount.Load()
}

// one sends a task and waits until its agent has it.
func (t *taskTracker) one(ctx context.Context, i int) error {
	flight, err := t.submit(ctx, i, time.Now())
	if err != nil {
		return err
	}
	select {
	case <-flight.received:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(taskPatience):
		return fmt.Errorf("a task did not reach its agent within %s; `stella task list` shows where it is", taskPatience)
	}
}

// atRate sends tasks at fixed times. Requests that hang must not hold up the
// next, so each has a goroutine.
func (t *taskTracker) atRate(ctx context.Context, d DispatchOptions) error {
	stop := every(progressEvery, func() {
		t.run.progress("sending %.0f tasks a second: %d sent, %d received", d.Rate, t.sentCount.Load(), t.receivedCount.Load())
	})
	defer stop()
	var wg sync.WaitGroup
	var i atomic.Int64
	openLoop(ctx, 1, d.Rate, d.Duration, func(_ int, due time.Time) {
		n := int(i.Add(1))
		wg.Go(func() {
			if _, err := t.submit(ctx, n, due); err != nil {
				t.refusedCount.Add(1)
				t.mu.Lock()
				t.refusal = err
				t.mu.Unlock()
			}
		})
	})
	wg.Wait()
	if _, err := waitFor(ctx, taskPatience, func() bool { return t.receivedCount.Load()+t.refusedCount.Load() >= t.sentCount.Load() }); err != nil {
		return err
	}
	return ctx.Err()
}

// Rows implements Result.
func (d *DispatchResult) Rows() []Row {
	how := "one after the other"
	if d.AskedRate > 0 {
		how = fmt.Sprintf("%.0f a second, at fixed times", d.AskedRate)
	}
	rows := []Row{
		{"tasks", fmt.Sprint(d.Sent), fmt.Sprintf("%s, to %d targets; %d received, %d finished, %d refused", how, d.Targets, d.Received, d.Finished, d.Refused)},
		{"tasks a second", fmt.Sprintf("%.0f", d.Rate), ""},
	}
	return append(append(rows, quantileRows("request to receipt", d.Receipt)...), d.rows()...)
}

func (d *DispatchResult) failures() []string {
	out := lostConnections(d.Lost, d.lossCause)
	if d.Refused > 0 {
		out = append(out, fmt.Sprintf("%d of %d tasks were refused, the last one because: %v", d.Refused, d.Sent, d.refusal))
	}
	if n := d.Sent - d.Refused - d.Received; n > 0 {
		out = append(out, fmt.Sprintf("%d of %d tasks did not reach their agents", n, d.Sent))
	}
	if n := d.Received - d.Finished; n > 0 {
		out = append(out, fmt.Sprintf("the results of %d of %d tasks were not acknowledged", n, d.Received))
	}
	return out
}
