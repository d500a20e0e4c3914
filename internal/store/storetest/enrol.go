package storetest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

func testTokens(t *testing.T, b *bench) {
	first := b.token(t, "t1", 1)
	second := &enroll.Token{ID: "t2", TenantID: tenant, Hash: hash("t2"), MaxUses: 5, CreatedAt: b.now.Add(time.Second), ExpiresAt: b.now.Add(time.Hour)}
	must(t, b.InsertToken(b.ctx, second))

	got, err := b.TokenByHash(b.ctx, first.Hash)
	must(t, err)
	same(t, "token", got, first)
	if got, err := b.TokenByHash(b.ctx, "unknown"); err != nil || got != nil {
		t.Errorf("an unknown hash gives %v (error %v)", got, err)
	}
	list, err := b.Tokens(b.ctx, tenant, enroll.Filter{})
	must(t, err)
	same(t, "list", list, []*enroll.Token{second, first})

	must(t, b.RevokeToken(b.ctx, tenant, "t1", b.now.Add(time.Minute)))
	must(t, b.RevokeToken(b.ctx, tenant, "t1", b.now.Add(time.Hour)))
	first.RevokedAt = b.now.Add(time.Minute)
	got, err = b.TokenByHash(b.ctx, first.Hash)
	must(t, err)
	same(t, "revoked token", got, first)
	wantFault(t, b.RevokeToken(b.ctx, tenant, "nothing", b.now), fault.NotFound, "token_not_found")
	wantFault(t, b.RevokeToken(b.ctx, "elsewhere", "t2", b.now), fault.NotFound, "token_not_found")
}

func testEnrolRoundTrip(t *testing.T, b *bench) {
	a := b.agent("web")
	a.ResourceUsage, a.SignsHeartbeats = &api.ResourceUsage{Load1: 0.25}, true
	// More than the engines keep, and in another zone.
	a.LastHeartbeat = b.now.Add(7 * time.Nanosecond).In(time.FixedZone("far", 3600))
	tok := b.token(t, "tok", 1)
	e := b.enrolment(a)
	e.TokenID = tok.ID
	must(t, b.Enrol(b.ctx, e))

	a.LastHeartbeat = b.now
	got, err := b.Agent(b.ctx, tenant, a.ID)
	must(t, err)
	same(t, "agent", got, a)
	use, err := b.TokenUse(b.ctx, tok.ID, a.PublicKeyHash)
	must(t, err)
	same(t, "use", use, &enroll.Use{AgentID: a.ID, ChainPEM: e.Cert.ChainPEM})
	spent, err := b.TokenByHash(b.ctx, tok.Hash)
	must(t, err)
	if spent.Uses != 1 {
		t.Errorf("the token has %d uses, want 1", spent.Uses)
	}
	if use, err := b.TokenUse(b.ctx, tok.ID, "another key"); err != nil || use != nil {
		t.Errorf("another key has the use %v (error %v)", use, err)
	}

	// A slim agent: everything that may be empty is.
	slim := &fleet.Agent{ID: "slim", TenantID: tenant, Name: "slim", Lifecycle: api.LifecycleActive, Liveness: api.Live, CreatedAt: b.now, UpdatedAt: b.now}
	must(t, b.Enrol(b.ctx, &enroll.Enrolment{Agent: slim, At: b.now, Cert: enroll.Issued{Fingerprint: "f", NotBefore: b.now, NotAfter: b.now}}))
	got, err = b.Agent(b.ctx, tenant, "slim")
	must(t, err)
	same(t, "slim agent", got, slim)
}

