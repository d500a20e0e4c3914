package target

import (
	"fmt"
	"regexp"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/secret"
)

var (
	projectPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,127}$`)
	hostPattern    = regexp.MustCompile(`^[A-Za-z0-9:][A-Za-z0-9._:%-]{0,254}$`)
	userPattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,127}\$?$`)
	hostKeyPattern = regexp.MustCompile(`^[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}( .*)?$`)
)

// validateSSH checks how a remote host is reached. What a host key really is,
// the executor finds out: here is no cryptography.
func (t *Target) validateSSH() error {
	c := t.Config.SSH
	if t.Kind != "ssh" {
		if c != nil {
			return fault.InvalidField("body.config.ssh", "only an ssh target has it, and this one is of kind %s", t.Kind)
		}
		return nil
	}
	if c == nil {
		return fault.InvalidField("body.config.ssh", "say how the host is reached: at least its host and username")
	}
	if err := validateHop("body.config.ssh", &c.SSHHop); err != nil {
		return err
	}
	for i := range c.Jumps {
		if err := validateHop(fmt.Sprintf("body.config.ssh.jumps[%d]", i), &c.Jumps[i]); err != nil {
			return err
		}
	}
	if !c.Sudo && (c.SudoUser != "" || c.SudoPasswordRef != "") {
		return fault.InvalidField("body.config.ssh.sudo", "a user or a password of sudo is given, and sudo is not asked for")
	}
	if c.SudoUser != "" && !userPattern.MatchString(c.SudoUser) {
		return fault.InvalidField("body.config.ssh.sudoUser", "%q is no user's name", c.SudoUser)
	}
	return validateRef("body.config.ssh.sudoPasswordRef", c.SudoPasswordRef, false)
}

func validateHop(at string, h *api.SSHHop) error {
	if !hostPattern.MatchString(h.Host) {
		return fault.InvalidField(at+".host", "%q is no host's name or address; the port has a field of its own", h.Host)
	}
	if h.Port < 0 || h.Port > 65535 {
		return fault.InvalidField(at+".port", "%d is no port", h.Port)
	}
	if !userPattern.MatchString(h.Username) {
		return fault.InvalidField(at+".username", "%q is no user's name", h.Username)
	}
	for i, key := range h.HostKeys {
		if !hostKeyPattern.MatchString(key) {
			return fault.InvalidField(fmt.Sprintf("%s.hostKeys[%d]", at, i), "it is no public key, as in ssh-ed25519 AAAA…; `stella target scan` shows a host's")
		}
	}
	if h.KnownHosts != "" && !isAbsolute(h.KnownHosts) {
		return fault.InvalidField(at+".knownHosts", "give the absolute path of a file on the agent's host")
	}
	if h.PrivateKeyRef == "" && h.PasswordRef == "" && !h.Agent {
		return fault.InvalidField(at+".privateKeyRef", "say how to log in to %s: by privateKeyRef, by passwordRef, or by agent", h.Host)
	}
	if h.PassphraseRef != "" && h.PrivateKeyRef == "" {
		return fault.InvalidField(at+".passphraseRef", "there is no private key that it belongs to")
	}
	if err := validateRef(at+".privateKeyRef", h.PrivateKeyRef, true); err != nil {
		return err
	}
	if err := validateRef(at+".passphraseRef", h.PassphraseRef, false); err != nil {
		return err
	}
	return validateRef(at+".passwordRef", h.PasswordRef, false)
}

// validateRef refuses anything but a reference, so that no secret itself gets
// into a target, which everybody may read.
func validateRef(at, ref string, orFile bool) error {
	if ref == "" {
		return nil
	}
	if name, ok := strings.CutPrefix(ref, api.SecretScheme); ok {
		if err := secret.CheckName(name); err != nil {
			return fault.InvalidField(at, "%v", err)
		}
		return nil
	}
	if file, ok := strings.CutPrefix(ref, "file://"); ok && orFile && isAbsolute(file) {
		return nil
	}
	if orFile {
		return fault.InvalidField(at, "give a reference, as in secret://name or file:///path: never the key itself")
	}
	return fault.InvalidField(at, "give a reference, as in secret://name: never the secret itself")
}

// SecretRefs are the names of the secrets that the target refers to.
func (t *Target) SecretRefs() []string {
	c := t.Config.SSH
	if c == nil {
		return nil
	}
	refs := []string{c.SudoPasswordRef}
	for _, h := range append([]api.SSHHop{c.SSHHop}, c.Jumps...) {
		refs = append(refs, h.PrivateKeyRef, h.PassphraseRef, h.PasswordRef)
	}
	return secret.Names(refs...)
}
