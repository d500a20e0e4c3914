package testkit_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/api/stella/v1/stellav1connect"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/testkit"
)

// handmade is an agent that is not ours: a key, a certificate, and requests
// made by hand.
type handmade struct {
	cp   *testkit.ControlPlane
	id   string
	key  *ecdsa.PrivateKey
	cert tls.Certificate
	// server is the server's public key, as registration gave it.
	server string
	// boot is what it signs in, 1 when it is 0; signed counts what it has signed.
	boot   int64
	signed *atomic.Int64
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csr(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "somebody-else"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// tlsConfig trusts the server; with a certificate it is an agent.
func tlsConfig(cp *testkit.ControlPlane, certs ...tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cp.CA)
	return &tls.Config{RootCAs: roots, Certificates: certs, MinVersion: tls.VersionTLS12}
}

func httpClient(cfg *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}, Timeout: 30 * time.Second}
}

// call sends JSON and returns the status and the body.
func call(t testing.TB, c *http.Client, method, url string, header map[string]string, body any) (int, []byte) {
	t.Helper()
	status, data, err := try(t, c, method, url, header, body)
	if err != nil {
		t.Fatal(err)
	}
	return status, data
}

// try is call for requests that may not get through.
func try(t testing.TB, c *http.Client, method, url string, header map[string]string, body any) (int, []byte, error) {
	t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return res.StatusCode, data, err
}

func problem(t testing.TB, body []byte) api.Problem {
	t.Helper()
	var p api.Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Code == "" {
		t.Fatalf("no problem: %s", body)
	}
	return p
}

func register(t testing.TB, cp *testkit.ControlPlane, token string, req api.RegisterRequest) (int, []byte) {
	t.Helper()
	return call(t, httpClient(tlsConfig(cp)), http.MethodPost, cp.URL+"/api/v1/agents/register", map[string]string{api.HeaderRegistrationToken: token}, req)
}

func newHandmade(t testing.TB, cp *testkit.ControlPlane, name string, capabilities ...string) *handmade {
	t.Helper()
	if len(capabilities) == 0 {
		capabilities = []string{"docker.deploy"}
	}
	return registered(t, cp, cp.Token(), api.RegisterRequest{Name: name, Capabilities: capabilities})
}

// registered registers an agent with a new key.
func registered(t testing.TB, cp *testkit.ControlPlane, token string, req api.RegisterRequest) *handmade {
	t.Helper()
	h := &handmade{cp: cp, key: newKey(t), signed: new(atomic.Int64)}
	req.CSR = csr(t, h.key)
	status, body := register(t, cp, token, req)
	if status != http.StatusOK {
		t.Fatalf("register: %d %s", status, body)
	}
	var res api.RegisterResponse
	if err := json.Unmarshal(body, &res); err != nil {
		t.Fatal(err)
	}
	h.id, h.server = res.AgentID, res.ServerPublicKey
	h.cert = certificateOf(t, res.Certificate, h.key)
	return h
}

// certificateOf joins a chain in PEM with the key that it is for.
func certificateOf(t testing.TB, chain string, key *ecdsa.PrivateKey) tls.Certificate {
	t.Helper()
	c := tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode([]byte(chain)); block != nil; block, rest = pem.Decode(rest) {
		c.Certificate = append(c.Certificate, block.Bytes)
	}
	if len(c.Certificate) == 0 {
		t.Fatal("there is no certificate")
	}
	return c
}

func (h *handmade) url(path string) string { return h.cp.URL + "/api/v1/agents/" + h.id + path }

func (h *handmade) beat(t testing.TB, c *http.Client) (int, []byte) {
	t.Helper()
	return call(t, c, http.MethodPost, h.url("/heartbeat"), nil, api.HeartbeatRequest{Status: "online"})
}

