//go:build linux

package ssh_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skeema/knownhosts"
	xssh "golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/executor/ssh"
	"stella-ops.org/stella/internal/testkit/sshd"
)

func inspects(t *testing.T, f *executortest.Fixture) {
	t.Helper()
	if res, _ := executortest.Single(t, f, api.TaskInspect, nil); !res.Success || res.Outputs["reachable"] != true {
		t.Errorf("%s: %s", res.ErrorType, res.Error)
	}
}

// shown is the fingerprint of a host key as it is pinned.
func shown(t *testing.T, line string) string {
	t.Helper()
	key, _, _, _, err := xssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return xssh.FingerprintSHA256(key)
}

func TestHostKeys(t *testing.T) {
	t.Parallel()
	s := sshd.Start(t, sshd.Options{HostKeys: []string{"ed25519", "ecdsa", "rsa"}})
	f, dir := files(t, s)
	c := f.Target.Config.SSH
	for _, key := range s.HostKeys {
		c.HostKeys = []string{key}
		inspects(t, f)
	}
	other := sshd.Line(sshd.Public(t, sshd.Key(t, "ed25519")))
	c.HostKeys = []string{other}
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "has changed", shown(t, other), shown(t, s.HostKeys[0]), "stella target update")
	c.HostKeys = []string{sshd.Line(sshd.Public(t, sshd.Key(t, "rsa")))}
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "has changed", shown(t, s.HostKeys[2]))
	c.HostKeys = []string{"ssh-ed25519 nonsense"}
	fails(t, f, api.TaskInspect, nil, api.ErrInvalidPayload, "no public key")

	parse := func(line string) xssh.PublicKey {
		key, _, _, _, err := xssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	at := knownhosts.Normalize(s.Address())
	rsaKey := parse(s.HostKeys[2])
	c.HostKeys, c.KnownHosts = nil, filepath.Join(dir, "known_hosts")
	for name, tc := range map[string]struct {
		file string
		says []string // none: it works
	}{
		"plain":   {knownhosts.Line([]string{at}, rsaKey), nil},
		"hashed":  {strings.Replace(knownhosts.Line([]string{at}, rsaKey), at, xknownhosts.HashHostname(at), 1), nil},
		"empty":   {"", []string{"is not known", shown(t, s.HostKeys[0]), "stella target scan"}},
		"another": {knownhosts.Line([]string{at}, parse(other)), []string{"has changed", shown(t, other), shown(t, s.HostKeys[0])}},
		"revoked": {"@revoked " + knownhosts.Line([]string{"*"}, parse(s.HostKeys[0])), []string{"is revoked", shown(t, s.HostKeys[0])}},
		"broken":  {"what is this", []string{"known_hosts"}},
	} {
		if err := os.WriteFile(c.KnownHosts, []byte(tc.file+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		if tc.says == nil {
			inspects(t, f)
			continue
		}
		if res := fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, tc.says...); res.Retriable {
			t.Errorf("%s: to try again is no help", name)
		}
	}
	c.KnownHosts = filepath.Join(dir, "none")
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "no such file")
}

