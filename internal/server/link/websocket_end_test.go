package link

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/task"
)

// Who does not come by the rules is told so in HTTP.
func TestWebSocketRefusals(t *testing.T) {
	t.Parallel()
	b := newWebBench(t, "a")
	url := b.srv.URL + "/a"
	get := func(c *http.Client, header http.Header) (int, string, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		b.must(err)
		req.Header = header
		res, err := c.Do(req)
		b.must(err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		b.must(err)
		return res.StatusCode, res.Proto + " " + res.Header.Get("Upgrade"), strings.TrimSpace(string(body))
	}
	if status, how, code := get(b.srv.Client(), http.Header{}); status != http.StatusUpgradeRequired || how != "HTTP/2.0 websocket" || code != "websocket_expected" {
		t.Errorf("by HTTP/2: %d %s %s", status, how, code)
	}
	plain := &http.Client{Transport: &http.Transport{TLSClientConfig: b.tls()}}
	t.Cleanup(plain.CloseIdleConnections)
	if status, how, code := get(plain, http.Header{}); status != http.StatusUpgradeRequired || how != "HTTP/1.1 websocket" || code != "websocket_expected" {
		t.Errorf("a plain request: %d %s %s", status, how, code)
	}
	for origin, want := range map[string]int{
		"https://evil.example": http.StatusForbidden, "null": http.StatusForbidden, "https://example.com.evil.example": http.StatusForbidden,
		"://": http.StatusForbidden, "https://EXAMPLE.com": http.StatusSwitchingProtocols,
	} {
		if _, status, _ := b.request("a", false, "", "Origin: "+origin); status != want {
			t.Errorf("from a page of %s: %d", origin, status)
		}
	}
	old := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"12"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	if status, how, body := get(plain, old); status != http.StatusUpgradeRequired {
		t.Errorf("of another version: %d %s %s", status, how, body)
	}
}

// A client that speaks before it has the answer may be speaking to a proxy.
func TestWebSocketSpeaksTooSoon(t *testing.T) {
	t.Parallel()
	b := newWebBench(t, "a")
	w, status, _ := b.request("a", false, string(bytesOf(ws.NewTextFrame([]byte(`{"type":"heartbeat"}`)))))
	if status != http.StatusSwitchingProtocols {
		t.Fatal(status)
	}
	w.wantClose(ws.StatusProtocolError, "wait for the answer")
	if b.Connected("id-a") {
		t.Error("it was let in")
	}
}

// The server's own reasons to end a stream are told with its codes.
func TestWebSocketServerEnds(t *testing.T) {
	t.Parallel()
	for code, c := range map[ws.StatusCode]struct {
		reason string
		do     func(b *webBench)
	}{
		4403: {"agent_revoked: agent a is revoked", func(b *webBench) {
			_, err := b.bench.agents.Revoke(b.t.Context(), "default", "id-a")
			b.must(err)
		}},
		4409: {"link_replaced: a newer connection", func(b *webBench) {
			newer := b.open("a", false)
			b.t.Cleanup(func() { newer.frame(newer.beat()); newer.acked() })
		}},
		4503: {"server_stopping: ", func(b *webBench) {
			ctx, stop := context.WithCancel(b.t.Context())
			stop()
			go func() { _ = b.Run(ctx) }() // it waits until the link has ended
		}},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			b := newWebBench(t, "a", "bystander")
			w := b.open("a", true)
			if code != 4503 {
				other := b.open("bystander", false)
				t.Cleanup(func() { other.frame(other.beat()); other.acked() })
			}
			began := time.Now()
			c.do(b)
			w.wantClose(code, c.reason)
			if took := time.Since(began); took > 2*time.Second { // twice the promise, for a busy machine
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestWebSocketOfAServerThatStops(t *testing.T) {
	t.Parallel()
	b := newWebBench(t, "a")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	b.must(b.Run(ctx))
	w, _, _ := b.request("a", false, "")
	w.wantClose(4503, "server_stopping")
}

// heard is when the server has heard agent a last.
func (b *webBench) heard() time.Time {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.sessions["id-a"].conn.(pinger)
	if !ok {
		b.t.Fatal("a WebSocket that is not looked after")
	}
	return p.Heard()
}

// later sets the clock forward and has the hub look at its links.
func (b *webBench) later(d time.Duration) {
	b.ahead.Add(int64(d))
	b.checkLinks()
}

// sends writes bytes of agent a and waits until the server has heard them.
func (b *webBench) sends(w *web, data []byte) {
	b.t.Helper()
	before := b.heard()
	w.write(data)
	for deadline := time.Now().Add(patience); !b.heard().After(before); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatal("the server does not hear it")
		}
	}
}

// Who says nothing is pinged, and cut when that brings nothing; what comes
// slowly does come.
func TestWebSocketSilence(t *testing.T) {
	t.Parallel()
	b := newWebBench(t, "a")
	w := b.open("a", false)
	for range 3 {
		b.later(pingAfter + time.Second)
		if op, data := w.read(); op != ws.OpPing || len(data) != 0 {
			t.Fatalf("instead of a ping: %v %q", op, data)
		}
		b.sends(w, bytesOf(ws.NewPongFrame(nil)))
	}
	b.later(pingAfter - time.Second)
	w.frame(w.beat())
	w.acked() // and no ping before it

	message := bytesOf(w.beat())
	// One that takes longer than anybody may say nothing.
	b.sends(w, message[:10])
	for i := 10; i < len(message)-1; i++ {
		b.ahead.Add(int64(pingAfter - time.Second))
		b.sends(w, message[i:i+1])
		b.checkLinks()
	}
	b.sends(w, message[len(message)-1:])
	w.acked()

	// Half a frame, and then nothing.
	b.sends(w, message[:10])
	b.later(silentAfter + time.Second)
	w.wantClose(4503, "silent: the agent has said nothing for 41s")
	b.gone("a")
}

// An agent that takes nothing is cut all the same, and nothing on the server
// waits for it.
func TestStuckWebSocketIsCut(t *testing.T) {
	t.Parallel()
	b := newWebBench(t, "a")
	w := b.open("a", false)
	w.frame(ws.NewTextFrame([]byte(`{"type":"hello","maxTasks":10,"capabilities":["docker"]}`)))
	w.frame(w.beat())
	w.acked()
	noise := make([]byte, 3<<20) // more in all than the sockets take
	_, _ = rand.Read(noise)      // never fails
	payload := []byte(`{"command":["x","` + base64.StdEncoding.EncodeToString(noise) + `"]}`)
	var last *task.Task
	for range 4 {
		var err error
		last, _, err = b.tasks.Submit(t.Context(), "default", "tester", api.TaskRequest{Type: api.TaskExecuteCommand, Target: "target-of-a", Payload: payload})
		b.must(err)
	}
	for deadline := time.Now().Add(patience); b.state(last.ID).State == api.TaskQueued; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the tasks are not handed out")
		}
	}
	b.mu.Lock()
	sending := &b.sessions["id-a"].sending
	b.mu.Unlock()
	began := sending.Load()
	for same := 0; same < 20; <-time.After(5 * time.Millisecond) { // the same frame for a while: the sockets are full
		if now := sending.Load(); now != 0 && now == began {
			same++
		} else {
			same, began = 0, now
		}
	}
	b.later(sendTimeout + time.Second)
	b.gone("a")
}
