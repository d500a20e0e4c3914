package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

// A command that is waited for is looked at again after a time that grows: most
// agents answer at once, and a few not at all.
const (
	awaitFirst = 50 * time.Millisecond
	awaitMost  = time.Second
)

// most of those that did not acknowledge a command are named at its end.
const unansweredShown = 50

// await waits until a command is over and tells what came of it. When ctx ends
// before, the command goes on and its user is told how to get back to it.
func (a *app) await(ctx context.Context, c *client.Client, sent *api.Command) error {
	ended, err := a.untilDone(ctx, c, sent)
	if errors.Is(err, context.Canceled) {
		a.io.Notef("\ndetached: command %[1]s goes on without you\n%[2]s `stella command show %[1]s` shows what comes of it",
			sent.ID, a.io.ErrStyle.Faint("next:"))
		return exitCode(exitInterrupted)
	}
	var deliveries []api.CommandDelivery
	if err == nil && (a.format != out.FormatTable || ended.Recipients == 1) {
		deliveries, err = recipientsOf(ctx, c, ended.ID, "", 0)
	} else if err == nil {
		deliveries, err = unanswered(ctx, c, ended.ID)
	}
	if err != nil {
		e := *explain(err)
		e.Next = fmt.Sprintf("the command goes on by itself: `stella command show %s` shows what came of it", sent.ID)
		return &e
	}
	if a.format != out.FormatTable {
		if err := a.io.Write(a.format, api.CommandProgress{Command: *ended, Deliveries: deliveries}, nil); err != nil {
			return err
		}
	}
	a.tellEnd(ended, deliveries)
	if ended.Counts.Acknowledged < ended.Recipients {
		return exitCode(exitFailed)
	}
	return nil
}

// untilDone looks at a command until it is over, and shows how far it has come.
func (a *app) untilDone(ctx context.Context, c *client.Client, sent *api.Command) (*api.Command, error) {
	progress := a.io.Progress()
	defer progress.Stop()
	now, since := sent, time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for wait := awaitFirst; !now.Done; wait = min(2*wait, awaitMost) {
		progress.Status(howFar(now), since)
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
		}
		p, err := c.Command(ctx, sent.ID, client.DeliveryFilter{Limit: 1})
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, err
		}
		now = &p.Command
	}
	return now, nil
}

// howFar is the moving line of a command.
func howFar(c *api.Command) string {
	if c.Recipients == 1 {
		if c.Counts.Delivered == 1 {
			return commandTo(c) + " has it"
		}
		return "waiting for " + commandTo(c)
	}
	text := fmt.Sprintf("%d of %d agents have answered", c.Counts.Acknowledged+c.Counts.Failed, c.Recipients)
	if c.Counts.Failed > 0 {
		text += fmt.Sprintf(", %d failed", c.Counts.Failed)
	}
	return text
}

// recipientsOf reads those of a command's recipients that are in a state, or
// all, no more than limit unless that is 0.
func recipientsOf(ctx context.Context, c *client.Client, id string, state api.CommandState, limit int) ([]api.CommandDelivery, error) {
	list := []api.CommandDelivery{}
	for d, err := range c.CommandDeliveries(ctx, id, client.DeliveryFilter{State: state, Limit: pageSize(limit)}) {
		if err != nil {
			return nil, err
		}
		if list = append(list, d); len(list) == limit {
			break
		}
	}
	return list, nil
}

// unanswered returns the first of those that failed, and that did not answer.
func unanswered(ctx context.Context, c *client.Client, id string) ([]api.CommandDelivery, error) {
	list, err := recipientsOf(ctx, c, id, api.CommandFailed, unansweredShown)
	if err != nil || len(list) == unansweredShown {
		return list, err
	}
	expired, err := recipientsOf(ctx, c, id, api.CommandExpired, unansweredShown-len(list))
	return append(list, expired...), err
}

// tellEnd tells a person how a command ended; the answer of a single agent is
// data, and goes where data goes.
func (a *app) tellEnd(c *api.Command, deliveries []api.CommandDelivery) {
	style := a.io.ErrStyle
	if c.Counts.Acknowledged == c.Recipients {
		a.io.Notef("%s %s", style.Good("✓"), style.Bold(fmt.Sprintf("%s: %s acknowledged", c.Type, allOf(c, deliveries))))
	} else {
		a.io.Notef("%s %s", style.Bad("✗"), style.Bold(fmt.Sprintf("%s: %s", c.Type, strings.Join(counted(c.Counts), ", "))))
	}
	var list []api.CommandDelivery
	for _, d := range deliveries {
		if d.State != api.CommandAcknowledged {
			list = append(list, d)
		}
	}
	if list = list[:min(len(list), unansweredShown)]; len(list) > 0 {
		t := out.NewTable("AGENT", "STATE", "REASON")
		for _, d := range list {
			t.Row(d.AgentName, stateStyle(style, d.State), out.Plain(oneLine(d.Error)))
		}
		a.io.NoteTable(t)
	}
	if left := c.Counts.Failed + c.Counts.Expired - len(list); left > 0 {
		a.io.Notef("… and %d more: `stella command show %s --state failed` and `--state expired` show them", left, c.ID)
	}
	if c.Recipients == 1 && len(deliveries) == 1 && a.format == out.FormatTable {
		a.showAnswer(deliveries[0].Result)
	}
}

func allOf(c *api.Command, deliveries []api.CommandDelivery) string {
	if len(deliveries) == 1 && c.Recipients == 1 {
		return deliveries[0].AgentName
	}
	return "all " + plural(c.Recipients, "agent")
}

// showAnswer writes an agent's answer as JSON that a person can read.
func (a *app) showAnswer(answer json.RawMessage) {
	if len(answer) == 0 {
		return
	}
	// An agent's answer is foreign: what is a control character in it stays
	// escaped, for JSON has no other way, but for those above ASCII.
	if err := a.io.Write(out.FormatJSON, answer, nil); err != nil {
		a.io.Println(out.Plain(string(answer)))
	}
}
