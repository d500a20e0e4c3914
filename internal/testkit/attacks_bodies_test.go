package testkit_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/gobwas/ws"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/api/stella/v1/stellav1connect"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/contract"
)

// zeros is a stream of so many bytes that compresses to a thousandth.
func zeros(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func gzipped(t *testing.T, n int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, zeros(n)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A body that is packed is not unpacked, by whomever it is sent.
func TestAttackDecompressionBombByREST(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := newHandmade(t, cp, "bomber")
	bomb := gzipped(t, 64<<20)
	for name, c := range map[string]struct {
		client *http.Client
		method string
		url    string
		header map[string]string
	}{
		"a heartbeat":    {httpClient(tlsConfig(cp, h.cert)), http.MethodPost, h.url("/heartbeat"), nil},
		"a registration": {httpClient(tlsConfig(cp)), http.MethodPost, cp.URL + "/api/v1/agents/register", map[string]string{api.HeaderRegistrationToken: cp.Token()}},
		"a task":         {httpClient(tlsConfig(cp)), http.MethodPost, cp.URL + "/api/v1/tasks", map[string]string{"Authorization": "Bearer " + cp.AdminToken}},
	} {
		for _, encoding := range []string{"gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip", "x"} {
			header := map[string]string{"Content-Encoding": encoding}
			maps.Copy(header, c.header)
			if status, body := call(t, c.client, c.method, c.url, header, string(bomb)); status != http.StatusUnsupportedMediaType || problem(t, body).Code != "unsupported_media_type" {
				t.Errorf("%s in %s: %d %s", name, encoding, status, body)
			}
		}
	}
	// Nor is one that does not say so.
	if status, body := call(t, httpClient(tlsConfig(cp, h.cert)), http.MethodPost, h.url("/heartbeat"), nil, string(bomb)); status != http.StatusBadRequest || problem(t, body).Code != "malformed" {
		t.Errorf("without a word: %d %s", status, body)
	}
	well(t, cp)
}

// On the stream of frames, what is packed becomes no larger than a frame may be.
func TestAttackDecompressionBombByGRPC(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := newHandmade(t, cp, "bomber")
	c := httpClient(tlsConfig(cp, h.cert))
	c.Timeout = 0
	// By hand: a client's library would refuse to send it.
	bomb := gzipped(t, 256<<20)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	message := binary.BigEndian.AppendUint32([]byte{1}, uint32(len(bomb)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, cp.URL+stellav1connect.LinkServiceConnectProcedure, io.MultiReader(bytes.NewReader(message), bytes.NewReader(bomb)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc+proto")
	req.Header.Set("Grpc-Encoding", "gzip")
	req.Header.Set("Te", "trailers")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	status := res.Trailer.Get("Grpc-Status") + res.Header.Get("Grpc-Status")
	if status != fmt.Sprint(int(connect.CodeResourceExhausted)) || res.Trailer.Get("Stella-Code")+res.Header.Get("Stella-Code") != "frame_too_large" {
		t.Errorf("%s: %v %v", status, res.Header, res.Trailer)
	}
	if grown := int64(after.Sys) - int64(before.Sys); grown > 128<<20 {
		t.Errorf("a quarter of a gigabyte of nothing took %d MiB", grown>>20)
	}
	if a, err := cp.Client.Agent(t.Context(), h.id); err != nil || a.Transport != "" {
		t.Errorf("it is connected: %+v %v", a, err)
	}
	// A frame that is small when it is unpacked is welcome.
	stream := stellav1connect.NewLinkServiceClient(c, cp.URL, connect.WithGRPC(), connect.WithSendGzip()).Connect(ctx)
	if err := stream.Send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Hello{Hello: &stellav1.Hello{ProtocolVersion: 1}}}); err != nil {
		t.Fatal(err)
	}
	if f, err := stream.Receive(); err != nil || f.GetWelcome() == nil {
		t.Errorf("%v %v", f, err)
	}
	_ = stream.CloseRequest()
	well(t, cp)
}

// The WebSocket agrees on no compression, and takes no packed frame.
func TestAttackDecompressionBombByWebSocket(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := newHandmade(t, cp, "bomber")
	cfg := tlsConfig(cp, h.cert)
	conn, err := tls.Dial("tcp", cp.Listen, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	var offered ws.Handshake
	dialer := ws.Dialer{
		Header: ws.HandshakeHeaderHTTP{"Sec-WebSocket-Extensions": {"permessage-deflate; client_max_window_bits"}},
		OnHeader: func(key, value []byte) error {
			offered.Protocol += string(key) + ": " + string(value) + "\n"
			return nil
		},
	}
	u := strings.Replace(h.url("/task-stream"), "https://", "ws://", 1)
	_, shake, err := dialer.Upgrade(conn, mustURL(t, u))
	if err != nil {
		t.Fatal(err)
	}
	if len(shake.Extensions) != 0 || strings.Contains(strings.ToLower(offered.Protocol), "deflate") {
		t.Errorf("it agrees on %v\n%s", shake.Extensions, offered.Protocol)
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, zeros(64<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	f := ws.NewFrame(ws.OpText, true, packed.Bytes())
	f.Header.Rsv = ws.Rsv(true, false, false)
	go func() { _ = ws.WriteFrame(conn, ws.MaskFrame(f)) }() // it may be refused in the middle
	if status, reason := closing(t, conn); status != ws.StatusProtocolError || !strings.Contains(reason, "extension") {
		t.Errorf("%d %s", status, reason)
	}
	well(t, cp)
}

// closing reads until the server closes, and returns what it says.
func closing(t *testing.T, conn io.Reader) (ws.StatusCode, string) {
	t.Helper()
	for {
		head, err := ws.ReadHeader(conn)
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, head.Length)
		if _, err := io.ReadFull(conn, data); err != nil {
			t.Fatal(err)
		}
		if head.OpCode == ws.OpClose {
			return ws.ParseCloseFrameData(data)
		}
	}
}

// JSON that is nested a million deep is refused, wherever JSON is read, and does
// not take the stack with it.
func TestAttackDeepJSON(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := newHandmade(t, cp, "deep", "host")
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "box", Kind: "host", Agent: "deep", Config: api.TargetConfig{Directory: "/opt/box"}}); err != nil {
		t.Fatal(err)
	}
	person := map[string]string{"Authorization": "Bearer " + cp.AdminToken}
	for _, depth := range []int{1_000, 9_000, 20_000, 1_000_000} {
		for shape, deep := range map[string]string{
			"lists":   strings.Repeat("[", depth) + strings.Repeat("]", depth),
			"objects": strings.Repeat(`{"a":`, min(depth, 150_000)) + "1" + strings.Repeat("}", min(depth, 150_000)),
			"open":    strings.Repeat("[", min(depth, 1_000_000)),
		} {
			for name, c := range map[string]struct {
				client *http.Client
				url    string
				header map[string]string
				body   string
			}{
				"a registration":          {httpClient(tlsConfig(cp)), cp.URL + "/api/v1/agents/register", map[string]string{api.HeaderRegistrationToken: cp.Token()}, `{"name":"x","csr":"x","labels":` + deep + `}`},
				"a registration, unknown": {httpClient(tlsConfig(cp)), cp.URL + "/api/v1/agents/register", map[string]string{api.HeaderRegistrationToken: cp.Token()}, `{"name":"x","csr":"x","more":` + deep + `}`},
				"a heartbeat":             {httpClient(tlsConfig(cp, h.cert)), h.url("/heartbeat"), nil, `{"resourceUsage":` + deep + `}`},
				"a heartbeat, unknown":    {httpClient(tlsConfig(cp, h.cert)), h.url("/heartbeat"), nil, `{"more":` + deep + `}`},
				"a task":                  {httpClient(tlsConfig(cp)), cp.URL + "/api/v1/tasks", person, `{"type":"inspect","target":"box","payload":` + deep + `}`},
				"a command":               {httpClient(tlsConfig(cp)), cp.URL + "/api/v1/agents/deep/commands", person, `{"type":"doctor","payload":` + deep + `}`},
				"a target":                {httpClient(tlsConfig(cp)), cp.URL + "/api/v1/targets", person, `{"name":"y","kind":"host","config":` + deep + `}`},
			} {
				if len(c.body) > 4<<20 {
					continue
				}
				status, body := call(t, c.client, http.MethodPost, c.url, c.header, c.body)
				c.client.CloseIdleConnections()
				// What an agent's server does not know it passes over; whatever is
				// in a payload is somebody else's to read, up to a depth.
				taken := status < 300 && depth < 10_000 && shape != "open" && (strings.Contains(name, "unknown") || name == "a command" || name == "a task" || name == "a heartbeat" && shape == "objects")
				if !taken && (status < 400 || status >= 500) {
					t.Errorf("%s with %d %s: %d %.300s", name, depth, shape, status, body)
				}
				if !taken && len(problem(t, body).Detail) > 1000 {
					t.Errorf("%s with %d %s is repeated", name, depth, shape)
				}
			}
		}
	}
	well(t, cp)
}

// Each operation that takes a body takes so much of it and no more.
func TestAttackOversizeBodies(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := contract.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	cp := testkit.StartServer(t)
	h := newHandmade(t, cp, "large")
	var token api.AgentToken
	asAgent, person := httpClient(tlsConfig(cp, h.cert)), httpClient(tlsConfig(cp))
	_, answer := call(t, asAgent, http.MethodPost, cp.URL+"/api/v1/agents/token", nil, "{}")
	into(t, answer, &token)
	tried := 0
	for _, op := range doc.Operations {
		if op.Raw["requestBody"] == nil || op.ID == "artifact.append" {
			continue // an upload is as large as it was said to be
		}
		tried++
		c, header := person, map[string]string{"Authorization": "Bearer " + cp.AdminToken}
		switch caller := fmt.Sprint(op.Raw["x-caller"]); {
		case op.ID == "agent.register":
			header = map[string]string{api.HeaderRegistrationToken: cp.Token()}
		case strings.Contains(caller, "token for the task"):
			c, header = asAgent, map[string]string{"Authorization": "Bearer " + token.Token}
		case strings.Contains(caller, "certificate"):
			c, header = asAgent, nil
		}
		path := strings.NewReplacer("{id}", h.id, "{taskId}", "some", "{commandId}", "some", "{name}", "some", "{group}", "some").Replace(op.Path)
		for how, body := range map[string]io.Reader{
			"a length that is said":    strings.NewReader(`{"name":"` + strings.Repeat("x", 17<<20) + `"}`),
			"a length that is unknown": io.MultiReader(strings.NewReader(`{"name":"`), io.LimitReader(zeroReader{}, 40<<20)),
		} {
			req, err := http.NewRequestWithContext(t.Context(), op.Method, cp.URL+path, body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			for k, v := range header {
				req.Header.Set(k, v)
			}
			res, err := c.Do(req)
			if err != nil {
				t.Errorf("%s with %s: %v", op.ID, how, err)
				continue
			}
			data, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if p := problem(t, data); res.StatusCode != http.StatusRequestEntityTooLarge || p.Code != "too_large" {
				t.Errorf("%s with %s: %d %s", op.ID, how, res.StatusCode, data)
			}
		}
	}
	if tried < 20 {
		t.Errorf("only %d operations were tried", tried)
	}
	well(t, cp)
}

// Headers and addresses have their limits too, in both versions of HTTP.
func TestAttackOversizeHeaders(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	long := strings.Repeat("a", 64<<10)
	for name, request := range map[string]string{
		"a header":       "GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + long + "\r\n\r\n",
		"many headers":   "GET /healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: a\r\n", 20_000) + "\r\n",
		"a path":         "GET /" + long + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"a header's end": "GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + long,
	} {
		if got := rawRequest(t, cp, request); !strings.HasPrefix(got, "HTTP/1.1 431 ") {
			t.Errorf("%s: %.200s", name, got)
		}
	}
	c := httpClient(tlsConfig(cp))
	status, body, err := try(t, c, http.MethodGet, cp.URL+"/healthz", map[string]string{"X": long}, nil)
	if err == nil && status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("over HTTP/2: %d %s", status, body)
	}
	for _, token := range []string{long[:30<<10], long[:600]} {
		status, body := call(t, httpClient(tlsConfig(cp)), http.MethodPost, cp.URL+"/api/v1/agents/register", map[string]string{api.HeaderRegistrationToken: token}, "{}")
		if status != http.StatusUnauthorized || problem(t, body).Code != "token_refused" {
			t.Errorf("a token of %d bytes: %d %s", len(token), status, body)
		}
		status, body = call(t, httpClient(tlsConfig(cp)), http.MethodGet, cp.URL+"/api/v1/whoami", map[string]string{"Authorization": "Bearer " + token}, nil)
		if status != http.StatusUnauthorized || len(body) > 500 {
			t.Errorf("an API token of %d bytes: %d %s", len(token), status, body)
		}
	}
	well(t, cp)
}
