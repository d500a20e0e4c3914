package testkit_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// strict limits strangers so that a test is through with it at once; it leaves
// none of what the limits are of before an hour is over.
func strict(c *server.Config) {
	c.RefusedPerMinute, c.RefusedBurst, c.AnonymousRate, c.AnonymousBurst = 1, 20, 1, 30
}

// well fails unless the server still does what it is there for.
func well(t testing.TB, cp *testkit.ControlPlane) {
	t.Helper()
	h := newHandmade(t, cp, fmt.Sprintf("afterwards-%d", time.Now().UnixNano()))
	c := httpClient(tlsConfig(cp, h.cert))
	defer c.CloseIdleConnections()
	if status, body := h.beat(t, c); status != http.StatusOK {
		t.Fatalf("afterwards, a heartbeat gets %d %s", status, body)
	}
	if _, err := cp.Client.Agent(t.Context(), h.id); err != nil {
		t.Fatalf("afterwards, an admin gets %v", err)
	}
}

// flood makes so many requests at once and counts the answers by status.
func flood(t *testing.T, n int, ask func(i int) (*http.Response, error)) (byStatus map[int]int, answers map[string]int) {
	t.Helper()
	var mu sync.Mutex
	byStatus, answers = map[int]int{}, map[string]int{}
	var wg sync.WaitGroup
	next := make(chan int)
	for range 20 {
		wg.Go(func() {
			for i := range next {
				res, err := ask(i)
				if err != nil {
					t.Error(err)
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil {
					t.Error(err)
				}
				retry, _ := strconv.Atoi(res.Header.Get("Retry-After"))
				if (res.StatusCode == http.StatusTooManyRequests) != (retry > 0 && retry <= 60) {
					t.Errorf("%d with Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
				}
				var p api.Problem
				if res.StatusCode >= 400 && (json.Unmarshal(body, &p) != nil || p.Status != res.StatusCode || res.Header.Get("Content-Type") != "application/problem+json") {
					t.Errorf("%d is no problem: %s", res.StatusCode, body)
				}
				mu.Lock()
				byStatus[res.StatusCode]++
				if res.StatusCode != http.StatusTooManyRequests {
					answers[string(body)]++
				} else if p.Code != "rate_limited" {
					t.Errorf("429 %s", p.Code)
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return byStatus, answers
}

// limited wants as many answers as the burst, perhaps one or two more that time
// has given, and 429 for all the rest.
func limited(t *testing.T, what string, got map[int]int, status, burst, n int) {
	t.Helper()
	if got[status] < burst || got[status] > burst+2 || got[status]+got[http.StatusTooManyRequests] != n {
		t.Errorf("%s: %v, want %d of %d and 429 otherwise", what, got, burst, status)
	}
}

func guess(i int) string {
	return fmt.Sprintf("reg_%032d_%s", i, strings.Repeat("a", 52))
}

// Whoever guesses tokens hears nothing of them soon; those behind the same
// address who have a right to be let in do not notice.
func TestAttackTokenBruteForce(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, strict)
	agent := cp.StartAgent("neighbour")
	stranger := httpClient(tlsConfig(cp))
	const tries = 300
	ask := func(req *http.Request, err error) (*http.Response, error) {
		if err != nil {
			return nil, err
		}
		return stranger.Do(req)
	}
	byStatus, answers := flood(t, tries, func(i int) (*http.Response, error) {
		// A body that would be refused if anybody read it.
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, cp.URL+"/api/v1/agents/register", strings.NewReader("{"))
		if err == nil {
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set(api.HeaderRegistrationToken, guess(i))
		}
		return ask(req, err)
	})
	limited(t, "registration tokens", byStatus, 401, 20, tries)
	if len(answers) != 1 {
		t.Errorf("bad tokens get %d different answers: %v", len(answers), answers)
	}
	// API tokens are of the same bucket.
	byStatus, _ = flood(t, tries, func(i int) (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, cp.URL+"/api/v1/whoami", http.NoBody)
		if err == nil {
			req.Header.Set("Authorization", fmt.Sprintf("Bearer stl_%040d", i))
		}
		return ask(req, err)
	})
	limited(t, "API tokens, behind registration tokens", byStatus, 401, 0, tries)

	// The log holds what was answered, and not what was tried.
	denied, err := cp.Client.AuditPage(t.Context(), client.AuditFilter{Filter: "outcome = denied", Limit: 200})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(denied.Items); n < 20 || n > 60 {
		t.Errorf("%d tries are in the audit log", n)
	}
	// Good callers of this very address: a fleet that registers, a person, agents.
	shared := cp.Token(func(r *api.RegistrationTokenRequest) { r.MaxUses = 100 })
	for i := range 50 {
		registered(t, cp, shared, api.RegisterRequest{Name: fmt.Sprintf("fleet-%d", i)})
	}
	for range 50 {
		if _, err := cp.Client.WhoAmI(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := agent.Stop(); err != nil {
		t.Fatal(err)
	}
	agent.Start("")
	cp.WaitOnline("neighbour")
	well(t, cp)
}

// The same for certificates of agents that are no more.
func TestAttackWithACertificateThatIsRevoked(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, strict)
	h := newHandmade(t, cp, "gone")
	if _, err := cp.Client.RevokeAgent(t.Context(), h.id); err != nil {
		t.Fatal(err)
	}
	const tries = 100
	// In this order: the first uses up what the address has.
	for _, c := range []struct {
		what, path string
		client     *http.Client
	}{{"heartbeats", "/heartbeat", httpClient(tlsConfig(cp, h.cert))}, {"streams", "/task-stream", h.http1()}} {
		what, burst := c.what, 0
		if what == "heartbeats" {
			burst = 20
		}
		method := map[string]string{"/heartbeat": http.MethodPost, "/task-stream": http.MethodGet}[c.path]
		byStatus, _ := flood(t, tries, func(int) (*http.Response, error) {
			req, err := http.NewRequestWithContext(t.Context(), method, h.url(c.path), http.NoBody)
			if err != nil {
				return nil, err
			}
			return c.client.Do(req)
		})
		if what == "heartbeats" {
			limited(t, what, byStatus, 403, burst, tries)
		} else if byStatus[429] == 0 {
			t.Errorf("%s: %v", what, byStatus)
		}
	}
	status, code := byGRPC(&matrix{T: t, cp: cp}, &caller{http: httpClient(tlsConfig(cp, h.cert))})
	if status != 0 || !strings.Contains(code, "too many tokens or certificates") {
		t.Errorf("gRPC: %d %s", status, code)
	}
	well(t, cp)
}

// Requests that show nothing are limited on each door that is open.
func TestAttackByAnonymousRequests(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/healthz", "/readyz", "/pki/ca.pem", "/docs/api", "/api/v1/openapi.json", "/nothing", "/api/v1/agents", "/api/v1/agents/x/task-stream"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			cp := testkit.StartServer(t, strict)
			h := newHandmade(t, cp, "known")
			stranger := httpClient(tlsConfig(cp))
			const tries = 100
			byStatus, _ := flood(t, tries, func(int) (*http.Response, error) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, cp.URL+path, http.NoBody)
				if err != nil {
					return nil, err
				}
				return stranger.Do(req)
			})
			if over := byStatus[http.StatusTooManyRequests]; over < tries-30-5 || over > tries-30 {
				t.Errorf("%v", byStatus)
			}
			// Who is known may ask the same.
			for _, known := range []struct {
				client *http.Client
				header map[string]string
			}{
				{httpClient(tlsConfig(cp, h.cert)), nil},
				{stranger, map[string]string{"Authorization": "Bearer " + cp.AdminToken}},
			} {
				if status, body := call(t, known.client, http.MethodGet, cp.URL+"/healthz", known.header, nil); status != http.StatusOK {
					t.Errorf("somebody known hears %d %s", status, body)
				}
			}
			if status, body := call(t, stranger, http.MethodGet, cp.URL+"/healthz", map[string]string{"Authorization": "Bearer stl_x"}, nil); status != http.StatusTooManyRequests {
				t.Errorf("a bad token opens what is open to everybody: %d %s", status, body)
			}
			well(t, cp)
		})
	}
}

