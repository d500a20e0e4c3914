// Command calls makes every call of the API that is no stream with a client
// that was generated from its document, against the server, and fails when one
// does not answer as the document says.
//
// Usage: calls URL ADMIN-TOKEN CA-FILE
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	. "stella-ops.org/stella/internal/testkit/genclient" //nolint:staticcheck // the whole program is about it
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: calls URL ADMIN-TOKEN CA-FILE")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := &caller{called: map[string]bool{}}
	err := c.run(ctx, os.Args[1], os.Args[2], os.Args[3])
	if err = errors.Join(append(c.failed, err)...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("%d operations called\n", len(c.called))
}

// caller notes which operations were called, and what went wrong.
type caller struct {
	called map[string]bool
	failed []error
}

// answer is what every answer of the generated client is.
type answer interface{ StatusCode() int }

// get checks an answer: its status, and that its body was read as the type
// that the document names for it.
func get[A answer, T any](c *caller, body func(A) *T) func(want int) func(A, error) *T {
	return func(want int) func(A, error) *T {
		return func(a A, err error) *T {
			name := strings.TrimSuffix(reflect.TypeOf(a).Elem().Name(), "Answer")
			if err != nil {
				c.failed = append(c.failed, fmt.Errorf("%s: %w", name, err))
				return new(T)
			}
			c.called[name] = true
			raw := reflect.ValueOf(a).Elem().FieldByName("Body").Bytes()
			if a.StatusCode() != want {
				c.failed = append(c.failed, fmt.Errorf("%s answers %d: %s", name, a.StatusCode(), raw))
				return new(T)
			}
			got := body(a)
			if got == nil {
				c.failed = append(c.failed, fmt.Errorf("%s: the body of %d is not what the document says: %s", name, want, raw))
				return new(T)
			}
			return got
		}
	}
}

// streams are not for a client of this kind.
var streams = map[string]bool{"AgentEvents": true, "AgentTaskStream": true, "EventList": true}

// missing returns the operations that nobody has called.
func (c *caller) missing() error {
	var out []error
	for m := range reflect.TypeFor[*ClientWithResponses]().Methods() {
		name, ok := strings.CutSuffix(m.Name, "WithResponse")
		if ok && !strings.HasSuffix(name, "WithBody") && !c.called[name] && !streams[name] {
			out = append(out, fmt.Errorf("nobody calls %s", name))
		}
	}
	return errors.Join(out...)
}

func (c *caller) run(ctx context.Context, url, token, caFile string) error {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	client := func(bearer string, certs ...tls.Certificate) (*ClientWithResponses, error) {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		conf := &tls.Config{RootCAs: roots, Certificates: certs, MinVersion: tls.VersionTLS13}
		return NewClientWithResponses(url, WithHTTPClient(&http.Client{Transport: &http.Transport{TLSClientConfig: conf}}),
			WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
				if bearer != "" {
					r.Header.Set("Authorization", "Bearer "+bearer)
				}
				return nil
			}))
	}
	admin, err := client(token)
	if err != nil {
		return err
	}
	c.server(ctx, admin)
	registration := c.tokens(ctx, admin)
	key, csr, err := newKey()
	if err != nil {
		return err
	}
	identity := get(c, func(a *AgentRegisterAnswer) *RegisterResponse { return a.JSON200 })(200)(admin.AgentRegisterWithResponse(ctx,
		&AgentRegisterParams{XRegistrationToken: &registration}, RegisterRequest{Name: "generated", Csr: csr, Capabilities: &[]string{"host"}, Group: ptr("web")}))
	if len(c.failed) > 0 {
		return nil // nothing of what follows could be
	}
	cert := tls.Certificate{PrivateKey: key}
	for rest := []byte(identity.Certificate); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	plain, err := client("", cert)
	if err != nil {
		return err
	}
	_, next, err := newKey()
	if err != nil {
		return err
	}
	get(c, func(a *AgentRenewAnswer) *CertificateResponse { return a.JSON200 })(200)(plain.AgentRenewWithResponse(ctx, identity.AgentId, CertificateRequest{Csr: next}))
	get(c, func(a *AgentServerKeysAnswer) *ServerKeys { return a.JSON200 })(200)(plain.AgentServerKeysWithResponse(ctx, identity.AgentId))
	bearer := get(c, func(a *AgentTokenAnswer) *AgentToken { return a.JSON200 })(200)(plain.AgentTokenWithResponse(ctx))
	agent, err := client(bearer.Token, cert)
	if err != nil {
		return err
	}
	c.agents(ctx, admin)
	c.secrets(ctx, admin)
	c.work(ctx, admin, agent, plain, identity.AgentId)
	c.rollouts(ctx, admin)
	c.artifacts(ctx, admin, agent, plain, identity.AgentId)
	c.commands(ctx, admin, plain, identity.AgentId)
	c.end(ctx, admin)
	return c.missing()
}

func newKey() (*ecdsa.PrivateKey, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), err
}

func ptr[T any](v T) *T { return &v }
