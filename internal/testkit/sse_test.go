package testkit_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/server/live"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/peers"
)

// sse is a client's end of a stream of events.
type sse struct {
	t      *testing.T
	header http.Header
	events chan sseEvent
	alive  chan string // comments
	ended  chan error
}

type sseEvent struct {
	id   uint64
	kind string
	data []byte
}

// listen opens a stream, and returns when it has shown that it lives.
func listen(t *testing.T, c *http.Client, url string, header map[string]string) *sse {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	c.Timeout = 0
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(res.Body)
		t.Fatalf("%s %s", res.Status, body)
	}
	s := &sse{t: t, header: res.Header, events: make(chan sseEvent, 1000), alive: make(chan string, 10), ended: make(chan error, 1)}
	lines := bufio.NewReader(res.Body)
	if first, err := lines.ReadString('\n'); err != nil || first != ": ok\n" {
		t.Fatalf("the stream begins with %q, %v", first, err)
	}
	go func() { s.ended <- s.read(lines) }()
	return s
}

func (s *sse) read(lines *bufio.Reader) error {
	var e sseEvent
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "id":
			e.id, err = strconv.ParseUint(value, 10, 64)
		case "event":
			e.kind = value
		case "data":
			e.data = []byte(value)
			if !json.Valid(e.data) {
				err = fmt.Errorf("the data %q is no JSON", value)
			}
		case "":
			if value != "" {
				s.alive <- value
				continue
			}
			if e.kind != "" {
				s.events <- e
				e = sseEvent{}
			}
		}
		if err != nil {
			return err
		}
	}
}

// next takes the next event.
func (s *sse) next() sseEvent {
	s.t.Helper()
	select {
	case e := <-s.events:
		return e
	case err := <-s.ended:
		s.t.Fatalf("the stream has ended: %v", err)
	case <-time.After(linkPatience):
		s.t.Fatal("no event comes")
	}
	return sseEvent{}
}

// command takes a command, and checks that it comes as one.
func (s *sse) command(want *api.Command) sseEvent {
	s.t.Helper()
	e := s.next()
	var got api.AgentCommand
	if err := json.Unmarshal(e.data, &got); err != nil || got.ID != want.ID || got.Type != want.Type || e.kind != want.Type || !got.ExpiresAt.Equal(want.ExpiresAt) {
		s.t.Fatalf("%s %s, %v; want %+v", e.kind, e.data, err, want)
	}
	return e
}

func (s *sse) wantEnd() {
	s.t.Helper()
	select {
	case err := <-s.ended:
		if err != io.EOF { //nolint:errorlint // and nothing that ended in the middle
			s.t.Fatalf("the stream breaks: %v", err)
		}
	case <-time.After(linkPatience):
		s.t.Fatalf("the stream has not ended within %s", linkPatience)
	}
}

func (h *handmade) listen(t *testing.T, header map[string]string) *sse {
	t.Helper()
	return listen(t, h.http2(), h.url("/events"), header)
}

