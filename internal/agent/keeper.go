package agent

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/atomicfile"
)

// keeper sees to it that the agent's certificate never ends while the agent can
// reach its server: it gets the next one in time, for a new key. One that has
// ended, as while the machine was switched off, still gets the next one for as
// long as the server allows.
type keeper struct {
	agent *Agent
	calls *calls
	// renewed is called when the data folder holds another certificate.
	renewed func() error

	one sync.Mutex // one renewal at a time

	mu     sync.Mutex
	trust  string    // that is to be followed; empty when none is
	due    time.Time // when to
	newer  bool      // the certificate is newer than the one that the link was opened with
	looked chan struct{}
}

// follow has the certificate renewed within a while, because the server's
// authority has changed: from then on its trust has another name. Without a
// name there is nothing to follow. A link that is new says so again when what
// the agent got meanwhile is not what the server wants; what is said before over
// the old one is of a certificate that has been renewed already.
func (k *keeper) follow(trust string, spread time.Duration, anew bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if anew {
		k.newer = false
	}
	switch {
	case k.newer: // it is said of the one before
	case trust == "":
		if anew {
			k.trust, k.due = "", time.Time{}
		}
	case trust != k.trust || anew && k.due.IsZero():
		k.trust, k.due = trust, k.agent.clock.now().Add(rand.N(max(spread, 1)+1)) //nolint:gosec // spreading load needs no secret
		ring(k.looked)
	}
}

// following is when a change of the authority is to be followed; zero when
// there is none.
func (k *keeper) following() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.due
}

// renewalWindow is when a certificate is due to be renewed: at the latest when
// two thirds of its life are over, or earlier by the threshold, if that leaves
// half of its life. Chance puts each agent's somewhere in the tenth of a life
// before, so that a fleet that was made in a day does not renew in one.
func renewalWindow(leaf *x509.Certificate, threshold time.Duration) (from, to time.Time) {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	to = leaf.NotBefore.Add(life * 2 / 3)
	if early := leaf.NotAfter.Add(-threshold); early.Before(to) && threshold <= life/2 {
		to = early
	}
	return to.Add(-life / 10), to
}

// renewsAt is one moment of the window, the same each time for a certificate.
func renewsAt(leaf *x509.Certificate, threshold time.Duration) time.Time {
	from, to := renewalWindow(leaf, threshold)
	var seed [32]byte
	copy(seed[:], leaf.SerialNumber.Bytes())
	chance := rand.New(rand.NewChaCha8(seed)).Float64() //nolint:gosec // spreading load needs no secret
	return from.Add(time.Duration(chance * float64(to.Sub(from))))
}

// Run renews when it is time, until ctx ends.
func (k *keeper) Run(ctx context.Context) error {
	if !k.agent.Config.CertAutoRenew {
		k.agent.Log.WarnContext(ctx, "the certificate is not renewed by itself (cert-auto-renew is off): `stella agent renew-cert` does it")
		<-ctx.Done()
		return nil
	}
	for failures := 0; ; {
		wait, err := k.wait()
		if err == nil && wait <= 0 {
			if _, err = k.Renew(ctx, !k.following().IsZero()); err == nil {
				k.followed()
				failures = 0
				continue
			}
		}
		if err != nil {
			failures++
			wait = k.retry(failures)
			if ctx.Err() == nil {
				k.agent.Log.ErrorContext(ctx, "the certificate was not renewed", "error", toward(k.calls.server, k.agent.clock.now()).explain(err), "retry", wait.Round(time.Millisecond).String())
			}
		}
		// The clock of a machine that slept, or was set, is looked at again.
		timer := time.NewTimer(min(wait, time.Minute))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-k.looked:
			timer.Stop()
		}
	}
}

// wait is how long the certificate has until it is due.
func (k *keeper) wait() (time.Duration, error) {
	leaf, err := k.leaf()
	if err != nil {
		return 0, err
	}
	wait := renewsAt(leaf, k.agent.Config.CertRenewalThreshold).Sub(k.agent.clock.server())
	if due := k.following(); !due.IsZero() {
		wait = min(wait, due.Sub(k.agent.clock.now()))
	}
	return wait, nil
}

// obtained notes that the agent has another certificate than its link.
func (k *keeper) obtained() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.newer = true
}

// followed notes that the certificate was renewed. The name of the trust stays
// until the server says no more that it is to be followed: with the next link.
func (k *keeper) followed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.due = time.Time{}
}

func (k *keeper) leaf() (*x509.Certificate, error) { return leafOf(k.agent.Config.Data) }

// leafOf is the certificate that a data folder has.
func leafOf(dir string) (*x509.Certificate, error) {
	c, err := loadCredential(dir)
	if err != nil {
		return nil, err
	}
	return c.Leaf, nil
}

// retry is how long to wait after failures in a row: not so long that a
// certificate of a short life would end meanwhile.
func (k *keeper) retry(failures int) time.Duration {
	most := time.Minute
	if leaf, err := k.leaf(); err == nil {
		most = min(most, leaf.NotAfter.Sub(leaf.NotBefore)/20)
	}
	return min(backoff(time.Second, failures, 0), max(most, time.Second/2))
}

