package pki

import (
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// issue makes an agent's certificate by an authority.
func issue(t testing.TB, a *Authority) *x509.Certificate {
	t.Helper()
	req, err := a.ParseCSR(csr(t, ec(t, elliptic.P256()), &x509.CertificateRequest{}))
	must(t, err)
	issued, err := a.IssueAgent(req, "t", "a", agentLife)
	must(t, err)
	if issued.Trust != a.Trust() {
		t.Errorf("issued under %s, the trust is %s", issued.Trust, a.Trust())
	}
	return chain(t, issued.ChainPEM)[0]
}

// served is what a server shows.
func served(t testing.TB, a *Authority) []*x509.Certificate {
	t.Helper()
	cert, err := a.ServerCertificate([]string{"stella.example.com"})
	must(t, err)
	var out []*x509.Certificate
	for _, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		out = append(out, c)
	}
	return out
}

// believes reports whether who trusts roots believes a server.
func believes(t testing.TB, rootsPEM string, now time.Time, shown []*x509.Certificate) bool {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(rootsPEM))
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	_, err := shown[0].Verify(x509.VerifyOptions{DNSName: "stella.example.com", Roots: roots, Intermediates: between, CurrentTime: now})
	return err == nil
}

func pinned(a *Authority, pin [sha256.Size]byte, shown []*x509.Certificate) bool {
	return PinnedConfig(pin, "stella.example.com", a.now, nil).VerifyConnection(tls.ConnectionState{PeerCertificates: shown}) == nil
}

func knows(a *Authority, leaf *x509.Certificate) bool {
	return a.VerifyAgent(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}) == nil
}

// Once round: at each step, who has followed and who has not can talk to the
// servers, until the old authority is retired.
func TestRotation(t *testing.T) {
	t.Parallel()
	c := newClock()
	k := &keys{}
	a := load(t, k, c)
	other := load(t, k, c) // another server
	oldRoots, oldPin, oldLeaf, oldTrust := a.RootsPEM(), a.Pin(), issue(t, a), a.Trust()
	step := func(do func() error, phase api.CAPhase, states ...string) {
		t.Helper()
		c.at = c.at.Add(time.Minute)
		must(t, do())
		r := a.Rotation()
		have := make([]string, len(r.Authorities))
		for i, x := range r.Authorities {
			have[i] = x.State
		}
		if r.Phase != phase || strings.Join(have, " ") != strings.Join(states, " ") || !r.Since.Equal(c.at) || r.Trust != a.Trust() {
			t.Errorf("%+v, want %s %q", r, phase, states)
		}
	}
	refused := func(err error, code string) {
		t.Helper()
		if f := fault.As(err); f == nil || f.Code != code {
			t.Errorf("%v, want %s", err, code)
		}
	}
	refused(a.Activate(t.Context()), "ca_phase")
	refused(a.Retire(t.Context()), "ca_phase")

	step(func() error { return a.Prepare(t.Context()) }, api.CAPrepared, "active", "next")
	refused(a.Prepare(t.Context()), "ca_phase")
	refused(a.Activate(t.Context()), "ca_settling")
	bothRoots, preparedTrust := a.RootsPEM(), a.Trust()
	if !strings.HasPrefix(bothRoots, oldRoots) || bothRoots == oldRoots || a.Pin() != oldPin || preparedTrust == oldTrust {
		t.Error("prepared, and not both are trusted, or the next issues")
	}
	preparedLeaf := issue(t, a)

	// The other server takes the next step, and this one has not heard of it.
	c.at = c.at.Add(time.Minute)
	must(t, other.Activate(t.Context()))
	if !knows(a, issue(t, other)) || !believes(t, bothRoots, c.at, served(t, a)) {
		t.Error("a server that has not heard of the activation refuses what the next authority issues")
	}
	must(t, a.Reload(t.Context()))
	newPin, newLeaf := a.Pin(), issue(t, a)
	if a.Trust() != other.Trust() || a.Trust() == preparedTrust || newPin == oldPin {
		t.Error("activated, and not another one issues")
	}
	shown := served(t, a)
	for name, ok := range map[string]bool{
		"who has not followed believes the server":  believes(t, oldRoots, c.at, shown),
		"who has prepared believes the server":      believes(t, bothRoots, c.at, shown),
		"who comes new believes the server":         believes(t, a.RootsPEM(), c.at, shown),
		"a token of before finds its pin":           pinned(a, oldPin, shown),
		"a new token finds its pin":                 pinned(a, newPin, shown),
		"an old certificate is known":               knows(a, oldLeaf),
		"a certificate of the prepared is known":    knows(a, preparedLeaf),
		"a new certificate is known":                knows(a, newLeaf),
		"another server knows the new certificate":  knows(other, newLeaf),
		"a stranger is believed by nobody":          !believes(t, oldRoots, c.at, served(t, load(t, &keys{}, c))),
		"a stranger's certificate is known nowhere": !knows(a, issue(t, load(t, &keys{}, c))),
	} {
		if !ok {
			t.Errorf("activated, and it does not hold that %s", name)
		}
	}
	refused(a.Activate(t.Context()), "ca_phase")
	refused(a.Retire(t.Context()), "ca_settling")

	step(func() error { return a.Retire(t.Context()) }, api.CASteady, "active")
	shown = served(t, a)
	for name, ok := range map[string]bool{
		"who has followed believes the server": believes(t, bothRoots, c.at, shown) && believes(t, a.RootsPEM(), c.at, shown),
		"who has not does not":                 !believes(t, oldRoots, c.at, shown),
		"a token of before is worth nothing":   !pinned(a, oldPin, shown),
		"a new token finds its pin":            pinned(a, newPin, shown),
		"an old certificate is not known":      !knows(a, oldLeaf) && !knows(a, preparedLeaf),
		"a new certificate is known":           knows(a, newLeaf),
		"the old root is not handed out":       !strings.Contains(a.RootsPEM(), oldRoots),
	} {
		if !ok {
			t.Errorf("retired, and it does not hold that %s", name)
		}
	}
	// And round again.
	step(func() error { return a.Prepare(t.Context()) }, api.CAPrepared, "active", "next")
	step(func() error { return a.Activate(t.Context()) }, api.CAActivated, "retiring", "active")
	if late := load(t, k, c); late.Trust() != a.Trust() || !knows(late, newLeaf) {
		t.Error("a server that starts in the midst of it knows something else")
	}
}

