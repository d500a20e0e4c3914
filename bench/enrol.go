package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"stella-ops.org/stella/api"
)

// newAgent is a registration that is ready to be sent.
type newAgent struct {
	key   *ecdsa.PrivateKey
	token string
	body  []byte
}

func (c *control) prepare(ctx context.Context, name string, capabilities ...string) (*newAgent, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	tok, err := c.api.CreateRegistrationToken(ctx, api.RegistrationTokenRequest{})
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(api.RegisterRequest{
		Name: name, Version: "bench", Capabilities: capabilities, Platform: "linux",
		CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
	})
	return &newAgent{key: key, token: tok.Token, body: body}, err
}

func (c *control) register(ctx context.Context, hc *http.Client, a *newAgent) (*api.RegisterResponse, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/api/v1/agents/register", bytes.NewReader(a.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(api.HeaderRegistrationToken, a.token)
	res, err := hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("register: %s: %s", res.Status, data)
	}
	var out api.RegisterResponse
	return &out, json.Unmarshal(data, &out)
}

// certificate joins what registration gave to the key.
func (a *newAgent) certificate(res *api.RegisterResponse) (tls.Certificate, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair([]byte(res.Certificate), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

const (
	enrolments = 4000
	enrollers  = 16
)

// enrolment measures registrations a second: each with its own one-time token,
// its own key, and its own TLS connection.
func enrolment(ctx context.Context, e *env) ([]row, error) {
	c, err := e.server(ctx, "enrolment")
	if err != nil {
		return nil, err
	}
	defer stopProcess(c.cmd)
	agents := make([]*newAgent, enrolments)
	for i := range agents {
		if agents[i], err = c.prepare(ctx, fmt.Sprintf("bench-%05d", i), "host.execute"); err != nil {
			return nil, err
		}
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, enrollers)
	began := time.Now()
	for range enrollers {
		wg.Go(func() {
			hc := c.http(true)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(agents) {
					return
				}
				if _, err := c.register(ctx, hc, agents[i]); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	select {
	case err := <-errs:
		return nil, err
	default:
	}
	rate := float64(enrolments) / took.Seconds()
	return []row{{
		"enrolments a second", fmt.Sprintf("%.0f", rate), ">= 850", rate >= 850,
		fmt.Sprintf("%d agents, one-time token each, new TLS 1.3 connection each, SQLite with durable commits", enrolments),
	}}, nil
}
