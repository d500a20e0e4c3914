//go:build linux

package ssh_test

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/executor/ssh"
	"stella-ops.org/stella/internal/testkit/sshd"
)

// TestScriptTimeout: a script that does not end is ended with its children,
// though they ignore the signal.
func TestScriptTimeout(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *sshd.Server) {
		f, _ := files(t, s)
		must(t, f, release("v1"))
		p := release("v2", script(`trap '' TERM; echo begun
sh -c 'trap "" TERM; while :; do sleep 1; done' & (setsid sh -c 'trap "" TERM; while :; do sleep 1; done' &)
while :; do sleep 1; done`))
		p.Config.DeploymentTimeout = 1
		p.Config.Environment = map[string]string{"UNIQUE": t.Name() + "!"}
		began := time.Now()
		fails(t, f, api.TaskDeploy, p, api.ErrSwitchFailed, "ran for longer than 1s and was ended with all that it started", "The release v1 is in")
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("it took %v", took)
		}
		gone(t, "UNIQUE="+t.Name()+"!")
		executortest.Await(t, f, "v1")
	})
}

// TestWithoutStop: what a start command leaves running has a life of its own,
// and is ended when the next release comes, though there is no stop command.
func TestWithoutStop(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *sshd.Server) {
		f := fixture(t, s, artifact(t))
		for _, version := range []string{"v1", "v2"} {
			p := f.Deploy(version)
			p.Config.Stop, p.Config.Environment["APP_MODE"], p.Config.StopTimeout = "", "stubborn", 1
			must(t, f, p)
			executortest.Await(t, f, version)
			if res, _ := executortest.Single(t, f, api.TaskInspect, nil); res.Outputs["running"] != true || res.Outputs["processes"] != 1 {
				t.Errorf("%+v", res.Outputs)
			}
		}
		if s.Container == "" {
			killPID(filepath.Join(f.Target.Config.Directory, "app.pid"))
			executortest.Await(t, f, "")
			if res, _ := executortest.Single(t, f, api.TaskInspect, nil); res.Outputs["running"] != false {
				t.Errorf("%+v", res.Outputs)
			}
		}
	})
}

// TestStartFails: what the start said is in the log, and the old version runs
// again: also one that has nothing but its deploy script to start it.
func TestStartFails(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *sshd.Server) {
		f := fixture(t, s, artifact(t))
		p := f.Deploy("v1")
		p.Artifacts = append(p.Artifacts, script(`echo "phase $STELLA_PHASE"; bin/app serve >/dev/null 2>&1 & echo $! >app.pid`))
		p.Config.Start, p.Config.Stop = "", ""
		must(t, f, p)
		executortest.Await(t, f, "v1")
		p = f.Deploy("v2")
		p.Config.Start = "echo the licence is missing; exit 4"
		res, log := executortest.Single(t, f, api.TaskDeploy, p)
		if res.ErrorType != api.ErrSwitchFailed || !res.RolledBack || !strings.Contains(res.Error, "the licence is missing") || !strings.Contains(log, "stdout: phase rollback") {
			t.Errorf("%s: %s\n%s", res.ErrorType, res.Error, log)
		}
		executortest.Await(t, f, "v1")
	})
}

func TestOutput(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *sshd.Server) {
		f, _ := files(t, s)
		res, log := executortest.Single(t, f, api.TaskExecuteCommand, api.CommandPayload{Command: []string{
			"sh", "-c", `head -c 10000000 /dev/zero | tr '\0' x; echo; printf 'a\377\376b\000c\n' >&2; echo last`,
		}})
		if !res.Success {
			t.Fatal(res.Error)
		}
		if len(log) > 64<<10 || !strings.Contains(log, "9983616 bytes of this line are left out") ||
			!strings.Contains(log, "stderr: a\uFFFDb") || !strings.Contains(log, "stdout: last") {
			t.Errorf("%d bytes: …%q", len(log), log[max(0, len(log)-500):])
		}
		// A program that a signal ends, and one that leaves its output open.
		res = fails(t, f, api.TaskExecuteCommand, api.CommandPayload{Command: []string{"sh", "-c", "kill -9 $$"}}, api.ErrCommandFailed, "signal KILL")
		if res.Outputs["signal"] != "KILL" {
			t.Errorf("%v", res.Outputs)
		}
		began := time.Now()
		res, log = executortest.Single(t, f, api.TaskExecuteCommand, api.CommandPayload{Command: []string{"sh", "-c", "sleep 7 & echo done"}})
		if took := time.Since(began); !res.Success || took > 6*time.Second || !strings.Contains(log, "keeps its output open") {
			t.Errorf("after %v: %s\n%s", took, res.Error, log)
		}
	})
}

// TestCut: a connection that breaks in the middle is made anew, and all is
// undone.
func TestCut(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"pre", "script", "post"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			s := sshd.Start(t, sshd.Options{})
			f, dir := files(t, s)
			must(t, f, release("v1"))
			before := listing(t, dir, 1)
			wait := "trap '' HUP TERM; touch \"$FLAG\"; while :; do sleep 1; done"
			flag := filepath.Join(folder(t, s), "begun")
			p := release("v2", script("case $STELLA_PHASE in switch) "+map[bool]string{true: wait, false: ":"}[where == "script"]+";; esac"))
			p.Config.Environment = map[string]string{"FLAG": flag}
			h := sh(wait)
			h.Environment = map[string]string{"FLAG": flag}
			switch where {
			case "pre":
				p.Hooks.PreDeploy = h
			case "post":
				p.Hooks.PostDeploy = h
			}
			when(t, flag, s.Cut)
			res := fails(t, f, api.TaskDeploy, p, api.ErrTargetUnreachable, "the connection to "+s.Address()+" was lost")
			if !res.Retriable || res.RolledBack != (where != "pre") {
				t.Errorf("retriable=%v rolledBack=%v: %s", res.Retriable, res.RolledBack, res.Error)
			}
			if diff := cmp.Diff(before, listing(t, dir, 1)); diff != "" {
				t.Error(diff)
			}
			gone(t, "FLAG="+flag)
			must(t, f, release("v3"))
		})
	}
}

