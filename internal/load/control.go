package load

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

// control talks to the server as an admin does.
type control struct {
	*client.Client
	http  *http.Client
	roots *x509.CertPool // nil stands for the system's
}

func newControl(c Connection) (*control, error) {
	ctl := &control{}
	if len(c.CA) > 0 {
		ctl.roots = x509.NewCertPool()
		if !ctl.roots.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("the CA certificate is not PEM, or holds no certificate: give the server's ca.pem")
		}
	}
	ctl.http = &http.Client{
		Transport:     ctl.transport(false),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var err error
	ctl.Client, err = client.New(client.Options{URL: c.URL, Token: c.Token, HTTPClient: ctl.http, UserAgent: "stella-load"})
	return ctl, err
}

// transport trusts the server; fresh makes a connection for each request, as
// each agent does for its registration.
func (c *control) transport(fresh bool) *http.Transport {
	return &http.Transport{
		TLSClientConfig:       &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS13},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout:       90 * time.Second,
		DisableKeepAlives:     fresh,
		ForceAttemptHTTP2:     !fresh,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
}

// check finds out at once whether the server is there, is the right one, and
// takes the token.
func (c *control) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := c.WhoAmI(ctx)
	if p, ok := errors.AsType[*api.Problem](err); ok && p.Status == http.StatusUnauthorized {
		return fmt.Errorf("%s refused the API token: %w; give an admin's by STELLA_TOKEN or --token-file, or log in with `stella login`", c.URL(), p)
	}
	return err
}

// maxAnswer bounds what an answer may be long.
const maxAnswer = 64 << 20

// roundTrip sends a JSON request and reads its answer; a refusal is an
// *api.Problem.
func roundTrip(do func(*http.Request) (*http.Response, error), req *http.Request, into any) error {
	if req.Method != http.MethodGet {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := do(req)
	if err != nil {
		if outer, ok := errors.AsType[*url.Error](err); ok {
			err = outer.Err
		}
		return fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", req.Method, req.URL.Path, err)
	}
	if res.StatusCode >= 300 {
		return problem(req, res, data)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s %s: decode the answer: %w", req.Method, req.URL.Path, err)
	}
	return nil
}

func problem(req *http.Request, res *http.Response, data []byte) error {
	p := &api.Problem{}
	if json.Unmarshal(data, p) != nil || p.Title == "" && p.Detail == "" {
		p = &api.Problem{Title: http.StatusText(res.StatusCode), Detail: fmt.Sprintf("%s answered %s, and not as a Stella server does", req.URL.Host, res.Status)}
	}
	p.Status = res.StatusCode
	return fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, p)
}

// fleetAgents returns the simulated agents as the store knows them, by id.
func (c *control) fleetAgents(ctx context.Context, status string) (map[string]api.Agent, error) {
	all := map[string]api.Agent{}
	for a, err := range c.Agents(ctx, client.AgentFilter{Group: Group, Status: status, Limit: 1000}) {
		if err != nil {
			return nil, fmt.Errorf("list the agents: %w", err)
		}
		all[a.ID] = a
	}
	return all, nil
}
