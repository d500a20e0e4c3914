package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

// story is one run of the demo.
type story struct {
	show     *show
	noDocker bool
	keep     bool

	plane    plane
	client   *client.Client
	agent    *api.Agent
	dir      string
	env      []string
	cleaning []func(ctx context.Context)
	// leftovers removes what the agent has made, once the agent is stopped:
	// before, it might make it anew.
	leftovers []func(ctx context.Context)
	procs     []*process
}

const (
	agentName = "demo-agent"
	targetApp = "hello"
	// A broken version is given up after this long.
	healthTimeout = "3s"
	// No part of the demo takes long; one that hangs ends it.
	storyTimeout = 3 * time.Minute
)

// run tells the story and cleans up behind it, whatever happens.
func (s *story) run(ctx context.Context) (err error) {
	// A second Ctrl-C would end the process before it has cleaned up.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	told, cancel := context.WithTimeout(ctx, storyTimeout)
	defer cancel()
	defer func() {
		switch {
		case ctx.Err() != nil:
			s.show.io.Notef("\nInterrupted; cleaning up.")
		case err != nil:
			s.explain(err)
		}
		s.clean(context.WithoutCancel(ctx))
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case err == nil:
			s.end()
		}
	}()
	for _, chapter := range []func(context.Context) error{s.prepare, s.startServer, s.startAgent, s.hostChapter, s.dockerChapter} {
		if err := chapter(told); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) prepare(ctx context.Context) error {
	var err error
	if s.plane.stella, s.plane.agent, err = programs(); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "stella-demo-"); err != nil {
		return fmt.Errorf("make a temporary folder: %w", err)
	}
	s.onEnd(func(context.Context) {
		if s.keep {
			s.show.io.Notef("the folder %s is kept", s.dir)
			return
		}
		if err := os.RemoveAll(s.dir); err != nil {
			s.show.io.Notef("the folder %s could not be removed: %v", s.dir, err)
		}
	})
	s.onEnd(func(ctx context.Context) {
		for _, f := range slices.Backward(s.leftovers) {
			f(ctx)
		}
	})
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	s.plane.dir = filepath.Join(s.dir, "server")
	s.plane.listen = "127.0.0.1:" + strconv.Itoa(port)
	s.plane.url = "https://" + s.plane.listen
	s.show.say("%s: a control plane and an agent on this machine, in %s.", s.show.io.OutStyle.Bold("Stella at work"), s.dir)
	s.show.say("%s", s.show.io.OutStyle.Faint("What follows a $ is what runs, and what you could type."))
	return nil
}

func (s *story) startServer(ctx context.Context) error {
	s.show.next("Start the control plane")
	began := time.Now()
	s.show.command(append([]string{"stella"}, s.plane.serverArgs()...)...)
	server, err := s.plane.startServer(filepath.Join(s.dir, "server.log"), "--log-format", "text")
	if err != nil {
		return err
	}
	s.watch(server)
	if s.client, err = s.plane.awaitServer(ctx, server); err != nil {
		return err
	}
	s.show.done(began, "ready at %s, with a certificate authority and a database of its own", s.plane.url)
	token, err := s.plane.token()
	if err != nil {
		return err
	}
	s.env = environment("STELLA_SERVER="+s.plane.url, "STELLA_TOKEN="+token, "STELLA_CA="+s.plane.caFile(),
		"STELLA_CLI_CONFIG="+filepath.Join(s.dir, "contexts.yaml"))
	return nil
}

func (s *story) startAgent(ctx context.Context) error {
	s.show.next("Make a token that can be used once, and register an agent with it")
	began := time.Now()
	s.show.command("stella", "agent", "bootstrap", "--name", agentName, "--env", "demo", "--ttl", "5m")
	token, err := s.client.CreateRegistrationToken(ctx, api.RegistrationTokenRequest{Name: agentName, Environment: "demo", TTLSeconds: 300})
	if err != nil {
		return err
	}
	s.show.say("%s… (shortened here)", token.Token[:min(12, len(token.Token))])
	s.show.command(append([]string{"STELLA_BOOTSTRAP_TOKEN=reg_…", "stella-agent"}, s.plane.agentArgs(agentName)...)...)
	agent, err := s.plane.startAgent(filepath.Join(s.dir, "agent.log"), agentName, token.Token, "--log-format", "text", "--drain-timeout", "1s")
	if err != nil {
		return err
	}
	s.watch(agent)
	if s.agent, err = awaitAgent(ctx, s.client, agent, agentName); err != nil {
		return err
	}
	s.show.done(began, "%s made its keys, got its certificate and is online", agentName)
	return s.stella(ctx, 0, "agent", "list")
}