// TestReboot: an undo waits for a host that is away for a while.
func TestReboot(t *testing.T) {
	t.Parallel()
	s := sshd.Start(t, sshd.Options{})
	f, dir := files(t, s)
	f.Executor = ssh.New(ssh.Options{})
	must(t, f, release("v1"))
	when(t, filepath.Join(dir, "gone"), func() {
		s.Stop()
		defer s.Again()
		l, err := net.Listen("tcp", s.Address())
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		for range 4 { // as often as an undo that does not wait is tried
			if conn, err := l.Accept(); err == nil {
				_ = conn.Close()
			}
		}
	})
	if res := fails(t, f, api.TaskDeploy, release("v2", script("touch gone; sleep 600")), api.ErrTargetUnreachable, "was lost"); !res.RolledBack {
		t.Error("rolledBack is false")
	}
	executortest.Await(t, f, "v1")
}

// TestCancelCommand: a command that is cancelled is ended with all that it
// started, also what has left its process group.
func TestCancelCommand(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *sshd.Server) {
		f, dir := files(t, s)
		ctx, cancel := context.WithCancelCause(t.Context())
		when(t, filepath.Join(dir, "begun"), func() { cancel(deploy.ErrCancelled) })
		payload, err := json.Marshal(api.CommandPayload{
			Command:     []string{"sh", "-c", `trap '' TERM; (setsid sleep 600 &); sleep 600 & touch begun; while :; do sleep 1; done`},
			Environment: map[string]string{"UNIQUE": t.Name() + "!"},
		})
		if err != nil {
			t.Fatal(err)
		}
		task := &api.AgentTask{ID: "cancelled", Type: api.TaskExecuteCommand, Target: f.Target, Credentials: f.Credentials, Payload: payload}
		res := f.Executor.Run(ctx, task, executor.Env{Journal: nowhere{}, Log: nowhere{}})
		if res.ErrorType != api.ErrCancelled {
			t.Errorf("%s: %s", res.ErrorType, res.Error)
		}
		if left := marked("UNIQUE=" + t.Name() + "!"); len(left) > 0 {
			t.Errorf("these still run: %v", left)
		}
	})
}

// nowhere is a journal and a log for what is not looked at.
type nowhere struct{}

func (nowhere) Save(context.Context, *deploy.Record) error { return nil }
func (nowhere) Line(string, string)                        {}
func (nowhere) Phase(string, string)                       {}

// TestGoneForGood: the result of a task whose host went away says what stands
// there, and the next deployment mends it.
func TestGoneForGood(t *testing.T) {
	t.Parallel()
	s := sshd.Start(t, sshd.Options{})
	f, dir := files(t, s)
	f.Executor = ssh.New(ssh.Options{Patience: 500 * time.Millisecond})
	f.Leftovers = func() []string { return nil }
	must(t, f, release("v1"))
	p := release("v2")
	p.Hooks.PreDeploy = sh("touch gone; sleep 600")
	when(t, filepath.Join(dir, "gone"), s.Stop)
	res := fails(t, f, api.TaskDeploy, p, api.ErrTargetUnreachable, "was lost")
	if res.RolledBack || !res.Retriable {
		t.Errorf("nothing was touched: %+v", res)
	}
	s.Again()
	if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	p = release("v2", script("touch gone; sleep 600"))
	when(t, filepath.Join(dir, "gone"), s.Stop)
	fails(t, f, api.TaskDeploy, p, api.ErrRollbackFailed, "refused the connection", "version before, v1, is complete in .stella-backup", "run a deploy or a rollback task")
	s.Again()
	if got := read(t, filepath.Join(dir, "version")); got != "v2" {
		t.Errorf("version is %q, and the switch was not undone", got)
	}
	// The next deployment restores v1 first, so that it is what it goes back to.
	f.Leftovers = func() []string { return leftovers(dir) }
	res, log := executortest.Single(t, f, api.TaskDeploy, release("v3", script("exit 1")))
	if res.ErrorType != api.ErrSwitchFailed || !res.RolledBack || !strings.Contains(log, "was cut off and never undone; the version before it, v1, was restored first") {
		t.Fatalf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
	executortest.Await(t, f, "v1")
	if _, err := os.Stat(filepath.Join(dir, "gone")); err == nil {
		t.Error("a file of the failed version is still there")
	}
}

// TestCutInScript: a script of Stella's own whose connection breaks does not go
// on beside what undoes it.
func TestCutInScript(t *testing.T) {
	t.Parallel()
	flag := filepath.Join(t.TempDir(), "begun")
	s := hostWith(t, map[string]string{"cp": `trap '' HUP; case "$*" in *backup.part*) REAL "$@"; echo >` + flag + `; sleep 600 ;; esac; exec REAL "$@"`})
	f, dir := files(t, s)
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	before := listing(t, dir, 1)
	when(t, flag, s.Cut)
	id := ""
	res, log := executortest.Single(t, f, api.TaskDeploy, release("v1"), func(task *api.AgentTask) { id = task.ID })
	if res.ErrorType != api.ErrTargetUnreachable || res.RolledBack {
		t.Fatalf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
	if left := marked("STELLA_SHELL_OF=" + id); len(left) > 0 {
		t.Errorf("these still run: %v", left)
	}
	if diff := cmp.Diff(before, listing(t, dir, 1)); diff != "" {
		t.Error(diff)
	}
}
