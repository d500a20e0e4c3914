package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	problem := func(status int, detail string, fields ...api.ProblemField) error {
		return fmt.Errorf("wrapped: %w", &api.Problem{Status: status, Title: "T", Detail: detail, Errors: fields})
	}
	for _, tc := range []struct {
		err  error
		want Error
	}{
		{problem(404, "there is no x"), Error{Code: 3, What: "there is no x"}},
		{problem(401, "who are you"), Error{Code: 4, What: "who are you", Next: "log in with `stella login`, or give a token by --token-file or STELLA_TOKEN"}},
		{problem(401, "unknown: log in again with `stella login`"), Error{Code: 4, What: "unknown: log in again with `stella login`"}},
		{problem(403, ""), Error{Code: 4, What: "T", Next: "`stella whoami` shows your role; an admin can make another token with `stella token create`"}},
		{problem(409, "it is busy"), Error{Code: 1, What: "it is busy"}},
		{problem(422, "body.name: bad", api.ProblemField{Location: "body.name", Message: "bad"}), Error{Code: 2, What: "name: bad"}},
		{problem(422, "a; b", api.ProblemField{Location: "body.a", Message: "1"}, api.ProblemField{Location: "body.payload.b", Message: "2"}), Error{Code: 2, What: "the request has 2 mistakes", Lines: []string{"a: 1", "b: 2"}}},
		{problem(503, "not now"), Error{Code: 5, What: "not now", Next: "try again in a moment; the server's log tells why it cannot"}},
		{problem(500, "oh"), Error{Code: 1, What: "oh"}},
		{&client.ConnectError{What: "w", Hint: "h"}, Error{Code: 5, What: "w", Next: "h"}},
		{fmt.Errorf("x: %w", context.Canceled), Error{Code: 130, What: "interrupted"}},
		{errors.New("some"), Error{Code: 1, What: "some"}},
		{fmt.Errorf("x: %w", wrongUse("n", "w")), Error{Code: 2, What: "w", Next: "n"}},
	} {
		if diff := cmp.Diff(&tc.want, explain(tc.err), cmpopts.IgnoreFields(Error{}, "Err")); diff != "" {
			t.Errorf("%v: %s", tc.err, diff)
		}
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"frobnicate":                  "has no command \"frobnicate\"",
		"agent lst":                   "did you mean `stella agent list`?",
		"agent list --nope":           "unknown flag: --nope",
		"audit verfy":                 "did you mean `stella audit verify`?",
		"agent list x":                "use it as in `stella agent list",
		"agent show":                  "stella agent show AGENT",
		"agent list -o xml":           "use table, json or yaml",
		"agent list --label x":        "--label key=value",
		"agent delete a":              "give --yes",
		"agent revoke a":              "give --yes",
		"target remove a":             "give --yes",
		"target add docker w":         "which agent reaches w",
		"target add host w --agent a": "give --dir",
		"target add ftp w":            "has no command \"ftp\"",
		"target add docker w --agent-selector zone=a":              "nothing to select agents by",
		"target add docker w --agent-selector x":                   "no part of a selector",
		"target add docker w --agent a --agent-selector group=g":   "which agent reaches w",
		"target add docker w --agent a --dir /x":                   "unknown flag: --dir",
		"token create --name x":                                    "--role is missing",
		"token create --name x --role viewer --ttl -1h":            "no life for a token",
		"agent bootstrap --name a --uses 3":                        "for one agent",
		"rollback w --digest d --release r":                        "both name a version",
		"context use nope --output json --context also-not-there ": "there is no context nope",
		"health w --http http://x --tcp y":                         "one health check",
	} {
		term := newTerminal(t, nil)
		code := term.run(t.Context(), strings.Fields(args)...)
		wantCode := exitUsage
		if strings.HasPrefix(args, "context use") {
			wantCode = exitNotFound
		}
		if code != wantCode || !strings.Contains(term.stderr, want) {
			t.Errorf("%s: %d, %s", args, code, term.stderr)
		}
		if term.stdout != "" {
			t.Errorf("%s writes to stdout: %s", args, term.stdout)
		}
	}
}

// People are asked, and no is no.
func TestConfirm(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.answer("DELETE /api/v1/agents/a", api.Deleted{Deleted: true})
	term := newTerminal(t, f)
	term.tty, term.stdin = true, "\n"
	if code := term.run(t.Context(), "agent", "delete", "a"); code != exitFailed || len(f.asked()) > 0 {
		t.Errorf("told no: %d, %v", code, f.asked())
	}
	term.stdin = "y\n"
	term.must(t, "agent", "delete", "a")
	if !strings.Contains(term.stderr, "Delete a? [y/N] a is deleted") {
		t.Errorf("stderr: %s", term.stderr)
	}
	term.tty, term.stdin = false, ""
	term.must(t, "agent", "delete", "a", "--yes")
}

// A token is of one sort or the other, and whoever revokes it need not know.
func TestRevokeEitherToken(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.answer("DELETE /api/v1/admin/api-tokens/k1", api.Deleted{Deleted: true})
	term := newTerminal(t, f)
	term.must(t, "token", "revoke", "k1")
	if code := term.run(t.Context(), "token", "revoke", "k2"); code != exitNotFound {
		t.Errorf("exit code %d", code)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	term := newTerminal(t, f)
	f.server.Close()
	if code := term.run(t.Context(), "agent", "revoke", "a", "--yes"); code != exitUnavailable || !strings.Contains(term.stderr, "nothing listens at") || !strings.Contains(term.stderr, "next: ") {
		t.Errorf("%d: %s", code, term.stderr)
	}
}

// Every command says what it is for, and each flag too.
func TestHelpIsComplete(t *testing.T) {
	t.Parallel()
	root := New("x")
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no short help", c.CommandPath())
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s has no help", c.CommandPath(), f.Name)
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.answer("GET /api/v1/agents", api.AgentList{Items: []api.Agent{{Name: "prod-01"}, {Name: "prod-02"}, {Name: "test"}}})
	term := newTerminal(t, f)
	term.must(t, "__complete", "agent", "show", "pro")
	if diff := cmp.Diff("prod-01\nprod-02\n:4\n", term.stdout); diff != "" {
		t.Error(diff)
	}
	// Without a server it is silent.
	f.server.Close()
	term.must(t, "__complete", "agent", "show", "pro")
	if diff := cmp.Diff(":4\n", term.stdout); diff != "" {
		t.Error(diff)
	}
}