func TestOneTokenRegistersOneAgent(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	token := cp.Token()
	c := httpClient(tlsConfig(cp))
	const callers = 1000
	requests := make([]string, callers)
	for i := range requests {
		data, err := json.Marshal(api.RegisterRequest{Name: fmt.Sprintf("agent-%d", i), CSR: csr(t, newKey(t))})
		if err != nil {
			t.Fatal(err)
		}
		requests[i] = string(data)
	}
	var wg sync.WaitGroup
	var won, refused atomic.Int64
	var answers sync.Map
	begin := make(chan struct{})
	for _, body := range requests {
		wg.Go(func() {
			<-begin
			status, answer, err := 0, []byte(nil), error(nil)
			// A thousand at once on a small machine: some connections fail
			// before they carry anything. To try again is safe.
			for range 10 {
				if status, answer, err = try(t, c, http.MethodPost, cp.URL+"/api/v1/agents/register", map[string]string{api.HeaderRegistrationToken: token}, body); err == nil {
					break
				}
			}
			if err != nil {
				t.Error(err)
				return
			}
			switch status {
			case http.StatusOK:
				won.Add(1)
			case http.StatusUnauthorized:
				refused.Add(1)
				answers.Store(string(answer), true)
			default:
				t.Errorf("%d %s", status, answer)
			}
		})
	}
	close(begin)
	wg.Wait()
	if won.Load() != 1 || refused.Load() != callers-1 {
		t.Fatalf("%d registered and %d were refused with one token", won.Load(), refused.Load())
	}
	// All that came late are told the same.
	answers.Range(func(answer, _ any) bool {
		if !strings.Contains(fmt.Sprint(answer), "was used already") {
			t.Errorf("one that came late is told %v", answer)
		}
		return true
	})
}

func TestRegistrationRetriedWithTheSameKeyIsTheSame(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	token, req := cp.Token(), api.RegisterRequest{Name: "web", CSR: csr(t, newKey(t))}
	_, first := register(t, cp, token, req)
	status, second := register(t, cp, token, req)
	var a, b api.RegisterResponse
	if json.Unmarshal(first, &a) != nil || json.Unmarshal(second, &b) != nil || status != http.StatusOK || a.AgentID != b.AgentID || a.Certificate != b.Certificate {
		t.Fatalf("the retry got another answer: %d\n%s\n%s", status, first, second)
	}
}

func TestIdentityIsNotTakenOver(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	own := api.RegisterRequest{ID: "host-7", Name: "web", CSR: csr(t, newKey(t))}
	if status, body := register(t, cp, cp.Token(), own); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	thief := api.RegisterRequest{ID: "host-7", Name: "thief", CSR: csr(t, newKey(t))}
	if status, body := register(t, cp, cp.Token(), thief); status != http.StatusConflict || problem(t, body).Code != "identity_exists" {
		t.Fatalf("an identity was taken over by any token: %d %s", status, body)
	}
	if status, body := register(t, cp, cp.Token(), api.RegisterRequest{ID: "web", Name: "x", CSR: csr(t, newKey(t))}); status != http.StatusConflict || problem(t, body).Code != "name_taken" {
		t.Fatalf("an agent took another's name for its id: %d %s", status, body)
	}
	if status, body := register(t, cp, cp.Token(), api.RegisterRequest{Name: "host-7", CSR: csr(t, newKey(t))}); status != http.StatusConflict || problem(t, body).Code != "name_taken" {
		t.Fatalf("an agent took another's id for its name: %d %s", status, body)
	}
	bound := cp.Token(func(r *api.RegistrationTokenRequest) { r.AgentID = "host-7" })
	if status, body := register(t, cp, bound, api.RegisterRequest{Name: "web", CSR: csr(t, newKey(t))}); status != http.StatusOK {
		t.Fatalf("a token for this id did not resume it: %d %s", status, body)
	}
	if status, body := register(t, cp, cp.Token(), api.RegisterRequest{Name: "web", CSR: csr(t, newKey(t))}); status != http.StatusConflict || problem(t, body).Code != "name_taken" {
		t.Fatalf("a name was taken twice: %d %s", status, body)
	}
}

