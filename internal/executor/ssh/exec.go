package ssh

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

const (
	// outputGrace is how long output is still read after a program has ended,
	// when something that it started keeps its output open.
	outputGrace = 2 * time.Second
	// helloTimeout is how long a host may take to start a shell.
	helloTimeout = 60 * time.Second
)

// become is the user that a shell runs as; the zero value is who logged in.
type become struct {
	user     string
	password string
	// mark is a variable in the shell's environment, by which it is found again
	// when the connection that it came by is gone: NAME=value.
	mark string
}

// shell is a shell on the host that reads a script from its stdin. The library's
// own Session is not used: it waits for the output of whatever the program left
// running, and there is no telling when the program itself has ended.
type shell struct {
	link    *link
	channel ssh.Channel
	ended   chan struct{} // closed when exit is known, or never will be
	exit    exit
	stdout  *bufio.Reader // behind the hello
	stderr  chan struct{} // closed at its end
	gate    gate          // what stderr is written through
	group   int           // the process group of the shell and what it starts
}

// exit is how a program ended.
type exit struct {
	known  bool
	code   int
	signal string
}

// open starts a shell on the host and gives it a script, which begins when the
// shell has said hello. errOut gets its stderr. ctx bounds only the start.
func (l *link) open(ctx context.Context, as become, script string, errOut io.Writer) (*shell, error) {
	channel, requests, err := l.OpenChannel("session", nil)
	if err != nil {
		return nil, l.broken(err, "open a session")
	}
	s := &shell{link: l, channel: channel, ended: make(chan struct{}), stderr: make(chan struct{})}
	go s.watch(requests)
	said := &tail{}
	s.gate.w = io.MultiWriter(said, errOut)
	go func() {
		defer close(s.stderr)
		_, _ = io.Copy(&s.gate, channel.Stderr())
	}()
	hello := "stella-" + rand.Text()
	// Closing the channel ends what blocks below.
	limited, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	defer context.AfterFunc(limited, func() { _ = channel.Close() })()
	fail := func(err error) (*shell, error) {
		defer s.close()
		select {
		case <-s.stderr: // all that was said of the reason
		case <-limited.Done():
		}
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case !l.alive():
			return nil, l.lost()
		}
		return nil, as.refused(said.String(), err)
	}
	ok, err := channel.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{as.command(hello)}))
	if err == nil && !ok {
		err = errors.New("the server does not let this user run commands")
	}
	if err != nil {
		return fail(err)
	}
	if err := s.begin(as, hello, script); err != nil {
		return fail(err)
	}
	return s, nil
}

// command is the command line: the same for every script, and fit for any login
// shell. With a password, sudo reads it from stdin, and may or may not need it:
// what it left is passed over up to a line that is known.
func (as become) command(hello string) string {
	sh := "env " + quote(as.mark) + " sh "
	switch {
	case as.user == "":
		return "exec " + sh + "-s"
	case as.password == "":
		return "exec sudo -n -H -u " + quote(as.user) + " -- " + sh + "-s"
	}
	return "exec sudo -S -H -p '' -u " + quote(as.user) + " -- " + sh +
		"-c 'echo " + hello + "; while IFS= read -r l; do [ \"$l\" = " + hello + " ] && break; done; exec sh -s'"
}

// begin sends the script and reads up to its hello; what a login shell's
// profile has to say comes before, and is passed over.
func (s *shell) begin(as become, hello, script string) error {
	s.stdout = bufio.NewReader(s.channel)
	text := whole(hello, script)
	if as.password != "" {
		if _, err := io.WriteString(s.channel, as.password+"\n"); err != nil {
			return err
		}
		// The script is for the shell: until sudo has let it in, it would be
		// taken for more passwords.
		if _, err := s.await(hello); err != nil {
			return err
		}
		text = hello + "\n" + text
	}
	// Whether all of it was sent, the hello says, and nothing else does: a short
	// script may have ended, and its session with it, before this has.
	go func() {
		if _, err := io.WriteString(s.channel, text); err == nil {
			_ = s.channel.CloseWrite()
		}
	}()
	group, err := s.await(hello + " ")
	if err != nil {
		return err
	}
	if s.group, err = strconv.Atoi(group); err != nil {
		return fmt.Errorf("the shell said no number of its process group: %q", group)
	}
	return nil
}

