package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
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

// view is how the log of a task is shown.
type view struct {
	entry func(w *watcher, e *api.LogEntry)
	// logs says that all lines are shown, and not the phases alone.
	logs bool
	// data says that lines go to stdout, beside which no line may move.
	data bool
}

// audience watches tasks side by side: of one alone it shows what happens while
// it does, and of several a line for each when it is over.
type audience struct {
	view

	app      *app
	client   *client.Client
	progress *out.Progress
	tasks    []api.Task
	since    time.Time

	mu   sync.Mutex // held while something is shown
	over int
}

// watcher follows one task of an audience.
type watcher struct {
	*audience

	task *api.Task
	// prefix is before each line, and says whose it is among several.
	prefix  string
	started map[string]time.Time
	last    []string
	// failed says that what follows is the way back, and no more what the new
	// version said.
	failed bool
}

// watch shows tasks on stderr until they are over, and replaces them by how
// they ended. Of a single one, it returns the last lines of its log. When ctx
// ends before, the tasks go on and their user is told how to get back to them.
func (a *app) watch(ctx context.Context, c *client.Client, tasks []api.Task, logs bool) ([]string, error) {
	last, err := a.follow(ctx, c, tasks, view{entry: (*watcher).entry, logs: logs})
	if errors.Is(err, context.Canceled) {
		a.detach(tasks)
		return nil, exitCode(exitInterrupted)
	}
	if err != nil {
		e := *explain(err)
		e.Next = fmt.Sprintf("the task goes on by itself: `stella task show %s` tells how it ended", tasks[0].ID)
		return nil, &e
	}
	return last, nil
}

func (a *app) detach(tasks []api.Task) {
	next := a.io.ErrStyle.Faint("next:")
	if len(tasks) == 1 {
		a.io.Notef("\ndetached: task %[1]s goes on without you\n%[2]s `stella task logs --follow %[1]s` shows it again, `stella task cancel %[1]s` stops it",
			tasks[0].ID, next)
		return
	}
	var ids []string
	for i := range tasks {
		if !tasks[i].State.Final() {
			ids = append(ids, tasks[i].ID)
		}
	}
	a.io.Notef("\ndetached: %d of %d tasks go on without you", len(ids), len(tasks))
	a.io.Notef("%s `stella task list` shows them, `stella task cancel %s` stops them", next, strings.Join(ids, " "))
}

// follow shows tasks until they are over. Of several, one that cannot be
// followed has a line that says so and stays as it was; only the end of ctx is
// an error then.
func (a *app) follow(ctx context.Context, c *client.Client, tasks []api.Task, v view) ([]string, error) {
	all := &audience{view: v, app: a, client: c, progress: a.io.Progress(), tasks: tasks, since: time.Now()}
	defer all.progress.Stop()
	all.count(0)
	watchers, errs := make([]*watcher, len(tasks)), make([]error, len(tasks))
	var group sync.WaitGroup
	for i := range tasks {
		w := &watcher{audience: all, task: &tasks[i], started: map[string]time.Time{}}
		if all.several() {
			w.prefix = tasks[i].TargetName + " | "
		}
		watchers[i] = w
		group.Go(func() { errs[i] = w.run(ctx) })
	}
	group.Wait()
	if all.several() {
		if errors.Join(errs...) == nil {
			return nil, nil
		}
		return nil, ctx.Err()
	}
	return watchers[0].last, errs[0]
}

func (all *audience) several() bool { return len(all.tasks) > 1 }

// count says how many of several tasks are over, when n more are.
func (all *audience) count(n int) {
	all.over += n
	if all.several() && !all.data {
		all.progress.Status(fmt.Sprintf("%d of %d are over", all.over, len(all.tasks)), all.since)
	}
}

// run follows the task to its end.
func (w *watcher) run(ctx context.Context) error {
	err := w.follow(ctx)
	if err == nil {
		var ended *api.Task
		if ended, err = w.client.Task(ctx, w.task.ID); err == nil {
			*w.task = *ended
		}
	}
	if !w.several() || ctx.Err() != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	style := w.app.io.ErrStyle
	if err != nil {
		w.progress.Linef("%s %s cannot be watched: %s %s", style.Bad("✗"), w.task.TargetName,
			out.Plain(oneLine(explain(err).What)), style.Faint("(task "+w.task.ID+")"))
	} else {
		for _, line := range lineOf(w.task, style) {
			w.progress.Linef("%s", line)
		}
	}
	w.count(1)
	return err
}

func (w *watcher) follow(ctx context.Context) error {
	queue, begun := context.WithCancel(ctx)
	queued := make(chan struct{})
	go func() {
		defer close(queued)
		w.announceQueue(queue, w.task)
	}()
	stop := func() {
		begun()
		<-queued
	}
	defer stop()
	for entry, err := range w.client.FollowTaskLogs(ctx, w.task.ID) {
		if err != nil {
			return err
		}
		stop()
		w.mu.Lock()
		w.view.entry(w, &entry)
		w.mu.Unlock()
	}
	return nil
}

// status is the moving line, which a task has for itself when it is alone.
func (w *watcher) status(text string, since time.Time) {
	if !w.several() {
		w.progress.Status(text, since)
	}
}

func (w *watcher) linef(format string, args ...any) {
	w.progress.Linef("%s%s", w.prefix, fmt.Sprintf(format, args...))
}

// announceQueue says for whom a task waits, as long as it does. Many tasks
// together are not looked at more often than one.
func (w *watcher) announceQueue(ctx context.Context, task *api.Task) {
	tick := time.NewTicker(queueLook * time.Duration(len(w.tasks)))
	defer tick.Stop()
	since := time.Now()
	said := w.app.io.ErrTTY && !w.several()
	for task.State == api.TaskQueued {
		text := "waiting for an agent to take the task"
		if task.Reason != "" {
			text += " (" + out.Plain(task.Reason) + ")"
		}
		w.status(text, since)
		if !said && time.Since(since) > queuePatience {
			w.linef("%s; it waits until %s", text, task.ExpiresAt.UTC().Format(time.RFC3339))
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
		w.status("starting", since)
		<-ctx.Done()
	}
	w.status("", since)
}

func (w *watcher) entry(e *api.LogEntry) {
	if w.several() && !w.logs {
		return
	}
	if e.Lost > 0 && w.logs {
		w.linef("  … %s lost here", plural(int(e.Lost), "line"))
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
		w.linef("  %s %s", w.app.io.ErrStyle.Faint("│"), out.Plain(e.Text))
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
		w.status(e.Phase, time.Now())
		return
	case "done":
		w.status("", time.Time{})
		w.linef("%s %s %s", style.Good("✓"), name, style.Faint(took))
	case "failed":
		w.failed = true
		w.status("going back", time.Now())
		w.linef("%s %s %s", style.Bad("✗"), name, style.Faint(took))
	case "undone":
		w.linef("%s %s %s", style.Warn("↶"), name, style.Faint("undone"))
	}
}
