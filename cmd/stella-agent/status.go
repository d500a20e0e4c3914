package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/config"
)

// askEvery is how often status --wait looks.
const askEvery = 200 * time.Millisecond

// status tells how the agent is that runs on this host, and fails when it is not
// connected.
func status(ctx context.Context, c *call) error {
	if c.options.output != "text" && c.options.output != "json" {
		return errors.New("--output is text or json")
	}
	if err := config.Load(c.flags, &c.agent.Config, os.Getenv); err != nil {
		return err
	}
	s, err := c.await(ctx)
	if err != nil {
		return explain(err)
	}
	if c.options.output == "json" {
		enc := json.NewEncoder(c.out)
		enc.SetIndent("", "  ")
		err = enc.Encode(s)
	} else {
		err = write(c.out, s)
	}
	if err == nil && !s.Connected {
		err = errSaid
	}
	return err
}

// await asks until the agent is connected, or for as long as to wait. The last
// answer counts. One that may not be asked will not answer later either.
func (c *call) await(ctx context.Context) (*api.LocalStatus, error) {
	over := time.NewTimer(c.options.wait)
	defer over.Stop()
	for {
		s, err := c.ask(ctx)
		if err == nil && s.Connected {
			return s, nil
		}
		if e, ok := errors.AsType[*client.LocalError](err); err != nil && (!ok || e.Denied()) {
			return nil, err
		}
		select {
		case <-over.C:
			return s, err
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(askEvery):
		}
	}
}

// health tells in one line whether the agent is well: connected, or away from its
// server for no longer than happens.
func health(ctx context.Context, c *call) error {
	if err := config.Load(c.flags, &c.agent.Config, os.Getenv); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := c.ask(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("the agent took the question, and did not answer within 5s: its log says more")
	}
	if err != nil {
		return fmt.Errorf("unhealthy: %w", explain(err))
	}
	well := s.Connected || s.LastConnected != nil && s.Status != api.StatusOffline
	fmt.Fprintf(c.out, "%s: %s\n", map[bool]string{true: "healthy", false: "unhealthy"}[well], connection(s))
	if !well {
		return errSaid
	}
	return nil
}

// ask asks the agent of this host, at the socket where the configuration says it
// is, or where agents have it. It looks anew each time: an agent that begins makes
// its socket.
func (c *call) ask(ctx context.Context) (*api.LocalStatus, error) {
	cfg := &c.agent.Config
	socket := cfg.LocalSocket()
	if cfg.Socket == "" && cfg.Data == c.flags.Lookup("data").DefValue {
		var found bool
		if socket, found = client.FindLocal(); !found {
			return nil, &client.LocalError{Socket: strings.Join(client.LocalSockets(), ", "), Err: errors.New("there is no socket")}
		}
	}
	return client.NewLocal(socket).Status(ctx)
}

// explain says what to do when the agent does not answer.
func explain(err error) error {
	e, ok := errors.AsType[*client.LocalError](err)
	switch {
	case !ok:
		return err
	case e.Denied():
		return fmt.Errorf("%w: run this as root, or join the agent's group, as by `sudo usermod -aG stella-agent $USER`, and log in again", err)
	}
	return fmt.Errorf("%w: see that it runs, and is registered; its log says more", err)
}

// connection says how the agent is connected, or why it is not.
func connection(s *api.LocalStatus) string {
	if s.Connected {
		return fmt.Sprintf("connected to %s by %s since %s", s.Server, s.Transport, at(s.ConnectedSince))
	}
	text := "not connected to " + s.Server
	if s.LastConnected != nil {
		text += " since " + at(s.LastConnected)
	}
	if s.LastError == "" {
		return text + ": it has only begun to connect"
	}
	return text + ": " + oneLine(s.LastError)
}

func write(w io.Writer, s *api.LocalStatus) error {
	lines := []string{
		string(s.Status) + ": " + connection(s),
		fmt.Sprintf("agent %s, named %s, version %s, process %d, since %s", s.AgentID, oneLine(s.Name), s.Version, s.PID, s.StartedAt.UTC().Format(time.RFC3339)),
	}
	if s.Broken != "" {
		lines = append(lines, "broken: "+oneLine(s.Broken))
	}
	if c := s.Certificate; c != nil {
		lines = append(lines, fmt.Sprintf("certificate good until %s, renewed by itself at %s", c.NotAfter.UTC().Format(time.RFC3339), c.RenewsAt.UTC().Format(time.RFC3339)))
	}
	if s.NotAccepting != "" {
		lines = append(lines, "takes no new tasks: "+oneLine(s.NotAccepting))
	}
	for _, t := range s.Tasks {
		lines = append(lines, fmt.Sprintf("task %s: %s, attempt %d, since %s", t.ID, t.Type, t.Attempt, t.Since.UTC().Format(time.RFC3339)))
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

func at(t *time.Time) string {
	if t == nil {
		return "some time"
	}
	return t.UTC().Format(time.RFC3339)
}

// oneLine keeps what others have said from looking like lines of ours, and from
// playing with the terminal.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}
