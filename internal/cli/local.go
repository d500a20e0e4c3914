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

// socketFlag is how --socket is explained.
const socketFlag = "the local socket of this host's agent, as a `path`; $STELLA_AGENT_SOCKET, or where agents have it"

// findSocket is the local socket of this host's agent.
func (a *app) findSocket(said string) (string, error) {
	if path := first(said, a.getenv("STELLA_AGENT_SOCKET")); path != "" {
		return path, nil
	}
	if path, found := client.FindLocal(); found {
		return path, nil
	}
	return "", failed("name the agent, to reach it through the server, or its socket by --socket (agent.sock in its data folder)",
		"no agent's local socket was found on this host")
}

// explainLocal says what to do when the agent of this host does not answer.
func explainLocal(err error) error {
	if e, ok := errors.AsType[*client.LocalError](err); ok {
		told := failed("is the agent running? `systemctl status stella-agent` tells where it is a service", "%s", out.Plain(e.Error()))
		if e.Denied() {
			told.Next = "join the agent's group, as by `sudo usermod -aG stella-agent $USER`, and log in again; or run it as root"
		}
		return told
	}
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return failed("its log says more", "%s", out.Plain(p.Error()))
	}
	return err
}

// statusHere shows this host's agent; one that is not connected is a failure.
func (a *app) statusHere(ctx context.Context, said string) error {
	path, err := a.findSocket(said)
	if err != nil {
		return err
	}
	s, err := client.NewLocal(path).Status(ctx)
	if err != nil {
		return explainLocal(err)
	}
	if err := a.io.Write(a.format, s, func() { a.showLocal(s) }); err != nil {
		return err
	}
	if !s.Connected {
		return exitCode(exitFailed) // what is shown says why
	}
	return nil
}

func (a *app) showLocal(s *api.LocalStatus) {
	certificate := ""
	if c := s.Certificate; c != nil {
		certificate = fmt.Sprintf("valid until %s, renews by itself %s, serial %s", c.NotAfter.UTC().Format(time.RFC3339), c.RenewsAt.UTC().Format(time.RFC3339), c.Serial)
	}
	newTasks := "taken"
	if s.NotAccepting != "" {
		newTasks = a.io.OutStyle.Warn("not taken: " + out.Plain(s.NotAccepting))
	}
	a.io.Pairs(
		[2]string{"Name", a.io.OutStyle.Bold(s.Name)},
		[2]string{"Id", s.AgentID},
		[2]string{"Server", s.Server},
		[2]string{"Status", a.localStatus(s)},
		[2]string{"Connection", a.localConnectionOf(s)},
		[2]string{"Heartbeat", a.ago(s.LastHeartbeat)},
		[2]string{"Certificate", certificate},
		[2]string{"New tasks", newTasks},
		[2]string{"Tasks", a.localTasks(s.Tasks)},
		[2]string{"Version", s.Version},
		[2]string{"Process", fmt.Sprintf("%d, started %s, boot %d", s.PID, out.Ago(s.StartedAt, a.now()), s.Boot)},
	)
}

// localStatus is the status with the reason for it, where there is one to give.
func (a *app) localStatus(s *api.LocalStatus) string {
	style, text := a.io.OutStyle, string(s.Status)
	if s.Broken != "" {
		text += " (" + out.Plain(s.Broken) + ")"
	}
	switch s.Status {
	case api.StatusOnline:
		return style.Good(text)
	case api.StatusDegraded:
		return style.Warn(text)
	case api.StatusOffline:
	}
	return style.Bad(text)
}

// localConnectionOf says how the agent is connected, or why it is not.
func (a *app) localConnectionOf(s *api.LocalStatus) string {
	if s.Connected {
		return fmt.Sprintf("%s, since %s", s.Transport, a.ago(s.ConnectedSince))
	}
	text := "not connected"
	if s.LastConnected != nil {
		text += ", was " + a.ago(s.LastConnected)
	}
	return a.io.OutStyle.Bad(text + ": " + first(out.Plain(s.LastError), "it has only begun to connect"))
}

func (a *app) localTasks(tasks []api.LocalTask) string {
	lines := make([]string, len(tasks))
	for i, t := range tasks {
		lines[i] = fmt.Sprintf("%s %s, attempt %d, since %s", t.ID, t.Type, t.Attempt, out.Ago(t.Since, a.now()))
	}
	return first(strings.Join(lines, "\n"), "none")
}
