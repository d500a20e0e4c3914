//go:build unix

package command

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// put writes a script into a folder.
func put(t *testing.T, folder, name, script string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // the process's mask does not count
		t.Fatal(err)
	}
}

// perform runs one command to its answer.
func perform(t *testing.T, r *Runner, c *api.AgentCommand) *stellav1.CommandAck {
	t.Helper()
	r.Take(c)
	return answers(t, r, 1)[c.ID]
}

func TestExecutable(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for name, tc := range map[string]struct {
		script string
		mode   os.FileMode
		result string
		fails  string
	}{
		"hears":    {"#!/bin/sh\nread -r line; printf '%s' \"$line\"", 0o755, `{"id":"hears","type":"hears","payload":{"a":[1]},`, ""},
		"knows":    {"#!/bin/sh\necho \"\\\"$STELLA_COMMAND_ID $STELLA_COMMAND_TYPE $(pwd)\\\"\"", 0o755, `"knows knows ` + folder + `"`, ""},
		"deaf":     {"#!/bin/sh\nexit 0", 0o755, "", ""},
		"dot.ted":  {"#!/bin/sh\necho ' [1, 2] '", 0o700, `[1, 2]`, ""},
		"fails":    {"#!/bin/sh\necho first >&2; echo 'the disk is full' >&2; echo >&2; exit 3", 0o755, "", "fails ended with exit code 3: the disk is full"},
		"binary":   {"#!/bin/sh\nprintf '\\377\\n' >&2; exit 3", 0o755, "", "exit code 3: \uFFFD"},
		"silent":   {"#!/bin/sh\nexit 4", 0o755, "", "silent ended with exit code 4 and said nothing on its standard error"},
		"killed":   {"#!/bin/sh\nkill -9 $$", 0o755, "", "killed ended with exit code -1"},
		"prose":    {"#!/bin/sh\necho all is well", 0o755, "", `prose answered with what is no JSON: it begins with "all is well"`},
		"two":      {"#!/bin/sh\necho '{} {}'", 0o755, "", "two answered with what is no JSON"},
		"headless": {"echo hello", 0o755, "", "a script begins with a line as in #!/bin/sh"},
		"orphaned": {"#!/no/such/interpreter\n", 0o755, "", "the program that its first line names is not there"},
		"idle":     {"#!/bin/sh\necho 1", 0o644, "", "is not executable: chmod +x it"},
		"open":     {"#!/bin/sh\necho 1", 0o757, "", "can be changed by anybody on this machine, and is not run for that: chmod o-w it"},
	} {
		put(t, folder, name, tc.script, tc.mode)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := order(name, name, time.Minute)
			c.Payload = json.RawMessage(`{"a":[1]}`)
			ack := perform(t, newTestRunner(t, folder, nil), c)
			switch {
			case tc.fails != "":
				if !ack.GetFailed() || !strings.Contains(ack.GetError(), tc.fails) || len(ack.GetResultJson()) > 0 {
					t.Errorf("%v, want %s", ack, tc.fails)
				}
			case ack.GetFailed() || !strings.HasPrefix(string(ack.GetResultJson()), tc.result) || tc.result == "" && len(ack.GetResultJson()) > 0:
				t.Errorf("%v, want %s", ack, tc.result)
			}
		})
	}
}

