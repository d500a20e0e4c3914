package load

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"stella-ops.org/stella/api"
)

// RenewOptions are what the scenario renew may be told.
type RenewOptions struct {
	// Concurrency is how many agents renew at a time, and Rounds how often each.
	Concurrency int
	Rounds      int
}

// RenewResult is what it finds out.
type RenewResult struct {
	Renewed     int       `json:"renewed"`
	TookSeconds float64   `json:"tookSeconds"`
	Rate        float64   `json:"ratePerSecond"`
	Concurrency int       `json:"concurrency"`
	Renewal     Quantiles `json:"renewal"`
	Costs
}

// Renew measures renewals of certificates: each for a key of its own, over a
// connection that the agent has open and that shows its certificate. Keys,
// requests and connections are made before the clock starts; what an agent does
// with its answer is not in it.
func Renew(ctx context.Context, o Options, ro RenewOptions) (*Report, error) {
	if ro.Concurrency < 1 || ro.Rounds < 1 {
		return nil, errors.New("there must be at least one renewal, at least one at a time")
	}
	r, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer r.end()
	ids, _, err := r.identities(ctx)
	if err != nil {
		return nil, err
	}
	d, err := newDialer(r.URL, r.CA)
	if err != nil {
		return nil, err
	}
	conns := make([]*http.ClientConn, len(ids))
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close() // it is of no more use
			}
		}
	}()
	bodies := make([][]byte, len(ids)*ro.Rounds)
	var done atomic.Int64
	stop := every(progressEvery, func() { r.progress("making keys and connections: %d of %d", done.Load(), len(bodies)) })
	err = each(ctx, len(bodies), enrolWorkers, func(ctx context.Context, i int) (err error) {
		defer done.Add(1)
		if i < len(ids) {
			if conns[i], _, err = d.dialHTTP2(ctx, ids[i]); err != nil {
				return err
			}
		}
		bodies[i], err = renewal()
		return err
	})
	stop()
	if err != nil {
		return nil, err
	}
	m, err := r.startMeters()
	if err != nil {
		return nil, err
	}
	defer m.drop()
	took := newLatencies()
	done.Store(0)
	stop = every(progressEvery, func() { r.progress("renewing certificates: %d of %d", done.Load(), len(bodies)) })
	began := time.Now()
	err = each(ctx, len(bodies), ro.Concurrency, func(ctx context.Context, i int) error {
		at := time.Now()
		err := renewOver(ctx, r.URL, conns[i%len(ids)], ids[i%len(ids)], bodies[i])
		took.record(time.Since(at))
		done.Add(1)
		return err
	})
	all := time.Since(began)
	stop()
	if err != nil {
		return nil, err
	}
	res := &RenewResult{Renewed: len(bodies), TookSeconds: all.Seconds(), Rate: float64(len(bodies)) / all.Seconds(), Concurrency: ro.Concurrency, Renewal: took.quantiles()}
	if res.Costs, err = r.costs(m); err != nil {
		return nil, err
	}
	rep := r.report("renew", res)
	rep.Transport = ""
	return rep, nil
}

// renewal is a request for a certificate for a new key.
func renewal() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return json.Marshal(api.CertificateRequest{SignsHeartbeats: true, CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))})
}

func renewOver(ctx context.Context, server string, c *http.ClientConn, id *Identity, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server+"/api/v1/agents/"+url.PathEscape(id.ID)+"/certificate", bytes.NewReader(body))
	if err != nil {
		return err
	}
	var res api.CertificateResponse
	return roundTrip(c.RoundTrip, req, &res)
}

// Rows implements Result.
func (e *RenewResult) Rows() []Row {
	rows := []Row{{"renewals a second", fmt.Sprintf("%.0f", e.Rate), fmt.Sprintf("%d in %s, %d at a time, each for a new key, over connections that stand", e.Renewed, seconds(e.TookSeconds), e.Concurrency)}}
	return append(append(rows, quantileRows("one renewal", e.Renewal)...), e.rows()...)
}

func (*RenewResult) failures() []string { return nil }
