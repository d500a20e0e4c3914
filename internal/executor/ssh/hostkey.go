package ssh

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

// trust decides about one host's key.
type trust struct {
	// algorithms are in the order of preference: those of the keys that are
	// known come first, so that a host with several keys shows one of these.
	// The others follow only so that a host that has none of them any more can
	// be told apart from one that has another: what it shows is refused, and
	// its fingerprint said.
	algorithms []string
	// check returns nil for the right key, and otherwise a sentence.
	check func(name string, remote net.Addr, key ssh.PublicKey) error
}

// trustOf takes the keys that the target pins, else a known_hosts file.
func trustOf(hop *api.SSHHop) (*trust, error) {
	if len(hop.HostKeys) > 0 {
		return pinned(hop)
	}
	return known(hop)
}

func pinned(hop *api.SSHHop) (*trust, error) {
	var want []ssh.PublicKey
	var types []string
	for _, line := range hop.HostKeys {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, deploy.Fail(api.ErrInvalidPayload,
				"a host key that is pinned for %s is no public key, as in ssh-ed25519 AAAA…: %w; `stella target scan` shows the host's", hop.Host, err)
		}
		want = append(want, key)
		types = append(types, algorithmsOf(key.Type())...)
	}
	return &trust{
		algorithms: preferring(types),
		check: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			for _, w := range want {
				if string(w.Marshal()) == string(key.Marshal()) {
					return nil
				}
			}
			return changed(hop, key, want)
		},
	}, nil
}

// known trusts what known_hosts files of the agent's host say, with all that
// OpenSSH means by them: hashed names, [host]:port, @revoked, @cert-authority.
func known(hop *api.SSHHop) (*trust, error) {
	files := []string{hop.KnownHosts}
	if hop.KnownHosts == "" {
		files = files[:0]
		candidates := []string{"/etc/ssh/ssh_known_hosts"}
		if home, err := os.UserHomeDir(); err == nil {
			candidates = append([]string{filepath.Join(home, ".ssh", "known_hosts")}, candidates...)
		}
		for _, file := range candidates {
			if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
				files = append(files, file)
			}
		}
	}
	db, err := knownhosts.NewDB(files...)
	if err != nil {
		return nil, deploy.Fail(api.ErrTargetUnreachable, "the key of %s cannot be checked: read known_hosts on the agent's host: %w", hop.Host, err)
	}
	check := db.HostKeyCallback()
	return &trust{
		algorithms: preferring(db.HostKeyAlgorithms(address(hop))),
		check: func(name string, remote net.Addr, key ssh.PublicKey) error {
			err := check(name, remote, key)
			var revoked *xknownhosts.RevokedError
			var wrong *xknownhosts.KeyError
			switch {
			case err == nil:
				return nil
			case errors.As(err, &revoked):
				return deploy.Fail(api.ErrTargetUnreachable,
					"the key of %s is revoked by %s: it showed %s; somebody holds a key that must not be trusted any more: ask the host's owner for its new key",
					address(hop), revoked.Revoked.Filename, fingerprint(key))
			case errors.As(err, &wrong) && len(wrong.Want) > 0:
				var want []ssh.PublicKey
				for _, w := range wrong.Want {
					want = append(want, w.Key)
				}
				return changed(hop, key, want)
			case errors.As(err, &wrong):
				return unknown(hop, key)
			}
			return deploy.Fail(api.ErrTargetUnreachable, "the key of %s, %s, was not accepted: %w", address(hop), fingerprint(key), err)
		},
	}, nil
}

func unknown(hop *api.SSHHop, key ssh.PublicKey) error {
	return deploy.Fail(api.ErrTargetUnreachable,
		"the key of %s is not known: it showed %s. Compare that with what the host's owner says, and pin it: `stella target scan %s --agent AGENT` shows the line for --host-key",
		address(hop), fingerprint(key), address(hop))
}

func changed(hop *api.SSHHop, key ssh.PublicKey, want []ssh.PublicKey) error {
	expected := make([]string, len(want))
	for i, w := range want {
		expected[i] = fingerprint(w)
	}
	return deploy.Fail(api.ErrTargetUnreachable,
		"the key of %s has changed: expected %s, and it showed %s. Either somebody is in between, or the host was reinstalled: "+
			"ask its owner for the fingerprint; only when it is the one shown, `stella target scan` shows the new line and `stella target update NAME --host-key …` pins it",
		address(hop), strings.Join(expected, " or "), fingerprint(key))
}

// fingerprint is a key as ssh-keygen -l shows it.
func fingerprint(key ssh.PublicKey) string {
	return ssh.FingerprintSHA256(key) + " (" + key.Type() + ")"
}

// preferring puts some algorithms before the others that are supported; the
// best of those is first, so that a host that is not known shows its best key.
func preferring(first []string) []string {
	var all []string
	for _, name := range slices.Concat(first, []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256}, ssh.SupportedAlgorithms().HostKeys) {
		if !slices.Contains(all, name) && name != ssh.KeyAlgoRSA {
			all = append(all, name)
		}
	}
	return all
}

// algorithmsOf are the signature algorithms of a type of key. Those of RSA with
// SHA-1 are left out: it is broken.
func algorithmsOf(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}
