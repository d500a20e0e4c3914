package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

// eventStyles are the kinds of events, and how each is coloured: by what it
// means to whoever looks after the fleet.
var eventStyles = []struct {
	kind  string
	style func(out.Style, string) string
}{
	{api.EventAgentRegistered, out.Style.Good},
	{api.EventAgentUpdated, plainStyle},
	{api.EventAgentConnected, out.Style.Good},
	{api.EventAgentDisconnected, out.Style.Warn},
	{api.EventAgentLive, out.Style.Good},
	{api.EventAgentStale, out.Style.Warn},
	{api.EventAgentDead, out.Style.Bad},
	{api.EventAgentActivated, out.Style.Good},
	{api.EventAgentDeactivated, out.Style.Warn},
	{api.EventAgentRevoked, out.Style.Bad},
	{api.EventAgentDeleted, out.Style.Bad},
	{api.EventAgentCloned, out.Style.Bad},
	{api.EventTaskQueued, plainStyle},
	{api.EventTaskAssigned, plainStyle},
	{api.EventTaskRunning, plainStyle},
	{api.EventTaskSucceeded, out.Style.Good},
	{api.EventTaskFailed, out.Style.Bad},
	{api.EventTaskCancelled, out.Style.Warn},
	{api.EventTaskExpired, out.Style.Bad},
	{api.EventCommandSent, plainStyle},
	{api.EventCommandDelivered, plainStyle},
	{api.EventCommandAcknowledged, out.Style.Good},
	{api.EventCommandFailed, out.Style.Bad},
	{api.EventCommandExpired, out.Style.Bad},
}

func plainStyle(_ out.Style, text string) string { return text }

func (a *app) eventsCommand() *cobra.Command {
	var f client.EventFilter
	follow := true
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Tell what happens to agents, tasks and commands, as it happens",
		Long: `Tell what happens to agents, tasks and commands, as it happens, until an
interrupt; that ends it with 0. Each event is a line, and with -o json an object
on a line of its own.

What happened before, or while there was no connection, is not told: the lists
have it (` + "`stella task list`, `stella command list`, `stella audit`" + `).`,
		Example: `  stella events --kind agent,task.failed
  stella events --agent prod-01 -o json | jq -r .reason`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !follow {
				return wrongUse("`stella task list`, `stella command list` and `stella audit` have what has happened", "events are told only as they happen")
			}
			if a.format == out.FormatYAML {
				return wrongUse("use -o json, which writes an object on each line", "events are not written as YAML")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			return a.followEvents(cmd.Context(), c, f)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.Kinds, "kind", nil, "only events of this `kind`, as in task.failed, or of all that begin with it, as in agent; several are joined by commas")
	flags.StringVar(&f.Agent, "agent", "", "only what happens to this `agent`, and to what it works on")
	flags.BoolVarP(&follow, "follow", "f", follow, "go on until interrupted, as it always does")
	complete(cmd, "kind", completeKinds)
	complete(cmd, "agent", a.completeAgents(0))
	return cmd
}

// followEvents prints events until ctx ends, which is how it is meant to end.
func (a *app) followEvents(ctx context.Context, c *client.Client, f client.EventFilter) error {
	style := a.io.ErrStyle
	once, lost := false, false
	f.Connected = func() {
		switch {
		case !once && a.io.OutTTY:
			a.io.Notef("%s", style.Faint("what happens from now on is told here, until an interrupt"))
		case once && lost:
			a.io.Notef("%s connected again; what happened in between is not told here: `stella task list` and `stella command list` have it", style.Good("✓"))
		}
		once, lost = true, false
	}
	f.Lost = func(err error) {
		if lost {
			return // said already
		}
		lost = true
		why := "the server ended it"
		if err != nil {
			why = explain(err).What
		}
		what := "there is no connection yet"
		if once {
			what = "the connection was lost"
		}
		a.io.Notef("%s %s (%s); trying again", style.Warn("warning:"), what, out.Plain(oneLine(why)))
	}
	for e, err := range c.Events(ctx, f) {
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := a.eventLine(&e); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) eventLine(e *api.Event) error {
	if a.format == out.FormatJSON {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encode an event: %w", err)
		}
		a.io.Printf("%s\n", line)
		return nil
	}
	style := a.io.OutStyle
	kind := fmt.Sprintf("%-20s", out.Plain(e.Kind))
	for _, known := range eventStyles {
		if known.kind == e.Kind {
			kind = known.style(style, kind)
		}
	}
	line := []string{style.Faint(e.At.Local().Format("15:04:05")), kind}
	if what := eventWhat(e); what != "" {
		line = append(line, out.Plain(what))
	}
	if e.Reason != "" {
		line = append(line, out.Plain(oneLine(e.Reason)))
	}
	if e.By != "" && !strings.Contains(e.Reason, e.By) {
		line = append(line, style.Faint("by "+out.Plain(e.By)))
	}
	if id := first(e.TaskID, e.CommandID); id != "" {
		line = append(line, style.Faint(id))
	}
	a.io.Println(strings.TrimRight(strings.Join(line, "  "), " "))
	return nil
}

// eventWhat says what an event happened to.
func eventWhat(e *api.Event) string {
	agent := first(e.AgentName, e.AgentID)
	switch {
	case e.TaskID != "":
		text := taskPhrase(&api.Task{Type: api.TaskType(e.Type), TargetName: first(e.Target, e.TargetID)})
		if agent != "" {
			text += ", agent " + agent
		}
		return text
	case e.CommandID != "" && agent != "":
		return e.Type + " to " + agent
	case e.CommandID != "":
		return e.Type
	}
	return agent
}

// completeKinds completes the last of several kinds that commas join.
func completeKinds(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	before := prefix[:strings.LastIndexByte(prefix, ',')+1]
	var fit []string
	for _, kind := range append([]string{"agent", "task", "command"}, eventKinds()...) {
		if strings.HasPrefix(before+kind, prefix) {
			fit = append(fit, before+kind)
		}
	}
	return fit, cobra.ShellCompDirectiveNoFileComp
}

func eventKinds() []string {
	kinds := make([]string, len(eventStyles))
	for i := range eventStyles {
		kinds[i] = eventStyles[i].kind
	}
	return kinds
}
