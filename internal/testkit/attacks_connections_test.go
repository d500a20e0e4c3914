package testkit_test

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// hasty gives nobody much time.
func hasty(c *server.Config) {
	c.HandshakeTimeout, c.BodyTimeout = 500*time.Millisecond, 500*time.Millisecond
}

// soon is by when a server that gives half a second has ended what takes longer,
// on a busy machine.
const soon = 20 * time.Second

// drip writes a byte now and then until the connection takes no more.
func drip(w io.Writer, text string) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := range len(text) {
		if _, err := io.WriteString(w, text[i:i+1]); err != nil {
			return
		}
		<-tick.C
	}
}

// cut reads until the server ends a connection, and returns what it said before.
func cut(t *testing.T, what string, conn net.Conn) string {
	t.Helper()
	began := time.Now()
	_ = conn.SetReadDeadline(began.Add(soon))
	said, err := io.ReadAll(conn)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("%s: the connection is still open after %s", what, time.Since(began))
	}
	return string(said)
}

// Who sends a request a byte at a time is cut off: in the handshake, in the
// headers, in the body, whether anybody reads that or not.
func TestAttackSlowLoris(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, hasty)
	endless := strings.Repeat("x", 100_000)
	body := func(path, header string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50000\r\n" + header + "\r\n{\"name\":\""
	}
	for name, c := range map[string]struct {
		begins string
		says   string // what the answer begins with
	}{
		"silence":                            {"", ""},
		"headers":                            {"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ", ""},
		"a body that is read":                {body("/api/v1/targets", "Authorization: Bearer "+cp.AdminToken+"\r\n"), "HTTP/1.1 408 "},
		"a registration's body":              {body("/api/v1/agents/register", api.HeaderRegistrationToken+": "+cp.Token()+"\r\n"), "HTTP/1.1 408 "},
		"a body behind a refusal":            {body("/api/v1/targets", ""), "HTTP/1.1 401 "},
		"a body behind a bad token":          {body("/api/v1/agents/register", api.HeaderRegistrationToken+": x\r\n"), "HTTP/1.1 401 "},
		"a body to nowhere":                  {body("/nothing", ""), "HTTP/1.1 404 "},
		"a body that nobody asked for":       {strings.Replace(body("/healthz", ""), "POST", "GET", 1), "HTTP/1.1 200 "},
		"a body to the link, without a name": {body("/stella.v1.LinkService/Connect", ""), "HTTP/1.1 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := tlsConfig(cp)
			cfg.NextProtos = []string{"http/1.1"}
			conn, err := tls.Dial("tcp", cp.Listen, cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.begins); err != nil {
				t.Fatal(err)
			}
			if c.begins != "" {
				go drip(conn, endless)
			}
			if said := cut(t, name, conn); !strings.HasPrefix(said, c.says) {
				t.Errorf("it was told %q", said)
			}
		})
	}
	for name, c := range map[string]string{"a handshake": "\x16\x03\x01\x40\x00", "a silent handshake": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", cp.Listen) //nolint:noctx // it is closed below
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if c != "" {
				go drip(conn, c+endless)
			}
			cut(t, name, conn)
		})
	}
	t.Run("afterwards", func(t *testing.T) { well(t, cp) })
}

// The same over HTTP/2, where a stream is cut off and not the connection.
func TestAttackSlowBodyOverHTTP2(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, hasty)
	for name, c := range map[string]struct {
		path   string
		header map[string]string
		status int
	}{
		"read":    {"/api/v1/targets", map[string]string{"Authorization": "Bearer " + cp.AdminToken}, 408},
		"refused": {"/api/v1/targets", nil, 401},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, w := io.Pipe()
			go func() {
				drip(w, `{"name":"`+strings.Repeat("x", 10_000))
				_ = w.Close()
			}()
			defer r.Close()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, cp.URL+c.path, r)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			for k, v := range c.header {
				req.Header.Set(k, v)
			}
			began := time.Now()
			res, err := httpClient(tlsConfig(cp)).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != c.status || res.ProtoMajor != 2 || time.Since(began) > soon {
				t.Errorf("%s %s after %s", res.Proto, res.Status, time.Since(began))
			}
		})
	}
	t.Run("afterwards", func(t *testing.T) { well(t, cp) })
}

func frameHTTP2(kind, flags byte, stream uint32, payload string) string {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	return string(binary.BigEndian.AppendUint32(append(head, flags), stream)) + payload
}

// Headers over HTTP/2 that never end are given up for, too.
func TestAttackEndlessHeadersOverHTTP2(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, hasty)
	cfg := tlsConfig(cp)
	cfg.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", cp.Listen, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// By hand (RFC 9113): a client's library would not do it. The block is :method
	// GET, :path /, :scheme https and :authority x (RFC 7541).
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+frameHTTP2(4, 0, 0, "")+frameHTTP2(1, 0, 1, "\x82\x84\x87\x01\x01x")); err != nil {
		t.Fatal(err)
	}
	go func() {
		// A megabyte of headers, in frames that never say that it is the last.
		for i := range 10_000 {
			if _, err := io.WriteString(conn, frameHTTP2(9, 0, 1, fmt.Sprintf("\x00\x06x-%04d\x64%s", i, strings.Repeat("a", 100)))); err != nil {
				return
			}
		}
	}()
	cut(t, "headers without an end", conn)
	well(t, cp)
}