func TestWhatATokenBindsStays(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	token := cp.Token(func(r *api.RegistrationTokenRequest) {
		r.Group, r.Labels, r.Capabilities = "gold", map[string]string{"tier": "web"}, []string{"docker"}
	})
	key := newKey(t)
	status, body := register(t, cp, token, api.RegisterRequest{Name: "web", Group: "lead", CSR: csr(t, key), Capabilities: []string{"docker.deploy", "host.execute"}})
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	var res api.RegisterResponse
	if err := json.Unmarshal(body, &res); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(res.Certificate))
	c := httpClient(tlsConfig(cp, tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}))
	again := api.RegisterRequest{
		Name: "web", Group: "lead", Labels: map[string]string{"tier": "db", "own": "yes"}, CSR: csr(t, key),
		Version: "2", Capabilities: []string{"docker.deploy", "host.execute"},
	}
	if status, body := call(t, c, http.MethodPost, cp.URL+"/api/v1/agents/register", nil, again); status != http.StatusOK {
		t.Fatalf("registering anew by the certificate: %d %s", status, body)
	}
	got, err := cp.Client.Agent(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != res.AgentID || got.Version != "2" || got.Group != "gold" || got.Labels["tier"] != "web" || got.Labels["own"] != "yes" || strings.Join(got.Capabilities, " ") != "docker.deploy" {
		t.Errorf("%+v", got)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	cfg := tlsConfig(cp)
	cfg.MaxVersion = tls.VersionTLS12
	conn, err := tls.Dial("tcp", cp.Listen, cfg)
	if err == nil {
		_ = conn.Close()
		t.Fatal("TLS 1.2 was spoken")
	}
	if !strings.Contains(err.Error(), "protocol version") {
		t.Fatalf("refused for another reason: %v", err)
	}
}

func TestRevokedAgentIsOutEverywhere(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(cp *testkit.ControlPlane, id string) error{
		"revoked": func(cp *testkit.ControlPlane, id string) error {
			_, err := cp.Client.RevokeAgent(t.Context(), id)
			return err
		},
		"deleted": func(cp *testkit.ControlPlane, id string) error { return cp.Client.DeleteAgent(t.Context(), id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cp := testkit.StartServer(t)
			h := newHandmade(t, cp, "web")
			cfg := tlsConfig(cp, h.cert)
			cfg.ClientSessionCache = tls.NewLRUClientSessionCache(8)
			c := httpClient(cfg)
			if status, body := h.beat(t, c); status != http.StatusOK {
				t.Fatalf("before: %d %s", status, body)
			}
			stream, closed := openStream(t, cp, httpClient(tlsConfig(cp, h.cert)))
			defer func() { _ = stream.CloseRequest() }()

			if err := end(cp, h.id); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			select {
			case err := <-closed:
				if connect.CodeOf(err) != connect.CodePermissionDenied {
					t.Errorf("the stream ended with %v", err)
				}
				if d := time.Since(began); d > time.Second {
					t.Errorf("the stream was cut after %s", d)
				}
			case <-time.After(5 * time.Second):
				t.Error("the stream was not cut")
			}
			if status, body := h.beat(t, c); status != http.StatusForbidden {
				t.Errorf("over the open connection: %d %s", status, body)
			}
			// A new connection that resumes the TLS session.
			c.CloseIdleConnections()
			resumed := false
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{TLSHandshakeDone: func(cs tls.ConnectionState, _ error) { resumed = cs.DidResume }})
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url("/heartbeat"), strings.NewReader(`{}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if !resumed || res.StatusCode != http.StatusForbidden {
				t.Errorf("a resumed session (%t) got %d", resumed, res.StatusCode)
			}
			_, again := openStream(t, cp, httpClient(tlsConfig(cp, h.cert)))
			if err := <-again; connect.CodeOf(err) != connect.CodePermissionDenied {
				t.Errorf("a new stream ended with %v", err)
			}
			if status, body := call(t, c, http.MethodPost, cp.URL+"/api/v1/agents/token", nil, "{}"); status != http.StatusForbidden {
				t.Errorf("token: %d %s", status, body)
			}
		})
	}
}

type linkStream = connect.BidiStreamForClient[stellav1.ConnectRequest, stellav1.ConnectResponse]

// openStream opens a link as a plain gRPC client would; closed gets the error
// that ends it.
func openStream(t testing.TB, cp *testkit.ControlPlane, c *http.Client) (stream *linkStream, closed <-chan error) {
	t.Helper()
	c.Timeout = 0
	stream = stellav1connect.NewLinkServiceClient(c, cp.URL, connect.WithGRPC()).Connect(t.Context())
	err := stream.Send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Hello{Hello: &stellav1.Hello{ProtocolVersion: 1}}})
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	ch := make(chan error, 1)
	welcome := make(chan struct{})
	go func() {
		first := true
		for {
			_, err := stream.Receive()
			if first {
				close(welcome)
				first = false
			}
			if err != nil {
				ch <- err
				return
			}
		}
	}()
	<-welcome
	return stream, ch
}

func TestAgentIsOnlyItself(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	a, b := newHandmade(t, cp, "a"), newHandmade(t, cp, "b")
	asA := httpClient(tlsConfig(cp, a.cert))
	for _, path := range []string{"/heartbeat", "/tasks/x/complete", "/tasks/x/logs"} {
		if status, body := call(t, asA, http.MethodPost, b.url(path), nil, "{}"); status != http.StatusForbidden || problem(t, body).Code != "not_your_identity" {
			t.Errorf("a as b at %s: %d %s", path, status, body)
		}
	}
	if status, body := call(t, asA, http.MethodPost, a.url("/tasks/x/complete"), nil, `{"success":true}`); status != http.StatusUnauthorized {
		t.Errorf("a task endpoint without a token: %d %s", status, body)
	}
	var token api.AgentToken
	if _, body := call(t, httpClient(tlsConfig(cp, b.cert)), http.MethodPost, cp.URL+"/api/v1/agents/token", nil, "{}"); json.Unmarshal(body, &token) != nil || token.ExpiresIn != 3600 {
		t.Fatalf("token: %s", body)
	}
	if status, _ := call(t, asA, http.MethodPost, a.url("/tasks/x/complete"), map[string]string{"Authorization": "Bearer " + token.Token}, `{"success":true}`); status != http.StatusUnauthorized {
		t.Errorf("b's token worked with a's certificate: %d", status)
	}
	if status, _ := call(t, httpClient(tlsConfig(cp)), http.MethodPost, a.url("/heartbeat"), nil, "{}"); status != http.StatusUnauthorized {
		t.Errorf("without a certificate: %d", status)
	}
	if status, _ := call(t, asA, http.MethodGet, cp.URL+"/api/v1/agents", nil, nil); status != http.StatusUnauthorized {
		t.Errorf("an agent's certificate reads what people read: %d", status)
	}
}

// A tenant that asks for an id learns nothing of whether another tenant has it: it
// gets an agent of its own.
func TestIDsAreOfTheirTenant(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	theirs, err := client.New(client.Options{URL: cp.URL, Token: withOtherTenant(t, cp, database(t, cp)), CACert: cp.CA})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(theirs.Close)
	token := func(of *client.Client, id string) string {
		t.Helper()
		tok, err := of.CreateRegistrationToken(t.Context(), api.RegistrationTokenRequest{AgentID: id})
		if err != nil {
			t.Fatal(err)
		}
		return tok.Token
	}
	anybody := func(of *client.Client) string { return token(of, "") }
	ours := registered(t, cp, anybody(cp.Client), api.RegisterRequest{ID: "host-7", Name: "ours"})
	if ours.id != "host-7" {
		t.Errorf("the first tenant's agent is called %s", ours.id)
	}
	their := registered(t, cp, anybody(theirs), api.RegisterRequest{ID: "host-7", Name: "theirs"})
	free := registered(t, cp, anybody(theirs), api.RegisterRequest{ID: "host-8", Name: "free"})
	none := registered(t, cp, anybody(theirs), api.RegisterRequest{Name: "none"})
	form := regexp.MustCompile(`^t-[0-9a-f]{32}$`)
	for _, h := range []*handmade{their, free, none} {
		if status, body := h.beat(t, httpClient(tlsConfig(cp, h.cert))); status != http.StatusOK || !form.MatchString(h.id) {
			t.Errorf("%s: %d %s", h.id, status, body)
		}
	}
	// Within the tenant the id is taken, and is taken up again by who may.
	status, body := register(t, cp, anybody(theirs), api.RegisterRequest{ID: "host-7", Name: "thief", CSR: csr(t, newKey(t))})
	if status != http.StatusConflict || problem(t, body).Code != "identity_exists" {
		t.Errorf("%d %s", status, body)
	}
	for _, id := range []string{"host-7", their.id} {
		if again := registered(t, cp, token(theirs, id), api.RegisterRequest{ID: "host-7", Name: "theirs"}); again.id != their.id {
			t.Errorf("it is called %s now, and was %s", again.id, their.id)
		}
	}
	// Nor can the first tenant ask for what the others have: the answer is the same
	// for an id that nobody has.
	for _, id := range []string{their.id, none.id, "t-" + strings.Repeat("0", 32)} {
		status, body := register(t, cp, anybody(cp.Client), api.RegisterRequest{ID: id, Name: "ours-too", CSR: csr(t, newKey(t))})
		if p := problem(t, body); status != http.StatusUnprocessableEntity || !strings.Contains(fmt.Sprint(p.Errors), "has the form of ids that the server makes") {
			t.Errorf("%d %s", status, body)
		}
	}
}

func TestReservedNames(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	for _, word := range []string{"commands", "groups", "register", "token"} {
		for _, req := range []api.RegisterRequest{{Name: word}, {Name: "x", ID: word}} {
			req.CSR = csr(t, newKey(t))
			status, body := register(t, cp, cp.Token(), req)
			if p := problem(t, body); status != http.StatusUnprocessableEntity || !strings.Contains(fmt.Sprint(p.Errors), "word of the API's own paths") {
				t.Errorf("%d %s", status, body)
			}
		}
		for _, req := range []api.RegistrationTokenRequest{{Name: word}, {AgentID: word}} {
			if _, err := cp.Client.CreateRegistrationToken(t.Context(), req); err == nil {
				t.Errorf("a token for an agent called %s was made", word)
			}
		}
	}
	registered(t, cp, cp.Token(), api.RegisterRequest{Name: "Commands", ID: "groups-1"}) // is another word
}
