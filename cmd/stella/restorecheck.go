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

func restoreCheckCommand() *cobra.Command {
	var cfg server.Config
	var crl string
	cmd := &cobra.Command{
		Use:   "restore-check --crl FILE",
		Short: "Revoke again what a list of revoked certificates has, after a restore",
		Long: `Revoke again, in an installation that was put back from a backup as a whole, the
agents and certificates that are on a list of revoked certificates (CRL) which
was kept elsewhere: as GET /pki/crl gives it.

A server that finds only its database older than its data folder does this by
itself, from the record in that folder. When both were put back, nothing in them
knows what was revoked since, and such a list does. Run this on a server's host,
with that server's settings, before the server starts. It may be run again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags(), &cfg, os.Getenv); err != nil {
				return err
			}
			ctx, stop := daemon.SignalContext(cmd.Context())
			defer stop()
			r := &server.RestoreCheck{Config: cfg, CRL: crl, Log: obs.NewLogger(os.Stderr, cfg.LogFormat, "warn"), Out: os.Stdout}
			if err := r.Run(ctx); err != nil {
				return fmt.Errorf("stella server restore-check: %w", err)
			}
			return nil
		},
	}
	config.Flags(cmd.Flags(), &cfg)
	// All of the server's settings are taken, so that its file is; these matter.
	matter := []string{"data", "database", "master-key-file", "config"}
	cmd.Flags().VisitAll(func(f *pflag.Flag) { f.Hidden = !slices.Contains(matter, f.Name) })
	cmd.Flags().StringVar(&crl, "crl", "", "file with the list of revoked certificates, in DER or PEM")
	_ = cmd.MarkFlagRequired("crl") // there is such a flag
	return cmd
}
