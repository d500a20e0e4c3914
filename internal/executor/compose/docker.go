package compose

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/composefile"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/hook"
)

// kept are the variables that docker gets from the agent's environment. They
// are few: a compose file may name any variable, and what the agent's host has
// by chance must not stand before what the release says.
var kept = []string{
	"PATH", "HOME", "SSH_AUTH_SOCK", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION",
	"SystemRoot", "SystemDrive", "ComSpec", "PATHEXT", "TEMP", "TMP", "USERPROFILE", "ProgramData", "ProgramFiles",
}

// environ is the environment of a docker that talks to an engine and has its
// configuration in a folder.
func (e *Executor) environ(engine, config string, more ...string) []string {
	// The context "default" is the engine that DOCKER_HOST names; any other
	// context is the user's affair.
	env := append([]string{
		"DOCKER_CONFIG=" + config, "DOCKER_CONTEXT=default", "DOCKER_CLI_HINTS=false",
		"COMPOSE_ANSI=never", "COMPOSE_PROGRESS=plain", "COMPOSE_MENU=false",
	}, more...)
	if engine != "" {
		env = append(env, "DOCKER_HOST="+engine)
	}
	for _, name := range kept {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// taken says whether docker has a variable of its own by a name, so that a
// release's would not count.
func taken(name string) bool {
	return slices.Contains(kept, name) || strings.HasPrefix(name, "DOCKER_") || strings.HasPrefix(name, "COMPOSE_")
}

// call is one run of the docker program.
type call struct {
	args []string
	// stdout, when set, gets what it writes to stdout, instead of the log.
	stdout io.Writer
	// quiet keeps what it writes out of the log.
	quiet bool
	// config is a configuration folder instead of docker's own.
	config string
	// env are variables beside docker's own.
	env []string
}

// run runs docker and blocks until it has ended. An exit code other than 0 is
// no error. When ctx ends, docker and its plugin are ended, and are gone when
// it returns.
func (t *target) run(ctx context.Context, c call) (hook.Result, error) {
	// Found before it runs, because the variables of a command may have a
	// PATH of their own.
	program, err := exec.LookPath(t.docker)
	if err != nil {
		return hook.Result{}, deploy.Fail(api.ErrTargetUnreachable, "there is no docker program on the agent's host (%w); install it with its compose plugin", err)
	}
	config := t.config
	if c.config != "" {
		config = c.config
	}
	env := t.environ(t.engine, config, append(c.env, hook.OfTask+"="+t.task.ID)...)
	res, err := hook.Run(ctx, hook.Command{
		Argv: append([]string{program}, c.args...), Dir: "/", Env: env, Probe: c.quiet, Stdout: c.stdout,
	}, t.env.Log)
	if ctx.Err() != nil {
		// The plugin may be in a process group of its own.
		hook.EndMarked(context.WithoutCancel(ctx), hook.OfTask, t.task.ID, 0)
		return res, context.Cause(ctx)
	}
	return res, err
}

// do runs docker quietly for what it does; an exit code other than 0 is an
// error.
func (t *target) do(ctx context.Context, args ...string) error {
	res, err := t.run(ctx, call{args: args, quiet: true, stdout: io.Discard})
	if err != nil {
		return err
	}
	if res.ExitCode != 0 {
		return refused(api.ErrSwitchFailed, "docker "+args[0], res.Tail)
	}
	return nil
}

// ids runs docker quietly for the words that it prints.
func (t *target) ids(ctx context.Context, args ...string) ([]string, error) {
	var out bytes.Buffer
	res, err := t.run(ctx, call{args: args, quiet: true, stdout: &out})
	if err != nil {
		return nil, err
	}
	if res.ExitCode != 0 {
		return nil, refused(api.ErrSwitchFailed, "docker "+args[0], res.Tail)
	}
	return strings.Fields(out.String()), nil
}

// composeArgs are the arguments for compose to work on the project by the files in
// a folder.
func (t *target) composeArgs(m *model, dir string, args ...string) []string {
	all := []string{"compose", "--project-name", t.project, "--project-directory", dir, "--file", filepath.Join(dir, composefile.LockName)}
	for _, name := range m.EnvFiles {
		all = append(all, "--env-file", filepath.Join(dir, filepath.FromSlash(name)))
	}
	for _, profile := range m.Profiles {
		all = append(all, "--profile", profile)
	}
	return append(all, args...)
}

// away says whether a complaint of docker's is that its engine is.
func away(complaint string) bool {
	text := strings.ToLower(complaint)
	for _, sign := range []string{"cannot connect to the docker daemon", "error during connect", "failed to connect to the docker api", "permission denied while trying to connect"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// refused is the error for what docker complains of.
func refused(errType, what, complaint string) *deploy.Error {
	last := lastLine(complaint)
	if away(complaint) {
		return deploy.Fail(api.ErrTargetUnreachable, "the Docker engine does not answer (%s); is it running, and may the agent use it?", last).Retry()
	}
	return deploy.Fail(errType, "%s: %s", what, orNothing(last))
}
