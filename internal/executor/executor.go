// Package executor is the contract between the agent's task runner and what
// does the work on one kind of target (Docker, a plain host, …). Each executor
// lives in a package of its own below this one and brings one dependency.
//
// The package knows no carrier, no server and no journal file: an executor
// gets a task and an Env, and gives a result back.
package executor

import (
	"context"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/artifact"
)

// Executor does the tasks of one kind of target.
//
// Every method may be called from several goroutines at once; tasks that
// change the same target never run at the same time.
type Executor interface {
	// Kind is the kind of target that the executor serves, as in "docker".
	Kind() string

	// Capabilities tries what the executor needs and returns the names of
	// what works now, as in "docker.deploy"; none when nothing does, and then
	// why says what is missing. It blocks for at most a few seconds.
	Capabilities(ctx context.Context) (names []string, why error)

	// Run does the task and blocks until it has ended; it never panics and
	// never returns nil. When ctx ends (cancel, timeout), Run stops what it
	// began, undoes it where the task is a deployment, and still returns a
	// result that says how things stand: context.Cause(ctx) tells why.
	// Before each act that must be undone or finished after a crash, Run
	// saves a record by env.Journal. The task's secrets go into neither the
	// record nor the log.
	Run(ctx context.Context, task *api.AgentTask, env Env) *api.TaskResult

	// Recover ends a task that an earlier process of this agent had begun
	// and not ended: it finishes what had passed its point of no return and
	// undoes everything else, and returns the truth. rec is the last record
	// that Run saved; rec.Task has neither payload nor credentials.
	// Recover is idempotent: it may itself be killed and called again.
	Recover(ctx context.Context, rec *deploy.Record, env Env) *api.TaskResult
}

// Env is what an executor may use of the agent while it runs a task.
type Env struct {
	// AgentID is the agent's own id, for stickers.
	AgentID string
	// DataDir is a folder of the agent's that outlives the task, 0700; an
	// executor keeps its files in a folder of its own kind below it.
	DataDir string
	// Journal keeps the record of a task through a crash of the agent.
	Journal deploy.Journal
	// Log takes the task's log and phases.
	Log deploy.Log
	// Artifacts is Stella's store of artifacts, for those of the task whose
	// URL begins with artifact://; nil when there is none, and in Recover.
	Artifacts artifact.Source
	// Credentials gets the task's credentials anew from the server: after a
	// crash the journal has none, and an executor may need them to undo. It
	// waits for a server that is away, until ctx ends. It fails for good, with
	// a deploy.Error, when another agent has the target by now: then nothing
	// may be touched. Nil where there are none.
	Credentials func(ctx context.Context) (*api.Credentials, error)
}
