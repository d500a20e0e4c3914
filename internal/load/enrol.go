package load

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"stella-ops.org/stella/api"
)

// What simulated agents say that they can do. The second is theirs alone, so
// that a command of this type means nothing to a real agent.
const (
	taskCapability    = "host.execute"
	commandCapability = "load.receive"
)

func capabilities() []string { return []string{taskCapability, commandCapability} }

// registration is one that is ready to be sent.
type registration struct {
	name  string
	key   *ecdsa.PrivateKey
	token string
	body  []byte
}

func prepare(name, token string) (*registration, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	body, err := json.Marshal(api.RegisterRequest{
		Name: name, Version: "load", Capabilities: capabilities(), Platform: runtime.GOOS, Group: Group, SignsHeartbeats: true,
		CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
	})
	return &registration{name: name, key: key, token: token, body: body}, err
}

func (r *registration) send(ctx context.Context, c *control, hc *http.Client) (*Identity, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL()+"/api/v1/agents/register", bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set(api.HeaderRegistrationToken, r.token)
	req.Header.Set(api.HeaderProtocolVersion, strconv.Itoa(api.ProtocolVersion))
	var res api.RegisterResponse
	if err := roundTrip(hc.Do, req, &res); err != nil {
		return nil, fmt.Errorf("register %s: %w", r.name, err)
	}
	return newIdentity(r.name, r.key, &res)
}

// root returns the authority whose certificates agents trust.
func (c *control) root(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL()+"/pki/ca.pem", nil)
	if err != nil {
		return "", err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("get the server's root: %w", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("get the server's root: %w", err)
	}
	if block, _ := pem.Decode(data); res.StatusCode != http.StatusOK || block == nil {
		return "", fmt.Errorf("get the server's root: %s answered %s, and not as a Stella server does", c.URL(), res.Status)
	}
	return string(data), nil
}

// names returns a function that names agents, differently in each run: a name
// belongs to one agent for ever.
func names() func(i int) string {
	id := make([]byte, 4)
	_, _ = rand.Read(id) // never fails
	prefix := "load-" + hex.EncodeToString(id)
	return func(i int) string { return fmt.Sprintf("%s-%05d", prefix, i) }
}

// enrolWorkers is how many agents register at a time.
const enrolWorkers = 16

// enrolMissing registers n agents with one token, as fast as it goes. With an
// error, it returns those that were registered before it.
func (r *run) enrolMissing(ctx context.Context, n int) ([]*Identity, error) {
	token, err := r.api.CreateRegistrationToken(ctx, api.RegistrationTokenRequest{MaxUses: n, TTLSeconds: 3600, Group: Group})
	if err != nil {
		return nil, fmt.Errorf("make a registration token for %d agents: %w", n, err)
	}
	name := names()
	ids := make([]*Identity, n)
	var done atomic.Int64
	stop := every(progressEvery, func() { r.progress("registering agents: %d of %d", done.Load(), n) })
	err = each(ctx, n, enrolWorkers, func(ctx context.Context, i int) error {
		reg, err := prepare(name(i), token.Token)
		if err != nil {
			return err
		}
		ids[i], err = reg.send(ctx, r.api, r.api.http)
		done.Add(1)
		return err
	})
	stop()
	// Nobody else needs what is left of it.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if revokeErr := r.api.RevokeRegistrationToken(clean, token.ID); err == nil && revokeErr != nil {
		err = fmt.Errorf("revoke the registration token %s: %w", token.ID, revokeErr)
	}
	made := ids[:0]
	for _, id := range ids {
		if id != nil {
			made = append(made, id)
		}
	}
	return made, err
}

// each calls f for 0 to n-1 from some goroutines, and ends at the first error.
func each(ctx context.Context, n, workers int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers, n) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
