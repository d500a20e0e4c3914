package ssh

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/hook"
)

// remote is a target's host as one task sees it. It is used by one goroutine.
type remote struct {
	*Executor
	task   *api.AgentTask
	env    executor.Env
	config *api.SSHConfig
	dir    string

	secrets     *api.Credentials
	credentials func(context.Context) (*api.Credentials, error) // gets them, once; nil when they are there
	session     string                                          // tells this connection's shells from those of others
	link        *link
	gaveUp      bool // a host that is away was waited for in vain
}

// remote looks at what the task says, and connects to nothing yet.
func (e *Executor) remote(task *api.AgentTask, env executor.Env) (*remote, error) {
	if task.Target.Config.SSH == nil {
		return nil, deploy.Fail(api.ErrInvalidPayload, "target %s does not say how its host is reached: config.ssh is missing", task.Target.Name)
	}
	dir, err := directory(task)
	if err != nil {
		return nil, err
	}
	return &remote{Executor: e, task: task, env: env, config: task.Target.Config.SSH, dir: dir, secrets: task.Credentials}, nil
}

// connect makes the connection, or returns the one that there is. A connection
// that is lost is made anew only by insist: the steps of a deployment do not go
// on behind a break.
func (r *remote) connect(ctx context.Context) (*link, error) {
	if r.link != nil {
		if !r.link.alive() {
			return nil, r.link.lost()
		}
		return r.link, nil
	}
	if r.credentials != nil {
		secrets, err := r.credentials(ctx)
		if err != nil {
			return nil, fmt.Errorf("get the credentials of target %s anew from the server: %w", r.task.Target.Name, err)
		}
		r.secrets, r.credentials = secrets, nil
	}
	d := &dialer{credentials: r.secrets, authSock: r.authSock}
	l, err := d.dial(ctx, r.config)
	if err != nil {
		return nil, err
	}
	r.link, r.session = l, rand.Text()
	return l, nil
}

func (r *remote) close() {
	if r.link != nil {
		r.link.end(errors.New("the task is over"))
	}
}

// as is the user that things are done as on the host.
func (r *remote) as() (become, error) {
	as := become{mark: shellMark(r.task.ID, r.session)}
	if !r.config.Sudo {
		return as, nil
	}
	as.user = r.config.SudoUser
	if as.user == "" {
		as.user = "root"
	}
	if ref := r.config.SudoPasswordRef; ref != "" {
		password, ok := r.secrets.Secret(ref)
		if !ok {
			return as, deploy.Fail(api.ErrInvalidPayload, "sudo's password is %s, and no such secret came with the task; see that the server has one of that name", ref)
		}
		as.password = password
	}
	return as, nil
}

func shellMark(taskID, session string) string {
	return "STELLA_SHELL_OF=" + taskID + ";" + session + ";"
}

// script runs a script of Stella's own in the target's folder, and returns what
// it found. The error of one that failed is what it said last.
func (r *remote) script(ctx context.Context, body string) (*found, error) {
	return r.anywhere(ctx, `cd "$dir" || exit`+"\n"+body)
}

// anywhere is script, in no folder: that of the target may not be there.
func (r *remote) anywhere(ctx context.Context, body string) (*found, error) {
	var out bytes.Buffer
	if err := r.stream(ctx, body, &out); err != nil {
		return nil, err
	}
	return parse(out.Bytes())
}

// stream runs a script and writes to out what it writes to stdout.
func (r *remote) stream(ctx context.Context, body string, out io.Writer) error {
	if _, err := r.connect(ctx); err != nil {
		return err
	}
	as, err := r.as()
	if err != nil {
		return err
	}
	return r.streamAs(ctx, as, body, out)
}

// streamAs is stream as a given user.
func (r *remote) streamAs(ctx context.Context, as become, body string, out io.Writer) error {
	l, err := r.connect(ctx)
	if err != nil {
		return err
	}
	said := &tail{}
	s, err := l.open(ctx, as, preamble+"dir="+quote(r.dir)+"\n"+library+"\n"+body, said)
	if err != nil {
		return err
	}
	// Half a script must not go on beside what undoes it.
	e, _, err := s.wait(ctx, out, func() { r.end(ctx, l, as, s.group, "") })
	if err != nil {
		return err
	}
	if e.code != 0 {
		return r.explain(said.String(), e)
	}
	return nil
}

// preamble makes messages English and permissions the usual; $lc and $mask are
// what the host had, for what is started there.
const preamble = "lc=${LC_ALL-} mask=$(umask)\nexport LC_ALL=C\numask 022\n"

