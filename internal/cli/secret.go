package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) secretCommand() *cobra.Command {
	return noun("secret", "Secrets: named values that targets and tasks refer to",
		a.secretSetCommand(), a.secretListCommand(), a.secretShowCommand(), a.secretRemoveCommand())
}

func (a *app) secretSetCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Give a secret a value, and make it if there is none of that name",
		Long: `Give a secret a value, and make it if there is none of that name.

The value comes from a file, from standard input, or is asked for on a terminal:
never from an argument, which other users of the machine can see. A line end
behind a value of one line is left out; a value of several lines, such as a key,
is kept as it is.

Targets and tasks refer to it as secret://NAME. What is handed to an agent from
now on is the new value. Nobody can read it back.`,
		Example: `  stella secret set web-ssh-key --file ~/.ssh/deploy
  pass show db | stella secret set db-password
  stella deploy web --image nginx:1.27 -e DB_PASSWORD=secret://db-password`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			name := strings.TrimPrefix(names[0], api.SecretScheme)
			value, err := a.readValue(name, file)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			s, err := c.SetSecret(cmd.Context(), name, value)
			if err != nil {
				return err
			}
			return a.io.Write(a.format, s, func() {
				if s.Version == 1 {
					a.io.Notef("secret %s is kept; refer to it as %s%s", s.Name, api.SecretScheme, s.Name)
				} else {
					a.io.Notef("secret %s has a new value, its %s", s.Name, ordinal(s.Version))
				}
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "the `file` that holds the value; standard input when left out")
	return cmd
}

func ordinal(n int64) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return strconv.FormatInt(n, 10) + suffix
}

// maxSecret is what the server takes, in bytes.
const maxSecret = 64 << 10

// readValue reads a secret's value from where the user has it.
func (a *app) readValue(name, file string) (string, error) {
	source := a.io.In
	switch {
	case file != "" && file != "-":
		f, err := os.Open(file)
		if err != nil {
			return "", wrongUse("", "%v", err)
		}
		defer f.Close()
		source = f
	case a.io.InTTY:
		value, err := a.io.ReadSecret("Value of " + name + ": ")
		if err != nil {
			return "", fmt.Errorf("read the value of %s: %w", name, err)
		}
		return checkedValue(value)
	}
	data, err := io.ReadAll(io.LimitReader(source, maxSecret+3))
	if err != nil {
		return "", fmt.Errorf("read the value of %s: %w", name, err)
	}
	value := string(data)
	if line := strings.TrimSuffix(strings.TrimSuffix(value, "\n"), "\r"); !strings.Contains(line, "\n") {
		value = line
	}
	return checkedValue(value)
}

func checkedValue(value string) (string, error) {
	if value == "" {
		return "", wrongUse("write it to standard input, or give --file", "the value is empty")
	}
	if len(value) > maxSecret {
		return "", wrongUse("keep what is large as an artifact or on the target", "the value is larger than the %s that a secret holds", out.Bytes(maxSecret))
	}
	return value, nil
}

func (a *app) secretListCommand() *cobra.Command {
	var l listFlags
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List secrets, without their values",
		Example: `  stella secret list --filter 'updatedAt < -90d'`,
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			f := client.SecretFilter{Filter: l.filter, Sort: l.sort, Limit: pageSize(l.limit)}
			secrets, err := take(c.Secrets(cmd.Context(), f), l.limit)
			if err != nil {
				return err
			}
			list := api.SecretList{Items: secrets}
			return a.io.Write(a.format, list, func() {
				t := out.NewTable("NAME", "VERSION", "SET", "BY", "MADE", "MADE BY")
				for i := range list.Items {
					s := &list.Items[i]
					t.Row(s.Name, strconv.FormatInt(s.Version, 10), out.Ago(s.UpdatedAt, a.now()), s.UpdatedBy, out.Ago(s.CreatedAt, a.now()), s.CreatedBy)
				}
				a.io.Table(t, "There are no secrets: `stella secret set NAME` makes one.")
			})
		},
	}
	l.add(cmd.Flags(), 0)
	return cmd
}

func (a *app) secretShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show what is known of a secret: who set it, and what refers to it",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeSecrets(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			s, err := c.Secret(cmd.Context(), strings.TrimPrefix(names[0], api.SecretScheme))
			if err != nil {
				return err
			}
			return a.io.Write(a.format, s, func() {
				a.io.Pairs(
					[2]string{"Name", a.io.OutStyle.Bold(s.Name)},
					[2]string{"Reference", api.SecretScheme + s.Name},
					[2]string{"Version", strconv.FormatInt(s.Version, 10)},
					[2]string{"Set", out.Ago(s.UpdatedAt, a.now()) + " by " + s.UpdatedBy},
					[2]string{"Made", out.Ago(s.CreatedAt, a.now()) + " by " + s.CreatedBy},
					[2]string{"Targets", strings.Join(s.UsedBy, ", ")},
				)
			})
		},
	}
}

func (a *app) secretRemoveCommand() *cobra.Command {
	var yes, force bool
	cmd := &cobra.Command{
		Use:               "remove NAME…",
		Short:             "Remove secrets",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeSecrets(0),
		RunE: func(cmd *cobra.Command, names []string) error {
			if !yes {
				if err := a.confirm("Remove %s?", strings.Join(names, ", ")); err != nil {
					return err
				}
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			for _, name := range names {
				name = strings.TrimPrefix(name, api.SecretScheme)
				if err := c.DeleteSecret(cmd.Context(), name, force); err != nil {
					return err
				}
				a.io.Notef("secret %s is removed", name)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "also while targets refer to it")
	return cmd
}
