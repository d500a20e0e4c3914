package enroll_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/sqlite"
)

const tenant = "default"

// bench is the service over a real store and a real authority.
type bench struct {
	*enroll.Service
	t     *testing.T
	store *store.Store
	now   time.Time

	mu      sync.Mutex
	events  []access.Event
	counted []string
	told    int // how often servers were told that an agent changed
	ca      *pki.Authority
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	var err error
	b.store, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
	b.must(err)
	t.Cleanup(func() { _ = b.store.Close() })
	box, err := seal.NewBox(make([]byte, seal.KeySize))
	b.must(err)
	clock := func() time.Time { return b.now }
	b.ca, err = pki.Load(t.Context(), b.store, box, pki.Options{}, clock)
	b.must(err)
	b.service(policy)
	return b
}

func (b *bench) service(p enroll.Policy) {
	b.Service = enroll.NewService(b.store, b.ca, p, b, b, b, func() time.Time { return b.now }, slog.New(slog.DiscardHandler))
}

// changes is how often servers were told of a change since it was asked last.
func (b *bench) changes() int {
	n := b.told
	b.told = 0
	return n
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// policy is what the tests' installation allows.
var policy = enroll.Policy{
	Life: 90 * 24 * time.Hour, MaxLife: 365 * 24 * time.Hour, ByEnvironment: map[string]time.Duration{"dev": 24 * time.Hour}, Recovery: 90 * 24 * time.Hour,
}

// AgentChanged implements enroll.Notifier.
func (b *bench) AgentChanged(string, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told++
}

// Publish implements event.Publisher.
func (*bench) Publish(string, ...api.Event) {}

// Audit implements access.Auditor.
func (b *bench) Audit(_ context.Context, e access.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
}

// Bootstrapped implements enroll.Meter.
func (b *bench) Bootstrapped(environment, platform, refusal string) {
	b.count("bootstrap " + environment + "/" + platform + " " + refusal)
}

// Issued implements enroll.Meter.
func (b *bench) Issued(why string) { b.count(why) }

// Adopted implements enroll.Meter.
func (b *bench) Adopted() { b.count("adopted") }

func (b *bench) count(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counted = append(b.counted, what)
}

// counts returns what was counted since it was last asked.
func (b *bench) counts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.counted
	b.counted = nil
	return c
}

// audited returns what was audited since it was last asked.
func (b *bench) audited() []access.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.events
	b.events = nil
	return e
}

func (b *bench) token(req api.RegistrationTokenRequest) (*enroll.Token, string) {
	b.t.Helper()
	tok, text, err := b.CreateToken(b.t.Context(), tenant, "tester", req)
	b.must(err)
	return tok, text
}

