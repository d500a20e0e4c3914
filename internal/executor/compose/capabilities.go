package compose

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/hook"
)

const install = "install the plugin docker-compose-plugin (or docker-compose-v2), version 2 or later"

// Capabilities are all or none: they are there when docker has a compose
// plugin of version 2 or later, and its engine answers.
func (e *Executor) Capabilities(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := e.pluginThere(ctx); err != nil {
		return nil, err
	}
	version, err := e.ask(ctx, e.docker, "version", "--format", "{{.Server.Version}}")
	if err != nil || version == "" {
		return nil, fmt.Errorf("docker compose is there, but the Docker engine does not answer (%s); is it running, and may the agent use it?", orNothing(version))
	}
	return []string{
		"compose.deploy", "compose.rollback", "compose.inspect", "compose.execute",
		"compose.upload", "compose.health-check", "compose.sticker",
	}, nil
}

// pluginThere says what is there instead of a compose plugin that can be used.
func (e *Executor) pluginThere(ctx context.Context) error {
	if _, err := exec.LookPath(e.docker); err != nil {
		return fmt.Errorf("there is no docker program (%w)%s; install Docker's command line and %s", err, e.standalone(ctx), install)
	}
	version, err := e.ask(ctx, e.docker, "compose", "version", "--short")
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("docker compose version: %w", context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("docker has no compose plugin%s; %s", e.standalone(ctx), install)
	case major(version) < 2:
		return fmt.Errorf("docker compose is version %q; %s", version, install)
	}
	return nil
}

// standalone says which docker-compose is there as a program of its own, which
// the executor does not use.
func (e *Executor) standalone(ctx context.Context) string {
	const program = "docker-compose"
	path, err := exec.LookPath(program)
	if err != nil {
		return ""
	}
	version, err := e.ask(ctx, path, "version", "--short")
	if err != nil {
		return fmt.Sprintf(", and %s does not say its version", path)
	}
	if major(version) < 2 {
		return fmt.Sprintf(", only the old %s %s, which cannot be used", path, version)
	}
	return fmt.Sprintf(", only the program %s %s: link it into ~/.docker/cli-plugins, or", path, version)
}

// ask runs a program and returns what it says, in one line.
func (e *Executor) ask(ctx context.Context, argv ...string) (string, error) {
	res, err := hook.Run(ctx, hook.Command{Argv: argv, Env: e.environ(e.host, e.config), Probe: true}, silence{})
	answer := lastLine(res.Tail)
	if err == nil && res.ExitCode != 0 {
		err = errors.New(answer)
	}
	return answer, err
}

// major is the first number of a version; 0 when there is none.
func major(version string) int {
	first, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	n, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	return n
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// silence is the log of what no task asked for.
type silence struct{}

var _ deploy.Log = silence{}

// Line does nothing.
func (silence) Line(string, string) {}

// Phase does nothing.
func (silence) Phase(string, string) {}
