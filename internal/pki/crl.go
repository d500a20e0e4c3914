package pki

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"sync"
	"time"

	"stella-ops.org/stella/internal/fault"
)

// Revoked is a certificate that was ended before its time.
type Revoked struct {
	Serial string // in hex
	At     time.Time
}

// Lives of a list of revoked certificates: how long one is answered again, and
// how long whoever has it may go by it.
const (
	crlFresh = 10 * time.Second
	crlLife  = 24 * time.Hour
)

// Lists makes lists of revoked certificates (CRLs, RFC 5280), for whoever else
// has to do with agents' certificates; Stella's own servers ask the database. It
// is safe for concurrent use.
type Lists struct {
	ca      *Authority
	revoked func(ctx context.Context, at time.Time) ([]*Revoked, error)

	mu   sync.Mutex
	last map[string]crl // by authority
}

type crl struct {
	der  []byte
	made time.Time
}

// NewLists returns the lists of an authority. revoked finds what was ended.
func NewLists(ca *Authority, revoked func(ctx context.Context, at time.Time) ([]*Revoked, error)) *Lists {
	return &Lists{ca: ca, revoked: revoked, last: map[string]crl{}}
}

// CRL returns the list in DER, signed by the intermediate of a trusted authority,
// or of the one that issues when none is named. It has all that was ended,
// whoever issued it. One that is some seconds old may be answered again.
func (l *Lists) CRL(ctx context.Context, authority string) ([]byte, error) {
	s := l.ca.state.Load()
	by := s.active
	for _, g := range s.all {
		if g.id == authority {
			by = g
		}
	}
	if authority != "" && by.id != authority {
		return nil, fault.New(fault.NotFound, "authority_not_found", "no authority %q is trusted: `stella ca status` shows those that are", clip(authority))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.ca.now()
	if have, ok := l.last[by.id]; ok && now.Sub(have.made) < crlFresh {
		return have.der, nil
	}
	ended, err := l.revoked(ctx, now)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.RevocationList{Number: big.NewInt(now.UnixMicro()), ThisUpdate: now, NextUpdate: now.Add(crlLife)}
	for _, r := range ended {
		serial, ok := new(big.Int).SetString(r.Serial, 16)
		if !ok {
			return nil, fmt.Errorf("the revoked certificate %q has no serial number", r.Serial)
		}
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: r.At})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, by.intermediate, by.key)
	if err != nil {
		return nil, fmt.Errorf("sign the list of revoked certificates: %w", err)
	}
	l.last[by.id] = crl{der: der, made: now}
	return der, nil
}

// clip keeps an error readable whatever was asked for.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
