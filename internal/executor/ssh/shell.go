package ssh

import (
	_ "embed"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

// library is what Stella's own scripts are made of.
//
//go:embed remote.sh
var library string

// quote makes one word of any text for a POSIX shell.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}

// whole makes a script that does nothing unless all of it has come: a shell
// runs what it reads line by line, and a connection that is cut in the middle
// of "rm -rf /opt/app/.stella-backup" must not leave "rm -rf /opt/app".
//
// It begins by saying hello, and which process group it is in: sshd makes one
// for each session, and sudo may make another.
func whole(hello, body string) string {
	return `main() {
group=$$
if read -r stat 2>/dev/null </proc/$$/stat; then
set -- ${stat##*) }
group=$3
fi
printf '%s %d\n' ` + quote(hello) + ` "$group"
` + body + `
}
main </dev/null; exit $?
`
}

// variablePattern are the names that a shell can set; others could be set only
// by a program's arguments, where everybody on the host sees the values.
var variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func checkEnvironment(where string, env map[string]string) error {
	for name, value := range env {
		if !variablePattern.MatchString(name) || strings.Contains(value, "\x00") {
			return deploy.Fail(api.ErrInvalidPayload, "%s has a variable that cannot be set on a remote host: %q; use letters, digits and underscores", where, name)
		}
	}
	return nil
}

// checkWords refuses what no argument can hold.
func checkWords(where string, words []string) error {
	for _, w := range words {
		if strings.Contains(w, "\x00") {
			return deploy.Fail(api.ErrInvalidPayload, "%s has a NUL in it, which no program can get", where)
		}
	}
	return nil
}

// exports sets variables; a later map wins.
func exports(vars ...map[string]string) string {
	all := map[string]string{}
	for _, m := range vars {
		maps.Copy(all, m)
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "export %s=%s\n", name, quote(all[name]))
	}
	return b.String()
}

// mark is what the environment of a task's or release's processes has in it.
// The semicolon makes it no part of the mark of another id.
func mark(variable, taskID string) string { return variable + "=" + taskID + ";" }