func testEnrolRefusals(t *testing.T, b *bench) {
	web := b.agent("web")
	b.enrol(t, web)
	tok := b.token(t, "tok", 100)
	try := func(change func(*enroll.Enrolment)) error {
		a := b.agent("new")
		e := b.enrolment(a)
		e.TokenID = tok.ID
		change(e)
		return b.Enrol(b.ctx, e)
	}
	wantError(t, try(func(e *enroll.Enrolment) { e.TokenID = "unknown" }), enroll.ErrSpent)
	wantError(t, try(func(e *enroll.Enrolment) { e.At = tok.ExpiresAt }), enroll.ErrSpent)
	wantError(t, try(func(e *enroll.Enrolment) { e.Agent.TenantID = "elsewhere" }), enroll.ErrSpent)
	wantError(t, try(func(e *enroll.Enrolment) { e.Agent.Name = "web" }), enroll.ErrNameTaken)
	wantError(t, try(func(e *enroll.Enrolment) { e.Agent.ID = web.ID }), enroll.ErrIDTaken)
	wantError(t, try(func(e *enroll.Enrolment) { e.Agent.ID, e.Agent.Name = web.ID, "web" }), enroll.ErrIDTaken)
	wantFault(t, try(func(e *enroll.Enrolment) { e.Resume = true }), fault.NotFound, "agent_not_found")

	// Nothing of that left a trace.
	unspent, err := b.TokenByHash(b.ctx, tok.Hash)
	must(t, err)
	same(t, "token", unspent, tok)
	got, err := b.Agent(b.ctx, tenant, web.ID)
	must(t, err)
	same(t, "agent", got, web)
	if got, err := b.Credential(b.ctx, hash("cert-new")); err != nil || got != nil {
		t.Errorf("a refused enrolment left a certificate (error %v)", err)
	}

	must(t, b.RevokeToken(b.ctx, tenant, tok.ID, b.now))
	wantError(t, try(func(*enroll.Enrolment) {}), enroll.ErrSpent)
}

// testEnrolOneToken: a thousand at once, one gets in.
func testEnrolOneToken(t *testing.T, b *bench) {
	tok := b.token(t, "tok", 1)
	other := b.open(t)
	in := make([]bool, 1000)
	together(t, len(in), func(i int) error {
		e := b.enrolment(b.agent(numbered("a", i)))
		e.TokenID = tok.ID
		s := b.Store
		if i%2 == 1 {
			s = other
		}
		switch err := s.Enrol(b.ctx, e); {
		case err == nil:
			in[i] = true
			return nil
		case errors.Is(err, enroll.ErrSpent):
			return nil
		default:
			return err
		}
	})
	if n := count(in); n != 1 {
		t.Errorf("%d agents got in by a token for one", n)
	}
	agents, err := b.Agents(b.ctx, tenant, fleet.Filter{Limit: 1000})
	must(t, err)
	if len(agents) != 1 {
		t.Errorf("there are %d agents, want 1", len(agents))
	}
}

func testEnrolManyUses(t *testing.T, b *bench) {
	tok := b.token(t, "tok", 30)
	in := make([]bool, 60)
	together(t, len(in), func(i int) error {
		e := b.enrolment(b.agent(numbered("a", i)))
		e.TokenID = tok.ID
		err := b.Enrol(b.ctx, e)
		in[i] = err == nil
		if errors.Is(err, enroll.ErrSpent) {
			return nil
		}
		return err
	})
	if n := count(in); n != 30 {
		t.Errorf("%d agents got in by a token for 30", n)
	}
}

