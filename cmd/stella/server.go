package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/internal/config"
	"stella-ops.org/stella/internal/daemon"
	"stella-ops.org/stella/internal/obs"
	"stella-ops.org/stella/internal/server"
)

func serverCommand() *cobra.Command {
	var cfg server.Config
	cmd := &cobra.Command{
		Use:     "server",
		GroupID: "self",
		Short:   "Run the control plane",
		Long: `Run the control plane: the API, the agents' links and the database.

At its first start it makes, in the data folder, a certificate authority, keys,
a database and an admin token (admin.token). Agents and people reach it on one
TLS 1.3 port. Every flag can also be set in the environment or in a file.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags(), &cfg, os.Getenv); err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				// Most of what a server holds is its connected agents', which
				// stays: to keep as much again for garbage would nearly double
				// what each of them costs.
				debug.SetGCPercent(40)
			}
			ctx, stop := daemon.SignalContext(cmd.Context())
			defer stop()
			s := &server.Server{Config: cfg, Log: obs.NewLogger(os.Stderr, cfg.LogFormat, cfg.LogLevel), Out: os.Stdout}
			if err := s.Run(ctx); err != nil {
				return fmt.Errorf("stella server: %w", err)
			}
			return nil
		},
	}
	config.Flags(cmd.Flags(), &cfg)
	cmd.AddCommand(rotateMasterKeyCommand(), restoreCheckCommand())
	return cmd
}
