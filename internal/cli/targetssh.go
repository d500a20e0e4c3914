package cli

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"stella-ops.org/stella/api"
)

// sshFlags are those that say how a remote host is reached.
type sshFlags struct {
	config                    api.SSHConfig
	jumps                     []string
	connectTimeout, keepAlive time.Duration
}

func (f *sshFlags) add(flags *pflag.FlagSet) {
	c := &f.config
	flags.StringVar(&c.Host, "host", "", "ssh: the host's `name` or address, as the agent sees it")
	flags.IntVar(&c.Port, "port", 0, "ssh: the port; 22 when left out")
	flags.StringVar(&c.Username, "user", "", "ssh: the `user` to log in as")
	flags.StringArrayVar(&c.HostKeys, "host-key", nil, "ssh: the host's public `key`, as in 'ssh-ed25519 AAAA…' (stella target scan shows it); may be given several times")
	flags.StringVar(&c.KnownHosts, "known-hosts", "", "ssh: a known_hosts `file` on the agent's host, instead of --host-key")
	flags.StringVar(&c.PrivateKeyRef, "key", "", "ssh: the private key, as in `secret://name`, or file:///path on the agent's host")
	flags.StringVar(&c.PassphraseRef, "passphrase", "", "ssh: the key's passphrase, as in `secret://name`")
	flags.StringVar(&c.PasswordRef, "password", "", "ssh: the password, as in `secret://name`")
	flags.BoolVar(&c.Agent, "ssh-agent", false, "ssh: log in by the ssh-agent of the agent's host")
	flags.StringArrayVar(&f.jumps, "jump", nil, "ssh: a host to go through, as in `[user@]host[:port]`, with the target's user and login, and the known_hosts of the agent's host; may be given several times, in order")
	flags.BoolVar(&c.Sudo, "sudo", false, "ssh: put files and run commands by sudo")
	flags.StringVar(&c.SudoUser, "sudo-user", "", "ssh: the `user` to become by sudo; root when left out")
	flags.StringVar(&c.SudoPasswordRef, "sudo-password", "", "ssh: sudo's password, as in `secret://name`")
	flags.DurationVar(&f.connectTimeout, "connect-timeout", 0, "ssh: how long connecting may take; 30s when left out")
	flags.DurationVar(&f.keepAlive, "keep-alive", 0, "ssh: how often a silent connection is tried; 15s when left out")
}

// change puts what was given over what is there, and returns it; nil when
// nothing of SSH was given and nothing is there.
func (f *sshFlags) change(have *api.SSHConfig, flags *pflag.FlagSet) (*api.SSHConfig, error) {
	c, given := api.SSHConfig{}, false
	if have != nil {
		c = *have
	}
	n := &f.config
	for name, set := range map[string]func(){
		"host":            func() { c.Host = n.Host },
		"port":            func() { c.Port = n.Port },
		"user":            func() { c.Username = n.Username },
		"host-key":        func() { c.HostKeys, c.KnownHosts = n.HostKeys, "" },
		"known-hosts":     func() { c.KnownHosts, c.HostKeys = n.KnownHosts, nil },
		"key":             func() { c.PrivateKeyRef = n.PrivateKeyRef },
		"passphrase":      func() { c.PassphraseRef = n.PassphraseRef },
		"password":        func() { c.PasswordRef = n.PasswordRef },
		"ssh-agent":       func() { c.Agent = n.Agent },
		"sudo":            func() { c.Sudo = n.Sudo },
		"sudo-user":       func() { c.SudoUser = n.SudoUser },
		"sudo-password":   func() { c.SudoPasswordRef = n.SudoPasswordRef },
		"connect-timeout": func() { c.ConnectionTimeout = f.connectTimeout.Milliseconds() },
		"keep-alive":      func() { c.KeepAliveInterval = f.keepAlive.Milliseconds() },
		"jump":            func() {},
	} {
		if flags.Changed(name) {
			given = true
			set()
		}
	}
	if !given {
		return have, nil
	}
	if flags.Changed("host-key") && flags.Changed("known-hosts") {
		return nil, wrongUse("give one of the two", "--host-key and --known-hosts both say which key the host has")
	}
	if !c.Sudo {
		c.SudoUser, c.SudoPasswordRef = n.SudoUser, n.SudoPasswordRef
	}
	if !flags.Changed("jump") {
		return &c, nil
	}
	c.Jumps = nil
	for _, text := range f.jumps {
		hop, err := jump(text, &c.SSHHop)
		if err != nil {
			return nil, err
		}
		c.Jumps = append(c.Jumps, *hop)
	}
	return &c, nil
}