// A fleet behind one address registers as fast as it can.
func TestGoodTokensAreNotLimited(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, func(c *server.Config) {
		c.RefusedPerMinute, c.RefusedBurst, c.AnonymousRate, c.AnonymousBurst = 1, 1, 1, 1
	})
	token := cp.Token(func(r *api.RegistrationTokenRequest) { r.MaxUses = 500 })
	request := csr(t, newKey(t))
	c := httpClient(tlsConfig(cp))
	byStatus, _ := flood(t, 200, func(i int) (*http.Response, error) {
		body := marshal(t, api.RegisterRequest{Name: fmt.Sprintf("agent-%d", i), CSR: request})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, cp.URL+"/api/v1/agents/register", bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(api.HeaderRegistrationToken, token)
		return c.Do(req)
	})
	if byStatus[200] != 200 {
		t.Errorf("%v", byStatus)
	}
}

// raw makes a request byte by byte, and returns the answer but for its date.
func rawRequest(t *testing.T, cp *testkit.ControlPlane, request string) string {
	t.Helper()
	cfg := tlsConfig(cp)
	conn, err := tls.Dial("tcp", cp.Listen, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil && len(answer) == 0 {
		t.Fatal(err)
	}
	return date.ReplaceAllString(string(answer), "")
}

var date = regexp.MustCompile(`(?m)^Date: .*\r\n`)

// Tokens that somebody guesses all get one answer, to the byte, and so do API
// tokens that are no good, of whatever tenant.
func TestBadTokensGetOneAnswer(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	db := database(t, cp)
	theirs, err := client.New(client.Options{URL: cp.URL, Token: withOtherTenant(t, cp, db), CACert: cp.CA})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(theirs.Close)
	exec := func(statement string, args ...any) {
		t.Helper()
		if res, err := db.ExecContext(t.Context(), statement, args...); err != nil {
			t.Fatal(err)
		} else if n, _ := res.RowsAffected(); n != 1 {
			t.Fatalf("%s changed %d rows", statement, n)
		}
	}
	registration, person := map[string]string{"unknown": guess(7), "nonsense": "x", "almost": ""}, map[string]string{"unknown": "stl_" + strings.Repeat("b", 40), "nonsense": "x"}
	for name, c := range map[string]*client.Client{"": cp.Client, " of another tenant": theirs} {
		made := func(what string) *api.RegistrationToken {
			tok, err := c.CreateRegistrationToken(t.Context(), api.RegistrationTokenRequest{})
			if err != nil {
				t.Fatal(err)
			}
			registration[what+name] = tok.Token
			return tok
		}
		used := made("used")
		registered(t, cp, used.Token, api.RegisterRequest{Name: "used"})
		exec("UPDATE registration_tokens SET expires_at = 1 WHERE id = ?", made("expired").ID)
		spent := made("used and expired")
		registered(t, cp, spent.Token, api.RegisterRequest{Name: "spent"})
		exec("UPDATE registration_tokens SET expires_at = 1 WHERE id = ?", spent.ID)
		if err := c.RevokeRegistrationToken(t.Context(), made("revoked").ID); err != nil {
			t.Fatal(err)
		}
		registration["almost"] = made("good").Token
		delete(registration, "good"+name)
		login := func(what string) *api.APIToken {
			tok, err := c.CreateAPIToken(t.Context(), api.APITokenRequest{Name: what, Role: api.RoleAdmin, TTLSeconds: 600})
			if err != nil {
				t.Fatal(err)
			}
			person[what+name] = tok.Token
			return tok
		}
		exec("UPDATE api_tokens SET expires_at = 1 WHERE id = ?", login("expired").ID)
		if err := c.RevokeAPIToken(t.Context(), login("revoked").ID); err != nil {
			t.Fatal(err)
		}
	}
	// One letter of a good one is another.
	almost := []byte(registration["almost"])
	almost[len("reg_")] ^= 1
	registration["almost"] = string(almost)

	body := string(marshal(t, api.RegisterRequest{Name: "new", CSR: csr(t, newKey(t))}))
	// Who has the whole secret of a token that is no good is told what became
	// of it; who guesses learns the same from all.
	said := map[string][]string{}
	for what, token := range registration {
		if state, _, _ := strings.Cut(what, " of another"); state != "unknown" && state != "nonsense" && state != "almost" {
			said[state] = append(said[state], token)
			delete(registration, what)
		}
	}
	for state, word := range map[string]string{"used": "was used", "expired": "expired at", "used and expired": "expired at", "revoked": "was revoked"} {
		if len(said[state]) != 2 {
			t.Errorf("%d tokens are %s", len(said[state]), state)
		}
		for _, token := range said[state] {
			status, body := register(t, cp, token, api.RegisterRequest{Name: "new", CSR: csr(t, newKey(t))})
			if p := problem(t, body); status != http.StatusUnauthorized || p.Code != "token_refused" || !strings.Contains(p.Detail, word) {
				t.Errorf("a token that is %s: %d %s", state, status, body)
			}
		}
	}
	alike(t, registration, func(token string) string {
		return rawRequest(t, cp, fmt.Sprintf("POST /api/v1/agents/register HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s: %s\r\n\r\n%s",
			len(body), api.HeaderRegistrationToken, token, body))
	}, "token_refused")
	alike(t, person, func(token string) string {
		return rawRequest(t, cp, "GET /api/v1/agents HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "+token+"\r\n\r\n")
	}, "unauthenticated")
	well(t, cp)
}

func alike(t *testing.T, tokens map[string]string, ask func(token string) string, code string) {
	t.Helper()
	first, of := "", ""
	for what, token := range tokens {
		got := ask(token)
		if !strings.HasPrefix(got, "HTTP/1.1 401 Unauthorized\r\n") || !strings.Contains(got, `"code":"`+code+`"`) || !strings.Contains(got, "Www-Authenticate: ") {
			t.Errorf("a token that is %s: %s", what, got)
		}
		if first == "" {
			first, of = got, what
		}
		if got != first {
			t.Errorf("a token that is %s gets another answer than one that is %s:\n%s\n%s", what, of, got, first)
		}
	}
}

// A token that was spent gives nothing to another key, and what it gave stays.
func TestAttackReplayedRegistration(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	token := cp.Token()
	h := registered(t, cp, token, api.RegisterRequest{Name: "first"})
	for name, req := range map[string]api.RegisterRequest{
		"another key":                {Name: "first", CSR: csr(t, newKey(t))},
		"another key, the same id":   {ID: h.id, Name: "first", CSR: csr(t, newKey(t))},
		"another name":               {Name: "second", CSR: csr(t, newKey(t))},
		"the request of another one": {Name: "first", CSR: strings.Replace(csr(t, h.key), "A", "B", 1)},
	} {
		status, body := register(t, cp, token, req)
		if p := problem(t, body); name == "the request of another one" && status == 422 && p.Code == "invalid" {
			continue // it does not parse any more
		} else if status != 401 || p.Code != "token_refused" {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, body := h.beat(t, httpClient(tlsConfig(cp, h.cert))); status != http.StatusOK {
		t.Errorf("the one that it was for: %d %s", status, body)
	}
	list, err := cp.Client.AgentPage(t.Context(), client.AgentFilter{})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("%+v %v", list, err)
	}
	well(t, cp)
}
