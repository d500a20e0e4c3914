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

// How often a task that waits for its agent is looked at, and after how long
// it is said, where no moving line says so, that it waits.
const (
	queueLook     = time.Second
	queuePatience = 5 * time.Second
)

// kept is how many of the last lines that a task's programs wrote are kept for
// the case that it fails.
const kept = 15

// watcher shows a task's phases while they run.
type watcher struct {
	app      *app
	client   *client.Client
	progress *out.Progress
	// logs says that all lines are shown, and not the phases alone.
	logs bool

	started map[string]time.Time
	last    []string
	// failed says that what follows is the way back, and no more what the new
	// version said.
	failed bool
}

// watch shows a task on stderr until it is over, and returns it as it ended,
// with the last lines of its log. When ctx ends before, the task goes on and
// its user is told how to get back to it.
func (a *app) watch(ctx context.Context, c *client.Client, task *api.Task, logs bool) (*api.Task, []string, error) {
	w := &watcher{app: a, client: c, progress: a.io.Progress(), logs: logs, started: map[string]time.Time{}}
	defer w.progress.Stop()
	err := w.follow(ctx, task)
	if err == nil {
		task, err = c.Task(ctx, task.ID)
	}
	w.progress.Stop()
	if errors.Is(err, context.Canceled) {
		a.io.Notef("\ndetached: task %s goes on without you", task.ID)
		a.io.Notef("%s `stella task logs --follow %s` shows it again, `stella task cancel %s` stops it", a.io.ErrStyle.Faint("next:"), task.ID, task.ID)
		return task, nil, exitCode(exitInterrupted)
	}
	if err != nil {
		e := *explain(err)
		e.Next = fmt.Sprintf("the task goes on by itself: `stella task show %s` tells how it ended", task.ID)
		return task, nil, &e
	}
	return task, w.last, nil
}

func (w *watcher) follow(ctx context.Context, task *api.Task) error {
	queue, begun := context.WithCancel(ctx)
	queued := make(chan struct{})
	go func() {
		defer close(queued)
		w.announceQueue(queue, task)
	}()
	stop := func() {
		begun()
		<-queued
	}
	defer stop()
	for entry, err := range w.client.FollowTaskLogs(ctx, task.ID) {
		if err != nil {
			return err
		}
		stop()
		w.entry(&entry)
	}
	return nil
}

// announceQueue says for whom a task waits, as long as it does.
func (w *watcher) announceQueue(ctx context.Context, task *api.Task) {
	tick := time.NewTicker(queueLook)
	defer tick.Stop()
	since := time.Now()
	said := w.app.io.ErrTTY
	for task.State == api.TaskQueued {
		text := "waiting for an agent to take the task"
		if task.Reason != "" {
			text += " (" + out.Plain(task.Reason) + ")"
		}
		w.progress.Status(text, since)
		if !said && time.Since(since) > queuePatience {
			w.progress.Linef("%s; it waits until %s", text, task.ExpiresAt.UTC().Format(time.RFC3339))
			said = true
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now, err := w.client.Task(ctx, task.ID); err == nil {
			task = now
		}
	}
	if !task.State.Final() {
		w.progress.Status("starting", since)
		<-ctx.Done()
	}
	w.progress.Status("", since)
}

func (w *watcher) entry(e *api.LogEntry) {
	if e.Lost > 0 && w.logs {
		w.progress.Linef("  … %s lost here", plural(int(e.Lost), "line"))
	}
	if e.Phase != "" {
		w.phase(e)
		return
	}
	if e.Stream != "system" && !w.failed && strings.TrimSpace(e.Text) != "" {
		if w.last = append(w.last, e.Text); len(w.last) > kept {
			w.last = w.last[1:]
		}
	}
	if w.logs {
		w.progress.Linef("  %s %s", w.app.io.ErrStyle.Faint("│"), out.Plain(e.Text))
	}
}

// phase is one line for each phase that ended, with how long it took by the
// agent's own clock.
func (w *watcher) phase(e *api.LogEntry) {
	style, name := w.app.io.ErrStyle, fmt.Sprintf("%-13s", out.Plain(e.Phase))
	took := ""
	if began, ok := w.started[e.Phase]; ok {
		took = out.Seconds(max(0, e.At.Sub(began)))
	}
	switch e.PhaseState {
	case "started":
		w.started[e.Phase] = e.At
		w.progress.Status(e.Phase, time.Now())
		return
	case "done":
		w.progress.Status("", time.Time{})
		w.progress.Linef("%s %s %s", style.Good("✓"), name, style.Faint(took))
	case "failed":
		w.failed = true
		w.progress.Status("going back", time.Now())
		w.progress.Linef("%s %s %s", style.Bad("✗"), name, style.Faint(took))
	case "undone":
		w.progress.Linef("%s %s %s", style.Warn("↶"), name, style.Faint("undone"))
	}
}
