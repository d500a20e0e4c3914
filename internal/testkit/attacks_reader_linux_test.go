package testkit_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"stella-ops.org/stella/internal/testkit"
)

// Who asks for much and takes nothing does not hold the server's end for ever.
func TestAttackSlowReader(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, hasty)
	dialer := &net.Dialer{}
	tcp, err := dialer.DialContext(t.Context(), "tcp", cp.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if c, ok := tcp.(*net.TCPConn); !ok || c.SetReadBuffer(4096) != nil {
		t.Fatal("the connection's buffer cannot be made small")
	}
	cfg := tlsConfig(cp)
	cfg.ServerName, cfg.NextProtos = "127.0.0.1", []string{"http/1.1"}
	conn := tls.Client(tcp, cfg)
	// More answers than there is room for on the way.
	go func() {
		_, _ = io.WriteString(conn, strings.Repeat("GET /api/v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", 200))
	}()
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(cp.Listen)
	if err != nil {
		t.Fatal(err)
	}
	_, own, err := net.SplitHostPort(tcp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	if !established(t, port, own) {
		t.Fatal("the connection cannot be found")
	}
	testkit.Eventually(t, soon, "the server to give up a reader that reads nothing", func() (bool, string) {
		return !established(t, port, own), "established"
	})
	well(t, cp)
}

// established reports whether the end of a connection on a local port, from
// another one, is still open: what only the kernel tells while nobody reads.
func established(t *testing.T, local, remote string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	hex := func(port string) string {
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(":%04X", n)
	}
	const open = "01" // TCP_ESTABLISHED
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], hex(local)) && strings.HasSuffix(f[2], hex(remote)) {
			return f[3] == open
		}
	}
	return false
}