func TestKeys(t *testing.T) {
	t.Parallel()
	ecKey, rsaKey := sshd.Key(t, "ecdsa"), sshd.Key(t, "rsa")
	protected, err := xssh.MarshalPrivateKeyWithPassphrase(ecKey, "", []byte("open sesame"))
	if err != nil {
		t.Fatal(err)
	}
	ec, err := x509.MarshalECPrivateKey(ecKey.(*ecdsa.PrivateKey)) //nolint:errcheck // it was made as one
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PrivateKey(rsaKey.(*rsa.PrivateKey)) //nolint:errcheck // it was made as one
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	legacy, err := x509.EncryptPEMBlock(strings.NewReader(strings.Repeat("x", 100)), "EC PRIVATE KEY", ec, []byte("open sesame"), x509.PEMCipherAES256) //nolint:staticcheck // what old keys are
	if err != nil {
		t.Fatal(err)
	}
	s := sshd.Start(t, sshd.Options{Authorized: []xssh.PublicKey{sshd.Public(t, ecKey), sshd.Public(t, rsaKey)}})
	f, dir := files(t, s)
	c := &f.Target.Config.SSH.SSHHop
	for name, tc := range map[string]struct {
		key, passphrase string
		says            string
	}{
		"OpenSSH, ECDSA":       {sshd.Text(t, ecKey), "", ""},
		"OpenSSH, RSA":         {sshd.Text(t, rsaKey), "", ""},
		"PEM, EC":              {block("EC PRIVATE KEY", ec), "", ""},
		"PEM, RSA":             {block("RSA PRIVATE KEY", pkcs1), "", ""},
		"PEM, PKCS 8":          {block("PRIVATE KEY", pkcs8), "", ""},
		"pasted on Windows":    {strings.ReplaceAll(strings.TrimSpace(sshd.Text(t, ecKey)), "\n", "\r\n"), "", ""},
		"passphrase":           {string(pem.EncodeToMemory(protected)), "open sesame", ""},
		"passphrase, PEM":      {string(pem.EncodeToMemory(legacy)), "open sesame", ""},
		"a passphrase unasked": {sshd.Text(t, ecKey), "open sesame", ""},
		"wrong passphrase":     {string(pem.EncodeToMemory(protected)), "open barley", "passphrase secret://passphrase does not open"},
		"no passphrase":        {string(pem.EncodeToMemory(protected)), "", "is protected by a passphrase"},
		"no key":               {"AAAA", "", "cannot be read"},
		"a stranger's":         {sshd.Text(t, sshd.Key(t, "ed25519")), "", "did not let"},
	} {
		f.Credentials = &api.Credentials{Secrets: map[string]string{"key": tc.key}}
		c.PassphraseRef = ""
		if tc.passphrase != "" {
			f.Credentials.Secrets["passphrase"], c.PassphraseRef = tc.passphrase, "secret://passphrase"
		}
		t.Log(name)
		if tc.says == "" {
			inspects(t, f)
			continue
		}
		fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, tc.says)
	}
	c.PassphraseRef = ""
	f.Credentials = nil
	fails(t, f, api.TaskInspect, nil, api.ErrInvalidPayload, "secret://key", "no such secret")

	f.Credentials = s.Credentials()
	file := filepath.Join(dir, "id")
	if err := os.WriteFile(file, []byte(s.Key), 0o600); err != nil {
		t.Fatal(err)
	}
	c.PrivateKeyRef = "file://" + file
	inspects(t, f)
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "may be read by others", "chmod 600")
	c.PrivateKeyRef = "file:///no/such/key"
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "no such file")
}

// TestStranger: the error of a refused login says what was tried, and what
// would do.
func TestStranger(t *testing.T) {
	t.Parallel()
	s := sshd.Start(t, sshd.Options{Config: "PasswordAuthentication no\n"})
	f, _ := files(t, s)
	f.Credentials = &api.Credentials{Secrets: map[string]string{"key": sshd.Text(t, sshd.Key(t, "ed25519"))}}
	res := fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "the key secret://key", "tried: publickey", "accepts: publickey", "authorized_keys")
	if res.Retriable {
		t.Error("to try again is no help")
	}
}

func TestSSHAgent(t *testing.T) {
	t.Parallel()
	s := sshd.Start(t, sshd.Options{})
	f, dir := files(t, s)
	c := &f.Target.Config.SSH.SSHHop
	c.PrivateKeyRef, c.Agent = "", true
	socket, key := filepath.Join(dir, "agent"), filepath.Join(dir, "id")
	f.Executor = ssh.New(ssh.Options{AuthSock: socket})
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "ssh-agent", "does not answer")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
	added := make(chan struct{})
	when(t, socket, func() { close(added) })
	<-added
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "holds no key", "ssh-add")
	if err := os.WriteFile(key, []byte(s.Key), 0o600); err != nil {
		t.Fatal(err)
	}
	add := exec.Command("ssh-add", key)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	inspects(t, f)
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]string{
		"password":             "KbdInteractiveAuthentication no\nPubkeyAuthentication no\n",
		"keyboard-interactive": "PasswordAuthentication no\nPubkeyAuthentication no\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sshd.Contain(t, sshd.Options{Config: config})
			f, _ := files(t, s)
			c := &f.Target.Config.SSH.SSHHop
			fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "did not let app log in", "none of it was tried", "accepts: "+name)
			c.PrivateKeyRef, c.PasswordRef = "", "secret://password"
			f.Credentials = &api.Credentials{Secrets: map[string]string{"password": sshd.Password}}
			inspects(t, f)
			f.Credentials = &api.Credentials{Secrets: map[string]string{"password": "guess-again"}}
			fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "did not let app log in", "tried: "+name)
		})
	}
}

