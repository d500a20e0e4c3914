package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/hook"
)

var typePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)

// Types returns the types of commands for which there is an executable, in
// their order.
func (r *Runner) Types() []string {
	entries, err := os.ReadDir(r.folder)
	if err != nil {
		return nil // none is what there usually is
	}
	var types []string
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name()))
		if !typePattern.MatchString(name) {
			continue
		}
		if path, err := r.find(name); err == nil && filepath.Base(path) == e.Name() {
			types = append(types, name)
		}
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// errNone is that there is no executable for a type.
var errNone = errors.New("no such executable")

// find returns the executable for a type: a file of its name in the folder, on
// Windows with .exe, .cmd or .bat behind it.
func (r *Runner) find(kind string) (string, error) {
	if !typePattern.MatchString(kind) {
		return "", errNone
	}
	endings := []string{""}
	if runtime.GOOS == "windows" {
		endings = []string{".exe", ".cmd", ".bat"}
	}
	for _, ending := range endings {
		path := filepath.Join(r.folder, kind+ending)
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		return path, usable(path, info)
	}
	return "", errNone
}

// usable refuses what cannot be run, and what anybody on this machine could
// have put there: it runs with the agent's rights.
func usable(path string, info os.FileInfo) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	if info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("%s is not executable: chmod +x it", path)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s can be changed by anybody on this machine, and is not run for that: chmod o-w it", path)
	}
	if folder, err := os.Stat(filepath.Dir(path)); err == nil && folder.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s can be written by anybody on this machine, and nothing in it is run for that: chmod o-w it", filepath.Dir(path))
	}
	return nil
}

// runExecutable runs a type's executable: the command as JSON on its standard
// input, the answer as JSON on its standard output, and its standard error in
// the agent's log. Another exit code than 0 means that the command failed.
func (r *Runner) runExecutable(ctx context.Context, c *api.AgentCommand) (json.RawMessage, error) {
	path, err := r.find(c.Type)
	if errors.Is(err, errNone) {
		return nil, fmt.Errorf("this agent has nothing that handles %q: an executable %s would", c.Type, filepath.Join(r.folder, c.Type))
	} else if err != nil {
		return nil, err
	}
	input, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode the command: %w", err)
	}
	out := &limited{}
	errs := &lastLine{}
	res, err := hook.Run(ctx, hook.Command{
		Argv: []string{path}, Dir: r.folder, Stdin: bytes.NewReader(append(input, '\n')), Stdout: out,
		Env: hook.Environ(map[string]string{"STELLA_COMMAND_ID": c.ID, "STELLA_COMMAND_TYPE": c.Type}),
	}, logTo{ctx, r.log, c, errs})
	switch {
	case out.over:
		return nil, fmt.Errorf("%s answered with more than the %d bytes that are taken", filepath.Base(path), maxResult)
	case err != nil:
		return nil, err
	case res.ExitCode != 0:
		if said := errs.String(); said != "" {
			return nil, fmt.Errorf("%s ended with exit code %d: %s", filepath.Base(path), res.ExitCode, said)
		}
		return nil, fmt.Errorf("%s ended with exit code %d and said nothing on its standard error", filepath.Base(path), res.ExitCode)
	}
	answer := bytes.TrimSpace(out.buf.Bytes())
	if len(answer) == 0 {
		return nil, nil
	}
	if !json.Valid(answer) {
		return nil, fmt.Errorf("%s answered with what is no JSON: it begins with %q", filepath.Base(path), clip(answer))
	}
	return answer, nil
}

func clip(b []byte) string {
	s := strings.ToValidUTF8(string(b[:min(len(b), 60)]), "\uFFFD")
	if len(b) > 60 {
		s += "…"
	}
	return s
}

// limited keeps an answer that is not too long.
type limited struct {
	buf  bytes.Buffer
	over bool
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if l.buf.Len()+len(p) > maxResult {
		l.over = true
		return 0, errors.New("the answer is too long")
	}
	return l.buf.Write(p)
}
