package cli

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/client"
)

// Completions ask the server, and must not keep a shell waiting.
const completionTimeout = 2 * time.Second

// completeFrom makes a completion of names that the server knows. It is
// silent: a message would stand in the middle of what is being typed.
func (a *app) completeFrom(most int, names func(ctx context.Context, c *client.Client) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		quiet, streams := *a, *a.io
		streams.Err, quiet.io = io.Discard, &streams
		c, err := quiet.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		all, err := names(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var fit []string
		for _, n := range all {
			if strings.HasPrefix(n, prefix) {
				fit = append(fit, n)
			}
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeAgents completes agents' names; most is how many arguments there may
// be, 0 any number.
func (a *app) completeAgents(most int) cobra.CompletionFunc {
	return a.completeFrom(most, func(ctx context.Context, c *client.Client) ([]string, error) {
		page, err := c.AgentPage(ctx, client.AgentFilter{Limit: 1000})
		if err != nil {
			return nil, err
		}
		names := make([]string, len(page.Items))
		for i := range page.Items {
			names[i] = page.Items[i].Name
		}
		return names, nil
	})
}

func (a *app) completeTargets(most int) cobra.CompletionFunc {
	return a.completeFrom(most, func(ctx context.Context, c *client.Client) ([]string, error) {
		page, err := c.TargetPage(ctx, client.TargetFilter{Limit: 1000})
		if err != nil {
			return nil, err
		}
		names := make([]string, len(page.Items))
		for i := range page.Items {
			names[i] = page.Items[i].Name
		}
		return names, nil
	})
}

func (a *app) completeSecrets(most int) cobra.CompletionFunc {
	return a.completeFrom(most, func(ctx context.Context, c *client.Client) ([]string, error) {
		page, err := c.SecretPage(ctx, client.SecretFilter{Limit: 1000})
		if err != nil {
			return nil, err
		}
		names := make([]string, len(page.Items))
		for i := range page.Items {
			names[i] = page.Items[i].Name
		}
		return names, nil
	})
}

func (a *app) completeRollouts(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completeFrom(1, func(ctx context.Context, c *client.Client) ([]string, error) {
		page, err := c.RolloutPage(ctx, client.RolloutFilter{Limit: 50})
		if err != nil {
			return nil, err
		}
		names := make([]string, len(page.Items))
		for i := range page.Items {
			r := &page.Items[i]
			names[i] = cobra.CompletionWithDesc(r.ID, string(r.State)+" "+r.ReleaseID)
		}
		return names, nil
	})(cmd, args, prefix)
}

func (a *app) completeTasks(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completeFrom(1, func(ctx context.Context, c *client.Client) ([]string, error) {
		page, err := c.TaskPage(ctx, client.TaskFilter{Limit: 50})
		if err != nil {
			return nil, err
		}
		names := make([]string, len(page.Items))
		for i := range page.Items {
			t := &page.Items[i]
			names[i] = cobra.CompletionWithDesc(t.ID, string(t.Type)+" "+t.TargetName+" "+string(t.State))
		}
		return names, nil
	})(cmd, args, prefix)
}

func (a *app) completeContexts(_ *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	config, err := a.loadConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return config.names(), cobra.ShellCompDirectiveNoFileComp
}