func testResume(t *testing.T, b *bench) {
	old := b.agent("web")
	b.enrol(t, old)
	revoked := func(fingerprint string) bool {
		t.Helper()
		c, err := b.Credential(b.ctx, fingerprint)
		must(t, err)
		if c == nil || c.Agent.ID != old.ID {
			t.Fatalf("certificate %s belongs to %v", fingerprint, c)
		}
		return c.Ended(b.now.Add(time.Hour))
	}
	again := func(n string, tokenID string) *fleet.Agent {
		t.Helper()
		a := b.agent("web")
		a.Name, a.Version, a.PublicKeyHash, a.CertificateFingerprint = "web"+n, n, hash("key"+n), hash("cert"+n)
		a.Labels, a.Capabilities, a.Group = map[string]string{"n": n}, []string{"host"}, "group"+n
		a.UpdatedAt = b.now.Add(time.Minute)
		e := b.enrolment(a)
		e.TokenID, e.Resume, e.At = tokenID, true, a.UpdatedAt
		must(t, b.Enrol(b.ctx, e))
		return a
	}
	// By the proof of its key: the old certificate still counts, because the
	// new one may be lost on the way.
	proved := again("1", "")
	got, err := b.Agent(b.ctx, tenant, old.ID)
	must(t, err)
	same(t, "agent", got, proved)
	if revoked(old.CertificateFingerprint) || revoked(proved.CertificateFingerprint) {
		t.Error("resuming by key has revoked a certificate")
	}
	// By a token: whoever has the old key no longer is the agent.
	tokened := again("2", b.token(t, "tok", 1).ID)
	if !revoked(old.CertificateFingerprint) || !revoked(proved.CertificateFingerprint) {
		t.Error("resuming by a token has not revoked the older certificates")
	}
	if revoked(tokened.CertificateFingerprint) {
		t.Error("resuming by a token has revoked the new certificate")
	}
	// Another agent's name is not to be had this way either.
	b.enrol(t, b.agent("db"))
	e := b.enrolment(b.agent("web"))
	e.Agent.Name, e.Cert.Fingerprint, e.Resume = "db", "another", true
	wantError(t, b.Enrol(b.ctx, e), enroll.ErrNameTaken)
}

// testResumeKeeps: what the request carries of these was read before, and may
// be old.
func testResumeKeeps(t *testing.T, b *bench) {
	a := b.agent("web")
	a.Lifecycle, a.Liveness = api.LifecycleInactive, api.Dead
	b.enrol(t, a)
	e := b.enrolment(b.agent("web"))
	e.Cert.Fingerprint, e.Agent.CertificateFingerprint, e.Resume = "second", "second", true
	e.Agent.CreatedAt, e.Agent.LastHeartbeat = b.now.Add(time.Hour), b.now.Add(time.Hour)
	must(t, b.Enrol(b.ctx, e))
	a.CertificateFingerprint = "second"
	got, err := b.Agent(b.ctx, tenant, a.ID)
	must(t, err)
	same(t, "agent", got, a)

	_, err = b.SetLifecycle(b.ctx, tenant, a.ID, []api.Lifecycle{api.LifecycleInactive}, api.LifecycleRevoked, b.now)
	must(t, err)
	e.Cert.Fingerprint = "third"
	wantFault(t, b.Enrol(b.ctx, e), fault.Forbidden, "agent_revoked")
}

// testSameKeyTwice: an agent that tries again while its first try still runs
// is told so, and finds what the first one got.
func testSameKeyTwice(t *testing.T, b *bench) {
	tok := b.token(t, "tok", 100)
	in := make([]bool, 10)
	together(t, len(in), func(i int) error {
		e := b.enrolment(b.agent("web"))
		e.TokenID, e.Agent.ID, e.Cert.Fingerprint = tok.ID, newID(), newID()
		err := b.Enrol(b.ctx, e)
		in[i] = err == nil
		if errors.Is(err, enroll.ErrSpent) {
			return nil
		}
		return err
	})
	if n := count(in); n != 1 {
		t.Errorf("%d tries got in, want 1", n)
	}
	if use, err := b.TokenUse(b.ctx, tok.ID, b.agent("web").PublicKeyHash); err != nil || use == nil {
		t.Errorf("no use is found (error %v)", err)
	}
	spent, err := b.TokenByHash(b.ctx, tok.Hash)
	must(t, err)
	if spent.Uses != 1 {
		t.Errorf("the token has %d uses, want 1", spent.Uses)
	}
}