// explain makes an error of what a script said before it failed: the line that
// tells most, or the last.
func (r *remote) explain(said string, e exit) error {
	for line := range strings.Lines(said) {
		why := strings.TrimSpace(line)
		switch {
		case strings.Contains(why, "No space left on device"):
			return deploy.Fail(api.ErrSwitchFailed, "the disk of %s is full: %s; make room, then deploy again", r.config.Host, why)
		case strings.Contains(why, "Permission denied"), strings.Contains(why, "Operation not permitted"):
			who, next := r.config.Username, ", or have the target use sudo"
			if r.config.Sudo {
				who, next = "sudo's user", ""
			}
			return deploy.Fail(api.ErrSwitchFailed, "%s may not do that on %s: %s; let it own %s%s", who, r.config.Host, why, r.dir, next)
		}
	}
	why := lastLine(said)
	if why == "" {
		why = "a script of Stella's " + e.String()
	}
	return deploy.Fail(api.ErrSwitchFailed, "on %s: %s", r.config.Host, why)
}

// killGrace is how long what is ended may take to do so by itself, in tenths of
// a second.
const killGrace = 20

// end ends a shell that was cut short with all that it started, over the same
// connection: sshd does not do it. It goes on when ctx has ended.
func (r *remote) end(ctx context.Context, l *link, as become, group int, marked string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	body := fmt.Sprintf("end_group %d '' 0\n", group)
	if marked != "" {
		body = fmt.Sprintf("end_group %d %s %d\n", group, quote(marked), killGrace)
	}
	said := &tail{}
	s, err := l.open(ctx, as, library+"\n"+body, said)
	if err == nil {
		var e exit
		e, _, err = s.wait(ctx, io.Discard, func() {})
		if err == nil && e.code != 0 {
			err = errors.New(lastLine(said.String()))
		}
	}
	if err != nil {
		r.env.Log.Line("system", fmt.Sprintf("what was cut short on %s could not be ended: %v", r.config.Host, err))
	}
}

// found is what a script has printed.
type found struct {
	values map[string]string
	files  map[string][]byte
	lines  []string
}

func parse(out []byte) (*found, error) {
	f := &found{values: map[string]string{}, files: map[string][]byte{}}
	in := bufio.NewReader(bytes.NewReader(out))
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		name, rest, _ := strings.Cut(strings.TrimSuffix(line[min(1, len(line)):], "\n"), " ")
		switch line[0] {
		case '=':
			f.values[name] = rest
		case '>':
			f.lines = append(f.lines, strings.ToValidUTF8(strings.TrimRight(line[1:], "\r\n"), "\uFFFD"))
		case '@':
			size, err := strconv.Atoi(rest)
			if err != nil || size < 0 || size > len(out) {
				return nil, fmt.Errorf("a script on the host printed %q", line)
			}
			data := make([]byte, size+1)
			if _, err := io.ReadFull(in, data); err != nil {
				return nil, fmt.Errorf("a script on the host printed less than it said: %w", err)
			}
			f.files[name] = data[:size]
		}
	}
}

// insist does something that must be done, though the host may be away: it
// waits, connects anew, and tries again until it succeeds, fails for good, ctx
// ends, or patience does. It ends first what earlier connections of the task
// left running on the host.
func (r *remote) insist(ctx context.Context, patience time.Duration, do func(context.Context) error) error {
	if r.gaveUp {
		patience = 0 // another step has waited already
	}
	deadline := time.Now().Add(min(patience, r.patience))
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := r.again(ctx)
		if err == nil {
			err = do(ctx)
		}
		if err == nil || !isAway(err) {
			return err
		}
		if time.Now().Add(pause).After(deadline) {
			r.gaveUp = true
			return err
		}
		r.env.Log.Line("system", fmt.Sprintf("%v; trying again in %v", err, pause))
		select {
		case <-ctx.Done():
			r.gaveUp = true
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// again connects where there is no connection any more.
func (r *remote) again(ctx context.Context) error {
	if r.link != nil && r.link.alive() {
		return nil
	}
	r.link = nil
	if _, err := r.connect(ctx); err != nil {
		return err
	}
	_, err := r.anywhere(ctx, "end_shells "+quote(r.task.ID)+" "+quote(r.session)+"\n")
	return err
}

// isAway says whether an error is that the host could not be reached, which may
// be gone later.
func isAway(err error) bool {
	var e *deploy.Error
	return errors.As(err, &e) && e.Type == api.ErrTargetUnreachable && e.Retriable
}

// endHooks ends what hooks, scripts and commands of the task left running, as
// part of a script.
func (r *remote) endHooks() string {
	return "end_marked " + quote(mark(hook.OfTask, r.task.ID)) + " 0\n"
}
