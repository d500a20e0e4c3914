// Package hook runs programs on the agent's host: the hooks of a deployment,
// and commands for executors that work on that host. A program gets a minimal
// environment, a limit in time and a process group of its own, which is ended
// as a whole.
//
// It knows no target and no journal: that a hook runs at most once is the
// plan's doing.
package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

// DefaultTimeout is how long a hook may run when it does not say.
const DefaultTimeout = 300 * time.Second

// outputGrace is how long output is still read after the program has ended,
// when something that it started keeps its output open.
const outputGrace = 2 * time.Second

// Command is a program to run.
type Command struct {
	Argv []string
	Dir  string
	// Env is the whole environment, as Environ makes it.
	Env []string
	// Timeout is the limit beside the context's; 0 means none.
	Timeout time.Duration
	// Probe keeps what the program writes out of the log: only the result has its end.
	Probe bool
	// Stdin is what the program reads; nil is nothing.
	Stdin io.Reader
	// Stdout, when set, gets what the program writes to stdout, instead of the
	// log. An error of it ends the program.
	Stdout io.Writer
}

// Result is how a program ended by itself.
type Result struct {
	ExitCode int
	// Tail is the end of what the program wrote to stdout and stderr.
	Tail string
}

// Run runs a program, logs what it writes line by line, and blocks until it
// has ended. An exit code other than 0 is no error. It is an error when the
// program cannot be started, runs out of time, or the context ends; then its
// whole process group has been killed.
func Run(ctx context.Context, c Command, log deploy.Log) (Result, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return Result{}, errors.New("there is no command to run")
	}
	runCtx := ctx
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		runCtx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	cmd := exec.CommandContext(runCtx, c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	if path, err := lookPath(c.Argv[0], c.Dir, c.Env); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	ownGroup(cmd)
	cmd.WaitDelay = outputGrace
	tail := &tail{}
	if c.Probe {
		cmd.Stdout, cmd.Stderr = tail, tail
	} else {
		stdout, stderr := NewLines(log, "stdout"), NewLines(log, "stderr")
		defer stdout.Close()
		defer stderr.Close()
		cmd.Stdout, cmd.Stderr = both{stdout, tail}, both{stderr, tail}
	}
	cmd.Stdin = c.Stdin
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	err := cmd.Run()
	res := Result{Tail: tail.String()}
	if cmd.ProcessState != nil {
		res.ExitCode = cmd.ProcessState.ExitCode()
	}
	if runCtx.Err() != nil && err != nil {
		if ctx.Err() != nil {
			return res, fmt.Errorf("%s was ended: %w", c.Argv[0], context.Cause(ctx))
		}
		return res, fmt.Errorf("%s ran for longer than %v and was ended with all that it started", c.Argv[0], c.Timeout)
	}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.As(err, &exit):
		return res, nil
	case errors.Is(err, exec.ErrWaitDelay):
		log.Line("system", c.Argv[0]+" has ended, but something that it started keeps its output open; that output is no longer read")
		return res, nil
	}
	return res, fmt.Errorf("run %s: %w", c.Argv[0], err)
}

// Do runs a deployment's hook; nil does nothing. env is added to the minimal
// environment, the hook's own to that. errType is the word that a failure's
// result bears.
func Do(ctx context.Context, h *api.Hook, dir string, env map[string]string, errType string, log deploy.Log) error {
	if h == nil {
		return nil
	}
	timeout := DefaultTimeout
	if h.Timeout > 0 {
		timeout = time.Duration(h.Timeout) * time.Second
	}
	res, err := Run(ctx, Command{Argv: h.Command, Dir: dir, Env: Environ(env, h.Environment), Timeout: timeout}, log)
	if err != nil {
		return deploy.Fail(errType, "the hook failed: %w", err)
	}
	if res.ExitCode != 0 {
		return deploy.Fail(errType, "the hook %s ended with exit code %d%s", h.Command[0], res.ExitCode, saying(res.Tail)).
			With("exitCode", res.ExitCode)
	}
	return nil
}

func saying(tail string) string {
	tail = strings.TrimSpace(tail)
	if tail == "" {
		return ""
	}
	if i := strings.LastIndexByte(tail, '\n'); i >= 0 {
		tail = tail[i+1:]
	}
	return ": " + tail
}

// inherited are the variables that a program gets from the agent's own
// environment: what it takes to find programs and a home, and no secret.
var inherited = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR",
	"SystemRoot", "SystemDrive", "ComSpec", "PATHEXT", "TEMP", "TMP", "USERPROFILE", "ProgramData", "ProgramFiles",
}

// Environ makes a minimal environment with the given variables added; a later
// map wins.
func Environ(add ...map[string]string) []string {
	all := map[string]string{}
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			all[name] = value
		}
	}
	if all["PATH"] == "" {
		all["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	for _, m := range add {
		maps.Copy(all, m)
	}
	env := make([]string, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		env = append(env, name+"="+all[name])
	}
	return env
}

// Validate says what is wrong with a hook.
func Validate(name string, h *api.Hook) error {
	if h != nil && (len(h.Command) == 0 || h.Command[0] == "") {
		return deploy.Fail(api.ErrInvalidPayload, "hooks.%s has no command; name the program and its arguments", name)
	}
	return nil
}