// A renewed certificate counts from its first use on, and those before it end a
// moment after that: whether the agent ever gets an answer, nobody knows.
func testRenew(t *testing.T, b *bench) {
	a := b.agent("web")
	b.enrol(t, a)
	renewal := func(n string, at time.Time) *enroll.Renewal {
		return &enroll.Renewal{
			Agent: a, At: at, ForgetBefore: at.Add(-time.Hour),
			Cert: enroll.Issued{Fingerprint: hash("cert-" + n), Serial: n, PublicKeyHash: hash("key-" + n), NotBefore: at, NotAfter: at.Add(48 * time.Hour)},
		}
	}
	renew := func(n string, at time.Time, key string) {
		t.Helper()
		r := renewal(n, at)
		r.EncryptionKey = key
		must(t, b.Renew(b.ctx, r))
	}
	state := func(n string, at time.Time) string {
		t.Helper()
		c, err := b.Credential(b.ctx, hash("cert-"+n))
		must(t, err)
		switch {
		case c == nil:
			return "forgotten"
		case c.Agent.ID != a.ID:
			return "of " + c.Agent.ID
		case c.Ended(at):
			return "ended"
		case c.Pending:
			return "pending"
		}
		return "good"
	}
	states := func(at time.Time, want string) {
		t.Helper()
		all := make([]string, 4)
		for i, n := range []string{"web", "1", "2", "3"} {
			all[i] = state(n, at)
		}
		if have := strings.Join(all, " "); have != want {
			t.Errorf("after %s: %s, want %s", at.Sub(b.now), have, want)
		}
	}
	at := func(minutes int) time.Time { return b.now.Add(time.Duration(minutes) * time.Minute) }
	renew("1", at(1), "")
	renew("2", at(2), "bmV3")
	renew("3", at(3), "")
	got, err := b.Agent(b.ctx, tenant, a.ID)
	must(t, err)
	want := *a
	want.EncryptionKey = "bmV3"
	same(t, "agent with renewals that are not used", got, &want)
	states(at(3), "good pending pending pending")

	// Many servers see the first use at once: one notes it.
	adopted := make([]bool, 10)
	together(t, len(adopted), func(i int) (err error) {
		adopted[i], err = b.Adopt(b.ctx, hash("cert-2"), at(5))
		return err
	})
	if n := count(adopted); n != 1 {
		t.Errorf("%d of %d say that they adopted it, want 1", n, len(adopted))
	}
	states(at(4), "good pending good pending") // those before go on for a moment
	states(at(5), "ended ended good pending")
	got, err = b.Agent(b.ctx, tenant, a.ID)
	must(t, err)
	want.CertificateFingerprint, want.PublicKeyHash, want.CertificateNotAfter = hash("cert-2"), hash("key-2"), at(2).Add(48*time.Hour)
	same(t, "agent with a renewal that is used", got, &want)
	for _, n := range []string{"2", "web", "nothing"} {
		if again, err := b.Adopt(b.ctx, hash("cert-"+n), at(5)); again || err != nil {
			t.Errorf("adopted %s: %v, %v", n, again, err)
		}
	}
	if again, err := b.Adopt(b.ctx, hash("cert-3"), at(6)); !again || err != nil {
		t.Errorf("adopted the next: %v, %v", again, err)
	}
	states(at(7), "ended ended ended good")

	// What ended long ago is forgotten with the next renewal.
	late := renewal("4", at(3000))
	late.ForgetBefore = at(3 + 48*60)
	must(t, b.Renew(b.ctx, late))
	states(at(7), "forgotten forgotten forgotten good")

	// Who is revoked or gone gets none, not even at this very moment.
	_, err = b.SetLifecycle(b.ctx, tenant, a.ID, []api.Lifecycle{api.LifecycleActive}, api.LifecycleRevoked, at(8))
	must(t, err)
	states(at(8), "forgotten forgotten forgotten ended")
	for _, key := range []string{"", "a2V5"} {
		r := renewal("5"+key, at(9))
		r.EncryptionKey = key
		wantFault(t, b.Renew(b.ctx, r), fault.Forbidden, "agent_revoked")
	}
	must(t, b.DeleteAgent(b.ctx, tenant, a.ID))
	wantFault(t, b.Renew(b.ctx, renewal("6", at(9))), fault.NotFound, "agent_not_found")
	if c, err := b.Credential(b.ctx, hash("cert-6")); c != nil || err != nil {
		t.Errorf("a refused renewal left %+v, %v", c, err)
	}
}
