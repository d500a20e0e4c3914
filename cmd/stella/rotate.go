package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"stella-ops.org/stella/internal/config"
	"stella-ops.org/stella/internal/daemon"
	"stella-ops.org/stella/internal/obs"
	"stella-ops.org/stella/internal/server"
)

func rotateMasterKeyCommand() *cobra.Command {
	var cfg server.Config
	cmd := &cobra.Command{
		Use:   "rotate-master-key",
		Short: "Replace the master key, and seal everything anew",
		Long: `Replace the master key: make a new one and a new data key, seal everything that
is kept encrypted anew, and drop the old data keys. It runs on a server's host,
with that server's settings (the same flags, variables or file), and takes half
a minute and more. Servers may run meanwhile.

It may be interrupted at any moment, and run again: it goes on where it ended.
With several servers on one database, run it on one of them and copy the new
master key to the others; they take it up without a restart.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags(), &cfg, os.Getenv); err != nil {
				return err
			}
			ctx, stop := daemon.SignalContext(cmd.Context())
			defer stop()
			m := &server.MasterKeyRotation{Config: cfg, Log: obs.NewLogger(os.Stderr, cfg.LogFormat, "warn"), Out: os.Stdout}
			if err := m.Run(ctx); err != nil {
				return fmt.Errorf("stella server rotate-master-key: %w", err)
			}
			return nil
		},
	}
	config.Flags(cmd.Flags(), &cfg)
	// All of the server's settings are taken, so that its file is; these matter.
	matter := []string{"data", "database", "master-key-file", "config"}
	cmd.Flags().VisitAll(func(f *pflag.Flag) { f.Hidden = !slices.Contains(matter, f.Name) })
	return cmd
}
