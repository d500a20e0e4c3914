//go:build linux

// Package sshd starts OpenSSH servers for tests: as plain processes on loopback,
// and in containers that have busybox, sudo and little else. Each has its own
// port, host keys and logins.
//
// It is for tests alone, and knows no executor.
package sshd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/testkit/peers"
)

// Options choose what a server is like.
type Options struct {
	// HostKeys are the types of its keys (ed25519, ecdsa, rsa); ed25519 by
	// default.
	HostKeys []string
	// Config is added before the rest of sshd_config, and wins over it.
	Config string
	// Authorized are more public keys that may log in.
	Authorized []ssh.PublicKey
	// Docker are more flags of docker run, for a container.
	Docker []string
}

// Server is a server that runs. Its folder is the same inside of a container
// and outside.
type Server struct {
	Port   int
	Folder string // anybody may write here
	User   string
	// Key is a private key that may log in, in OpenSSH's format.
	Key string
	// HostKeys are its public keys, as they are pinned.
	HostKeys []string
	// Container is its name; empty for a process.
	Container string

	t      testing.TB
	config string
	mu     sync.Mutex
	proc   *exec.Cmd
}

// Key makes a private key of a type: ed25519, ecdsa or rsa.
func Key(t testing.TB, kind string) any {
	t.Helper()
	var key any
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		t.Fatalf("there are no keys of type %q", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Text is a private key in OpenSSH's format.
func Text(t testing.TB, key any) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

// Public is a key's public half.
func Public(t testing.TB, key any) ssh.PublicKey {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer.PublicKey()
}

// Line is a public key as authorized_keys and a target's host keys have it.
func Line(key ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) }

// Start starts a server as a process of the user that runs the tests, who is
// also the one that may log in. It ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	program := peers.SSHD(t)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if me.Uid == "0" {
		// Where sshd, as root, puts the process that talks to strangers.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { //nolint:gosec // as sshd wants it
			t.Fatal(err)
		}
	}
	s := prepare(t, o, me.Username, "UsePAM no\n")
	s.t.Cleanup(s.Stop)
	s.start(program)
	return s
}

// prepare makes a server's folder.
func prepare(t testing.TB, o Options, login, config string) *Server {
	t.Helper()
	s := &Server{Folder: t.TempDir(), User: login, Port: freePort(t), t: t}
	if err := os.Chmod(s.Folder, 0o777); err != nil { //nolint:gosec // another user in a container writes here
		t.Fatal(err)
	}
	key := Key(t, "ed25519")
	s.Key = Text(t, key)
	var authorized strings.Builder
	for _, k := range append([]ssh.PublicKey{Public(t, key)}, o.Authorized...) {
		authorized.WriteString(Line(k) + "\n")
	}
	write := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(s.Folder, name)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	config = fmt.Sprintf(`%s
%s
Port %d
ListenAddress 127.0.0.1
PidFile none
StrictModes no
PermitRootLogin yes
AuthorizedKeysFile %s
MaxStartups 1000
MaxSessions 1000
# Says to bash that it is not the first shell: the .bashrc of whoever runs the tests is kept out.
SetEnv SHLVL=5
LogLevel VERBOSE
`, o.Config, config, s.Port, write("authorized_keys", authorized.String(), 0o644))
	if !strings.Contains(o.Config, "Subsystem") {
		config += "Subsystem sftp internal-sftp\n"
	}
	if len(o.HostKeys) == 0 {
		o.HostKeys = []string{"ed25519"}
	}
	for _, kind := range o.HostKeys {
		hostKey := Key(t, kind)
		config += "HostKey " + write("host_"+kind, Text(t, hostKey), 0o600) + "\n"
		s.HostKeys = append(s.HostKeys, Line(Public(t, hostKey)))
	}
	s.config = write("sshd_config", config, 0o644)
	return s
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port //nolint:errcheck // it is one
}

// Again starts a server that was stopped, on the same port with the same keys.
func (s *Server) Again() { s.start(peers.SSHD(s.t)) }

func (s *Server) start(program string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	// Its log is a file: a pipe would be held open by what its users leave
	// running, and waiting for its end would be waiting for theirs.
	log, err := os.OpenFile(s.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.proc = exec.Command(program, "-D", "-e", "-f", s.config)
	s.proc.Stderr = log
	if err := s.proc.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.await()
}

func (s *Server) logFile() string { return filepath.Join(s.Folder, "sshd.log") }

// await waits until the server greets.
func (s *Server) await() {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !s.greets() {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(s.logFile())
			s.t.Fatalf("sshd does not answer on port %d: %s", s.Port, log)
		}
		<-tick.C
	}
}

func (s *Server) greets() bool {
	conn, err := net.DialTimeout("tcp", s.Address(), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	greeting := make([]byte, 4)
	_, err = conn.Read(greeting)
	return err == nil && string(greeting) == "SSH-"
}

// Address is where it listens.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// Stop ends a process that listens, and all its connections. What they started
// runs on, as it does on a real host.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return
	}
	sessions := children(s.proc.Process.Pid)
	_ = s.proc.Process.Kill()
	_ = s.proc.Wait()
	s.proc = nil
	killAll(sessions)
}

// Cut ends all connections that there are now; new ones are welcome.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	killAll(children(s.proc.Process.Pid))
}

// Freeze sends a signal (SIGSTOP, SIGCONT) to the processes of all connections:
// a stopped one is like a host that has hung.
func (s *Server) Freeze(signal syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	signalAll(children(s.proc.Process.Pid), signal)
}

func killAll(pids []int) { signalAll(pids, syscall.SIGKILL) }

func signalAll(pids []int, signal syscall.Signal) {
	for _, pid := range pids {
		// The process of a connection has, for other users than root, one more
		// behind it, which is the one that talks.
		for _, below := range children(pid) {
			if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", below)); err == nil && strings.TrimSpace(string(name)) == "sshd" {
				_ = syscall.Kill(below, signal)
			}
		}
		_ = syscall.Kill(pid, signal)
	}
}

// children are the processes that a process has started.
func children(pid int) []int {
	var all []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			all = append(all, child)
		}
	}
	return all
}

// Hop is how to log in to the server with its own key, which is the secret
// "key", and its host keys pinned.
func (s *Server) Hop() api.SSHHop {
	return api.SSHHop{
		Host: "127.0.0.1", Port: s.Port, Username: s.User,
		HostKeys: s.HostKeys, PrivateKeyRef: api.SecretScheme + "key",
	}
}

// Target is a target in a folder of the server.
func (s *Server) Target(dir string) api.AgentTarget {
	return api.AgentTarget{
		Name: "web", Kind: "ssh", Environment: "test",
		Config: api.TargetConfig{Directory: dir, SSH: &api.SSHConfig{SSHHop: s.Hop()}},
	}
}

// Credentials are the secrets that Hop refers to.
func (s *Server) Credentials() *api.Credentials {
	return &api.Credentials{Secrets: map[string]string{"key": s.Key}}
}

// Run runs a command in the server's container, as root, and returns what it
// says.
func (s *Server) Run(argv ...string) string {
	s.t.Helper()
	out, err := docker(context.WithoutCancel(s.t.Context()), append([]string{"exec", "-u", "0", s.Container}, argv...)...)
	if err != nil {
		s.t.Fatalf("%v in the container: %v: %s", argv, err, out)
	}
	return string(out)
}
