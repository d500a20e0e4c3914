package rollout

import (
	"fmt"
	"time"

	"stella-ops.org/stella/api"
)

// decide moves a rollout on, from what it says itself alone: which targets have
// their turn now, and whether it is over. It is repeated until it changes
// nothing. now goes into what it changes.
func (r *Rollout) decide(now time.Time) {
	switch r.State {
	case api.RolloutRunning:
		r.roll(now)
	case api.RolloutRollingBack:
		r.rollBack(now)
	case api.RolloutCancelling:
		if r.flying() == 0 {
			r.skipPending(now)
			r.enter(api.RolloutCancelled, r.Reason, now)
		}
	}
}

func (r *Rollout) flying() int {
	n := 0
	for i := range r.Targets {
		if r.Targets[i].inFlight() {
			n++
		}
	}
	return n
}

func (r *Rollout) enter(s api.RolloutState, reason string, now time.Time) {
	r.State, r.Reason, r.UpdatedAt = s, reason, now
	r.FinishedAt = time.Time{}
	if s.Final() {
		r.FinishedAt = now
	}
}

func (r *Rollout) skipPending(now time.Time) {
	for i := range r.Targets {
		if t := &r.Targets[i]; t.State == api.RolloutTargetPending {
			t.State, t.FinishedAt = api.RolloutTargetSkipped, now
		}
	}
}

func (r *Rollout) roll(now time.Time) {
	counts, flying := r.Counts(), r.flying()
	pending := counts[api.RolloutTargetPending]
	begun := len(r.Targets) - pending
	tooMany := r.failures() >= r.Plan.MaxFailures
	canary := r.Plan.PauseAfter > 0 && pending > 0 // it will pause on its way
	switch {
	case flying > 0 && (tooMany || pending == 0):
		return // what was begun is waited for
	case tooMany:
		r.stop(now)
		return
	case pending == 0:
		r.finish(now)
		return
	case flying == 0 && canary && begun >= r.Plan.PauseAfter:
		r.enter(api.RolloutPaused, fmt.Sprintf("paused after %s, as planned; resume it when all is well", targets(begun)), now)
		return
	}
	room := r.Plan.MaxParallel - flying
	if canary {
		room = min(room, r.Plan.PauseAfter-begun)
	}
	for i := range r.Targets {
		if room <= 0 {
			return
		}
		if t := &r.Targets[i]; t.State == api.RolloutTargetPending {
			t.State, t.StartedAt, t.Reason = api.RolloutTargetRunning, now, ""
			t.Task = ""
			t.Try++
			r.UpdatedAt = now
			room--
		}
	}
}

// stop ends a rollout that met too many failures, as its plan says.
func (r *Rollout) stop(now time.Time) {
	why := fmt.Sprintf("%s failed", targets(r.failures()))
	switch r.Plan.OnFailure {
	case api.OnFailureRollbackFailed:
		r.goBack(false, why, now)
	case api.OnFailureRollbackAll:
		r.goBack(true, why, now)
	default:
		if r.Counts()[api.RolloutTargetPending] == 0 {
			r.enter(api.RolloutFailed, why, now)
			return
		}
		r.enter(api.RolloutStopped, why+"; look at their tasks, then resume it or roll it back", now)
	}
}

// finish ends a rollout that has come to the end of its targets.
func (r *Rollout) finish(now time.Time) {
	counts := r.Counts()
	failed := counts[api.RolloutTargetFailed]
	switch {
	case failed == 0:
		r.enter(api.RolloutSucceeded, "", now)
	case r.Plan.OnFailure == api.OnFailureStop:
		r.enter(api.RolloutFailed, fmt.Sprintf("%s failed", targets(failed)), now)
	default:
		r.goBack(false, fmt.Sprintf("%s failed", targets(failed)), now)
	}
}

// goBack begins to roll back: what failed and did not come back by itself, and
// with all what succeeded too.
func (r *Rollout) goBack(all bool, why string, now time.Time) {
	r.skipPending(now)
	for i := range r.Targets {
		t := &r.Targets[i]
		t.Undo = t.State == api.RolloutTargetFailed && t.Unclear || all && t.State == api.RolloutTargetSucceeded ||
			t.State == api.RolloutTargetRollbackFailed
		t.UndoTask = ""
	}
	r.enter(api.RolloutRollingBack, why, now)
}

func (r *Rollout) rollBack(now time.Time) {
	room, left := r.Plan.MaxParallel-r.flying(), 0
	// The last first: what was changed first was looked at longest.
	for i := len(r.Targets) - 1; i >= 0; i-- {
		t := &r.Targets[i]
		if !t.Undo || t.inFlight() {
			continue
		}
		if room <= 0 {
			left++
			continue
		}
		t.State, t.Undo, t.Reason = api.RolloutTargetRollingBack, false, ""
		t.UndoTask = ""
		t.Try++
		r.UpdatedAt = now
		room--
	}
	if left > 0 || r.flying() > 0 {
		return
	}
	counts := r.Counts()
	back, kept := counts[api.RolloutTargetRolledBack], counts[api.RolloutTargetSucceeded]
	switch n := counts[api.RolloutTargetRollbackFailed]; {
	case n > 0:
		r.enter(api.RolloutFailed, fmt.Sprintf("%s; %s could not be rolled back", r.Reason, targets(n)), now)
	case back == 0:
		r.enter(api.RolloutFailed, r.Reason+"; nothing was left to roll back", now)
	case kept > 0:
		r.enter(api.RolloutFailed, fmt.Sprintf("%s; %s rolled back, %s with the new release", r.Reason, targets(back), targets(kept)), now)
	default:
		r.enter(api.RolloutRolledBack, r.Reason, now)
	}
}

func targets(n int) string {
	if n == 1 {
		return "1 target"
	}
	return fmt.Sprintf("%d targets", n)
}
