package pki

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
)

// Lives of a list of revoked certificates: how long one is answered again, and
// how long whoever has it may go by it.
const (
	crlFresh = 10 * time.Second
	crlLife  = 24 * time.Hour
)

// reasons are the codes of RFC 5280, section 5.3.1, for why a certificate ended:
// privilegeWithdrawn, cessationOfOperation, superseded.
var reasons = map[string]int{enroll.WhyRevoked: 9, enroll.WhyDeleted: 5, enroll.WhyReplaced: 4}

// Lists makes lists of revoked certificates (CRLs, RFC 5280), for whoever else
// has to do with agents' certificates; Stella's own servers ask the database. It
// is safe for concurrent use.
type Lists struct {
	ca      *Authority
	revoked func(ctx context.Context) ([]*enroll.Ended, error)

	mu   sync.Mutex
	last map[string]crl // by authority
}

type crl struct {
	der  []byte
	made time.Time
}

// NewLists returns the lists of an authority. revoked finds
// what was ended before its time.
func NewLists(ca *Authority, revoked func(ctx context.Context) ([]*enroll.Ended, error)) *Lists {
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
	ended, err := l.revoked(ctx)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.RevocationList{Number: big.NewInt(now.UnixMicro()), ThisUpdate: now, NextUpdate: now.Add(crlLife)}
	for _, r := range ended {
		if r.At.After(now) {
			continue // it goes on for a moment
		}
		serial, ok := new(big.Int).SetString(r.Serial, 16)
		if !ok {
			return nil, fmt.Errorf("the revoked certificate %q has no serial number", r.Serial)
		}
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: r.At, ReasonCode: reasons[r.Why]})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, by.intermediate, by.key)
	if err != nil {
		return nil, fmt.Errorf("sign the list of revoked certificates: %w", err)
	}
	l.last[by.id] = crl{der: der, made: now}
	return der, nil
}

// List is a list of revoked certificates that somebody has kept.
type List struct {
	Made  time.Time
	Ended []*enroll.Ended // without their agents
}

// ReadList reads a list of revoked certificates, in DER or PEM, which an
// authority that is trusted must have signed. Whether it is recent is for the
// caller to judge.
func (a *Authority) ReadList(data []byte) (*List, error) {
	if block, _ := pem.Decode(data); block != nil && block.Type == "X509 CRL" {
		data = block.Bytes
	}
	crl, err := x509.ParseRevocationList(data)
	if err != nil {
		return nil, fmt.Errorf("it is no list of revoked certificates, as GET /pki/crl gives it: %w", err)
	}
	if !slices.ContainsFunc(a.state.Load().all, func(g *generation) bool { return crl.CheckSignatureFrom(g.intermediate) == nil }) {
		return nil, errors.New("none of the authorities that this installation trusts has signed it")
	}
	list := &List{Made: crl.ThisUpdate}
	for _, e := range crl.RevokedCertificateEntries {
		why := enroll.WhyReplaced
		for w, code := range reasons {
			if e.ReasonCode == code {
				why = w
			}
		}
		list.Ended = append(list.Ended, &enroll.Ended{Serial: e.SerialNumber.Text(16), At: e.RevocationTime, Why: why})
	}
	return list, nil
}

// clip keeps an error readable whatever was asked for.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
