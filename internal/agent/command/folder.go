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
	"syscall"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/hook"
)

var typePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)

// maxTypes bounds how many types an agent declares: the server takes 256
// capabilities of it, and targets need some.
const maxTypes = 128

// Types returns the types of commands for which there is an executable that
// can be run, in their order. Those that the agent can do itself are none of
// them: it would never run their executables.
func (r *Runner) Types() []string {
	entries, err := os.ReadDir(r.folder)
	if err != nil {
		return nil // none is what there usually is
	}
	var types []string
	for _, e := range entries {
		kind := e.Name()
		if ending := strings.ToLower(filepath.Ext(kind)); slices.Contains(endings, ending) {
			kind = kind[:len(kind)-len(ending)]
		}
		if path, err := r.find(kind); err == nil && filepath.Base(path) == e.Name() && r.builtins[kind] == nil {
			types = append(types, kind)
		}
	}
	slices.Sort(types)
	types = slices.Compact(types)
	if len(types) > maxTypes {
		r.log.Warn("there are more executables for commands than an agent can offer; the last are left out", "folder", r.folder, "most", maxTypes)
		types = types[:maxTypes]
	}
	return types
}

// endings are what an executable's name may have behind its type.
var endings = func() []string {
	if runtime.GOOS == "windows" {
		return []string{".exe", ".cmd", ".bat"}
	}
	return []string{""}
}()

// errNone is that there is no executable for a type.
var errNone = errors.New("no such executable")

// find returns the executable for a type: a file of its name in the folder, on
// Windows with .exe, .cmd or .bat behind it.
func (r *Runner) find(kind string) (string, error) {
	if !typePattern.MatchString(kind) {
		return "", errNone
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

// An executable that is being written, or was a moment ago, is tried again for
// so long.
const (
	writtenTries = 40
	writtenWait  = 50 * time.Millisecond
)

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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &limited{full: cancel}
	errs := &lastLine{}
	run := func() (hook.Result, error) {
		return hook.Run(ctx, hook.Command{
			Argv: []string{path}, Dir: r.folder, Stdin: bytes.NewReader(append(input, '\n')), Stdout: out,
			Env: hook.Environ(map[string]string{"STELLA_COMMAND_ID": c.ID, "STELLA_COMMAND_TYPE": c.Type}),
		}, logTo{ctx, r.log, c, errs})
	}
	res, err := run()
	for tries := 0; errors.Is(err, syscall.ETXTBSY) && tries < writtenTries; tries++ {
		select {
		case <-ctx.Done():
		case <-time.After(writtenWait):
		}
		res, err = run()
	}
	switch {
	case out.over:
		return nil, fmt.Errorf("%s answered with more than the %d bytes that are taken", filepath.Base(path), MaxResult)
	case errors.Is(err, syscall.ENOEXEC):
		return nil, fmt.Errorf("%s is no program for this machine; a script begins with a line as in #!/bin/sh", path)
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%s cannot be started: the program that its first line names is not there", path)
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

// limited keeps an answer that is not too long; a longer one ends the
// executable with all that it started.
type limited struct {
	buf  bytes.Buffer
	over bool
	full context.CancelCauseFunc
}

var errTooLong = errors.New("the answer is too long")

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if l.buf.Len()+len(p) > MaxResult {
		l.over = true
		l.full(errTooLong)
		return 0, errTooLong
	}
	return l.buf.Write(p)
}
