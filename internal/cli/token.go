package cli

import (
	"errors"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) tokenCommand() *cobra.Command {
	return noun("token", "Tokens: of people and scripts, and those that agents register with",
		a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
}

func (a *app) tokenListCommand() *cobra.Command {
	var people bool
	var l listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List registration tokens, or API tokens with --api",
		Example: `  stella token list --filter 'state=usable and expiresAt < +1h'
  stella token list --api --filter 'lastUsedAt < -30d or lastUsedAt=never' --sort lastUsedAt`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			f := client.TokenFilter{Filter: l.filter, Sort: l.sort, Limit: pageSize(l.limit)}
			if people {
				tokens, err := take(c.APITokens(cmd.Context(), f), l.limit)
				if err != nil {
					return err
				}
				list := api.APITokenList{Items: tokens}
				return a.io.Write(a.format, list, func() { a.showAPITokens(list.Items) })
			}
			tokens, err := take(c.RegistrationTokens(cmd.Context(), f), l.limit)
			if err != nil {
				return err
			}
			list := api.RegistrationTokenList{Items: tokens}
			return a.io.Write(a.format, list, func() { a.showRegistrationTokens(list.Items) })
		},
	}
	l.add(cmd.Flags(), 0)
	cmd.Flags().BoolVar(&people, "api", false, "list the API tokens of people and scripts")
	return cmd
}

func (a *app) showRegistrationTokens(tokens []api.RegistrationToken) {
	t := out.NewTable("ID", "STATE", "USES", "EXPIRES", "NAME", "ENVIRONMENT", "GROUP", "CREATED BY", "CREATED")
	for i := range tokens {
		k := &tokens[i]
		t.Row(k.ID, a.tokenState(k.State), outOf(k.Uses, k.MaxUses), out.Ago(k.ExpiresAt, a.now()),
			k.Name, k.Environment, k.Group, k.CreatedBy, out.Ago(k.CreatedAt, a.now()))
	}
	a.io.Table(t, "There are no registration tokens: `stella agent bootstrap` makes one.")
}

func (a *app) showAPITokens(tokens []api.APIToken) {
	t := out.NewTable("ID", "STATE", "NAME", "ROLE", "EXPIRES", "LAST USED", "CREATED BY", "CREATED")
	for i := range tokens {
		k := &tokens[i]
		expires := "never"
		if k.ExpiresAt != nil {
			expires = out.Ago(*k.ExpiresAt, a.now())
		}
		t.Row(k.ID, a.tokenState(k.State), k.Name, string(k.Role), expires, a.ago(k.LastUsedAt), k.CreatedBy, out.Ago(k.CreatedAt, a.now()))
	}
	a.io.Table(t, "There are no API tokens.")
}

func (a *app) tokenState(state string) string {
	if state == "usable" {
		return a.io.OutStyle.Good(state)
	}
	return a.io.OutStyle.Faint(state)
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var req api.APITokenRequest
	var role string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create --role viewer|operator|admin --name NAME",
		Short: "Make an API token for a person or a script",
		Long: `Make an API token for a person or a script. A viewer reads, an operator also
deploys, an admin also decides who may do what. The token is shown once.

For an agent, use ` + "`stella agent bootstrap`" + `.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.Role, req.TTLSeconds = api.Role(role), int(seconds(ttl))
			if ttl < 0 {
				return wrongUse("give one as in --ttl 720h", "--ttl %s is no life for a token", ttl)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			token, err := c.CreateAPIToken(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.io.Write(a.format, token, func() {
				until := "never expires"
				if token.ExpiresAt != nil {
					until = "expires " + token.ExpiresAt.UTC().Format(time.RFC3339)
				}
				a.io.Notef("Token of role %s for %s; it %s, and is shown only now:", token.Role, token.Name, until)
				a.io.Println(token.Token)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&role, "role", "", "viewer, operator or admin")
	flags.StringVar(&req.Name, "name", "", "whom it is for")
	flags.DurationVar(&ttl, "ttl", 0, "how long it can be used; for ever when left out")
	required(cmd, "role", "name")
	complete(cmd, "role", fixed("viewer", "operator", "admin"))
	return cmd
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID…",
		Short: "End registration tokens or API tokens at once",
		Args:  args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			for _, id := range ids {
				if err := revokeToken(cmd, c, id); err != nil {
					return err
				}
				a.io.Notef("token %s is revoked", id)
			}
			return nil
		},
	}
}

// revokeToken does not ask of which sort the token is: ids are unique.
func revokeToken(cmd *cobra.Command, c *client.Client, id string) error {
	err := c.RevokeRegistrationToken(cmd.Context(), id)
	if p, ok := errors.AsType[*api.Problem](err); !ok || p.Status != http.StatusNotFound {
		return err
	}
	err = c.RevokeAPIToken(cmd.Context(), id)
	if p, ok := errors.AsType[*api.Problem](err); ok && p.Status == http.StatusNotFound {
		return &Error{
			Code: exitNotFound, What: "there is no token with the id " + id,
			Next: "`stella token list` and `stella token list --api` show them",
		}
	}
	return err
}
