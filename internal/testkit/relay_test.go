package testkit_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/store/sqlite"
	"stella-ops.org/stella/internal/testkit"
)

// tasksOf is what a heartbeat's answer brings to be done.
type tasksOf struct {
	Tasks      []json.RawMessage `json:"tasks"`
	Signatures [][]byte          `json:"signatures"`
	Commands   []json.RawMessage `json:"commands"`
}

// relay is somebody within TLS: it has the server's key for TLS and the agent's
// certificate, and does with what the server sends as it likes. It has not the
// key that the server signs with, nor the agent's to open with.
type relay struct {
	url string

	mu    sync.Mutex
	alter func(*tasksOf)
	seen  []tasksOf // as the server sent them
	hear  func(req *http.Request, body []byte) []byte
}

// hears has heartbeats go through a function, which returns the body that goes on.
func (r *relay) hears(hear func(req *http.Request, body []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hear = hear
}

// request passes a request on.
func (r *relay) request(p *httputil.ProxyRequest, to *url.URL) {
	p.SetURL(to)
	if !strings.HasSuffix(p.In.URL.Path, "/heartbeat") {
		return
	}
	body, err := io.ReadAll(p.In.Body)
	if err != nil {
		return // the agent is gone
	}
	r.mu.Lock()
	body = r.hear(p.In, body)
	r.mu.Unlock()
	p.Out.Body, p.Out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// pollingThrough is what an agent is started with that polls through a relay.
func pollingThrough(r *relay, data string) func(*agent.Config) {
	return func(c *agent.Config) {
		c.Data, c.Server, c.Transport, c.Capabilities = data, r.url, "poll", []string{"host"}
	}
}

// credentialIn is the key and certificate in an agent's folder.
func credentialIn(t testing.TB, dir string) *tls.Certificate {
	t.Helper()
	c, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

func (r *relay) does(alter func(*tasksOf)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alter = alter
}

// commands are those that the server sent.
func (r *relay) commands() (all []json.RawMessage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.seen {
		all = append(all, o.Commands...)
	}
	return all
}

// startRelay starts one before a server; agentData is the agent's folder.
func startRelay(t *testing.T, cp *testkit.ControlPlane, agentData string) *relay {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(cp.Data, "stella.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	keyring, err := seal.OpenKeyring(t.Context(), st, filepath.Join(cp.Data, "master.key"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.Load(t.Context(), st, keyring, pki.Options{}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(cp.URL)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{alter: func(*tasksOf) {}, hear: func(_ *http.Request, body []byte) []byte { return body }}
	up := tlsConfig(cp)
	up.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(filepath.Join(agentData, "client.pem"), filepath.Join(agentData, "client.pem"))
		if err != nil {
			return &tls.Certificate{}, nil //nolint:nilerr // the agent registers now
		}
		return &c, nil
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { r.request(p, to) },
		// A connection for each request: the certificate changes once.
		Transport:      &http.Transport{TLSClientConfig: up, DisableKeepAlives: true},
		ModifyResponse: r.answer,
		ErrorLog:       slog.NewLogLogger(testkit.Logger(t, "relay").Handler(), slog.LevelDebug),
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: proxy, ReadHeaderTimeout: time.Minute, ErrorLog: proxy.ErrorLog, TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return ca.ServerCertificate([]string{"127.0.0.1"})
		},
	}}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	r.url = "https://" + l.Addr().String()
	return r
}

// answer changes what a heartbeat's answer brings.
func (r *relay) answer(res *http.Response) error {
	if !strings.HasSuffix(res.Request.URL.Path, "/heartbeat") || res.StatusCode != http.StatusOK {
		return nil
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	var all map[string]json.RawMessage
	var tasks tasksOf
	if err := json.Unmarshal(body, &all); err != nil {
		return err
	}
	if err := json.Unmarshal(body, &tasks); err != nil {
		return err
	}
	if len(tasks.Tasks)+len(tasks.Commands) > 0 {
		r.mu.Lock()
		r.seen = append(r.seen, tasks)
		r.alter(&tasks)
		r.mu.Unlock()
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		for name, v := range map[string]any{"tasks": tasks.Tasks, "signatures": tasks.Signatures, "commands": tasks.Commands} {
			if all[name], err = unescaped(v); err != nil {
				return err
			}
		}
		if err := enc.Encode(all); err != nil {
			return err
		}
		body = out.Bytes()
	}
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	res.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// unescaped is JSON without escapes for HTML.
func unescaped(v any) (json.RawMessage, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return out.Bytes(), err
}

// Whoever sits within TLS can keep a task from running, and no more: what they
// alter does not run, and the task says so.
func TestAlteredTasksAreRefused(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	data := t.TempDir()
	r := startRelay(t, cp, data)
	cp.StartAgent("web", pollingThrough(r, data))
	dir := t.TempDir()
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "app", Kind: "host", Agent: "web", Config: api.TargetConfig{Directory: filepath.Join(dir, "app")}}); err != nil {
		t.Fatal(err)
	}
	run := func(name string) *api.Task {
		t.Helper()
		return submit(t, cp, api.TaskExecuteCommand, "app", api.CommandPayload{Command: []string{"touch", filepath.Join(dir, name)}}, nil)
	}
	ran := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	if k := run("as it is"); k.State != api.TaskSucceeded || !ran("as it is") {
		t.Fatalf("as it is: %s %s", k.State, k.Reason)
	}
	replace := func(old, anew string) func(*tasksOf) {
		return func(o *tasksOf) {
			changed := bytes.Replace(o.Tasks[0], []byte(old), []byte(anew), 1)
			if bytes.Equal(changed, o.Tasks[0]) {
				t.Errorf("there is no %s in %s", old, o.Tasks[0])
			}
			o.Tasks[0] = changed
		}
	}
	first := r.seen[0]
	for name, alter := range map[string]func(*tasksOf){
		"altered ciphertext": func(o *tasksOf) {
			at := bytes.Index(o.Tasks[0], []byte(`"data":"`)) + 2000
			o.Tasks[0] = bytes.Clone(o.Tasks[0])
			if o.Tasks[0][at]++; o.Tasks[0][at] == 'z'+1 || o.Tasks[0][at] == '"' {
				o.Tasks[0][at] = 'a'
			}
		},
		"altered attempt":   replace(`"attempt":1`, `"attempt":7`),
		"altered type":      replace(`"execute-command"`, `"inspect"`),
		"swapped signature": func(o *tasksOf) { o.Signatures[0] = first.Signatures[0] },
		"no signature":      func(o *tasksOf) { o.Signatures = nil },
		"another one's sealed": func(o *tasksOf) {
			var old, k map[string]json.RawMessage
			if err := errors.Join(json.Unmarshal(first.Tasks[0], &old), json.Unmarshal(o.Tasks[0], &k)); err != nil {
				t.Error(err)
			}
			k["sealed"] = old["sealed"]
			o.Tasks[0], _ = json.Marshal(k)
		},
		"a payload in the clear": func(o *tasksOf) {
			var k map[string]any
			if err := json.Unmarshal(o.Tasks[0], &k); err != nil {
				t.Error(err)
			}
			delete(k, "sealed")
			k["payload"] = api.CommandPayload{Command: []string{"touch", filepath.Join(dir, "evil")}}
			o.Tasks[0], _ = json.Marshal(k)
		},
	} {
		r.does(alter)
		k := run(name)
		if k.State != api.TaskFailed || k.Result == nil || k.Result.ErrorType != api.ErrUntrusted || !strings.Contains(k.Reason, "the agent does not run the task as it got it") {
			t.Errorf("%s: %s %q %+v", name, k.State, k.Reason, k.Result)
		}
		if ran(name) || ran("evil") {
			t.Errorf("%s: it ran", name)
		}
	}
	// An old task with its own signature is not run again.
	if err := os.Remove(filepath.Join(dir, "as it is")); err != nil {
		t.Fatal(err)
	}
	r.does(func(o *tasksOf) {
		o.Tasks = append(o.Tasks, first.Tasks[0])
		o.Signatures = append(o.Signatures, first.Signatures[0])
	})
	if k := run("beside a replay"); k.State != api.TaskSucceeded || ran("as it is") {
		t.Errorf("beside a replay: %s %s", k.State, k.Reason)
	}
	r.does(func(*tasksOf) {})
	if k := run("afterwards"); k.State != api.TaskSucceeded || !ran("afterwards") {
		t.Errorf("afterwards: %s %s", k.State, k.Reason)
	}
}
