package testkit_test

import (
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/internal/testkit"
)

// The real agent, before the socket of a service manager: it is ready without its
// server, says when its link stands and when not, is alive, and says that it stops.
func TestAgentUnderAServiceManager(t *testing.T) {
	t.Parallel()
	data, listen := t.TempDir(), testkit.FreePort(t)
	serverEnv := []string{"STELLA_DATA=" + data, "STELLA_LISTEN=" + listen, "STELLA_HEARTBEAT_INTERVAL=1s"}
	server := startProgram(t, "", serverEnv, "stella", "server")
	cp := testkit.Attach(t, data, listen)

	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	told := make(chan string, 10_000) // for who listens always, as systemd does
	go func() {
		defer close(told)
		buf := make([]byte, 4096)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return
			}
			told <- string(buf[:n])
		}
	}()
	var heard []string
	waitFor := func(want string) {
		t.Helper()
		for patience := time.After(30 * time.Second); ; {
			select {
			case text := <-told:
				heard = append(heard, text)
				if strings.Contains(text, want) {
					return
				}
			case <-patience:
				t.Fatalf("%q was not told; %q was", want, slices.Compact(heard))
			}
		}
	}
	home := filepath.Join(t.TempDir(), "agent")
	env := []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=100000", "STELLA_RECONNECT_BACKOFF=100ms"}
	token := cp.Token()
	agent := startProgram(t, "", append(env, "STELLA_BOOTSTRAP_TOKEN="+token), "stella-agent", "--register", "--server", cp.URL, "--data", home, "--name", "supervised")
	waitFor("READY=1")
	waitFor("STATUS=online over websocket")
	waitFor("WATCHDOG=1")
	if _, err := server.stop(t); err != nil {
		t.Fatal(err)
	}
	waitFor("STATUS=offline, tries again: ")
	waitFor("WATCHDOG=1")
	if _, err := agent.stop(t); err != nil {
		t.Fatal(err)
	}
	waitFor("STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000\nSTATUS=")

	// Its server is away: it is ready all the same.
	agent = startProgram(t, "", env, "stella-agent", "run", "--data", home)
	waitFor("READY=1")
	waitFor("STATUS=offline, tries again: ")
	startProgram(t, "", serverEnv, "stella", "server")
	waitFor("STATUS=online over ")
	if _, err := agent.stop(t); err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(heard, "\n"); strings.Contains(all, "reg_") || strings.Contains(all, token) {
		t.Errorf("the token was told:\n%s", all)
	}

	// Who is not registered says so by the code that keeps service managers from
	// trying again.
	stranger := startProgram(t, "", env, "stella-agent", "run", "--data", t.TempDir())
	err = <-stranger.done
	if end, ok := errors.AsType[*exec.ExitError](err); !ok || end.ExitCode() != 78 {
		t.Errorf("not registered: %v", err)
	}
}
