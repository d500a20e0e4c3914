package storetest

import (
	"slices"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/task"
)

// changed collects whom the store says to have changed since it was asked last.
type changed struct {
	since int64
	seen  map[int64]bool
}

func (c *changed) next(t *testing.T, b *bench) (agents []string) {
	t.Helper()
	changes, next, err := b.AgentChanges(b.ctx, c.since)
	must(t, err)
	last := int64(0)
	for _, ch := range changes {
		if ch.Seq <= last || ch.TenantID != tenant {
			t.Errorf("%+v behind number %d", ch, last)
		}
		last = ch.Seq
		if !c.seen[ch.Seq] {
			agents = append(agents, ch.AgentID)
		}
		c.seen[ch.Seq] = true
	}
	c.since = next
	return agents
}

// Whatever ends an agent's welcome, or narrows it, is a change, on every server.
func testAgentChanges(t *testing.T, b *bench) {
	a, z := b.agent("a"), b.agent("z")
	b.enrol(t, a, z)
	here, there := &changed{seen: map[int64]bool{}}, &changed{seen: map[int64]bool{}}
	other := &bench{Store: b.open(t), ctx: b.ctx}
	here.next(t, b)
	active := []api.Lifecycle{api.LifecycleActive, api.LifecycleInactive}
	renewal := &enroll.Renewal{Agent: a, At: b.now, Cert: enroll.Issued{Fingerprint: "next", Serial: "2", NotBefore: b.now, NotAfter: b.now.Add(time.Hour)}}
	unknown := &enroll.Renewal{Agent: a, At: b.now, Cert: enroll.Issued{Fingerprint: "unknown", Serial: "3", NotBefore: b.now.Add(time.Second), NotAfter: b.now.Add(time.Hour)}}
	tok := b.token(t, "tok", 5)
	for _, step := range []struct {
		what string
		do   func() error
		want []string
	}{
		{"nothing", func() error { return nil }, nil},
		{"labels", func() error { return b.UpdateAgent(b.ctx, tenant, a.ID, &map[string]string{"x": "y"}, nil, b.now) }, []string{a.ID}},
		{"a renewal that is not used", func() error { return b.Renew(b.ctx, renewal) }, nil},
		{"its first use", func() error { _, err := b.Adopt(b.ctx, "next", b.now.Add(time.Minute)); return err }, []string{a.ID}},
		{"its second", func() error { _, err := b.Adopt(b.ctx, "next", b.now.Add(time.Minute)); return err }, nil},
		{"an unknown certificate", func() error { _, err := b.AdoptUnknown(b.ctx, unknown, b.now.Add(time.Minute)); return err }, []string{a.ID}},
		{"a registration anew", func() error {
			e := b.enrolment(b.agent("a"))
			e.TokenID, e.Resume, e.Cert.Fingerprint = tok.ID, true, "anew"
			return b.Enrol(b.ctx, e)
		}, []string{a.ID}},
		{"one certificate", func() error {
			_, err := b.EndCertificate(b.ctx, &enroll.Standing{Fingerprint: "anew", TenantID: tenant, AgentID: a.ID}, b.now)
			return err
		}, []string{a.ID}},
		{"deactivation", func() error {
			_, err := b.SetLifecycle(b.ctx, tenant, a.ID, active, api.LifecycleInactive, b.now)
			return err
		}, []string{a.ID}},
		{"the same again", func() error {
			_, err := b.SetLifecycle(b.ctx, tenant, a.ID, active, api.LifecycleInactive, b.now)
			return err
		}, nil},
		{"revocation", func() error {
			_, err := b.SetLifecycle(b.ctx, tenant, a.ID, active, api.LifecycleRevoked, b.now)
			return err
		}, []string{a.ID}},
		{"deletion", func() error { return b.DeleteAgent(b.ctx, tenant, z.ID) }, []string{z.ID}},
	} {
		must(t, step.do())
		if got := here.next(t, b); !slices.Equal(got, step.want) {
			t.Errorf("%s: %q have changed, want %q", step.what, got, step.want)
		}
	}
	all := there.next(t, other)
	if len(all) != 8 {
		t.Errorf("another server, which looks for the first time, finds %q", all)
	}
	// A position of another database is the beginning.
	if anew, next, err := b.AgentChanges(b.ctx, 1<<60); err != nil || len(anew) != len(all) || next > 1<<40 {
		t.Errorf("%d changes, next %d, %v", len(anew), next, err)
	}

	// What is old is forgotten, and numbers are not given again.
	must(t, b.db.Exec(b.ctx, "UPDATE agent_changes SET at = (SELECT created_at FROM agents LIMIT 1)"))
	must(t, b.UpdateAgent(b.ctx, tenant, a.ID, &map[string]string{"x": "z"}, nil, b.now))
	must(t, b.ForgetAgentChanges(b.ctx))
	left, _, err := b.AgentChanges(b.ctx, 0)
	must(t, err)
	if len(left) != 1 || left[0].AgentID != a.ID || left[0].Seq <= int64(len(all)) {
		t.Errorf("left are %+v", left)
	}
	if got := here.next(t, b); !slices.Equal(got, []string{a.ID}) {
		t.Errorf("behind what was forgotten, %q have changed", got)
	}
}

