package testkit_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// crashKind is a kind of target that deployments are interrupted on.
type crashKind interface {
	// target makes the target's request, and change what the agent must know.
	target() (req api.TargetRequest, change func(*agent.Config))
	// env is what the agent's environment has beside the test's.
	env() []string
	// secrets are what the target refers to, by name.
	secrets() map[string]string
	// deploy is a deployment of a version; of the version "sick", one that never
	// gets healthy.
	deploy(version string) api.DeployPayload
	// stands says which version runs, and what is there that should not be.
	stands() (version string, left []string)
	// sweep takes away what the kind has made outside of its test's folders.
	sweep()
}

// The versions that come and go, and the one that never gets healthy.
const (
	versionA = "1.0.0"
	versionB = "2.0.0"
	sick     = "sick"
)

func otherThan(version string) string {
	if version == versionA {
		return versionB
	}
	return versionA
}

// crashRig is a server and an agent, as processes, a proxy between them, and a
// target.
type crashRig struct {
	*testing.T
	kind   crashKind
	cp     *testkit.ControlPlane // of the process that serves
	server *process
	srvCfg server.Config
	link   *proxy
	agent  agent.Config
	name   string
	trace  string
	hooks  string // the file that hooks leave their names in
}

func newCrashRig(t *testing.T, kind crashKind) *crashRig {
	t.Helper()
	rig := &crashRig{T: t, kind: kind}
	t.Cleanup(kind.sweep)
	rig.srvCfg = testkit.ServerConfig(t.TempDir())
	rig.srvCfg.Listen = testkit.FreePort(t)
	rig.srvCfg.TaskLease = 2 * time.Minute
	rig.startServer()
	_, port, err := net.SplitHostPort(rig.srvCfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	rig.link = startProxy(t, "127.0.0.1:"+port)
	rig.agent = agent.Config{
		Data: t.TempDir(), Server: "https://" + rig.link.addr, Name: "crash", MaxConcurrentTasks: 5, Transport: "auto",
		ReconnectBackoff: 50 * time.Millisecond, MaxReconnectAttempts: 10, PollInterval: time.Second, DrainTimeout: time.Second,
	}
	req, change := kind.target()
	change(&rig.agent)
	rig.name, req.Agent = req.Name, "crash"
	for _, name := range slices.Sorted(maps.Keys(kind.secrets())) {
		if _, err := rig.cp.Client.SetSecret(t.Context(), name, kind.secrets()[name]); err != nil {
			t.Fatal(err)
		}
	}
	rig.newTrace()
	p := rig.runAgent(-1, -1)
	defer p.kill()
	rig.cp.WaitOnline("crash")
	if _, err := rig.cp.Client.CreateTarget(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	// Two versions in its history, so that there is one to roll back to.
	rig.must(rig.deploy(versionA))
	rig.must(rig.deploy(versionB))
	rig.settled(2)
	return rig
}

func (rig *crashRig) startServer() {
	rig.Helper()
	rig.server = spawn(rig.T, "server", role{Server: &rig.srvCfg})
	rig.cp = testkit.Attach(rig.T, rig.srvCfg.Data, rig.srvCfg.Listen)
}

func (rig *crashRig) newTrace() {
	rig.trace = filepath.Join(rig.TempDir(), "trace")
	rig.hooks = filepath.Join(filepath.Dir(rig.trace), "hooks")
}

// runAgent starts the agent, with a token when it is not registered.
func (rig *crashRig) runAgent(killAt, stopAt int) *process {
	rig.Helper()
	r := role{Agent: &rig.agent, KillAt: killAt, StopAt: stopAt, Trace: rig.trace}
	if _, err := os.Stat(filepath.Join(rig.agent.Data, "identity.json")); err != nil {
		r.Token = rig.cp.Token()
	}
	return spawn(rig.T, "agent", r, rig.kind.env()...)
}

// deploy queues a deployment with hooks that leave a trace.
func (rig *crashRig) deploy(version string) string {
	rig.Helper()
	p := rig.kind.deploy(version)
	hook := func(name string) *api.Hook {
		return &api.Hook{Command: []string{"sh", "-c", `echo "$0" >> "$1"`, name, rig.hooks}}
	}
	p.Hooks = api.Hooks{PreDeploy: hook("pre"), PostDeploy: hook("post")}
	return rig.queue(api.TaskDeploy, p)
}

func (rig *crashRig) rollback() string {
	rig.Helper()
	return rig.queue(api.TaskRollback, api.RollbackPayload{})
}

func (rig *crashRig) queue(kind api.TaskType, payload any) string {
	rig.Helper()
	raw, err := json.Marshal(payload)
	if err != nil {
		rig.Fatal(err)
	}
	task, err := rig.cp.Client.SubmitTask(rig.Context(), api.TaskRequest{Type: kind, Target: rig.name, Payload: raw})
	if err != nil {
		rig.Fatal(err)
	}
	return task.ID
}

// must waits until a task has succeeded.
func (rig *crashRig) must(id string) {
	rig.Helper()
	if task := rig.cp.WaitTask(id, time.Minute); task.State != api.TaskSucceeded {
		rig.Fatalf("%s %s %s", task.Type, task.State, task.Reason)
	}
}

// now is the version that stands, with nothing beside it.
func (rig *crashRig) now() string {
	rig.Helper()
	version, left := rig.kind.stands()
	if version == "" || len(left) > 0 {
		rig.Fatalf("%q stands, and %q is left over", version, left)
	}
	return version
}

// points runs a story undisturbed, and returns the names of its points.
func (rig *crashRig) points(s interruption) []string {
	rig.Helper()
	rig.ready(s)
	rig.newTrace()
	p := rig.runAgent(-1, -1)
	defer p.kill()
	rig.cp.WaitTask(s.begin(rig, rig.now()), time.Minute)
	return strings.Split(strings.TrimSpace(rig.settled(1)), "\n")
}

// settled waits until the agent is done with so many tasks, for what it still
// had to say would be the first points of the next one; it returns the trace.
func (rig *crashRig) settled(tasks int) (trace string) {
	rig.Helper()
	testkit.Eventually(rig, time.Minute, "the agent to be done with its tasks", func() (bool, string) {
		data, err := os.ReadFile(rig.trace)
		trace = string(data)
		return strings.Count(trace, " after forget ") >= tasks, fmt.Sprint(trace, err)
	})
	return trace
}

// ready sees to it that the story can begin.
func (rig *crashRig) ready(s interruption) {
	rig.Helper()
	if !s.needsHistory {
		return
	}
	rig.newTrace()
	p := rig.runAgent(-1, -1)
	defer p.kill()
	rig.must(rig.deploy(otherThan(rig.now())))
	rig.settled(1)
}

// interruption is what is interrupted.
type interruption struct {
	name string
	// begin queues the task; now is the version that runs.
	begin func(rig *crashRig, now string) (id string)
	// next is the version that runs when the task has succeeded; "" if it never
	// must.
	next func(now string) string
	// needsHistory says that another version must have been deployed before.
	needsHistory bool
}

var stories = []interruption{
	{
		name:  "deploy",
		begin: func(rig *crashRig, now string) string { return rig.deploy(otherThan(now)) },
		next:  otherThan,
	},
	{
		name:  "deploy that is not healthy",
		begin: func(rig *crashRig, _ string) string { return rig.deploy(sick) },
		next:  func(string) string { return "" },
	},
	{
		name:         "rollback",
		begin:        func(rig *crashRig, _ string) string { return rig.rollback() },
		next:         otherThan,
		needsHistory: true,
	},
}

// A blow is what happens at a point.
type blow string

const (
	agentKilled  blow = "agent killed"
	serverKilled blow = "server killed"
	linkCut      blow = "link cut"
)

var blows = []blow{agentKilled, serverKilled, linkCut}

// strike runs a story, strikes at a point, waits until all is well again, and
// says how it ended: "old", "new", or what is wrong.
func (rig *crashRig) strike(s interruption, b blow, k int) (end string, task *api.Task) {
	rig.Helper()
	rig.ready(s)
	before := rig.now()
	rig.newTrace()
	var id string
	if b == agentKilled {
		p := rig.runAgent(k, -1)
		id = s.begin(rig, before)
		select {
		case <-p.done:
		case <-time.After(time.Minute):
			rig.Fatalf("the agent did not reach point %d", k)
		}
		p = rig.runAgent(-1, -1)
		defer p.kill()
	} else {
		p := rig.runAgent(-1, k)
		defer p.kill()
		id = s.begin(rig, before)
		hold := rig.trace + ".hold"
		testkit.Eventually(rig, time.Minute, fmt.Sprintf("the agent to reach point %d", k), func() (bool, string) {
			_, err := os.Stat(hold)
			return err == nil, fmt.Sprint(err)
		})
		if b == serverKilled {
			rig.server.kill()
		} else {
			rig.link.becomes(func([]string) fate { return refuse })
		}
		if err := os.Remove(hold); err != nil {
			rig.Fatal(err)
		}
		if b == serverKilled {
			rig.startServer()
		} else {
			rig.link.becomes(func([]string) fate { return pass })
		}
	}
	task = rig.cp.WaitTask(id, 2*time.Minute)
	rig.settled(1)
	return rig.judge(s, b, before, task), task
}

// judge holds the end against what was promised.
func (rig *crashRig) judge(s interruption, b blow, before string, task *api.Task) string {
	want, end := before, "old"
	if task.State == api.TaskSucceeded {
		want, end = s.next(before), "new"
	}
	var version string
	var left []string
	deadline := time.Now().Add(5 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for { // what was started again may need a moment until it answers
		if version, left = rig.kind.stands(); version == want && len(left) == 0 || time.Now().After(deadline) {
			break
		}
		<-tick.C
	}
	switch {
	case want == "":
		return "wrong: an unhealthy version was taken for good"
	case version != want:
		return fmt.Sprintf("wrong: the task %s (%s), and %q runs instead of %q", task.State, task.Reason, version, want)
	case len(left) > 0:
		return fmt.Sprintf("wrong: %q is left over", left)
	case task.Result != nil && task.Result.ErrorType == api.ErrRollbackFailed:
		return "wrong: " + task.Reason
	case b != agentKilled && task.Result != nil && task.Result.ErrorType == api.ErrAgentRestarted:
		return "wrong: nobody touched the agent, and " + task.Reason
	}
	if s.needsHistory {
		return end
	}
	data, err := os.ReadFile(rig.hooks)
	if err != nil && !os.IsNotExist(err) {
		return "wrong: " + err.Error()
	}
	for _, name := range []string{"pre", "post"} {
		n := strings.Count("\n"+string(data), "\n"+name+"\n")
		if n > 1 || end == "new" && n != 1 {
			return fmt.Sprintf("wrong: the %s hook ran %d times", name, n)
		}
	}
	return end
}
