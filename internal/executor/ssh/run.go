package ssh

import (
	"context"
	"fmt"
	"maps"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/hook"
)

// program is somebody else's program to run on the host.
type program struct {
	argv []string
	dir  string
	// env is added to what the host gives to a login.
	env map[string]string
	// timeout is the limit beside the context's; 0 means none.
	timeout time.Duration
	// probe keeps what the program writes out of the log.
	probe bool
	// user is whom to become by sudo, instead of the target's own.
	user string
	// release is the id of the task whose release what this leaves running
	// belongs to, and ends with; a program of no release belongs to its task.
	release string
}

// outcome is how a program ended by itself.
type outcome struct {
	exit
	tail string // the end of what it wrote
}

// run runs a program, logs what it writes line by line, and blocks until it has
// ended. An exit code other than 0 is no error. It is an error when the program
// cannot be started, runs out of time, ctx ends, or the connection is lost;
// in the first three it has been ended with all that it started.
func (r *remote) run(ctx context.Context, p program) (outcome, error) {
	if err := checkWords("the command", p.argv); err != nil {
		return outcome{}, err
	}
	l, err := r.connect(ctx)
	if err != nil {
		return outcome{}, err
	}
	as, err := r.as()
	if err != nil {
		return outcome{}, err
	}
	if p.user != "" {
		as.user = p.user
	}
	runCtx := ctx
	if p.timeout > 0 {
		var cancel context.CancelFunc
		runCtx, cancel = context.WithTimeout(ctx, p.timeout)
		defer cancel()
	}
	owner, id := hook.OfTask, r.task.ID
	if p.release != "" {
		owner, id = hook.OfRelease, p.release
	}
	body := exports(p.env, map[string]string{owner: id + ";"}) + "unset STELLA_SHELL_OF\nexec " + quoteAll(p.argv) + "\n"
	if p.dir != "" {
		body = "cd " + quote(p.dir) + " || exit 125\n" + body
	}
	end := &tail{}
	stdout, stderr := &output{tail: end}, &output{tail: end}
	if !p.probe {
		stdout.lines, stderr.lines = hook.NewLines(r.env.Log, "stdout"), hook.NewLines(r.env.Log, "stderr")
		defer stdout.lines.Close()
		defer stderr.lines.Close()
	}
	s, err := l.open(runCtx, as, body, stderr)
	if err == nil {
		var cut bool
		var e exit
		e, cut, err = s.wait(runCtx, stdout, func() { r.end(ctx, l, as, s.group, mark(owner, id)) })
		if cut {
			r.env.Log.Line("system", p.argv[0]+" has ended, but something that it started keeps its output open; that output is no longer read")
		}
		if err == nil {
			return outcome{exit: e, tail: end.String()}, nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return outcome{}, fmt.Errorf("%s was ended: %w", p.argv[0], context.Cause(ctx))
	case runCtx.Err() != nil:
		return outcome{}, fmt.Errorf("%s ran for longer than %v and was ended with all that it started", p.argv[0], p.timeout)
	}
	return outcome{}, err
}

// output is one stream of a program; its two streams share a tail.
type output struct {
	lines *hook.Lines
	tail  *tail
}

func (o *output) Write(p []byte) (int, error) {
	if o.lines != nil {
		_, _ = o.lines.Write(p)
	}
	return o.tail.Write(p)
}

// hookOf runs a hook of a deployment on the host; nil does nothing. errType is
// the word that a failure's result bears.
func (r *remote) hookOf(ctx context.Context, h *api.Hook, vars map[string]string, errType string) error {
	if h == nil {
		return nil
	}
	timeout := hook.DefaultTimeout
	if h.Timeout > 0 {
		timeout = time.Duration(h.Timeout) * time.Second
	}
	env := maps.Clone(vars)
	maps.Copy(env, h.Environment)
	res, err := r.run(ctx, program{argv: h.Command, dir: r.dir, env: env, timeout: timeout})
	switch {
	case err != nil && isAway(err):
		return err
	case err != nil:
		return deploy.Fail(errType, "the hook failed: %w", err)
	case res.code != 0:
		return deploy.Fail(errType, "the hook %s %s%s", h.Command[0], res.exit, saying(res.tail)).With("exitCode", res.code)
	}
	return nil
}

func saying(tail string) string {
	if line := lastLine(tail); line != "" {
		return ": " + line
	}
	return ""
}

// variables tell a hook, a script or a release what it belongs to.
func (r *remote) variables(releaseID, phase string) map[string]string {
	v := map[string]string{
		"STELLA_TARGET_ID":   r.task.TargetID,
		"STELLA_TARGET_NAME": r.task.Target.Name,
		"STELLA_DIRECTORY":   r.dir,
		"STELLA_RELEASE_ID":  releaseID,
	}
	if phase != "" {
		v["STELLA_PHASE"] = phase
	}
	return v
}
