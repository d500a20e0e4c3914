package cli

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

// How long an inspection may wait for its agent and run: who asks for an
// inventory waits for the slowest.
const (
	inventoryDelivery = 15
	inventoryTimeout  = 60
)

// looksAtOnce is how many targets are looked at side by side.
const looksAtOnce = 16

func (a *app) inventoryCommand() *cobra.Command {
	var l listFlags
	var known, code bool
	cmd := &cobra.Command{
		Use:   "inventory",
		Short: "Compare what should run on targets, what their stickers say, and what really runs",
		Long: `Compare what should run on targets (what was deployed there last, with success),
what their version stickers say, and what really runs. Every target is looked at
first, which takes as long as the slowest of their agents needs; one whose agent
is away is unknown.`,
		Example: `  stella inventory
  stella inventory --filter env=production --exit-code
  stella inventory --known -o json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			f := client.InventoryFilter{Filter: l.filter, Sort: first(l.sort, "name"), Limit: pageSize(l.limit)}
			if !known {
				if err := a.lookAtAll(cmd.Context(), c, f, l.limit); err != nil {
					return err
				}
			}
			entries, err := take(c.Inventory(cmd.Context(), f), l.limit)
			if err != nil {
				return err
			}
			if err := a.io.Write(a.format, api.Inventory{Items: entries}, func() { a.showInventory(entries) }); err != nil {
				return err
			}
			for i := range entries {
				if s := entries[i].State; code && (s == api.InventoryDiffers || s == api.InventoryUnknown) {
					return exitCode(exitFailed)
				}
			}
			return nil
		},
	}
	l.add(cmd.Flags(), 0)
	cmd.Flags().BoolVar(&known, "known", false, "do not look: show what is known from the last look")
	cmd.Flags().BoolVar(&code, "exit-code", false, "exit with 1 when anything differs or is unknown")
	return cmd
}

// lookAtAll has every target inspected, and waits until that is over. A target
// that cannot be looked at is no error: the inventory says so.
func (a *app) lookAtAll(ctx context.Context, c *client.Client, f client.InventoryFilter, limit int) error {
	targets, err := take(c.Targets(ctx, client.TargetFilter{Filter: f.Filter, Sort: f.Sort, Limit: f.Limit}), limit)
	if err != nil {
		return err
	}
	progress, since := a.io.Progress(), time.Now()
	defer progress.Stop()
	var mu sync.Mutex
	done := 0
	var group sync.WaitGroup
	slots := make(chan struct{}, looksAtOnce)
	for i := range targets {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			why := a.lookAt(ctx, c, targets[i].ID)
			mu.Lock()
			defer mu.Unlock()
			done++
			progress.Status(fmt.Sprintf("%d of %d targets looked at", done, len(targets)), since)
			if why != nil && ctx.Err() == nil {
				progress.Linef("%s was not looked at: %s", targets[i].Name, explain(why).What)
			}
		})
	}
	group.Wait()
	return ctx.Err()
}

func (a *app) lookAt(ctx context.Context, c *client.Client, target string) error {
	task, err := c.SubmitTask(ctx, api.TaskRequest{
		Type: api.TaskInspect, Target: target, Timeout: inventoryTimeout, DeliveryTimeout: inventoryDelivery,
		IdempotencyKey: uuid.Must(uuid.NewV7()).String(),
	})
	if err != nil {
		return err
	}
	for _, err := range c.FollowTaskLogs(ctx, task.ID) { // until it is over
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) showInventory(entries []api.InventoryEntry) {
	style := a.io.OutStyle
	t := out.NewTable("", "TARGET", "KIND", "ENVIRONMENT", "SHOULD RUN", "STICKER", "RUNS", "DIFFERENCES")
	for i := range entries {
		e := &entries[i]
		should, says, runs := "nothing", "none", "?"
		if x := e.Expected; x != nil {
			should = version(x.ReleaseID, x.Digest)
		}
		if e.Sticker != nil {
			says = e.Sticker.ReleaseID
		}
		if x := e.Observed; x != nil {
			runs = "nothing"
			if x.Running {
				runs = version(x.ReleaseID, x.Digest)
			}
		} else {
			says = "?"
		}
		mark, why := style.Good("✓"), strings.Join(e.Differences, "; ")
		switch e.State {
		case api.InventoryDiffers:
			mark = style.Bad("✗")
		case api.InventoryUnknown:
			mark, why = style.Warn("?"), e.Problem
		case api.InventoryNothing:
			mark = style.Faint("·")
		}
		t.Row(mark, e.TargetName, e.Kind, e.Environment, should, says, runs, out.Plain(oneLine(why)))
	}
	a.io.Table(t, "There are no targets: `stella target add docker NAME --agent AGENT` adds one.")
}
