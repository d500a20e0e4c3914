package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

// rolloutLook is how often a rollout is looked at while it is watched.
const rolloutLook = 500 * time.Millisecond

// watchRollout shows a rollout until it is over, or waits for somebody: on a
// terminal as a table that moves, elsewhere as a line for each target that is
// over. When ctx ends before, the rollout goes on.
func (a *app) watchRollout(ctx context.Context, c *client.Client, r *api.Rollout) error {
	board := a.io.Board()
	told := map[string]api.RolloutTargetState{}
	for i := range r.Targets { // what was so before is no news
		if t := &r.Targets[i]; t.State != api.RolloutTargetPending && t.State != api.RolloutTargetRunning && t.State != api.RolloutTargetRollingBack {
			told[t.ID] = t.State
		}
	}
	timer := time.NewTicker(rolloutLook)
	defer timer.Stop()
	since := time.Now()
	for {
		if board.Draws() {
			board.Draw(rolloutBoard(r, a.io.ErrStyle, board.Room(), time.Since(since)))
		} else {
			a.tellTargets(r, told)
		}
		if waits(r) {
			break
		}
		var err error
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-timer.C:
			var next *api.Rollout
			if next, err = c.Rollout(ctx, r.ID); err == nil {
				r = next
			} else if ctx.Err() != nil {
				err = ctx.Err()
			}
		}
		if errors.Is(err, context.Canceled) {
			a.io.Notef("\ndetached: rollout %[1]s goes on without you\n%[2]s `stella rollout watch %[1]s` shows it again, `stella rollout pause %[1]s` holds it",
				r.ID, a.io.ErrStyle.Faint("next:"))
			return exitCode(exitInterrupted)
		}
		if err != nil {
			e := *explain(err)
			e.Next = fmt.Sprintf("the rollout goes on by itself: `stella rollout watch %s` shows it", r.ID)
			return &e
		}
	}
	board.Keep()
	return a.concludeRollout(r)
}

// waits says whether nothing more will happen by itself.
func waits(r *api.Rollout) bool {
	flying := r.Counts[api.RolloutTargetRunning] + r.Counts[api.RolloutTargetRollingBack]
	return r.State.Final() || flying == 0 && (r.State == api.RolloutPaused || r.State == api.RolloutStopped)
}

// tellTargets writes a line for each target that has come to an end since.
func (a *app) tellTargets(r *api.Rollout, told map[string]api.RolloutTargetState) {
	for i := range r.Targets {
		t := &r.Targets[i]
		switch t.State {
		case api.RolloutTargetPending, api.RolloutTargetRunning, api.RolloutTargetRollingBack:
			delete(told, t.ID)
			continue
		}
		if told[t.ID] == t.State {
			continue
		}
		told[t.ID] = t.State
		line := targetMark(a.io.ErrStyle, t.State) + " " + t.Name + " " + strings.ReplaceAll(string(t.State), "-", " ")
		if t.Reason != "" {
			line += ": " + out.Plain(oneLine(t.Reason))
		}
		if t.State == api.RolloutTargetFailed && t.TaskID != "" {
			line += " (task " + t.TaskID + ")"
		}
		if t.State == api.RolloutTargetRollbackFailed && t.RollbackTaskID != "" {
			line += " (task " + t.RollbackTaskID + ")"
		}
		a.io.Notef("%s", line)
	}
}

func (a *app) concludeRollout(r *api.Rollout) error {
	style := a.io.ErrStyle
	if a.format != out.FormatTable {
		if err := a.io.Write(a.format, r, nil); err != nil {
			return err
		}
	}
	text := style.Bold("the rollout is " + strings.ReplaceAll(string(r.State), "-", " "))
	switch r.State {
	case api.RolloutSucceeded, api.RolloutFailed:
		text = style.Bold("the rollout " + string(r.State))
	}
	text += ": " + strings.Join(tally(r), ", ")
	if r.Reason != "" {
		text += " — " + out.Plain(r.Reason)
	}
	a.io.Notef("%s", text)
	switch r.State {
	case api.RolloutSucceeded:
		return nil
	case api.RolloutPaused:
		a.io.Notef("%s `stella rollout resume %[2]s` goes on, `stella rollout rollback %[2]s` goes back", style.Faint("next:"), r.ID)
		return nil
	case api.RolloutStopped:
		a.io.Notef("%s `stella rollout resume %[2]s` goes on (--retry-failed), `stella rollout rollback %[2]s` goes back", style.Faint("next:"), r.ID)
	}
	return exitCode(exitFailed)
}

