// Package demo runs a control plane and an agent on this machine: for a story
// that shows Stella at work and leaves nothing behind (demo), and for keeps (up
// and down).
//
// It starts the real programs as processes and talks to them as everybody
// does: by their commands and their API.
package demo

import (
	"github.com/spf13/cobra"

	"stella-ops.org/stella/internal/cli/out"
)

// Contexts keeps the contexts of the command line.
type Contexts interface {
	// SaveContext saves a context and makes it current.
	SaveContext(name, server, token, ca string) error
}

// Commands returns demo, up, down, and the service that the demo deploys.
func Commands(streams *out.IO, contexts Contexts) []*cobra.Command {
	return []*cobra.Command{demoCommand(streams), upCommand(streams, contexts), downCommand(streams), appCommand()}
}

func demoCommand(streams *out.IO) *cobra.Command {
	var s story
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show Stella at work on this machine, and leave nothing behind",
		Long: `Show Stella at work on this machine, and leave nothing behind.

It starts a control plane and an agent in a temporary folder, deploys a small
service, deploys a broken version of it and shows that the one before is brought
back; and where a Docker Engine answers, the same with a container. It needs no
network, and removes all that it made, also when it is interrupted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.show = newShow(streams)
			return s.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&s.noDocker, "no-docker", false, "leave the part with a container out")
	cmd.Flags().BoolVar(&s.keep, "keep-folder", false, "keep the temporary folder with its logs")
	return cmd
}