func send(t *testing.T, cp *testkit.ControlPlane, agent, kind, payload string) *api.Command {
	t.Helper()
	c, err := cp.Client.SendCommand(t.Context(), agent, api.CommandRequest{Type: kind, Payload: json.RawMessage(payload), ExpiresIn: 600})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pending is what the agent itself finds that it may still run.
func (h *handmade) pending(t *testing.T) []string {
	t.Helper()
	var all []string
	for cursor := ""; ; {
		status, body := call(t, h.http2(), http.MethodGet, h.url("/commands?state=pending&cursor="+cursor), nil, nil)
		var list api.AgentCommandList
		if err := json.Unmarshal(body, &list); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		for _, c := range list.Items {
			all = append(all, c.ID)
		}
		if cursor = list.Next; cursor == "" {
			return all
		}
	}
}

func TestAgentEvents(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h, other := newHandmade(t, cp, "web"), newHandmade(t, cp, "other")
	first := h.listen(t, nil)
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
		if got := first.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	send(t, cp, "other", "replay", "1") // is not for this one
	one := send(t, cp, "web", "deep-trace", "{\n\"route\": 7, \"text\": \"two\\nlines\"}")
	id := first.command(one).id
	two := first.command(send(t, cp, "web", "config-update", `null`)).id
	if two <= id || id == 0 {
		t.Errorf("ids: %d, then %d", id, two)
	}

	// A second stream ends the first. What came before does not come again,
	// whatever id the agent has seen last.
	second := h.listen(t, map[string]string{"Last-Event-ID": strconv.FormatUint(id, 10)})
	first.wantEnd()
	three := second.command(send(t, cp, "web", "replay", `3`)).id
	if three <= two {
		t.Errorf("ids on the next stream: %d after %d", three, two)
	}

	// Nobody gets another's.
	if status, body := call(t, other.http2(), http.MethodGet, h.url("/events"), nil, nil); status != http.StatusForbidden || problem(t, body).Code != "not_your_identity" {
		t.Errorf("another's stream: %d %s", status, body)
	}

	// A server that stops ends it; what is sent before the agent is back waits
	// in the list, and not in the stream.
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	second.wantEnd()
	cp.Start()
	missed := send(t, cp, "web", "replay", `4`)
	third := h.listen(t, map[string]string{"Last-Event-ID": "of another server"})
	if got := h.pending(t); len(got) != 1 || got[0] != missed.ID {
		t.Errorf("pending: %v, want %s", got, missed.ID)
	}
	if e := third.command(send(t, cp, "web", "replay", `5`)); e.id <= three {
		t.Errorf("ids after a restart: %d after %d", e.id, three)
	}

	if _, err := cp.Client.RevokeAgent(t.Context(), h.id); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	third.wantEnd()
	if took := time.Since(began); took > 2*time.Second { // twice the promise, for a busy machine
		t.Errorf("a revoked agent's stream ended after %s", took)
	}
	if status, body := call(t, h.http2(), http.MethodGet, h.url("/events"), nil, nil); status != http.StatusForbidden {
		t.Errorf("a revoked agent's next stream: %d %s", status, body)
	}
}

// A stream over which nothing comes stands, by either version of HTTP, and shows
// that it does.
func TestEventsWhileNothingHappens(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := newHandmade(t, cp, "web")
	other := newHandmade(t, cp, "other")
	auth := map[string]string{"Authorization": "Bearer " + cp.AdminToken}
	streams := map[string]*sse{
		"an agent's by HTTP/2":   listen(t, h.http2(), h.url("/events"), nil),
		"an agent's by HTTP/1.1": listen(t, other.http1(), other.url("/events"), nil),
		"people's by HTTP/2":     listen(t, httpClient(tlsConfig(cp)), cp.URL+"/api/v1/events?kind=task", auth),
	}
	for name, s := range streams {
		select {
		case <-s.alive:
		case err := <-s.ended:
			t.Errorf("%s has ended: %v", name, err)
		case <-time.After(2 * live.KeepAlive):
			t.Errorf("%s does not show that it lives", name)
		}
	}
	streams["an agent's by HTTP/2"].command(send(t, cp, "web", "replay", `1`))
	streams["an agent's by HTTP/1.1"].command(send(t, cp, "other", "replay", `1`))
}

// twoServers share a database and a bus.
func twoServers(t *testing.T) (a, b *testkit.ControlPlane) {
	t.Helper()
	database := peers.Database(t)
	nats, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go nats.Start()
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	if !nats.ReadyForConnections(linkPatience) {
		t.Fatal("the NATS server does not start")
	}
	a = testkit.StartServer(t, func(c *server.Config) { c.Database, c.NATS = database, nats.ClientURL() })
	b = testkit.StartServer(t, func(c *server.Config) {
		c.Database, c.NATS, c.MasterKeyFile = database, nats.ClientURL(), filepath.Join(a.Data, "master.key")
		if err := os.WriteFile(filepath.Join(c.Data, "admin.token"), []byte(a.AdminToken), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	return a, b
}

// Of two streams of an agent the newer stands, also when they are on two
// servers; and commands reach it, whichever server they were sent to.
func TestAgentEventsOnTwoServers(t *testing.T) {
	t.Parallel()
	a, b := twoServers(t)
	h := newHandmade(t, a, "web")
	atB := *h
	atB.cp = b

	first := h.listen(t, nil)
	first.command(send(t, b, "web", "replay", `1`))
	second := atB.listen(t, nil)
	first.wantEnd()
	one := second.command(send(t, a, "web", "replay", `2`))
	third := h.listen(t, nil)
	second.wantEnd()
	if e := third.command(send(t, b, "web", "replay", `3`)); e.id <= one.id {
		t.Errorf("ids: %d after %d", e.id, one.id)
	}
	if _, err := b.Client.RevokeAgent(t.Context(), h.id); err != nil {
		t.Fatal(err)
	}
	third.wantEnd()
}

// An agent that does not read loses its stream and no command, and costs other
// agents nothing.
func TestAgentEventsOfASlowReader(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h, other := newHandmade(t, cp, "web"), newHandmade(t, cp, "other")
	bystander := other.listen(t, nil)
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: linkPatience}, "tcp", cp.Listen, tlsConfig(cp, h.cert))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if tcp, ok := conn.NetConn().(*net.TCPConn); !ok || tcp.SetReadBuffer(64<<10) != nil {
		t.Fatal("the socket takes as much as it likes")
	}
	if _, err := fmt.Fprintf(conn, "GET /api/v1/agents/%s/events HTTP/1.1\r\nHost: %s\r\n\r\n", h.id, cp.Listen); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(conn)
	for line := ""; line != ": ok\n"; { // in a chunk
		if line, err = lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	const commands = 120
	large := `"` + strings.Repeat("x", 200<<10) + `"`
	all := map[string]bool{}
	for i := range commands {
		all[send(t, cp, "web", "replay", large).ID] = true
		if i%10 == 0 {
			bystander.command(send(t, cp, "other", "replay", `1`))
		}
	}
	// Now it reads: some come, and then the end, and not all that were sent.
	s := &sse{t: t, events: make(chan sseEvent, 1000)}
	if err := conn.SetReadDeadline(time.Now().Add(linkPatience)); err != nil {
		t.Fatal(err)
	}
	rest := httputil.NewChunkedReader(io.MultiReader(strings.NewReader("1\r\n"), lines)) // of the first chunk, a newline
	if err := s.read(bufio.NewReader(rest)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("it does not end: %v", err)
	}
	for range len(s.events) {
		e := <-s.events
		var c api.AgentCommand
		if err := json.Unmarshal(e.data, &c); err != nil {
			t.Fatal(err)
		}
		delete(all, c.ID)
	}
	if len(all) == 0 || len(all) == commands {
		t.Fatalf("%d of %d commands are left", len(all), commands)
	}
	// It comes back, and finds the others.
	again := h.listen(t, nil)
	testkit.Eventually(t, linkPatience, "what is pending to be what was missed", func() (bool, string) {
		pending := h.pending(t)
		for _, id := range pending {
			if !all[id] {
				return false, id + " is pending and was delivered"
			}
		}
		return len(pending) == len(all), fmt.Sprintf("%d are pending, %d were missed", len(pending), len(all))
	})
	again.command(send(t, cp, "web", "replay", `1`))
	bystander.command(send(t, cp, "other", "replay", `1`))
}
