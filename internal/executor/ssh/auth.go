package ssh

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

// auth is how to log in to one hop. It is used for one handshake.
type auth struct {
	methods []ssh.AuthMethod
	has     []string // what there is to log in with, in words
	begun   bool     // the server was asked
	offered []string // the methods that it accepts
	tried   []string
	agent   net.Conn
}

func (a *auth) close() {
	if a.agent != nil {
		_ = a.agent.Close()
	}
}

// note keeps what the server offers, for the error, and leaves the choice to
// the library.
func (a *auth) note(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	a.begun, a.offered, a.tried = true, c.AllowedMethods, c.TriedMethods
	return nil, nil //nolint:nilnil // the library's way to say: take the next of your own
}

// authOf gets together what the hop says to log in with. An error says which
// secret or file is of no use.
func (d *dialer) authOf(hop *api.SSHHop) (*auth, error) {
	a := &auth{}
	var signers []ssh.Signer
	if hop.PrivateKeyRef != "" {
		signer, err := d.privateKey(hop)
		if err != nil {
			return nil, err
		}
		signers = append(signers, signer)
		a.has = append(a.has, "the key "+hop.PrivateKeyRef+" ("+fingerprint(signer.PublicKey())+")")
	}
	if hop.Agent {
		more, err := d.fromAgent(a, hop)
		if err != nil {
			return nil, err
		}
		signers = append(signers, more...)
		a.has = append(a.has, fmt.Sprintf("%d keys of the ssh-agent", len(more)))
	}
	if len(signers) > 0 {
		a.methods = append(a.methods, ssh.PublicKeys(signers...))
	}
	if hop.PasswordRef != "" {
		password, err := d.secret(hop, hop.PasswordRef, "the password")
		if err != nil {
			a.close()
			return nil, err
		}
		a.has = append(a.has, "the password "+hop.PasswordRef)
		a.methods = append(a.methods, ssh.Password(password), ssh.KeyboardInteractive(answering(password)))
	}
	if len(a.methods) == 0 && hop.Agent {
		a.close()
		return nil, deploy.Fail(api.ErrTargetUnreachable, "the ssh-agent of the agent's host holds no key to log in to %s with; give it one by ssh-add", hop.Host)
	}
	if len(a.methods) == 0 {
		a.close()
		return nil, deploy.Fail(api.ErrInvalidPayload, "it is not said how to log in to %s: give the target a privateKeyRef, a passwordRef, or agent", hop.Host)
	}
	return a, nil
}

// answering gives the password to a server that asks one question of which the
// answer is not shown; anything else is a second factor, which nobody is there
// to give.
func answering(password string) ssh.KeyboardInteractiveChallenge {
	return func(_, _ string, questions []string, echos []bool) ([]string, error) {
		switch {
		case len(questions) == 0:
			return nil, nil
		case len(questions) == 1 && !echos[0]:
			return []string{password}, nil
		}
		return nil, errors.New("the server asks more than a password: " + strings.Join(questions, " "))
	}
}

// secret is the value that a reference of a hop stands for.
func (d *dialer) secret(hop *api.SSHHop, ref, what string) (string, error) {
	value, ok := d.credentials.Secret(ref)
	if !ok {
		return "", deploy.Fail(api.ErrInvalidPayload,
			"%s of %s is %s, and no such secret came with the task; see that the server has one of that name", what, hop.Host, ref)
	}
	return value, nil
}

func (d *dialer) privateKey(hop *api.SSHHop) (ssh.Signer, error) {
	var text string
	var err error
	if file, ok := strings.CutPrefix(hop.PrivateKeyRef, "file://"); ok {
		text, err = keyFile(file)
	} else {
		text, err = d.secret(hop, hop.PrivateKeyRef, "the private key")
	}
	if err != nil {
		return nil, err
	}
	// What was pasted somewhere may have lost its last newline, or got a
	// carriage return on each line; both make a key unreadable.
	data := []byte(strings.TrimSpace(strings.ReplaceAll(text, "\r\n", "\n")) + "\n")
	signer, err := ssh.ParsePrivateKey(data)
	var needed *ssh.PassphraseMissingError
	if errors.As(err, &needed) && hop.PassphraseRef != "" {
		passphrase, missing := d.secret(hop, hop.PassphraseRef, "the passphrase")
		if missing != nil {
			return nil, missing
		}
		signer, err = ssh.ParsePrivateKeyWithPassphrase(data, []byte(passphrase))
	}
	switch {
	case err == nil:
		return signer, nil
	case errors.As(err, &needed):
		return nil, deploy.Fail(api.ErrTargetUnreachable, "the private key %s of %s is protected by a passphrase; give the target a passphraseRef", hop.PrivateKeyRef, hop.Host)
	case errors.Is(err, x509.IncorrectPasswordError):
		return nil, deploy.Fail(api.ErrTargetUnreachable, "the passphrase %s does not open the private key %s of %s", hop.PassphraseRef, hop.PrivateKeyRef, hop.Host)
	}
	// The cause may quote the key, so that it is left out.
	return nil, deploy.Fail(api.ErrTargetUnreachable,
		"the private key %s of %s cannot be read: it must be an Ed25519, ECDSA or RSA key in OpenSSH's or PEM format", hop.PrivateKeyRef, hop.Host)
}

// keyFile reads a key from the agent's host; like OpenSSH, it refuses one that
// others may read.
func keyFile(name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", deploy.Fail(api.ErrTargetUnreachable, "the private key on the agent's host: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 && runtime.GOOS != "windows" {
		return "", deploy.Fail(api.ErrTargetUnreachable,
			"the private key %s on the agent's host may be read by others (mode %04o); do: chmod 600 %s", name, perm, name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return "", deploy.Fail(api.ErrTargetUnreachable, "the private key on the agent's host: %w", err)
	}
	return string(data), nil
}

func (d *dialer) fromAgent(a *auth, hop *api.SSHHop) ([]ssh.Signer, error) {
	if d.authSock == "" {
		return nil, deploy.Fail(api.ErrTargetUnreachable,
			"%s is to be logged in to by the ssh-agent, and the Stella agent has no SSH_AUTH_SOCK in its environment", hop.Host)
	}
	conn, err := net.Dial("unix", d.authSock)
	if err != nil {
		return nil, deploy.Fail(api.ErrTargetUnreachable, "the ssh-agent of the agent's host does not answer: %w", err)
	}
	a.agent = conn
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		a.close()
		return nil, deploy.Fail(api.ErrTargetUnreachable, "ask the ssh-agent of the agent's host for its keys: %w", err)
	}
	return signers, nil
}

// failed says why a login was refused: what was tried, and what the server
// would take. It is nothing that time mends.
func (a *auth) failed(hop *api.SSHHop, at string, err error) error {
	offers := strings.Join(a.offered, ", ")
	if offers == "" {
		offers = "nothing"
	}
	tried := slices.DeleteFunc(slices.Clone(a.tried), func(s string) bool { return s == "none" })
	what := "none of it was tried"
	if len(tried) > 0 {
		what = "tried: " + strings.Join(tried, ", ")
	}
	why := ""
	if err != nil && !strings.Contains(err.Error(), "unable to authenticate") {
		why = ": " + strings.TrimPrefix(err.Error(), "ssh: handshake failed: ")
	}
	return deploy.Fail(api.ErrTargetUnreachable,
		"%s did not let %s log in%s. There is %s (%s); the server accepts: %s; see that the user is right, and that its authorized_keys has the key",
		at, hop.Username, why, strings.Join(a.has, " and "), what, offers)
}
