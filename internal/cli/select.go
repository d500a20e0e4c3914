package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

// terms reads key=value,label.key=value, joined by commas or by the word and.
// The values go where fields has a place for their keys, and the labels are
// returned. A key that comes twice is refused: only one of the two would count.
func terms(of, text string, fields map[string]*string) (labels map[string]string, err error) {
	for term := range strings.SplitSeq(strings.ReplaceAll(text, " and ", ","), ",") {
		term = strings.TrimSpace(term)
		key, value, ok := strings.Cut(term, "=")
		if !ok || value == "" {
			return nil, fmt.Errorf("%q is no part of a selector", term)
		}
		place, isField := fields[key]
		label, isLabel := strings.CutPrefix(key, "label.")
		switch {
		case isField && *place == "":
			*place = value
		case !isField && (!isLabel || label == ""):
			return nil, fmt.Errorf("%q is nothing to select %s by", key, of)
		case isField || labels[label] != "":
			return nil, fmt.Errorf("%q is there twice", key)
		default:
			if labels == nil {
				labels = map[string]string{}
			}
			labels[label] = value
		}
	}
	return labels, nil
}

// selector is a flag that picks targets by what they are.
type selector struct {
	api.TargetSelector
	text string
}

// String returns what was given.
func (s *selector) String() string { return s.text }

// Type is how help names the value.
func (s *selector) Type() string { return "selector" }

// Set takes terms, as in env=production,label.tier=web.
func (s *selector) Set(text string) error {
	if s.text != "" {
		return errors.New("give it once: its terms are joined by a comma")
	}
	var picked api.TargetSelector
	labels, err := terms("targets", text, map[string]*string{
		"kind": &picked.Kind, "env": &picked.Environment, "environment": &picked.Environment,
	})
	if err != nil {
		return fmt.Errorf("%w: write it as in env=production,kind=docker,label.tier=web", err)
	}
	picked.Labels = labels
	s.TargetSelector, s.text = picked, text
	return nil
}

// scope is which targets a command is for: the one that its first argument
// names, or all that --select picks.
type scope struct {
	selector selector
	yes      bool
	// found are those that match; empty when a target is named.
	found []api.Target
	// quiet says that something else lists them.
	quiet bool
}

const selectHelp = `

Instead of TARGET, --select picks all targets that match: by env, kind and
label.KEY, joined by commas or by the word and. They are listed first; more than
one needs a yes, on a terminal or by --yes. Each of several has one line when it
is over, and all of them must succeed for an exit code of 0.`

func (s *scope) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var(&s.selector, "select", "instead of TARGET: all that match, as in env=production,kind=docker,label.tier=web")
	flags.BoolVarP(&s.yes, "yes", "y", false, "with --select: do not ask, however many match")
}

func (s *scope) many() bool { return s.selector.text != "" }

// args is the check of a command's arguments: one target and no selector, or
// the other way round. What is behind -- is not its concern.
func (s *scope) args(cmd *cobra.Command, names []string) error {
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		names = names[:dash]
	}
	switch {
	case s.many() && len(names) > 0:
		return wrongUse("give one of the two: a target, or --select", "--select picks the targets, and %q names one too", names[0])
	case s.many():
		return nil
	case len(names) == 0:
		return wrongUse("use it as in `"+cmd.UseLine()+"`, or give --select instead of TARGET", "it is not said which target")
	}
	return args(cobra.ExactArgs(1))(cmd, names)
}

// split takes the target, when one is named, off the arguments.
func (s *scope) split(args []string) (target string, rest []string) {
	if s.many() {
		return "", args
	}
	return args[0], args[1:]
}

// find asks which targets the selector picks, and lists them. It does nothing
// when a target is named.
func (a *app) find(ctx context.Context, c *client.Client, s *scope) error {
	if !s.many() {
		return nil
	}
	f := client.TargetFilter{Kind: s.selector.Kind, Environment: s.selector.Environment, Labels: s.selector.Labels}
	list := out.NewTable("NAME", "KIND", "ENVIRONMENT", "REACHED BY")
	for t, err := range c.Targets(ctx, f) {
		if err != nil {
			return err
		}
		s.found = append(s.found, t)
		list.Row(t.Name, t.Kind, t.Environment, reachedBy(&t))
	}
	if len(s.found) == 0 {
		return s.nobody()
	}
	if !s.quiet {
		a.io.NoteTable(list)
	}
	return nil
}

func (s *scope) nobody() error {
	return &Error{
		Code: exitNotFound, What: "no target matches " + s.selector.text,
		Next: "`stella target list` shows those that are there, with their labels",
	}
}

// agree asks whether so many targets are meant. question has a place for how
// many they are.
func (a *app) agree(s *scope, question string) error {
	switch n := len(s.found); {
	case n < 2 || s.yes:
		return nil
	case !a.io.InTTY:
		return wrongUse("give --yes if they are what you mean, or select fewer", "%d targets match, and there is nobody to ask", n)
	default:
		return a.confirm(question, n)
	}
}

// noteChanges says where the targets that the server picked are others than
// those that were listed before.
func (a *app) noteChanges(s *scope, tasks []api.Task) {
	isFor := func(t *api.Target) func(api.Task) bool {
		return func(k api.Task) bool { return k.TargetID == t.ID }
	}
	for i := range s.found {
		if !slices.ContainsFunc(tasks, isFor(&s.found[i])) {
			a.io.Notef("%s does not match any more, and has no task", s.found[i].Name)
		}
	}
	for i := range tasks {
		if !slices.ContainsFunc(s.found, func(t api.Target) bool { return t.ID == tasks[i].TargetID }) {
			a.io.Notef("%s matches since a moment ago, and has a task too", tasks[i].TargetName)
		}
	}
}

// data is what -o json writes of the tasks: a list when they were selected,
// however many they are.
func (s *scope) data(tasks []api.Task) any {
	if s.many() {
		return api.TaskList{Items: tasks}
	}
	return &tasks[0]
}
