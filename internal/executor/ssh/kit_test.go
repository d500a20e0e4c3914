//go:build linux

package ssh_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/executor/ssh"
	"stella-ops.org/stella/internal/testkit/sshd"
)

// files is a target in an existing folder of the server, whose releases are
// files alone.
func files(t *testing.T, s *sshd.Server) (f *executortest.Fixture, dir string) {
	t.Helper()
	dir = folder(t, s)
	return &executortest.Fixture{
		Executor: ssh.New(ssh.Options{Patience: 10 * time.Second}), TargetID: "target",
		Target: s.Target(dir), Credentials: s.Credentials(),
		Leftovers: func() []string { return leftovers(dir) },
		Running:   func() string { return read(t, filepath.Join(dir, "version")) },
	}, dir
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

func release(version string, more ...api.ArtifactReference) api.DeployPayload {
	return api.DeployPayload{
		Artifacts: append([]api.ArtifactReference{{Name: "version", Content: []byte(version)}}, more...),
		Config:    api.DeployConfig{ReleaseID: version},
	}
}

func script(body string) api.ArtifactReference {
	return api.ArtifactReference{Name: "deploy.sh", Type: "deploy_script", Content: []byte("#!/bin/sh\n" + body)}
}

func sh(text string) *api.Hook { return &api.Hook{Command: []string{"sh", "-c", text}} }

// must deploys something that works.
func must(t *testing.T, f *executortest.Fixture, p api.DeployPayload) {
	t.Helper()
	if res, log := executortest.Single(t, f, api.TaskDeploy, p); !res.Success {
		t.Fatalf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
}

// fails runs a task that must fail with a type and words.
func fails(t *testing.T, f *executortest.Fixture, kind api.TaskType, payload any, errType string, says ...string) *api.TaskResult {
	t.Helper()
	res, log := executortest.Single(t, f, kind, payload)
	if res.ErrorType != errType {
		t.Fatalf("%q: %s, want %s\n%s", res.ErrorType, res.Error, errType, log)
	}
	for _, s := range says {
		if !strings.Contains(res.Error, s) {
			t.Errorf("the error does not say %q: %s", s, res.Error)
		}
	}
	return res
}

// when does something once a file is there, beside the test.
func when(t *testing.T, file string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
			if _, err := os.Stat(file); err == nil {
				do()
				return
			}
		}
	}()
	t.Cleanup(func() { <-done })
}

// gone waits until nothing has a text in its environment.
func gone(t *testing.T, text string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var left []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-tick.C {
		if left = marked(text); len(left) == 0 {
			return
		}
	}
	t.Errorf("these still run: %v", left)
}

// marked are the processes with a text in their environment.
func marked(text string) []string {
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range all {
		if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), text) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
			found = append(found, filepath.Base(filepath.Dir(file))+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// listing is all that is in a folder but Stella's own: kinds, modes, owners,
// times, targets and contents, and which names are one file.
func listing(t *testing.T, dir string, round time.Duration) []string {
	t.Helper()
	var all []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if strings.HasPrefix(name, ".stella") {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t) //nolint:errcheck // on Linux it is one
		line := fmt.Sprintf("%q %v %d:%d %v", name, info.Mode(), stat.Uid, stat.Gid, info.ModTime().Truncate(round).UnixNano())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line = fmt.Sprintf("%q link to %q", name, target)
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(data))
			if same, ok := first[stat.Ino]; ok {
				line += " same as " + same
			}
			first[stat.Ino] = name
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}