// tallied are the states in the order in which people ask for them.
var tallied = []api.RolloutTargetState{
	api.RolloutTargetSucceeded, api.RolloutTargetFailed, api.RolloutTargetRolledBack, api.RolloutTargetRollbackFailed,
	api.RolloutTargetRunning, api.RolloutTargetRollingBack, api.RolloutTargetPending, api.RolloutTargetSkipped,
}

func tally(r *api.Rollout) []string {
	var parts []string
	for _, s := range tallied {
		if n := r.Counts[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ReplaceAll(string(s), "-", " ")))
		}
	}
	return parts
}

func rolloutStyle(s out.Style, state api.RolloutState) string {
	text := string(state)
	switch state {
	case api.RolloutSucceeded:
		return s.Good(text)
	case api.RolloutFailed, api.RolloutStopped, api.RolloutRolledBack:
		return s.Bad(text)
	case api.RolloutPaused, api.RolloutRollingBack, api.RolloutCancelling:
		return s.Warn(text)
	}
	return text
}

func targetMark(s out.Style, state api.RolloutTargetState) string {
	switch state {
	case api.RolloutTargetSucceeded:
		return s.Good("✓")
	case api.RolloutTargetFailed, api.RolloutTargetRollbackFailed:
		return s.Bad("✗")
	case api.RolloutTargetRolledBack, api.RolloutTargetRollingBack:
		return s.Warn("↩")
	case api.RolloutTargetRunning:
		return "…"
	}
	return s.Faint("·")
}

func rolloutTable(r *api.Rollout, style out.Style) *out.Table {
	t := out.NewTable("", "TARGET", "STATE", "BEFORE", "TASK", "REASON")
	for i := range r.Targets {
		x := &r.Targets[i]
		t.Row(targetMark(style, x.State), x.Name, string(x.State), x.From, first(x.RollbackTaskID, x.TaskID), out.Plain(oneLine(x.Reason)))
	}
	return t
}

// rolloutBoard is what moves on a terminal. Where not all targets fit, those
// that are being worked on and those that failed are shown first.
func rolloutBoard(r *api.Rollout, style out.Style, room int, took time.Duration) []string {
	shown := *r
	shown.Targets = interesting(r.Targets, max(room-3, 1))
	lines := rolloutTable(&shown, style).Lines(style)
	if hidden := len(r.Targets) - len(shown.Targets); hidden > 0 {
		lines = append(lines, style.Faint(fmt.Sprintf("  and %s more", plural(hidden, "target"))))
	}
	return append(lines, fmt.Sprintf("%s: %s  %s", rolloutStyle(style, r.State), strings.Join(tally(r), ", "), style.Faint(out.Seconds(took))))
}

func interesting(all []api.RolloutTarget, most int) []api.RolloutTarget {
	if len(all) <= most {
		return all
	}
	rank := func(t *api.RolloutTarget) int {
		switch t.State {
		case api.RolloutTargetRunning, api.RolloutTargetRollingBack:
			return 0
		case api.RolloutTargetFailed, api.RolloutTargetRollbackFailed:
			return 1
		case api.RolloutTargetPending:
			return 2
		}
		return 3
	}
	picked := make([]bool, len(all))
	for r, left := 0, most; r <= 3 && left > 0; r++ {
		for i := range all {
			if left > 0 && rank(&all[i]) == r {
				picked[i] = true
				left--
			}
		}
	}
	var out []api.RolloutTarget
	for i := range all {
		if picked[i] {
			out = append(out, all[i])
		}
	}
	return out
}