// Whatever servers do at once, each step is taken once, and nobody ever has half
// of one.
func TestRotationBySeveral(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		c := newClock()
		k := &keys{}
		all := []*Authority{load(t, k, c), load(t, k, c), load(t, k, c)}
		phases := []api.CAPhase{api.CASteady, api.CAPrepared, api.CAActivated}
		at := 0
		for range rapid.IntRange(1, 8).Draw(rt, "rounds") {
			c.at = c.at.Add(time.Hour)
			which := rapid.IntRange(0, 2).Draw(rt, "step")
			errs := make([]error, len(all))
			var wg sync.WaitGroup
			for i, a := range all {
				wg.Go(func() {
					switch which {
					case 0:
						errs[i] = a.Prepare(t.Context())
					case 1:
						errs[i] = a.Activate(t.Context())
					case 2:
						errs[i] = a.Retire(t.Context())
					}
				})
			}
			wg.Wait()
			done := 0
			for _, err := range errs {
				if err == nil {
					done++
				} else if f := fault.As(err); f == nil || f.Code != "ca_phase" {
					rt.Fatalf("refused with %v", err)
				}
			}
			want := 0
			if which == at {
				want, at = 1, (at+1)%3
			}
			if done != want {
				rt.Fatalf("%d took the step, want %d", done, want)
			}
			for _, a := range all {
				if err := a.Reload(t.Context()); err != nil {
					rt.Fatal(err)
				}
				if r := a.Rotation(); r.Phase != phases[at] || r.Trust != all[0].Trust() {
					rt.Fatalf("%+v, want %s", r, phases[at])
				}
			}
			for _, a := range all {
				for _, b := range all {
					if !knows(a, issue(t, b)) {
						rt.Fatal("one does not know what another has issued")
					}
				}
			}
		}
	})
}

// A short certificate begins little before it is issued: an agent tells by it
// when two thirds of its life are over.
func TestShortCertificates(t *testing.T) {
	t.Parallel()
	c := newClock()
	a := load(t, &keys{}, c)
	for life, before := range map[time.Duration]time.Duration{10 * time.Second: time.Second, 5 * time.Minute: 30 * time.Second, time.Hour: time.Minute, agentLife: time.Minute} {
		req, err := a.ParseCSR(csr(t, ec(t, elliptic.P256()), &x509.CertificateRequest{}))
		must(t, err)
		issued, err := a.IssueAgent(req, "t", "a", life)
		must(t, err)
		leaf := chain(t, issued.ChainPEM)[0]
		if !leaf.NotBefore.Equal(c.at.Add(-before)) || !leaf.NotAfter.Equal(c.at.Add(life)) {
			t.Errorf("%s: from %s to %s", life, leaf.NotBefore.Sub(c.at), leaf.NotAfter.Sub(c.at))
		}
	}
}