// Renew gets the next certificate, if it is due or forced, and has it used. It
// blocks until the server has answered, and makes one attempt.
func (k *keeper) Renew(ctx context.Context, force bool) (*api.CertificateRenewal, error) {
	k.one.Lock()
	defer k.one.Unlock()
	leaf, err := k.leaf()
	if err != nil {
		return nil, err
	}
	threshold := k.agent.Config.CertRenewalThreshold
	if !force && k.agent.clock.server().Before(renewsAt(leaf, threshold)) {
		return report(leaf, threshold, false), nil
	}
	next, err := k.ask(ctx, leaf)
	if err == nil {
		k.obtained()
		err = k.renewed()
	}
	k.agent.meter.renewal(k.agent.clock.now(), err)
	if err != nil {
		return nil, err
	}
	k.agent.Log.InfoContext(ctx, "certificate renewed", "until", next.NotAfter, "serial", next.SerialNumber.Text(16))
	return report(next, threshold, true), nil
}

func report(leaf *x509.Certificate, threshold time.Duration, renewed bool) *api.CertificateRenewal {
	return &api.CertificateRenewal{Renewed: renewed, NotAfter: leaf.NotAfter, RenewsAt: renewsAt(leaf, threshold).UTC(), Serial: leaf.SerialNumber.Text(16)}
}

// ask asks the server for a certificate for a new key, and keeps both. The
// encryption key is replaced with it.
func (k *keeper) ask(ctx context.Context, old *x509.Certificate) (*x509.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	req := api.CertificateRequest{SignsHeartbeats: true, Instance: k.agent.boot.instance()}
	if req.CSR, err = certificateRequest(key); err != nil {
		return nil, err
	}
	if req.EncryptionPublicKey, err = k.agent.keys.rotate(); err != nil {
		return nil, err
	}
	var res api.CertificateResponse
	if err := k.calls.post(ctx, "/api/v1/agents/"+url.PathEscape(k.calls.agentID)+"/certificate", &req, &res); err != nil {
		return nil, fmt.Errorf("ask for the next certificate: %w", err)
	}
	next, err := checkRenewal(&res, old)
	if err != nil {
		return nil, fmt.Errorf("the server's answer to the renewal is not taken: %w", err)
	}
	if pub, ok := key.Public().(interface{ Equal(x crypto.PublicKey) bool }); ok && !pub.Equal(next.PublicKey) {
		return nil, errors.New("the server's answer to the renewal is not taken: it is for another key")
	}
	k.agent.clock.compare(ctx, k.agent.Log, res.ServerTime)
	dir := k.agent.Config.Data
	// The roots first: with those of the answer, the old certificate is as good
	// as the new one.
	if err := atomicfile.Write(filepath.Join(dir, caFile), []byte(res.CACertificate), 0o600); err != nil {
		return nil, fmt.Errorf("keep the roots: %w", err)
	}
	if err := storeCredential(dir, key, res.Certificate); err != nil {
		return nil, fmt.Errorf("keep the new certificate: %w", err)
	}
	if err := k.agent.keys.commit(); err != nil {
		return nil, err
	}
	// The server knows the key, so that the next start has nothing to register.
	return next, changeIdentity(dir, func(id *identity) {
		id.Registered.EncryptionPublicKey, id.Registered.SignsHeartbeats = k.agent.keys.public(), true
	})
}

// recoverCertificate gets a certificate for an agent whose own has ended, so
// that it can prove itself; it does nothing otherwise.
func (a *Agent) recoverCertificate(ctx context.Context, id *identity) error {
	c, err := loadCredential(a.Config.Data)
	if err != nil || a.clock.server().Before(c.Leaf.NotAfter) {
		return err
	}
	server, err := newClients(a.Config.Data, a.Pace.handshake(), a.clock.now)
	if err != nil {
		return err
	}
	defer server.plain.CloseIdleConnections()
	k := &keeper{agent: a, calls: &calls{client: server.plain, server: id.ServerURL, agentID: id.AgentID, log: a.Log}, renewed: server.renew}
	_, err = k.Renew(ctx, true)
	return err
}

// parseCertificates reads one certificate or more in PEM, and nothing else.
func parseCertificates(text string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("it is no PEM of certificates")
	}
	return all, nil
}

// checkRenewal checks that an answer is what the agent can go on with: what it
// keeps replaces all that it had.
func checkRenewal(res *api.CertificateResponse, old *x509.Certificate) (*x509.Certificate, error) {
	chain, err := parseCertificates(res.Certificate)
	if err != nil {
		return nil, fmt.Errorf("its certificate: %w", err)
	}
	roots, err := parseCertificates(res.CACertificate)
	if err != nil {
		return nil, fmt.Errorf("its roots: %w", err)
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	leaf := chain[0]
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	switch {
	case err != nil:
		return nil, err
	case len(leaf.URIs) != 1 || len(old.URIs) != 1 || leaf.URIs[0].String() != old.URIs[0].String():
		return nil, errors.New("it is for another agent")
	}
	return leaf, nil
}
