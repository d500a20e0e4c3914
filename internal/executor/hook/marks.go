package hook

import (
	"context"
	"time"
)

// A process that the agent starts bears a mark in its environment, a variable
// with a task's id, which all that it starts in turn inherit. By it they are
// found again when the agent that started them is long gone, or when a release
// has no stop command.
const (
	// OfTask marks hooks, scripts and commands, which must not outlive the
	// agent's interest in them.
	OfTask = "STELLA_HOOK_OF"
	// OfRelease marks what a release's start leaves running.
	OfRelease = "STELLA_RUN_OF"
)

// EndMarked asks the processes that bear a mark (one of the above, and a
// task's id) to end, waits until they have,
// and kills those that have not after the given time; it returns how many.
// Where processes cannot be looked at, it does nothing.
func EndMarked(ctx context.Context, variable, taskID string, patience time.Duration) (killed int) {
	mark := variable + "=" + taskID
	pids := look(mark)
	if len(pids) == 0 {
		return 0
	}
	if patience > 0 {
		signalAll(pids, false)
	}
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) && ctx.Err() == nil {
		<-tick.C
		if pids = look(mark); len(pids) == 0 {
			return 0
		}
	}
	// A process that is forking while it is looked for is found on the next
	// round.
	for round := 0; round < 100 && len(pids) > 0; round++ {
		killed = max(killed, len(pids))
		signalAll(pids, true)
		<-tick.C
		pids = look(mark)
	}
	return killed
}

// look are the processes that bear a mark. One that just executes another
// program shows no environment while it does, so where nobody is found, it is
// looked once more.
func look(mark string) []int {
	if pids := marked(mark); len(pids) > 0 {
		return pids
	}
	timer := time.NewTimer(20 * time.Millisecond)
	defer timer.Stop()
	<-timer.C
	return marked(mark)
}