// hostChapter deploys to a folder of this machine.
func (s *story) hostChapter(ctx context.Context) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	site := fmt.Sprintf("http://127.0.0.1:%d/", port)
	dir := filepath.Join(s.dir, "hello")
	for name, broken := range map[string]string{"1.0.0": "", "2.0.0": " --broken"} {
		script := fmt.Sprintf("#!/bin/sh\nexec %s demo-app serve --listen 127.0.0.1:%d --owner %d --version %s%s\n",
			quote(s.plane.stella), port, os.Getpid(), name, broken)
		if err := os.MkdirAll(filepath.Join(s.dir, "v"+name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.dir, "v"+name, "hello"), []byte(script), 0o700); err != nil { //nolint:gosec // a script must be executable
			return err
		}
	}
	s.leftovers = append(s.leftovers, func(context.Context) { stopByPidFiles(filepath.Join(dir, "releases", "*", "hello.pid")) })

	s.show.next("Deploy version 1.0.0 of a small service to a folder of this machine")
	if err := s.stella(ctx, 0, "target", "add", "host", targetApp, "--agent", agentName, "--dir", dir); err != nil {
		return err
	}
	if err := s.stella(ctx, 0, s.hostDeploy("1.0.0", site)...); err != nil {
		return err
	}
	if err := s.visit(ctx, site); err != nil {
		return err
	}

	s.show.next("Deploy version 2.0.0, which does not work")
	began := time.Now()
	if err := s.stella(ctx, 1, s.hostDeploy("2.0.0", site)...); err != nil {
		return err
	}
	if err := s.wasRolledBack(ctx, targetApp); err != nil {
		return err
	}
	if err := s.visit(ctx, site); err != nil {
		return err
	}
	s.show.done(began, "2.0.0 failed its health check, and 1.0.0 was brought back by itself")

	s.show.next("Ask the target itself what it runs")
	return s.stella(ctx, 0, "sticker", "read", targetApp)
}

func (s *story) hostDeploy(version, site string) []string {
	return []string{
		"deploy", targetApp, "--release", version, "--file", "v" + version + "/hello",
		"--start", "./hello & echo $! > hello.pid", "--stop", "kill $(cat hello.pid)",
		"--health-http", site + "healthz", "--health-timeout", healthTimeout,
	}
}

// stella runs a command of this program as a person would, and checks that it
// ends as promised.
func (s *story) stella(ctx context.Context, want int, args ...string) error {
	s.show.command(append([]string{"stella"}, args...)...)
	cmd := exec.CommandContext(ctx, s.plane.stella, args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	cmd.Stdout, cmd.Stderr = s.show.io.Out, s.show.io.Err
	detach(cmd) // an interrupt is the demo's to handle
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return fmt.Errorf("run stella %s: %w", args[0], err)
	}
	if have := cmd.ProcessState.ExitCode(); have != want {
		return fmt.Errorf("`stella %s` ended with exit code %d and should have ended with %d", strings.Join(args[:2], " "), have, want)
	}
	return nil
}

// visit gets the service's page and checks that the version greets that works.
// What was started a moment ago may not listen yet.
func (s *story) visit(ctx context.Context, url string) error {
	const want = "hello from 1.0.0"
	s.show.command("curl", "--retry", "10", "--retry-all-errors", url)
	var have string
	err := await(ctx, nil, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("the service does not answer: %w", err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		have = strings.TrimSpace(string(body))
		return err
	})
	if err != nil {
		return err
	}
	s.show.say("%s", s.show.io.OutStyle.Bold(out.Plain(have)))
	if have != want {
		return fmt.Errorf("%s says %q and should say %q", url, have, want)
	}
	return nil
}

// wasRolledBack checks what the server has kept of the last deployment.
func (s *story) wasRolledBack(ctx context.Context, target string) error {
	page, err := s.client.TaskPage(ctx, client.TaskFilter{Target: target, Type: api.TaskDeploy, Limit: 1})
	if err != nil {
		return err
	}
	if len(page.Items) == 0 || page.Items[0].Result == nil {
		return fmt.Errorf("the server knows no result of the deployment to %s", target)
	}
	r := page.Items[0].Result
	if r.ErrorType != api.ErrHealthCheckFailed || !r.RolledBack {
		return fmt.Errorf("the deployment to %s should have failed its health check and been rolled back; it says %q, rolled back: %v", target, r.ErrorType, r.RolledBack)
	}
	return nil
}

func (s *story) end() {
	style := s.show.io.OutStyle
	s.show.say("\n%s %s", style.Good("✓")+" "+style.Bold("All of it did what it promised, and all of it is cleaned up"), style.Faint(out.Seconds(time.Since(s.show.began))))
	s.show.say("\nWhat to try next:")
	for _, line := range [][2]string{
		{"stella up", "a control plane and an agent on this machine, for keeps"},
		{"stella agent bootstrap", "add an agent on another machine"},
		{"stella target add docker web --agent NAME", "say what to deploy to"},
		{"stella deploy web --image nginx:1.27 --port 8080:80", "deploy"},
		{"stella --help", "everything else"},
	} {
		s.show.say("  %-52s %s", line[0], style.Faint(line[1]))
	}
}