// A certificate that the store does not know is taken only when nothing that it
// does know speaks against it.
func testAdoptUnknown(t *testing.T, b *bench) {
	a := b.agent("web")
	b.enrol(t, a)
	newest := b.now.Add(-time.Minute) // as b.enrolment says
	unknown := func(n string, notBefore time.Time) *enroll.Renewal {
		return &enroll.Renewal{Agent: a, At: b.now, Cert: enroll.Issued{
			Fingerprint: hash("cert-" + n), Serial: n, PublicKeyHash: hash("key-" + n), NotBefore: notBefore, NotAfter: b.now.Add(48 * time.Hour),
		}}
	}
	adopt := func(r *enroll.Renewal) bool {
		t.Helper()
		ok, err := b.AdoptUnknown(b.ctx, r, b.now.Add(time.Minute))
		must(t, err)
		if c, err := b.Credential(b.ctx, r.Cert.Fingerprint); err != nil || (c != nil) != ok || ok && c.Pending {
			t.Errorf("adopted %v, known %v, %v", ok, c, err)
		}
		return ok
	}
	must(t, b.KeepEnded(b.ctx, []*enroll.Ended{{Serial: "b0", TenantID: tenant, AgentID: a.ID, At: b.now, NotAfter: b.now.Add(time.Hour), Why: enroll.WhyReplaced}}))
	for what, r := range map[string]*enroll.Renewal{
		"an older one":        unknown("1", newest.Add(-time.Second)),
		"one of the same age": unknown("2", newest),
		"one that was ended":  unknown("b0", b.now),
	} {
		if adopt(r) {
			t.Errorf("%s was adopted", what)
		}
	}
	elsewhere := unknown("3", b.now)
	elsewhere.Agent = b.agent("web")
	elsewhere.Agent.TenantID = "elsewhere"
	nobody := unknown("4", b.now)
	nobody.Agent = b.agent("nobody")
	for _, r := range []*enroll.Renewal{elsewhere, nobody} {
		if adopt(r) {
			t.Error("one of another agent was adopted")
		}
	}

	second, third := unknown("5", b.now.Add(time.Second)), unknown("6", b.now.Add(2*time.Second))
	together(t, 10, func(int) error { // as many requests of one agent
		_, err := b.AdoptUnknown(b.ctx, third, b.now.Add(time.Minute))
		return err
	})
	if c, err := b.Credential(b.ctx, third.Cert.Fingerprint); err != nil || c == nil || c.Pending || c.Ended(b.now.Add(time.Hour)) {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := b.Credential(b.ctx, a.CertificateFingerprint); err != nil || c.Ended(b.now) || !c.Ended(b.now.Add(time.Minute)) {
		t.Errorf("the one before: %+v, %v", c, err)
	}
	got, err := b.Agent(b.ctx, tenant, a.ID)
	must(t, err)
	if got.CertificateFingerprint != third.Cert.Fingerprint || got.PublicKeyHash != third.Cert.PublicKeyHash || got.Trust != "" {
		t.Errorf("%+v", got)
	}
	if adopt(second) {
		t.Error("one that was replaced meanwhile was adopted")
	}
	_, err = b.SetLifecycle(b.ctx, tenant, a.ID, []api.Lifecycle{api.LifecycleActive}, api.LifecycleRevoked, b.now)
	must(t, err)
	if adopt(unknown("7", b.now.Add(time.Hour))) {
		t.Error("one of a revoked agent was adopted")
	}
}

// What was ended is known with its reason, also of agents that are gone.
func testEnded(t *testing.T, b *bench) {
	for _, name := range []string{"good", "revoked", "deleted", "replaced"} {
		e := b.enrolment(b.agent(name))
		e.Cert.Serial = "a" + hash(name)[:8]
		must(t, b.Enrol(b.ctx, e))
	}
	active := []api.Lifecycle{api.LifecycleActive}
	_, err := b.SetLifecycle(b.ctx, tenant, "id-revoked", active, api.LifecycleRevoked, b.now)
	must(t, err)
	must(t, b.DeleteAgent(b.ctx, tenant, "id-deleted"))
	standing, err := b.StandingCertificates(b.ctx)
	must(t, err)
	if len(standing) != 2 || standing[0].TenantID != tenant || standing[0].AgentName == "" || !standing[0].EndsAt.IsZero() {
		t.Errorf("standing: %+v", standing)
	}
	for _, c := range standing {
		if c.AgentName != "replaced" {
			continue
		}
		for i, want := range []bool{true, false} {
			if ended, err := b.EndCertificate(b.ctx, c, b.now); err != nil || ended != want {
				t.Errorf("ending it, time %d: %v, %v", i+1, ended, err)
			}
		}
	}
	kept := &enroll.Ended{Serial: "c0ffee", TenantID: tenant, AgentID: "id-gone", At: b.now, NotAfter: b.now.Add(time.Hour), Why: enroll.WhyRevoked}
	must(t, b.KeepEnded(b.ctx, []*enroll.Ended{kept, kept}))
	must(t, b.KeepEnded(b.ctx, nil))
	why := func(list []*enroll.Ended, err error) map[string]string {
		t.Helper()
		must(t, err)
		out := map[string]string{}
		for _, e := range list {
			if e.TenantID != tenant || e.Serial == "" || e.At.IsZero() || e.NotAfter.IsZero() {
				t.Errorf("%+v", e)
			}
			out[e.AgentID] += e.Why
		}
		return out
	}
	all := map[string]string{"id-revoked": "revoked", "id-deleted": "deleted", "id-replaced": "replaced", "id-gone": "revoked"}
	same(t, "ended", why(b.EndedCertificates(b.ctx, b.now.Add(-time.Hour))), all)
	same(t, "ended of some", why(b.EndedCertificatesOf(b.ctx, []string{"id-revoked", "id-deleted", "id-good", "nobody"})), map[string]string{"id-revoked": "revoked", "id-deleted": "deleted"})
	same(t, "ended of nobody", why(b.EndedCertificatesOf(b.ctx, nil)), map[string]string{})
	// What has ended by itself is of no interest any more.
	delete(all, "id-gone")
	same(t, "later", why(b.EndedCertificates(b.ctx, b.now.Add(2*time.Hour))), all)
	must(t, b.ForgetEnded(b.ctx, b.now.Add(2*time.Hour)))
	same(t, "forgotten", why(b.EndedCertificates(b.ctx, b.now.Add(-time.Hour))), all)
}

// testAssigned: what was given to agents and not begun, and nothing else.
func testAssigned(t *testing.T, b *bench) {
	a := b.agent("web")
	b.enrol(t, a)
	tgt := b.target(t, "box", a.ID)
	given := b.claimed(t, b.insert(t, tgt.ID, unchanging), a.ID)
	b.insert(t, tgt.ID, unchanging) // is queued
	begun := b.claimed(t, b.insert(t, tgt.ID, unchanging), a.ID)
	if ok, err := b.StartTask(b.ctx, a.ID, task.Ref{ID: begun.ID, Attempt: begun.Attempt}, b.now); err != nil || !ok {
		t.Fatal(ok, err)
	}
	unwanted := b.claimed(t, b.insert(t, tgt.ID, unchanging), a.ID)
	if ok, err := b.RequestCancel(b.ctx, tenant, unwanted.ID, b.now); err != nil || !ok {
		t.Fatal(ok, err)
	}
	got, err := b.Assigned(b.ctx)
	must(t, err)
	same(t, "assigned", got, []task.Held{{TenantID: tenant, AgentID: a.ID, Ref: task.Ref{ID: given.ID, Attempt: 1}}})
}
