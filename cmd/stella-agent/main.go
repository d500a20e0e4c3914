// Command stella-agent runs on a host, or beside the hosts that it reaches,
// and does there what its server says.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/config"
	"stella-ops.org/stella/internal/daemon"
	"stella-ops.org/stella/internal/obs"
)

// verb is one of the things that the program does.
type verb struct {
	name  string
	about string
	flags []string // those of no other's business, beside those of the configuration
	words []string // what may stand behind it, if anything may
	run   func(ctx context.Context, c *call) error
}

// verbs are all of them. The first is the one without a name: --register.
var verbs = []verb{
	{name: "", about: "register this host unless it is registered, then run", flags: tokenFlags, run: registerAndRun},
	{name: "register", about: "register this host unless it is registered, and end", flags: slices.Concat(tokenFlags, []string{"register-timeout"}), run: register},
	{name: "run", about: "run from what is registered", run: run},
	{name: "status", about: "say how the agent that runs here is; exit code 1 when it is not connected", flags: []string{"wait", "output"}, run: status},
	{name: "health", about: "say in one line whether it is well, for health checks of containers", run: health},
	{name: "unit", about: "print the service manager's unit for this program", words: []string{"systemd", "openrc"}, run: unit},
	{name: "version", about: "say which version this is", run: version},
}

// tokenFlags belong to the verbs that register.
var tokenFlags = []string{"register", "token", "token-file"}

// call is what the program was called with.
type call struct {
	flags    *pflag.FlagSet
	agent    agent.Agent
	register bool
	options  options
	word     string // behind the verb; empty when there is none
	out      io.Writer
}

// errSaid ends the program with exit code 1 when all is said already.
var errSaid = errors.New("it was said")

func main() {
	err := execute(os.Args[1:], os.Stdout)
	if err == nil {
		return
	}
	if !errors.Is(err, errSaid) {
		fmt.Fprintln(os.Stderr, "stella-agent:", err)
		reportFailure(err)
	}
	os.Exit(exitCode(err))
}

// execute does what the arguments say, and writes to out what was asked for.
func execute(args []string, out io.Writer) error {
	c := &call{flags: pflag.NewFlagSet("stella-agent", pflag.ContinueOnError), out: out}
	config.Flags(c.flags, &c.agent.Config)
	c.flags.BoolVar(&c.register, "register", false, "register this host first, unless it is registered")
	c.options.add(c.flags)
	c.flags.Usage = func() { fmt.Fprint(os.Stderr, usage()+c.flags.FlagUsages()) }
	if err := c.flags.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	v, err := c.verb()
	if err != nil {
		return err
	}
	ctx, stop := daemon.SignalContext(context.Background())
	defer stop()
	return v.run(ctx, c)
}

// verb is the one that was asked for. Words that are not expected may be a token,
// and are not repeated.
func (c *call) verb() (*verb, error) {
	name := c.flags.Arg(0)
	if name == "" && !c.register {
		c.flags.Usage()
		return nil, errors.New("say what to do: " + strings.Join(names(), ", "))
	}
	i := slices.IndexFunc(verbs, func(v verb) bool { return v.name == name })
	if i < 0 {
		return nil, errors.New("the word given is no command: use --register, " + strings.Join(names(), ", ") + ", one of them; " + fromWhere)
	}
	v := &verbs[i]
	c.word = c.flags.Arg(1)
	if c.flags.NArg() > 2 || c.word != "" && !slices.Contains(v.words, c.word) {
		next := "nothing stands behind it but flags"
		if len(v.words) > 0 {
			next = "use one of " + strings.Join(v.words, ", ")
		}
		return nil, fmt.Errorf("there are words behind %q that do not belong there: %s; %s", v.name, next, fromWhere)
	}
	var wrong []string
	c.flags.Visit(func(f *pflag.Flag) {
		of := func(v verb) bool { return slices.Contains(v.flags, f.Name) }
		if slices.ContainsFunc(verbs, of) && !of(*v) {
			wrong = append(wrong, "--"+f.Name)
		}
	})
	if len(wrong) > 0 {
		return nil, fmt.Errorf("%q takes no %s: `stella-agent --help` tells which command does", v.name, strings.Join(wrong, ", "))
	}
	return v, nil
}

// names lists the verbs as they are typed.
func names() []string {
	var all []string
	for _, v := range verbs[1:] {
		all = append(all, v.name)
	}
	return all
}

func usage() string {
	var b strings.Builder
	b.WriteString("Stella's agent.\n\n")
	for _, v := range verbs {
		line := "stella-agent " + v.name
		if v.name == "" {
			line += "--register"
		}
		if len(v.words) > 0 {
			line += " " + strings.Join(v.words, "|")
		}
		fmt.Fprintf(&b, "  %-32s %s\n", line, v.about)
	}
	b.WriteString("\n" + registerHelp + "\n")
	return b.String()
}

// machineClock is the machine's clock when it is not the real one, in a build for
// tests (testclock.go).
var machineClock func() time.Time

// configure loads the configuration and begins the log.
func (c *call) configure() error {
	if err := config.Load(c.flags, &c.agent.Config, os.Getenv); err != nil {
		return err
	}
	c.agent.Clock = machineClock
	c.agent.Log = obs.NewLogger(os.Stderr, c.agent.Config.LogFormat, c.agent.Config.LogLevel)
	return nil
}

// run is the verb that runs the agent.
func run(ctx context.Context, c *call) error {
	if err := c.configure(); err != nil {
		return err
	}
	return serve(ctx, &c.agent)
}

func version(_ context.Context, c *call) error {
	fmt.Fprintln(c.out, obs.BuildVersion())
	return nil
}