// key is a certificate request for a new key.
func (b *bench) key() string {
	b.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	b.must(err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	b.must(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// agent returns an agent as the store has it.
func (b *bench) agent(id string) *fleet.Agent {
	b.t.Helper()
	a, err := b.store.Agent(b.t.Context(), tenant, id)
	b.must(err)
	return a
}

// registered registers and returns the agent.
func (b *bench) registered(c enroll.Caller, req api.RegisterRequest) *fleet.Agent {
	b.t.Helper()
	if req.CSR == "" {
		req.CSR = b.key()
	}
	reg, err := b.Register(b.t.Context(), c, req)
	b.must(err)
	return b.agent(reg.AgentID)
}

func (b *bench) wantFault(err error, kind fault.Kind, code string) {
	b.t.Helper()
	if fault.KindOf(err) != kind || fault.CodeOf(err) != code {
		b.t.Fatalf("error %v (code %s), want kind %d, code %s", err, fault.CodeOf(err), kind, code)
	}
}

// What a token binds, the agent cannot override; what it leaves open, the
// agent says itself.
func TestTokenBinds(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	said := api.RegisterRequest{
		Name: "my name", Environment: "dev", Group: "mine", Labels: map[string]string{"zone": "mine", "rack": "7"},
		Capabilities: []string{"docker.deploy", "docker.inspect", "host.deploy"},
	}
	_, open := b.token(api.RegistrationTokenRequest{})
	a := b.registered(enroll.Caller{Token: open}, said)
	if a.Name != "my name" || a.Environment != "dev" || a.Group != "mine" || a.Lifecycle != api.LifecycleActive || a.Cluster != "" {
		t.Errorf("with an open token: %+v", a)
	}
	_, bound := b.token(api.RegistrationTokenRequest{
		Name: "bound", AgentID: "id-1", Environment: "prod", Group: "web", Cluster: "c1", Platform: "linux",
		Capabilities: []string{"docker", "host.inspect"}, Labels: map[string]string{"zone": "a"},
	})
	a = b.registered(enroll.Caller{Token: bound}, said)
	got := []string{a.ID, a.Name, a.Environment, a.Group, a.Cluster, a.Platform}
	if diff := cmp.Diff([]string{"id-1", "bound", "prod", "web", "c1", "linux"}, got); diff != "" {
		t.Errorf("what is bound (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"zone": "a", "rack": "7"}, a.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"docker.deploy", "docker.inspect"}, a.Capabilities); diff != "" {
		t.Errorf("capabilities (-want +got):\n%s", diff)
	}
	// A later heartbeat may say more, and gains nothing.
	a.Capabilities = said.Capabilities
	if a.Can("host.deploy") || !a.Can("docker.deploy") {
		t.Error("what the token allowed is forgotten")
	}
}

func TestTokenRefusesAnotherHost(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, text := b.token(api.RegistrationTokenRequest{AgentID: "id-1", Platform: "linux"})
	for field, req := range map[string]api.RegisterRequest{
		"body.id":       {ID: "id-2", Name: "n"},
		"body.platform": {Platform: "windows", Name: "n"},
		"body.name":     {},
	} {
		req.CSR = b.key()
		_, err := b.Register(t.Context(), enroll.Caller{Token: text}, req)
		if f := fault.As(err); f == nil || len(f.Fields) != 1 || f.Fields[0].Location != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	// Nothing of that has spent the token.
	b.registered(enroll.Caller{Token: text}, api.RegisterRequest{Name: "n"})
}

// Every token that is not good gets one answer, and the audit log says which
// it was.
func TestBadTokensAreAlike(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, used := b.token(api.RegistrationTokenRequest{})
	b.registered(enroll.Caller{Token: used}, api.RegisterRequest{Name: "first"})
	_, expired := b.token(api.RegistrationTokenRequest{TTLSeconds: 60})
	revoked, revokedText := b.token(api.RegistrationTokenRequest{TTLSeconds: 3600})
	b.must(b.RevokeToken(t.Context(), tenant, revoked.ID))
	b.must(b.RevokeToken(t.Context(), tenant, revoked.ID)) // idempotent
	unknown, _ := enroll.NewSecret([32]byte{})
	b.now = b.now.Add(2 * time.Minute)
	b.audited()
	for _, c := range []struct{ text, detail, says string }{
		{used, "token used", "was used already"},
		{expired, "token expired", "expired at 2"},
		{revokedText, "token revoked", "was revoked"},
		{unknown, "token unknown", "is not known here"},
		{"nonsense", "token unknown", "is not known here"},
	} {
		_, err := b.Register(t.Context(), enroll.Caller{Token: c.text, Remote: "192.0.2.1"}, api.RegisterRequest{Name: "n", CSR: b.key()})
		b.wantFault(err, fault.Unauthenticated, "token_refused")
		if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %q", c.detail, err)
		}
		want := []access.Event{{Actor: "anonymous", Action: "agent.register", Object: "n", Remote: "192.0.2.1", Outcome: "denied", Detail: c.detail}}
		if c.detail != "token unknown" {
			want[0].TenantID = tenant
		}
		if diff := cmp.Diff(want, b.audited()); diff != "" {
			t.Errorf("audit (-want +got):\n%s", diff)
		}
	}
	_, err := b.Register(t.Context(), enroll.Caller{}, api.RegisterRequest{Name: "n", CSR: b.key()})
	b.wantFault(err, fault.Unauthenticated, "token_missing")
}

// An agent in a container is one on Linux too, and gets the platform that its
// token says; one on another system does not.
func TestPlatformOfToken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, c := range []struct{ token, agent, is string }{
		{"linux", "docker", "linux"},
		{"docker", "linux", "docker"},
		{"windows", "windows", "windows"},
		{"", "docker", "docker"},
		{"windows", "linux", ""},
		{"linux", "windows", ""},
		{"docker", "windows", ""},
	} {
		_, text := b.token(api.RegistrationTokenRequest{Platform: c.token})
		reg, err := b.Register(t.Context(), enroll.Caller{Token: text}, api.RegisterRequest{Name: "n-" + c.token + c.agent, Platform: c.agent, CSR: b.key()})
		if c.is == "" {
			b.wantFault(err, fault.Invalid, "invalid")
			continue
		}
		b.must(err)
		if a, err := b.store.Agent(t.Context(), tenant, reg.AgentID); err != nil || a.Platform != c.is {
			t.Errorf("%+v: %+v, %v", c, a, err)
		}
	}
}

// The answer may be lost: the same token with the same key gives the same
// identity, while the token's life lasts; another key gets nothing.
func TestRetryGetsTheSameAnswer(t *testing.T) {
	t.Parallel()
	for _, uses := range []int{1, 3} {
		b := newBench(t)
		tok, text := b.token(api.RegistrationTokenRequest{MaxUses: uses, TTLSeconds: 600})
		req := api.RegisterRequest{Name: "n", CSR: b.key()}
		first, err := b.Register(t.Context(), enroll.Caller{Token: text}, req)
		b.must(err)
		for range 3 {
			b.now = b.now.Add(time.Minute)
			again, err := b.Register(t.Context(), enroll.Caller{Token: text}, req)
			b.must(err)
			if diff := cmp.Diff(first, again); diff != "" {
				t.Errorf("the retry (-first +again):\n%s", diff)
			}
		}
		all, err := b.Tokens(t.Context(), tenant, enroll.Filter{})
		b.must(err)
		if all[0].ID != tok.ID || all[0].Uses != 1 {
			t.Errorf("the token has %d uses, want 1", all[0].Uses)
		}
		b.now = b.now.Add(time.Hour)
		_, err = b.Register(t.Context(), enroll.Caller{Token: text}, req)
		b.wantFault(err, fault.Unauthenticated, "token_refused")
	}
}

// Of many who come at once with one token, one succeeds; of one agent's own
// tries, all do.
func TestOneUseIsOne(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, text := b.token(api.RegistrationTokenRequest{})
	keys := []string{b.key(), b.key(), b.key(), b.key()}
	var mu sync.Mutex
	ids := map[string]bool{}
	refused := 0
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			reg, err := b.Register(t.Context(), enroll.Caller{Token: text}, api.RegisterRequest{Name: "n", CSR: keys[i%len(keys)]})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				ids[reg.AgentID] = true
			} else if fault.CodeOf(err) == "token_refused" {
				refused++
			} else {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	if len(ids) != 1 || refused != 18 {
		t.Errorf("%d agents, %d refused; want 1 and 18", len(ids), refused)
	}
}

// An id that exists is taken up again with a token for it, or with the current
// key; not with any token.
func TestResume(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, text := b.token(api.RegistrationTokenRequest{})
	old := b.registered(enroll.Caller{Token: text}, api.RegisterRequest{ID: "host-1", Name: "n", Labels: map[string]string{"k": "v"}})
	if _, err := b.store.SetLifecycle(t.Context(), tenant, old.ID, []api.Lifecycle{api.LifecycleActive}, api.LifecycleInactive, b.now); err != nil {
		t.Fatal(err)
	}
	b.audited()
	_, any1 := b.token(api.RegistrationTokenRequest{})
	_, err := b.Register(t.Context(), enroll.Caller{Token: any1}, api.RegisterRequest{ID: "host-1", Name: "n", CSR: b.key()})
	b.wantFault(err, fault.Conflict, "identity_exists")
	if e := b.audited(); len(e) != 1 || e[0].Outcome != "denied" || e[0].Object != "host-1" {
		t.Errorf("audited: %+v", e)
	}
	_, err = b.Register(t.Context(), enroll.Caller{Token: any1, TenantID: tenant, AgentID: "host-2"}, api.RegisterRequest{ID: "host-1", Name: "n", CSR: b.key()})
	b.wantFault(err, fault.Conflict, "identity_exists")
	_, err = b.Register(t.Context(), enroll.Caller{Token: any1, TenantID: "other", AgentID: "host-1"}, api.RegisterRequest{ID: "host-1", Name: "n", CSR: b.key()})
	b.wantFault(err, fault.Conflict, "identity_exists")
	if got := b.agent("host-1"); got.PublicKeyHash != old.PublicKeyHash {
		t.Fatal("the identity was taken over")
	}

	b.now = b.now.Add(time.Hour)
	_, own := b.token(api.RegistrationTokenRequest{AgentID: "host-1"})
	a := b.registered(enroll.Caller{Token: own}, api.RegisterRequest{Name: "n", Version: "2"})
	if a.ID != "host-1" || a.PublicKeyHash == old.PublicKeyHash || a.Version != "2" {
		t.Errorf("resumed: %+v", a)
	}
	if a.Lifecycle != api.LifecycleInactive || !a.CreatedAt.Equal(old.CreatedAt) || a.Labels["k"] != "v" {
		t.Errorf("what people decided was not kept: %+v", a)
	}
	if c, err := b.store.Credential(t.Context(), old.CertificateFingerprint); err != nil || !c.Ended(b.now) {
		t.Errorf("the old certificate still works: %+v, %v", c, err)
	}

	// By its current key it registers anew, and only itself.
	me := enroll.Caller{TenantID: tenant, AgentID: "host-1"}
	b.audited()
	a = b.registered(me, api.RegisterRequest{Name: "another name", Environment: "prod", Version: "3"})
	if a.ID != "host-1" || a.Name != "n" || a.Environment != "" || a.Version != "3" {
		t.Errorf("registered anew: %+v", a)
	}
	if e := b.audited(); len(e) != 1 || e[0].Action != "agent.reregister" || e[0].Actor != "agent:host-1" || e[0].Outcome != "ok" {
		t.Errorf("audited: %+v", e)
	}
	_, err = b.Register(t.Context(), me, api.RegisterRequest{ID: "host-2", Name: "n", CSR: b.key()})
	b.wantFault(err, fault.Forbidden, "not_your_identity")
}

func TestRevokedAgentStaysOut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, text := b.token(api.RegistrationTokenRequest{})
	b.registered(enroll.Caller{Token: text}, api.RegisterRequest{ID: "host-1", Name: "n"})
	if _, err := b.store.SetLifecycle(t.Context(), tenant, "host-1", []api.Lifecycle{api.LifecycleActive}, api.LifecycleRevoked, b.now); err != nil {
		t.Fatal(err)
	}
	tok, own := b.token(api.RegistrationTokenRequest{AgentID: "host-1"})
	for what, c := range map[string]enroll.Caller{
		"a token for it": {Token: own},
		"its key":        {TenantID: tenant, AgentID: "host-1"},
		"both":           {Token: own, TenantID: tenant, AgentID: "host-1"},
	} {
		_, err := b.Register(t.Context(), c, api.RegisterRequest{ID: "host-1", Name: "n", CSR: b.key()})
		if fault.KindOf(err) != fault.Forbidden || fault.CodeOf(err) != "agent_revoked" {
			t.Errorf("with %s: %v", what, err)
		}
	}
	// When an operator has deleted it, the token is still good.
	b.must(b.store.DeleteAgent(t.Context(), tenant, "host-1"))
	_, err := b.Register(t.Context(), enroll.Caller{TenantID: tenant, AgentID: "host-1"}, api.RegisterRequest{Name: "n", CSR: b.key()})
	b.wantFault(err, fault.Forbidden, "agent_unknown")
	if a := b.registered(enroll.Caller{Token: own}, api.RegisterRequest{Name: "n"}); a.ID != "host-1" || a.Lifecycle != api.LifecycleActive {
		t.Errorf("registered: %+v, by token %s", a, tok.ID)
	}
}

func TestNameIsUnique(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tok, text := b.token(api.RegistrationTokenRequest{MaxUses: 2})
	b.registered(enroll.Caller{Token: text}, api.RegisterRequest{Name: "n"})
	_, err := b.Register(t.Context(), enroll.Caller{Token: text}, api.RegisterRequest{Name: "n", CSR: b.key()})
	b.wantFault(err, fault.Conflict, "name_taken")
	all, err := b.Tokens(t.Context(), tenant, enroll.Filter{})
	b.must(err)
	if i := slices.IndexFunc(all, func(x *enroll.Token) bool { return x.ID == tok.ID }); all[i].Uses != 1 {
		t.Errorf("the refused registration spent the token: %d uses", all[i].Uses)
	}
}

func TestCreateTokenChecks(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for field, req := range map[string]api.RegistrationTokenRequest{
		"body.name":         {Name: "\t"},
		"body.id":           {AgentID: "a/b"},
		"body.labels":       {Labels: map[string]string{" ": ""}},
		"body.capabilities": {Capabilities: []string{"X"}},
		"body.ttlSeconds":   {TTLSeconds: 31 * 24 * 3600},
		"body.maxUses":      {MaxUses: 2, AgentID: "a"},
	} {
		_, _, err := b.CreateToken(t.Context(), tenant, "tester", req)
		if f := fault.As(err); f == nil || len(f.Fields) != 1 || f.Fields[0].Location != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	tok, text := b.token(api.RegistrationTokenRequest{})
	if tok.MaxUses != 1 || !tok.ExpiresAt.Equal(b.now.Add(15*time.Minute)) || tok.CreatedBy != "tester" || tok.Hash != enroll.Hash(text) {
		t.Errorf("by default: %+v", tok)
	}
	all, err := b.Tokens(t.Context(), tenant, enroll.Filter{})
	b.must(err)
	if len(all) != 1 || strings.Contains(all[0].Hash, text) {
		t.Errorf("listed: %+v", all)
	}
}

// An agent that signs its heartbeats is known as one: its own key cannot take that
// back, a new token can.
func TestSigningIsKept(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, text := b.token(api.RegistrationTokenRequest{})
	plain := b.registered(enroll.Caller{Token: text}, api.RegisterRequest{ID: "plain", Name: "plain"})
	_, text = b.token(api.RegistrationTokenRequest{})
	signs := b.registered(enroll.Caller{Token: text}, api.RegisterRequest{ID: "signs", Name: "signs", SignsHeartbeats: true})
	if plain.SignsHeartbeats || !signs.SignsHeartbeats {
		t.Fatal(plain.SignsHeartbeats, signs.SignsHeartbeats)
	}
	me := enroll.Caller{TenantID: tenant, AgentID: "signs"}
	if a := b.registered(me, api.RegisterRequest{Name: "signs"}); !a.SignsHeartbeats {
		t.Error("it took that back by its key")
	}
	renew := func(id string, says bool) *fleet.Agent {
		t.Helper()
		_, err := b.Renew(t.Context(), enroll.Caller{TenantID: tenant, AgentID: id}, "the key before", false, &api.CertificateRequest{CSR: b.key(), SignsHeartbeats: says})
		b.must(err)
		return b.agent(id)
	}
	if a := renew("signs", false); !a.SignsHeartbeats {
		t.Error("it took that back by a renewal")
	}
	b.changes()
	if a := renew("plain", true); !a.SignsHeartbeats {
		t.Error("one from before did not turn to signing by its renewal")
	}
	if n := b.changes(); n != 1 {
		t.Errorf("servers were told %d times, want once: a link that is not signed is to end", n)
	}
	if renew("plain", true); b.changes() != 0 {
		t.Error("servers were told of what has not changed")
	}
	_, text = b.token(api.RegistrationTokenRequest{AgentID: "signs"})
	if a := b.registered(enroll.Caller{Token: text}, api.RegisterRequest{Name: "signs"}); a.SignsHeartbeats {
		t.Error("a new token could not take that back")
	}
}

func TestOnlySigningAgentsAreRegistered(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	only := policy
	only.SignedOnly = true
	b.service(only)
	tok, text := b.token(api.RegistrationTokenRequest{})
	_, err := b.Register(t.Context(), enroll.Caller{Token: text}, api.RegisterRequest{Name: "a", CSR: b.key()})
	b.wantFault(err, fault.Forbidden, api.CodeSigningRequired)
	a := b.registered(enroll.Caller{Token: text}, api.RegisterRequest{Name: "a", SignsHeartbeats: true})
	_, err = b.Register(t.Context(), enroll.Caller{TenantID: tenant, AgentID: a.ID}, api.RegisterRequest{Name: "a", CSR: b.key()})
	b.wantFault(err, fault.Forbidden, api.CodeSigningRequired)
	if got, err := b.store.TokenByHash(t.Context(), tok.Hash); err != nil || got.Uses != 1 {
		t.Errorf("the token has %d uses: what was refused has cost one (%v)", got.Uses, err)
	}
}
