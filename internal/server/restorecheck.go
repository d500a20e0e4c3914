package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/server/revoked"
	"stella-ops.org/stella/internal/store"
)

// RestoreCheck ends in an installation that was put back from a backup, as a
// whole, what a list of revoked certificates has on it that was kept elsewhere.
// Servers may run meanwhile; they act upon it within seconds.
type RestoreCheck struct {
	// Config says where the installation is, as for MasterKeyRotation, and how
	// long certificates are good.
	Config Config
	// CRL is the file with the list, as GET /pki/crl gives it, or in PEM.
	CRL string
	Log *slog.Logger
	// Out gets what happens, for people.
	Out io.Writer
}

// crlIsOld is the age from which on a list is remarked upon.
const crlIsOld = 24 * time.Hour

// Run compares and ends; it may be run again.
func (r *RestoreCheck) Run(ctx context.Context) error {
	cfg := &r.Config
	policy, err := cfg.certificatePolicy()
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	st, err := openInstallation(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }() // everything committed is durable already
	data, err := os.ReadFile(r.CRL)
	if err != nil {
		return fmt.Errorf("read the list of revoked certificates: %w", err)
	}
	keyring, err := seal.OpenKeyring(ctx, st, cfg.masterKeyFile(), r.Log)
	if err != nil {
		return err
	}
	ca, err := pki.Load(ctx, st, keyring, pki.Options{TrustDomain: cfg.TrustDomain}, now)
	if err != nil {
		return err
	}
	auditKey, err := access.LoadKey(ctx, st, keyring)
	if err != nil {
		return err
	}
	list, err := ca.ReadList(data)
	if err != nil {
		return fmt.Errorf("%s: %w", r.CRL, err)
	}
	for _, e := range list.Ended {
		// The list does not say; none that is on it lasts longer.
		e.NotAfter = list.Made.Add(policy.MaxLife)
	}
	made := list.Made.UTC().Format(time.RFC3339)
	audit := access.NewLog(st, auditKey, access.LogOptions{}, now, r.Log)
	done, err := revoked.NewGuard(nil, st, audit, policy.Recovery, now, r.Log).Restore(ctx, list.Ended, "the list of revoked certificates of "+made)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.Out, "The list is of %s and has %d certificates.\n", made, len(list.Ended))
	if now().Sub(list.Made) > crlIsOld {
		fmt.Fprintln(r.Out, "What was revoked after that is not on it: revoke it again by hand.")
	}
	switch {
	case done.Nothing():
		fmt.Fprintln(r.Out, "The database knows all of them: there is nothing to do.")
	case len(done.Agents) > 0:
		fmt.Fprintf(r.Out, "Revoked again, %d agents: %s.\n", len(done.Agents), strings.Join(done.Agents, ", "))
	}
	if n := done.Certificates + done.Unknown; n > 0 {
		fmt.Fprintf(r.Out, "Ended again, %d certificates of others, or of agents that the database does not know.\n", n)
	}
	return nil
}

// openInstallation opens the database of an installation that there is.
func openInstallation(ctx context.Context, cfg *Config) (_ *store.Store, err error) {
	if cfg.Data == "" {
		return nil, errors.New("configuration: data: say in which folder the server keeps its data")
	}
	if cfg.Database == "" {
		path := filepath.Join(cfg.Data, "stella.db")
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("there is no installation in %s: say where its data is with --data, or where its database is with --database: %w", cfg.Data, err)
		}
	}
	st, err := openStore(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	defer func() {
		if err != nil {
			_ = st.Close() // the error before says what is wrong
		}
	}()
	names, err := st.KeyNames(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("the database holds no keys yet: start the server once, or say which database it uses with --data or --database")
	}
	return st, nil
}
