package sdnotify_test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"stella-ops.org/stella/internal/agent/sdnotify"
)

// manager is the service manager's end of the socket that $NOTIFY_SOCKET names.
func manager(t *testing.T) (hear func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		t.Helper()
		buf := make([]byte, 64<<10)
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestWhatIsTold(t *testing.T) {
	hear := manager(t)
	m := sdnotify.New()
	for _, c := range []struct {
		tell func() error
		want string
	}{
		{func() error { return m.Ready("it begins") }, "READY=1\nSTATUS=it begins"},
		{func() error { return m.Status("online") }, "STATUS=online"},
		{func() error { return m.Status("") }, "STATUS="},
		{m.Alive, "WATCHDOG=1"},
		{func() error { return m.Stopping("it ends", 40*time.Second) }, "STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000\nSTATUS=it ends"},
	} {
		if err := c.tell(); err != nil {
			t.Fatal(err)
		}
		if got := hear(); got != c.want {
			t.Errorf("told %q, want %q", got, c.want)
		}
	}
}

// What a server or a proxy says becomes part of a status. It must not say more to
// the service manager than that.
func TestStatusIsOneLine(t *testing.T) {
	hear := manager(t)
	m := sdnotify.New()
	for text, want := range map[string]string{
		"refused\nMAINPID=1\nSTOPPING=1": "STATUS=refused MAINPID=1 STOPPING=1",
		"a\r\n\tb \x00\x1b[31mc\u0085d":  "STATUS=a b [31mc d",
		" not \xff UTF-8 ":               "STATUS=not ? UTF-8",
		strings.Repeat("ü", 600):         "STATUS=" + strings.Repeat("ü", 499) + "…",
	} {
		if err := m.Status(text); err != nil {
			t.Fatal(err)
		}
		if got := hear(); got != want || !utf8.ValidString(got) {
			t.Errorf("%q is told as %q", text, got)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if sdnotify.New() != nil {
		t.Error("somebody seems to listen")
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if err := sdnotify.New().Alive(); err == nil || !strings.Contains(err.Error(), "service manager") {
		t.Errorf("a listener that is gone: %v", err)
	}
}

// A listener that has stopped to listen holds nobody up for long, and is told again
// when it listens again.
func TestListenerThatIsDeaf(t *testing.T) {
	hear := manager(t)
	m := sdnotify.New()
	var err error
	told := 0
	for ; err == nil && told < 100_000; told++ {
		err = m.Alive()
	}
	if err == nil || !strings.Contains(err.Error(), "does not listen") {
		t.Fatalf("told %d times: %v", told, err)
	}
	began := time.Now()
	if err := m.Alive(); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("the next one: %v after %s", err, time.Since(began))
	}
	for range told {
		hear()
	}
	if err := m.Status("again"); err != nil {
		t.Fatal(err)
	}
	if got := hear(); got != "STATUS=again" {
		t.Errorf("told %q", got)
	}
}

func TestWatchdog(t *testing.T) {
	m := new(sdnotify.Manager)
	me := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
		fails     bool
	}{
		{"", "", 0, false},
		{"60000000", "", time.Minute, false},
		{"60000000", me, time.Minute, false},
		{"60000000", "1", 0, false}, // another process's
		{"soon", me, 0, true},
		{"-1", me, 0, true},
	} {
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		if got, err := m.Watchdog(); got != c.want || (err != nil) != c.fails {
			t.Errorf("%q, %q: %s, %v", c.usec, c.pid, got, err)
		}
	}
}