// await reads up to a line that begins as said, and returns the rest of it.
func (s *shell) await(prefix string) (string, error) {
	for {
		line, err := s.stdout.ReadSlice('\n')
		if rest, ok := strings.CutPrefix(string(line), prefix); ok {
			return strings.TrimSpace(rest), nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
	}
}

// watch notes how the program ended.
func (s *shell) watch(requests <-chan *ssh.Request) {
	closed := false
	end := func() {
		if !closed {
			closed = true
			close(s.ended)
		}
	}
	defer end()
	for req := range requests {
		switch req.Type {
		case "exit-status":
			var msg struct{ Status uint32 }
			if ssh.Unmarshal(req.Payload, &msg) == nil && !closed {
				s.exit = exit{known: true, code: int(msg.Status)}
				end()
			}
		case "exit-signal":
			var msg struct {
				Signal     string
				CoreDumped bool
				Error      string
				Lang       string
			}
			if ssh.Unmarshal(req.Payload, &msg) == nil && !closed {
				s.exit = exit{known: true, code: -1, signal: msg.Signal}
				end()
			}
		}
		if req.WantReply {
			_ = req.Reply(false, nil)
		}
	}
}

// wait copies stdout to out and returns how the program ended. cut says that
// something it left running still held its output open. When ctx ends first,
// kill is called, and its output is read for a moment longer.
func (s *shell) wait(ctx context.Context, out io.Writer, kill func()) (e exit, cut bool, err error) {
	copied := make(chan struct{})
	through := &gate{w: out}
	go func() {
		defer close(copied)
		_, _ = io.Copy(through, s.stdout)
		<-s.stderr
	}()
	defer s.close()
	defer through.shut()
	select {
	case <-s.ended:
	case <-ctx.Done():
		kill()
		return exit{}, false, context.Cause(ctx)
	}
	if !s.exit.known {
		return exit{}, false, s.link.broken(errors.New("the session was closed"), "run a command")
	}
	grace := time.NewTimer(outputGrace)
	defer grace.Stop()
	select {
	case <-copied:
		return s.exit, false, nil
	case <-grace.C:
		return s.exit, true, nil
	case <-ctx.Done():
		kill()
		return exit{}, false, context.Cause(ctx)
	}
}

func (s *shell) close() {
	s.gate.shut()
	_ = s.channel.Close()
}

// gate lets nothing through once it is shut: what still comes of a session that
// is no longer waited for must not reach a writer that somebody else uses now.
type gate struct {
	mu   sync.Mutex
	w    io.Writer
	done bool
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done {
		return len(p), nil
	}
	return g.w.Write(p)
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = true
}

// doneSoon ends when the link has, or after a moment: a session's end is often
// seen a little before that of the connection which is the reason.
func (l *link) doneSoon() <-chan struct{} {
	soon := make(chan struct{})
	go func() {
		defer close(soon)
		select {
		case <-l.done:
		case <-time.After(300 * time.Millisecond):
		}
	}()
	return soon
}

// broken is the error of a request that the connection did not carry.
func (l *link) broken(err error, what string) error {
	<-l.doneSoon()
	if !l.alive() {
		return l.lost()
	}
	return deploy.Fail(api.ErrTargetUnreachable, "%s on %s: %w", what, l.RemoteAddr(), err).Retry()
}

// refused is why there is no shell.
func (as become) refused(said string, err error) error {
	said = lastLine(said)
	if as.user != "" && (strings.Contains(said, "sudo") || strings.Contains(said, "password") || said == "") {
		next := "let the user run sh as " + as.user + " without a password, or give the target a sudoPasswordRef"
		if as.password != "" {
			next = "see that the password is right, and that the user may run sh as " + as.user
		}
		return deploy.Fail(api.ErrTargetUnreachable, "sudo refused to run a shell as %s (%s): %s", as.user, orNothing(said), next)
	}
	if said == "" {
		said = err.Error()
	}
	return deploy.Fail(api.ErrTargetUnreachable, "the host lets the user log in, and gives no shell: %s; Stella needs a POSIX sh there", said)
}

// tail keeps the end of what is written to it. It is safe for use by several
// goroutines.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.buf), "\uFFFD")
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

func (e exit) String() string {
	if e.signal != "" {
		return "was ended by the signal " + e.signal
	}
	return "ended with exit code " + strconv.Itoa(e.code)
}
