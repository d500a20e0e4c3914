// Package cli is the operator's command line: one file for each noun, whose
// commands turn flags into requests, call the server through package client as
// every other user does, and show the answers.
//
// It knows no database, no agent and no rule of a noun: those are the
// server's. What a user sees is written by its package out.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/internal/cli/demo"
	"stella-ops.org/stella/internal/cli/out"
	"stella-ops.org/stella/internal/daemon"
)

const rootLong = `Stella deploys to your hosts through agents that run there.

Data is written to stdout and all else to stderr. Commands that print data take
-o table|json|yaml; JSON and YAML have the API's own shapes.

Which server, and as whom: --server, --token-file and --ca, or the environment
(STELLA_SERVER, STELLA_TOKEN, STELLA_CA, STELLA_CONTEXT), or a context that
` + "`stella login`" + ` has saved, or a server's data folder on this machine.

Exit codes:
  0    it worked
  1    the operation failed, as when a deployment does, or an agent does not
       acknowledge a command that was waited for
  2    wrong use: a flag, an argument or a value is not right
  3    there is no such thing
  4    not allowed: no token, or one of a role that may not
  5    the server cannot be reached, or cannot answer now
  130  interrupted
` + "`stella exec`" + ` ends with the exit code of the command that it ran, and with 125
when it is Stella that failed.`

// app is what all commands share: streams, environment and the flags of root.
type app struct {
	version string
	io      *out.IO
	getenv  func(string) string
	now     func() time.Time
	// dataDirs are where a server on this machine may keep its data.
	dataDirs []string

	format    out.Format
	server    string
	tokenFile string
	caFile    string
	context   string
}

// New returns the stella command without its server: that is added by the
// program, for the command line knows no server from within.
func New(version string) *cobra.Command {
	return newApp(version, out.System(), os.Getenv).root()
}

func newApp(version string, streams *out.IO, getenv func(string) string) *app {
	a := &app{version: version, io: streams, getenv: getenv, now: time.Now, format: out.FormatTable}
	a.dataDirs = []string{"stella-data", "/var/lib/stella"}
	if dir := getenv("STELLA_DATA"); dir != "" {
		a.dataDirs = append([]string{dir}, a.dataDirs...)
	}
	return a
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:                        "stella",
		Short:                      "Deploy to your hosts through agents that run there",
		Long:                       rootLong,
		Version:                    a.version,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
		Args:                       unknownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.io.In)
	root.SetOut(a.io.Out)
	root.SetErr(a.io.Err)
	root.SetVersionTemplate("stella {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return wrongUse(fmt.Sprintf("`%s --help` shows its flags", cmd.CommandPath()), "%v", err)
	})
	flags := root.PersistentFlags()
	flags.VarP(&a.format, "output", "o", "how to write data")
	flags.StringVar(&a.server, "server", "", "the server's `URL`, as in https://stella.example.com:8443")
	flags.StringVar(&a.tokenFile, "token-file", "", "`file` with the API token; - reads stdin")
	flags.StringVar(&a.caFile, "ca", "", "`file` with the certificate to trust, in PEM")
	flags.StringVar(&a.context, "context", "", "`name` of the saved context to use")
	complete(root, "output", fixed("table", "json", "yaml"))
	complete(root, "context", a.completeContexts)

	group := func(id, title string, commands ...*cobra.Command) {
		root.AddGroup(&cobra.Group{ID: id, Title: title})
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("work", "Deploy and look:",
		a.deployCommand(), a.rolloutCommand(), a.rollbackCommand(), a.execCommand(), a.inventoryCommand(), a.inspectCommand(), a.healthCommand(),
		a.stickerCommand(), a.taskCommand(), a.eventsCommand(), a.composeCommand())
	group("fleet", "Agents and targets:", a.agentCommand(), a.commandCommand(), a.targetCommand(), a.secretCommand(), a.artifactCommand(), a.tokenCommand(), a.auditCommand(), a.caCommand())
	group("self", "This machine:",
		a.loginCommand(), a.contextCommand(), a.whoamiCommand(), a.versionCommand())
	for _, c := range demo.Commands(a.io, saver{a}) {
		if c.Args != nil {
			c.Args = args(c.Args)
		}
		if !c.Hidden {
			c.GroupID = "self"
		}
		root.AddCommand(c)
	}
	return root
}

// unknownCommand is what `stella something` without such a command gets.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := fmt.Sprintf("`%s --help` lists the commands", cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean `%s %s`?", cmd.CommandPath(), near[0])
	}
	return wrongUse(hint, "`%s` has no command %q", cmd.CommandPath(), args[0])
}

// noun is a command that only holds others.
func noun(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: unknownCommand, SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// args wraps cobra's checks of arguments, so that a wrong number is a wrong
// use and says how it is right.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return wrongUse("use it as in `"+cmd.UseLine()+"`", "`%s` does not take %s", cmd.CommandPath(), plural(len(args), "argument"))
		}
		return nil
	}
}

// Execute runs a command until it ends or a signal comes, tells what went
// wrong, and returns the exit code.
func Execute(root *cobra.Command) int {
	ctx, stop := daemon.SignalContext(context.Background())
	defer stop()
	return execute(ctx, root, out.System())
}

func execute(ctx context.Context, root *cobra.Command, streams *out.IO) int {
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if silent, ok := errors.AsType[exitCode](err); ok {
		return int(silent)
	}
	e := explain(err)
	streams.Notef("%s %s", streams.ErrStyle.Bad("error:"), out.Plain(e.What))
	for _, line := range e.Lines {
		streams.Notef("  %s", out.Plain(line))
	}
	if e.Next != "" {
		streams.Notef("%s %s", streams.ErrStyle.Faint("next:"), out.Plain(e.Next))
	}
	return e.Code
}

// complete gives a flag its completion; a flag that is not there is a mistake
// that the first test finds.
func complete(cmd *cobra.Command, flag string, with cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, with); err != nil {
		panic(err)
	}
}

func fixed(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// seconds is a duration as the API takes it; a part of a second counts whole.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// labelMap reads the key=value pairs of --label.
func labelMap(pairs []string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(pairs))
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, wrongUse("write it as in --label key=value", "--label %q is no pair", p)
		}
		m[k] = v
	}
	return m, nil
}

// required makes a command refuse to run without some flags; cobra's own way
// gives an error that cannot be told from others.
func required(cmd *cobra.Command, flags ...string) {
	check := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return err
		}
		for _, name := range flags {
			if !cmd.Flags().Changed(name) {
				return wrongUse("`"+cmd.CommandPath()+" --help` shows its flags", "--%s is missing", name)
			}
		}
		return nil
	}
}
