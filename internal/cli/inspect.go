package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) inspectCommand() *cobra.Command {
	var run runFlags
	var p api.InspectPayload
	cmd := &cobra.Command{
		Use:               "inspect TARGET",
		Short:             "Look at what really runs on a target",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeTargets(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			req, err := run.request(api.TaskInspect, names[0], p)
			if err != nil {
				return err
			}
			task, err := a.ask(cmd.Context(), c, req)
			if err != nil {
				return err
			}
			var found map[string]any
			if task.Result != nil {
				found = task.Result.Outputs
			}
			return a.io.Write(a.format, found, func() { a.showOutputs(found) })
		},
	}
	cmd.Flags().StringVar(&p.ContainerName, "name", "", "docker: the `container`'s name; the target's when left out")
	run.addLimits(cmd.Flags())
	return cmd
}

// showOutputs shows what an executor found, whatever it calls it.
func (a *app) showOutputs(outputs map[string]any) {
	var rows [][2]string
	for _, name := range slices.Sorted(maps.Keys(outputs)) {
		rows = append(rows, [2]string{name, plainValue(outputs[name])})
	}
	a.io.Pairs(rows...)
}

func plainValue(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return out.Plain(v)
	case []any, map[string]any:
		text, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		return out.Plain(string(text))
	}
	return fmt.Sprint(v)
}

func (a *app) healthCommand() *cobra.Command {
	var run runFlags
	var health healthFlags
	var p api.HealthCheckPayload
	cmd := &cobra.Command{
		Use:   "health TARGET",
		Short: "Check whether what runs on a target works",
		Long: `Check once whether what runs on a target works: by the container's own state
(docker), by those of all services (compose), or as a flag says. It exits with 1 when it does not.`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeTargets(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			var err error
			if p.HealthCheck, err = health.check(); err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			req, err := run.request(api.TaskHealthCheck, names[0], p)
			if err != nil {
				return err
			}
			task, err := a.ask(cmd.Context(), c, req)
			if err != nil {
				return err
			}
			var found map[string]any
			if task.Result != nil {
				found = task.Result.Outputs
			}
			return a.io.Write(a.format, found, func() {
				a.io.Notef("%s %s is healthy", a.io.ErrStyle.Good("✓"), task.TargetName)
				a.showOutputs(found)
			})
		},
	}
	health.add(cmd.Flags(), false)
	cmd.Flags().StringVar(&p.ContainerName, "name", "", "docker: the `container`'s name; the target's when left out")
	run.addLimits(cmd.Flags())
	return cmd
}
