package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/atomicfile"
	"stella-ops.org/stella/internal/cli/out"
)

// up is a control plane and an agent that are left running.
type up struct {
	io       *out.IO
	contexts Contexts
	plane    plane
	stop     bool
}

const contextName = "local"

func upCommand(streams *out.IO, contexts Contexts) *cobra.Command {
	u := &up{io: streams, contexts: contexts}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a control plane and an agent on this machine, in the background",
		Long: `Run a control plane and an agent on this machine, in the background. What runs
already is left alone. The context "local" is saved and made current, so that
the other commands find the server. "stella down" stops both; the data stays.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := u.resolve(); err != nil {
				return err
			}
			if u.stop {
				return u.down()
			}
			return u.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&u.plane.dir, "data", "stella-data", "`folder` for the server's data; the agent's is agent/ in it")
	flags.StringVar(&u.plane.listen, "listen", ":8443", "`address` that the server listens on")
	flags.BoolVar(&u.stop, "stop", false, "stop both, like `stella down`")
	return cmd
}

func downCommand(streams *out.IO) *cobra.Command {
	u := &up{io: streams}
	cmd := &cobra.Command{
		Use: "down", Short: "Stop what `stella up` has started; the data stays", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := u.resolve(); err != nil {
				return err
			}
			return u.down()
		},
	}
	cmd.Flags().StringVar(&u.plane.dir, "data", "stella-data", "`folder` of the server's data")
	return cmd
}

func (u *up) resolve() error {
	dir, err := filepath.Abs(u.plane.dir)
	if err != nil {
		return err
	}
	u.plane.dir = dir
	return nil
}

func (u *up) run(ctx context.Context) error {
	var err error
	if u.plane.stella, u.plane.agent, err = programs(); err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(u.plane.listen)
	if err != nil {
		return fmt.Errorf("--listen %s is no address: write it as in :8443", u.plane.listen)
	}
	u.plane.url = "https://localhost:" + port
	if err := os.MkdirAll(u.plane.dir, 0o700); err != nil {
		return err
	}
	c, err := u.server(ctx)
	if err != nil {
		return u.explain(err)
	}
	agent, err := u.agent(ctx, c)
	if err != nil {
		return u.explain(err)
	}
	token, err := u.plane.token()
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(u.plane.caFile())
	if err != nil {
		return err
	}
	if err := u.contexts.SaveContext(contextName, u.plane.url, token, string(ca)); err != nil {
		return err
	}
	good := u.io.ErrStyle.Good("✓")
	u.io.Notef("%s the server is ready at %s", good, u.plane.url)
	u.io.Notef("%s agent %s is online", good, agent.Name)
	u.io.Notef("%s context %s is saved and current", good, contextName)
	u.io.Notef("\nThe data and logs are in %s. Next:\n"+
		"  stella agent list\n  stella target add host hello --agent %s --dir /opt/hello\n  stella down", u.plane.dir, agent.Name)
	return nil
}

// server starts the server unless it runs.
func (u *up) server(ctx context.Context) (*client.Client, error) {
	if u.pid("server") != 0 {
		// It may have been started with another address than is asked for now.
		if url, err := os.ReadFile(u.file("server.url")); err == nil {
			u.plane.url = strings.TrimSpace(string(url))
		}
		return u.plane.awaitServer(ctx, nil)
	}
	p, err := u.plane.startServer(u.file("server.log"))
	if err != nil {
		return nil, err
	}
	if err := u.note("server", p); err != nil {
		return nil, err
	}
	if err := atomicfile.Write(u.file("server.url"), []byte(u.plane.url+"\n"), 0o600); err != nil {
		return nil, err
	}
	return u.plane.awaitServer(ctx, p)
}

// agent starts the agent unless it runs, and registers it first unless it is
// registered.
func (u *up) agent(ctx context.Context, c *client.Client) (*api.Agent, error) {
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "local"
	}
	if u.pid("agent") != 0 {
		return awaitAgent(ctx, c, nil, name)
	}
	token, err := u.agentToken(ctx, c, name)
	if err != nil {
		return nil, err
	}
	p, err := u.plane.startAgent(u.file("agent.log"), name, token)
	if err != nil {
		return nil, err
	}
	if err := u.note("agent", p); err != nil {
		return nil, err
	}
	return awaitAgent(ctx, c, p, name)
}

// agentToken returns a token to register the agent with; an empty one when it
// has its identity. One that the server knows and that has lost its folder
// takes its identity over.
func (u *up) agentToken(ctx context.Context, c *client.Client, name string) (string, error) {
	req := api.RegistrationTokenRequest{Name: name, TTLSeconds: 300}
	known, err := c.Agent(ctx, name)
	switch files, _ := os.ReadDir(u.plane.agentDir()); { // one that cannot be read is as good as none
	case err == nil && len(files) > 0:
		return "", nil
	case err == nil:
		req.AgentID = known.ID
	case !isNotFound(err):
		return "", err
	}
	t, err := c.CreateRegistrationToken(ctx, req)
	if err != nil {
		return "", err
	}
	return t.Token, nil
}

func isNotFound(err error) bool {
	p, ok := errors.AsType[*api.Problem](err)
	return ok && p.Status == 404
}

func (u *up) explain(err error) error {
	if e, ok := errors.AsType[*processError](err); ok && e.process != nil {
		newShow(u.io).tail(e.process.name, tail(e.process.log, tailLines))
	}
	return err
}

// down stops the agent first, so that it can say good-bye.
func (u *up) down() error {
	stopped := 0
	for _, name := range []string{"agent", "server"} {
		if pid := u.pid(name); pid != 0 {
			endPid(pid, 15*time.Second)
			u.io.Notef("%s the %s is stopped", u.io.ErrStyle.Good("✓"), name)
			stopped++
		}
		if err := os.Remove(u.file(name + ".pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if stopped == 0 {
		u.io.Notef("nothing runs from %s", u.plane.dir)
	}
	return nil
}

func (u *up) file(name string) string { return filepath.Join(u.plane.dir, name) }

func (u *up) note(name string, p *process) error {
	return atomicfile.Write(u.file(name+".pid"), []byte(strconv.Itoa(p.cmd.Process.Pid)+"\n"), 0o600)
}

// pid is that of a process that up has started and that still runs; 0 when
// there is none. A number alone may by now be somebody else's process, so its
// command line must name the folder.
func (u *up) pid(name string) int {
	text, err := os.ReadFile(u.file(name + ".pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 || !alive(pid) || !strings.Contains(commandLine(pid), u.plane.dir) {
		return 0
	}
	return pid
}

func commandLine(pid int) string {
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil {
		return strings.ReplaceAll(string(text), "\x00", " ")
	}
	text, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return ""
	}
	return string(text)
}
