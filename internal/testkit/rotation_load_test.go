package testkit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

// load gives every agent work without a pause, as an operator does: by the API,
// at a rate that is bounded by its being one caller, and with a key for each
// task, so that one whose answer is lost is not made twice.
type load struct {
	*testing.T
	agents []string
	// every is how often each agent gets a task, which takes a little longer
	// than that.
	every   time.Duration
	dir     string // what tasks leave behind, and the targets' folders
	release api.ArtifactRequest
	content []byte
	client  atomic.Pointer[client.Client]

	mu    sync.Mutex
	tasks map[string]string // the ids, by the name that the task leaves behind
}

// deployEvery is which of an agent's turns brings a deployment too, whose file
// comes from the server's own store.
const deployEvery = 4

func newLoad(t *testing.T, c *client.Client, agents []string, every time.Duration) *load {
	t.Helper()
	l := &load{T: t, agents: agents, every: every, dir: t.TempDir(), tasks: map[string]string{}}
	l.client.Store(c)
	l.content, l.release = release(7, 64<<10)
	if _, err := c.PushArtifact(t.Context(), l.release, bytes.NewReader(l.content), nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range agents {
		if _, err := c.CreateTarget(t.Context(), api.TargetRequest{Name: name, Kind: "host", Agent: name, Config: api.TargetConfig{Directory: l.folder(name)}}); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func (l *load) folder(agent string) string { return filepath.Join(l.dir, "target-"+agent) }

// ran is the file in which an agent's tasks leave their names.
func (l *load) ran(agent string) string { return filepath.Join(l.dir, "ran-"+agent) }

// run hands out tasks until a time, and returns then.
func (l *load) run(until time.Time) {
	tick := time.NewTicker(l.every / time.Duration(len(l.agents)))
	defer tick.Stop()
	for i := 0; time.Now().Before(until) && l.Context().Err() == nil; i++ {
		agent, turn := l.agents[i%len(l.agents)], i/len(l.agents)
		l.command(agent, fmt.Sprintf("%s/%d", agent, turn), l.every+l.every/4)
		if turn%deployEvery == deployEvery-1 {
			l.deploy(agent, fmt.Sprintf("%s/%d/deploy", agent, turn))
		}
		<-tick.C
	}
}

// command queues a task that leaves its name and then takes a while, two lines
// of its log each second: a link that is handed over has something to say.
func (l *load) command(agent, name string, takes time.Duration) {
	script := `echo "$0" >> "$1"; i=0; while [ $i -lt $2 ]; do echo $i; sleep .5; i=$((i+1)); done`
	l.submit(api.TaskExecuteCommand, agent, name, map[string]any{
		"command": []string{"sh", "-c", script, name, l.ran(agent), fmt.Sprint(int(2 * takes.Seconds()))},
	})
}

func (l *load) deploy(agent, name string) {
	p := deployment(l.release)
	p.Hooks.PreDeploy = &api.Hook{Command: []string{"sh", "-c", `echo "$0" >> "$1"`, name, l.ran(agent)}}
	l.submit(api.TaskDeploy, agent, name, p)
}

// submit makes a task, and tries for as long as a server may be away.
func (l *load) submit(kind api.TaskType, agent, name string, payload any) {
	raw, err := json.Marshal(payload)
	if err != nil {
		l.Error(err)
		return
	}
	req := api.TaskRequest{Type: kind, Target: agent, Payload: raw, IdempotencyKey: name}
	for deadline := time.Now().Add(30 * time.Second); ; {
		task, err := l.client.Load().SubmitTask(l.Context(), req)
		if err == nil {
			l.mu.Lock()
			l.tasks[name] = task.ID
			l.mu.Unlock()
			return
		}
		if l.Context().Err() != nil {
			return // the test has failed already
		}
		if time.Now().After(deadline) {
			l.Errorf("the task %s was not taken: %v", name, err)
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-l.Context().Done():
		}
	}
}

// made is how many tasks there are.
func (l *load) made() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.tasks)
}

// ended waits until every task is over, and fails the test for each that did
// not succeed, or did not run exactly once.
func (l *load) ended(within time.Duration) {
	l.Helper()
	var open []string
	deadline, tick := time.Now().Add(within), time.NewTicker(500*time.Millisecond)
	defer tick.Stop()
	for {
		open = open[:0]
		for _, state := range []api.TaskState{api.TaskQueued, api.TaskAssigned, api.TaskRunning} {
			for task, err := range l.client.Load().Tasks(l.Context(), client.TaskFilter{State: state}) {
				if err != nil {
					l.Fatal(err)
				}
				open = append(open, fmt.Sprintf("%s %s %s", task.IdempotencyKey, task.State, task.Reason))
			}
		}
		if len(open) == 0 || time.Now().After(deadline) {
			break
		}
		<-tick.C
	}
	for _, what := range open {
		l.Errorf("after %s it is not over: %s", within, what)
	}
	there := map[string]bool{}
	for task, err := range l.client.Load().Tasks(l.Context(), client.TaskFilter{}) {
		if err != nil {
			l.Fatal(err)
		}
		there[task.ID] = true
		if l.tasks[task.IdempotencyKey] != task.ID {
			l.Errorf("nobody has made the task %s (%s)", task.ID, task.IdempotencyKey)
		}
		if task.State != api.TaskSucceeded {
			l.Errorf("the task %s: %s, attempt %d: %s", task.IdempotencyKey, task.State, task.Attempt, task.Reason)
		}
	}
	times := map[string]int{}
	for _, agent := range l.agents {
		data, err := os.ReadFile(l.ran(agent))
		if err != nil {
			l.Error(err)
		}
		for name := range strings.Lines(string(data)) {
			times[strings.TrimSpace(name)]++
		}
		deployed(l.T, l.folder(agent), l.content)
	}
	for name, id := range l.tasks {
		if !there[id] {
			l.Errorf("the server knows nothing of the task %s", name)
		}
		if times[name] != 1 {
			l.Errorf("the task %s ran %d times", name, times[name])
		}
	}
	if len(times) != len(l.tasks) {
		l.Errorf("%d tasks were made, and %d ran", len(l.tasks), len(times))
	}
}