func TestJumps(t *testing.T) {
	t.Parallel()
	var servers []*sshd.Server
	f := &executortest.Fixture{}
	secrets := map[string]string{}
	for _, name := range []string{"first", "second", "key"} {
		s := sshd.Start(t, sshd.Options{})
		servers = append(servers, s)
		secrets[name] = s.Key
	}
	f, dir := files(t, servers[2])
	f.Credentials = &api.Credentials{Secrets: secrets}
	first, second := servers[0].Hop(), servers[1].Hop()
	first.PrivateKeyRef, second.PrivateKeyRef = "secret://first", "secret://second"
	f.Target.Config.SSH.Jumps = []api.SSHHop{first, second}
	must(t, f, release("v1"))
	if got := read(t, filepath.Join(dir, "version")); got != "v1" {
		t.Errorf("version is %q", got)
	}
	// Each hop's key is checked.
	second.HostKeys = first.HostKeys
	f.Target.Config.SSH.Jumps = []api.SSHHop{first, second}
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "has changed", servers[1].Address())
	second.HostKeys, second.PrivateKeyRef = servers[1].HostKeys, "secret://first"
	f.Target.Config.SSH.Jumps = []api.SSHHop{first, second}
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "did not let", servers[1].Address(), "through "+servers[0].Address())
	servers[1].Stop()
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "the jump host did not connect", servers[1].Address())
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	s := sshd.Start(t, sshd.Options{})
	f, _ := files(t, s)
	c := f.Target.Config.SSH
	away := func(says ...string) {
		t.Helper()
		if res := fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, says...); !res.Retriable {
			t.Errorf("%s: it may be gone later", res.Error)
		}
	}
	c.Host = "no-such-host.invalid"
	away("cannot be resolved", "no-such-host.invalid")
	c.Host, c.Port = "127.0.0.1", 1
	away("refused the connection")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c.Port, c.ConnectionTimeout = silent.Addr().(*net.TCPAddr).Port, 200 //nolint:errcheck // it is one
	away("did not answer as an SSH server in time", "200ms")
	c.ConnectionTimeout = 0
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_ = conn.Close()
		}
	}()
	away("see that it is an SSH server")
	old := sshd.Start(t, sshd.Options{Config: "KexAlgorithms diffie-hellman-group1-sha1\n"})
	c.SSHHop = old.Hop()
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "key exchange", "diffie-hellman-group1-sha1")
}

// TestKeepAlive: a host that says nothing any more is given up.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	s := sshd.Start(t, sshd.Options{})
	f, dir := files(t, s)
	f.Target.Config.SSH.KeepAliveInterval = 100
	when(t, filepath.Join(dir, "begun"), func() { s.Freeze(syscall.SIGSTOP) })
	p := api.CommandPayload{Command: []string{"sh", "-c", "touch begun; sleep 600"}}
	began := time.Now()
	fails(t, f, api.TaskExecuteCommand, p, api.ErrTargetUnreachable, "3 keep-alives in a row", "may have run")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	s.Freeze(syscall.SIGCONT)
}

func TestScan(t *testing.T) {
	t.Parallel()
	s := sshd.Start(t, sshd.Options{HostKeys: []string{"ed25519", "rsa"}})
	found, err := ssh.Scan(t.Context(), &ssh.ScanRequest{Host: "127.0.0.1", Port: s.Port})
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Keys) != 2 || found.Keys[0].Key != s.HostKeys[0] || found.Keys[1].Key != s.HostKeys[1] ||
		found.Keys[0].Fingerprint != shown(t, s.HostKeys[0]) || found.Keys[1].Type != "ssh-rsa" {
		t.Errorf("%+v, want %v", found, s.HostKeys)
	}
	// Through a jump, whose key is in a file.
	key := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(key, []byte(s.Key), 0o600); err != nil {
		t.Fatal(err)
	}
	jump := s.Hop()
	jump.PrivateKeyRef = "file://" + key
	if found, err = ssh.Scan(t.Context(), &ssh.ScanRequest{Host: "127.0.0.1", Port: s.Port, Jumps: []api.SSHHop{jump}}); err != nil || len(found.Keys) != 2 {
		t.Errorf("%+v, %v", found, err)
	}
	s.Stop()
	for _, req := range []ssh.ScanRequest{{Host: "127.0.0.1", Port: s.Port}, {}, {Host: "a b"}, {Host: "h", Port: 70000}} {
		if found, err := ssh.Scan(t.Context(), &req); err == nil {
			t.Errorf("%+v: %+v", req, found)
		}
	}
	_, err = ssh.Scan(t.Context(), &ssh.ScanRequest{Host: "127.0.0.1", Port: s.Port})
	if err == nil || !strings.Contains(err.Error(), strconv.Itoa(s.Port)+" refused") {
		t.Error(err)
	}
}