// jump reads [user@]host[:port]; the login is that of the target.
func jump(text string, target *api.SSHHop) (*api.SSHHop, error) {
	h := &api.SSHHop{
		Username: target.Username, PrivateKeyRef: target.PrivateKeyRef, PassphraseRef: target.PassphraseRef,
		PasswordRef: target.PasswordRef, Agent: target.Agent, KnownHosts: target.KnownHosts,
	}
	if user, rest, ok := strings.Cut(text, "@"); ok {
		h.Username, text = user, rest
	}
	var err error
	h.Host, h.Port, err = hostPort(text)
	return h, err
}

// hostPort reads host[:port]; an address of IPv6 with a port is in brackets.
func hostPort(text string) (string, int, error) {
	bad := func() (string, int, error) {
		return "", 0, wrongUse("write it as in db.example.com:2222, or [2001:db8::1]:22", "%q is no host with a port", text)
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		if host = strings.Trim(text, "[]"); host == "" || strings.Count(host, ":") == 1 {
			return bad()
		}
		return host, 0, nil
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 1 || n > 65535 || host == "" {
		return bad()
	}
	return host, n, nil
}

// need says what is missing for a new target.
func (f *sshFlags) need(c *api.SSHConfig) error {
	switch {
	case c == nil || c.Host == "" || c.Username == "":
		return wrongUse("give --host and --user, as in --host app-1.example.com --user deploy", "it is not clear how the host is reached")
	case c.PrivateKeyRef == "" && c.PasswordRef == "" && !c.Agent:
		return wrongUse("give --key secret://NAME, --password secret://NAME or --ssh-agent", "it is not clear how to log in to %s", c.Host)
	}
	return nil
}

// sshWhere is a host as people name it.
func sshWhere(c *api.SSHConfig) string {
	if c == nil {
		return ""
	}
	where := c.Username + "@" + c.Host
	if c.Port != 0 && c.Port != 22 {
		where += ":" + strconv.Itoa(c.Port)
	}
	return where
}

// sshTrust says by what the host's key is known.
func sshTrust(c *api.SSHConfig) string {
	switch {
	case c == nil:
		return ""
	case len(c.HostKeys) > 0:
		return plural(len(c.HostKeys), "key") + " pinned"
	case c.KnownHosts != "":
		return c.KnownHosts + " on the agent's host"
	}
	return "known_hosts of the agent's host"
}

// sshJumps are the hosts on the way.
func sshJumps(c *api.SSHConfig) string {
	if c == nil {
		return ""
	}
	var names []string
	for i := range c.Jumps {
		names = append(names, sshWhere(&api.SSHConfig{SSHHop: c.Jumps[i]}))
	}
	return strings.Join(names, ", then ")
}

// sshAddExample is in the help of `stella target add ssh`.
const sshAddExample = `  stella target scan app-1.example.com --agent prod-01
  stella target add ssh web --agent prod-01 --dir /opt/web --host app-1.example.com --user deploy \
    --host-key 'ssh-ed25519 AAAA…' --key secret://deploy-key
  stella target add ssh db --agent prod-01 --dir /opt/db --host 10.0.0.7 --user deploy --jump bastion.example.com \
    --key file:///etc/stella/id_ed25519 --sudo`
