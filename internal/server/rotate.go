package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"stella-ops.org/stella/internal/seal"
)

// MasterKeyRotation replaces the master key of an installation, whose servers
// may run meanwhile.
type MasterKeyRotation struct {
	// Config says where the installation is: its data folder, its database and
	// its master key's file. Nothing else of it counts.
	Config Config
	Log    *slog.Logger
	// Out gets what happens, for people.
	Out io.Writer
	// Grace and Before are as in seal.Rotation; tests set them.
	Grace  time.Duration
	Before func(step string) error
}

// Run rotates, or finishes a rotation that was begun, and blocks until it is
// done: half a minute, and as long as it takes to seal everything anew. It may
// be killed at any moment and run again.
func (m *MasterKeyRotation) Run(ctx context.Context) error {
	cfg := &m.Config
	st, err := openInstallation(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }() // everything committed is durable already
	keyring, err := seal.OpenKeyring(ctx, st, cfg.masterKeyFile(), m.Log)
	if err != nil {
		return err
	}
	done, err := (&seal.Rotation{
		Keyring: keyring, Texts: st, Grace: m.Grace, Before: m.Before,
		Say: func(line string) { fmt.Fprintln(m.Out, line) },
	}).Run(ctx)
	if err != nil {
		return err
	}
	what := "The master key was rotated"
	if done.Resumed {
		what = "The rotation that was begun before is finished"
	}
	fmt.Fprintf(m.Out, "%s: %s holds the key %s, and %d texts were sealed anew under the data key %s.\n",
		what, cfg.masterKeyFile(), done.MasterKey, done.Texts, done.DataKey)
	if cfg.Database != "" {
		fmt.Fprintf(m.Out, "Copy the file to every other server that uses this database, to the place of its master key (0600); they need no restart. Until then they serve what they can, and change nothing.\n")
	}
	for _, text := range done.Unreadable {
		fmt.Fprintf(m.Out, "No key opens this one, and none did before: %s\n", text)
	}
	fmt.Fprintln(m.Out, "Make a new backup of the file: older backups of the database need the older key.")
	return nil
}
