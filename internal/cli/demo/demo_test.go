package demo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"stella-ops.org/stella/internal/cli/out"
)

func TestApp(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		app            app
		path, want     string
		status, logged int
	}{
		{app{version: "1.0.0"}, "/", "hello from 1.0.0\n", 200, 0},
		{app{version: "1.0.0"}, "/healthz", "ok\n", 200, 0},
		{app{version: "2.0.0", broken: true}, "/", "cannot reach the database\n", 500, 0},
		{app{version: "2.0.0", broken: true}, "/healthz", "cannot reach the database\n", 503, 1},
	} {
		var log bytes.Buffer
		w := httptest.NewRecorder()
		tc.app.handler(&log).ServeHTTP(w, httptest.NewRequest(http.MethodGet, tc.path, nil))
		if w.Body.String() != tc.want || w.Code != tc.status || strings.Count(log.String(), "\n") != tc.logged {
			t.Errorf("%s of %+v: %d %q, log %q", tc.path, tc.app, w.Code, w.Body, &log)
		}
	}
}

// The service ends with the demo that it belongs to, also when that was killed.
func TestAppEndsWithItsOwner(t *testing.T) {
	t.Parallel()
	owner := exec.Command("true")
	if err := owner.Run(); err != nil {
		t.Skip("there is no program true:", err)
	}
	a := app{listen: "127.0.0.1:0", owner: owner.Process.Pid}
	if err := a.serve(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{"a": "a", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "--a=b": "--a=b"} {
		if have := quote(word); have != want {
			t.Errorf("%q: %s, want %s", word, have, want)
		}
	}
}

// A number in a file is no proof: what it names now may be somebody else's.
func TestPidsOfOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	u := &up{plane: plane{dir: dir}}
	for text, want := range map[string]int{
		"":                        0,
		"nonsense":                0,
		"1":                       0,
		"-1":                      0,
		strconv.Itoa(os.Getpid()): 0, // it lives, and is not of this folder
	} {
		if err := os.WriteFile(u.file("server.pid"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if have := u.pid("server"); have != want {
			t.Errorf("%q: %d", text, have)
		}
	}
	ours := exec.Command("sh", "-c", "read line # "+dir)
	stdin, err := ours.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ours.Start(); err != nil {
		t.Skip("there is no shell:", err)
	}
	defer func() {
		_ = stdin.Close()
		_ = ours.Wait()
	}()
	if err := os.WriteFile(u.file("server.pid"), fmt.Appendln(nil, ours.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	// For a moment after it has begun, the kernel does not know its arguments.
	have := u.pid("server")
	for deadline := time.Now().Add(5 * time.Second); have != ours.Process.Pid && time.Now().Before(deadline); have = u.pid("server") {
		<-time.After(time.Millisecond)
	}
	if have != ours.Process.Pid {
		t.Errorf("ours: %d", have)
	}
}

// A process that ends instead of starting is told with its log.
func TestProcessThatDoesNotStart(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	p, err := start("thing", log, nil, "/bin/sh", "-c", "echo one; echo two; exit 3")
	if err != nil {
		t.Skip("there is no shell:", err)
	}
	err = await(t.Context(), p, func(context.Context) error { return fmt.Errorf("not there") })
	if err == nil || !strings.Contains(err.Error(), "thing ended instead of starting") {
		t.Errorf("error: %v", err)
	}
	var stderr bytes.Buffer
	s := story{show: newShow(&out.IO{Out: io.Discard, Err: &stderr})}
	s.explain(err)
	if want := "the end of the log of thing:\n  │ one\n  │ two\n"; stderr.String() != want {
		t.Errorf("told: %q", stderr.String())
	}
}

// build makes the real programs, as `make build` does.
func build(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it builds and runs the real programs")
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/", "../../../cmd/stella", "../../../cmd/stella-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	return filepath.Join(dir, "stella")
}

// runIn runs a program in a home of its own and returns what it wrote.
func runIn(t *testing.T, home, program string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	var text bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir, cmd.Env = home, environment("HOME="+home, "XDG_CONFIG_HOME="+home, "TMPDIR="+home)
	cmd.Stdout, cmd.Stderr = &text, &text
	return cmd, &text
}

// The story with the real programs, on a real host, and with a real engine
// where there is one; and what is left running.
func TestRealPrograms(t *testing.T) {
	t.Parallel()
	stella, home := build(t), t.TempDir()
	t.Run("up and down", func(t *testing.T) {
		t.Parallel()
		upAndDown(t, stella)
	})
	t.Run("told to its end", func(t *testing.T) {
		t.Parallel()
		home := filepath.Join(home, "end")
		cmd, text := demoIn(t, home, stella)
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		for _, want := range []string{"hello from 1.0.0", "hello runs again what it ran before", "cleaned up"} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
		nothingLeft(t, home)
	})
	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		home := filepath.Join(home, "interrupted")
		cmd, _ := demoIn(t, home, stella, "--no-docker")
		told := &until{words: "✗ health-check", done: make(chan struct{})}
		cmd.Stdout, cmd.Stderr = told, told
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-told.done:
		case err := <-ended:
			t.Fatalf("it ended before it could be interrupted: %v", err)
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; cmd.ProcessState.ExitCode() != 130 {
			t.Errorf("it ended with %v", err)
		}
		nothingLeft(t, home)
	})
}

func demoIn(t *testing.T, home, stella string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	return runIn(t, home, stella, append([]string{"demo"}, args...)...)
}

// nothingLeft looks for files and processes of a demo whose temporary folder
// was in home.
func nothingLeft(t *testing.T, home string) {
	t.Helper()
	left, err := os.ReadDir(home)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("%s is left", e.Name())
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if text, err := os.ReadFile(l); err == nil && bytes.Contains(text, []byte(home)) {
			t.Errorf("a process is left: %q", text)
		}
	}
}

// until is a writer that notices words.
type until struct {
	words string
	text  bytes.Buffer
	done  chan struct{}
}

func (u *until) Write(p []byte) (int, error) {
	had := bytes.Contains(u.text.Bytes(), []byte(u.words))
	u.text.Write(p)
	if !had && bytes.Contains(u.text.Bytes(), []byte(u.words)) {
		close(u.done)
	}
	return len(p), nil
}

func upAndDown(t *testing.T, stella string) {
	t.Helper()
	home := t.TempDir()
	port, err := freePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	run := func(want string, args ...string) {
		t.Helper()
		cmd, text := runIn(t, home, stella, args...)
		if err := cmd.Run(); err != nil || !strings.Contains(text.String(), want) {
			t.Fatalf("stella %s: %v; want %q in\n%s", strings.Join(args, " "), err, want, text)
		}
	}
	t.Cleanup(func() {
		cmd := exec.Command(stella, "down")
		cmd.Dir = home
		_ = cmd.Run() // it is down already, unless the test has failed
	})
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	run("is online", "up", "--listen", listen)
	run("online", "agent", "list")
	run("is online", "up", "--listen", listen) // what runs is left alone
	run("the server is stopped", "up", "--stop")
	run("nothing runs", "down")
	run("is online", "up", "--listen", listen) // with the data of before
	run("the agent is stopped", "down")
	for _, name := range []string{"server.pid", "agent.pid"} {
		if _, err := os.Stat(filepath.Join(home, "stella-data", name)); err == nil {
			t.Errorf("%s is left", name)
		}
	}
}