// What is no type is no file's name either, whoever sends it.
func TestNoTypeLeavesTheFolder(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "commands.d")
	if err := os.MkdirAll(filepath.Join(folder, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	ran := filepath.Join(t.TempDir(), "ran")
	script := "#!/bin/sh\ntouch " + ran
	put(t, filepath.Dir(folder), "outside", script, 0o755)
	put(t, filepath.Join(folder, "dir"), "inside", script, 0o755)
	for _, name := range []string{".hidden", "Upper", "with space", "-dash", "~"} {
		put(t, folder, name, script, 0o755)
	}
	r := newTestRunner(t, folder, nil)
	for _, kind := range []string{
		"../outside", "dir/inside", "dir", "", ".", "..", "./outside", ".hidden", "Upper", "with space", "-dash", "~",
		filepath.Join(filepath.Dir(folder), "outside"), "outside\x00", strings.Repeat("x", 300), "missing",
	} {
		ack := perform(t, r, order("c "+kind, kind, time.Minute))
		if !ack.GetFailed() || !strings.Contains(ack.GetError(), "this agent has nothing that handles") {
			t.Errorf("%q: %v", kind, ack)
		}
	}
	if ack := perform(t, r, order("c", "missing", time.Minute)); !strings.Contains(ack.GetError(), "an executable "+filepath.Join(folder, "missing")+" would") {
		t.Errorf("it does not say what would: %v", ack)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("one of them ran")
	}
}

func TestFolderThatAnybodyWrites(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	put(t, folder, "work", "#!/bin/sh\necho 1", 0o755)
	if err := os.Chmod(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	r := newTestRunner(t, folder, nil)
	if ack := perform(t, r, order("c", "work", time.Minute)); !strings.Contains(ack.GetError(), "nothing in it is run for that: chmod o-w it") {
		t.Errorf("%v", ack)
	}
	if kinds := r.Types(); len(kinds) > 0 {
		t.Errorf("types: %v", kinds)
	}
}

func TestTypes(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	r := newTestRunner(t, folder, map[string]Builtin{"drain": func(context.Context, json.RawMessage) (any, error) { return nil, nil }})
	for name, mode := range map[string]os.FileMode{
		"work": 0o755, "dot.ted": 0o700, "script.sh": 0o755, "drain": 0o755, "notes.txt": 0o644, "open": 0o777, "Upper": 0o755, ".hidden": 0o755,
	} {
		put(t, folder, name, "#!/bin/sh\n", mode)
	}
	if err := os.Mkdir(filepath.Join(folder, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("work", filepath.Join(folder, "linked")); err != nil {
		t.Fatal(err)
	}
	if got, want := r.Types(), []string{"dot.ted", "linked", "script.sh", "work"}; !slices.Equal(got, want) {
		t.Errorf("types: %v, want %v", got, want)
	}
	if kinds := newTestRunner(t, filepath.Join(folder, "missing"), nil).Types(); kinds != nil {
		t.Errorf("of a folder that is not there: %v", kinds)
	}
	for i := range 2 * maxTypes {
		put(t, folder, "a"+strconv.Itoa(i), "#!/bin/sh\n", 0o755)
	}
	if n := len(r.Types()); n != maxTypes {
		t.Errorf("%d types are declared; the server would refuse an agent with too many", n)
	}
}

// The default data folder is a relative one.
func TestRelativeFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("data/commands.d", 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, "data/commands.d", "work", "#!/bin/sh\necho 1", 0o755)
	if ack := perform(t, newTestRunner(t, "data/commands.d", nil), order("c", "work", time.Minute)); string(ack.GetResultJson()) != "1" {
		t.Errorf("%v", ack)
	}
}

// An executable that is given up goes with all that it started.
func TestExecutableIsEndedWithItsChildren(t *testing.T) {
	t.Parallel()
	const child = "#!/bin/sh\nsleep 600 & echo $! >\"$0.tmp\"; mv \"$0.tmp\" \"$0.pid\"; trap '' PIPE; "
	for name, tc := range map[string]struct {
		then  string
		fails string
	}{
		"slow":    {"wait", "its time of 2s is over"},
		"verbose": {"head -c 300000 /dev/zero 2>/dev/null; wait", "verbose answered with more than the 262144 bytes that are taken"},
		"stopped": {"wait", "the agent was stopped"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			put(t, folder, name, child+tc.then, 0o755)
			r := newTestRunner(t, folder, nil)
			goodFor := 10 * time.Minute
			if name == "slow" {
				goodFor = 2 * time.Second
			}
			began := time.Now()
			r.Take(order(name, name, goodFor))
			pid := childOf(t, filepath.Join(folder, name+".pid"))
			if name == "stopped" {
				now, cancel := context.WithCancel(t.Context())
				cancel()
				r.Drain(now)
			}
			if ack := answers(t, r, 1)[name]; !ack.GetFailed() || !strings.Contains(ack.GetError(), tc.fails) {
				t.Errorf("%v", ack)
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("it took %s", took)
			}
			for deadline := time.Now().Add(5 * time.Second); alive(pid); {
				if time.Now().After(deadline) {
					t.Fatalf("its child %d lives on", pid)
				}
			}
		})
	}
}

func childOf(t *testing.T, file string) int {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if data, err := os.ReadFile(file); err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("it was not started")
	return 0
}

// alive says whether a process runs; one that only waits to be reaped does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		_, other := os.Stat("/proc/self/stat")
		return other != nil // where there is no /proc, the signal has told
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

// Executables wait for each other, and builtins do not wait for them.
func TestSlots(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	put(t, folder, "hang", "#!/bin/sh\ntouch \"$STELLA_COMMAND_ID\"; exec sleep 600", 0o755)
	put(t, folder, "work", "#!/bin/sh\ntouch ran; echo 1", 0o755)
	r := newTestRunner(t, folder, map[string]Builtin{"ping": func(context.Context, json.RawMessage) (any, error) { return "pong", nil }})
	for i := range atOnce {
		r.Take(order("hang"+strconv.Itoa(i), "hang", time.Hour))
	}
	for i := range atOnce {
		waitFor(t, filepath.Join(folder, "hang"+strconv.Itoa(i)))
	}
	ack := perform(t, r, order("c", "work", 200*time.Millisecond))
	if !ack.GetFailed() || !strings.Contains(ack.GetError(), "waited for other commands of this agent") {
		t.Errorf("%v", ack)
	}
	if _, err := os.Stat(filepath.Join(folder, "ran")); err == nil {
		t.Error("it ran, although its time was over")
	}
	if ack := perform(t, r, order("p", "ping", time.Minute)); string(ack.GetResultJson()) != `"pong"` {
		t.Errorf("%v", ack)
	}
}

func waitFor(t *testing.T, file string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		if _, err := os.Stat(file); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("there is no %s", file)
		}
	}
}
