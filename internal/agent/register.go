package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent/link"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/obs"
	"stella-ops.org/stella/internal/pki"
)

// register asks the server for an identity. With a token, the server is known
// by the token's pin; without, by the certificate authority that the agent has,
// and the agent by its certificate. It retries until ctx ends, unless the
// server says a final no.
func (a *Agent) register(ctx context.Context, token string, known *identity) (*identity, error) {
	dir := a.Config.Data
	key, err := registrationKey(dir, known)
	if err != nil {
		return nil, err
	}
	req := a.describe()
	req.EncryptionPublicKey, req.Instance = a.keys.public(), a.boot.instance()
	server := a.Config.Server
	if known != nil {
		req.ID = known.AgentID
		if server == "" {
			server = known.ServerURL
		}
	}
	if req.CSR, err = certificateRequest(key); err != nil {
		return nil, err
	}
	client, err := a.registrationClient(server, token)
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	var res api.RegisterResponse
	for try := 0; ; try++ {
		err = postRegistration(ctx, client, server, token, &req, &res)
		if err == nil {
			break
		}
		var p *api.Problem
		if errors.As(err, &p) && p.Status < 500 && p.Status != http.StatusTooManyRequests {
			return nil, fmt.Errorf("the server refused the registration: %s", p.Error())
		}
		wait := backoff(a.Config.ReconnectBackoff, try, 0)
		a.Log.WarnContext(ctx, "registration did not get through and is tried again", "server", server, "error", explain(err), "in", wait.Round(time.Millisecond).String())
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("register with %s: %w", server, explain(err))
		case <-time.After(wait):
		}
	}
	a.clock.compare(ctx, a.Log, res.Config.ServerTime)
	id := &identity{AgentID: res.AgentID, ServerURL: server, ServerPublicKey: res.ServerPublicKey, Registered: req}
	id.Registered.CSR, id.Registered.Instance = "", ""
	if known != nil && token == "" {
		// It goes on from the key that it knows: the next ones are vouched for.
		id.ServerPublicKey = known.ServerPublicKey
	}
	return id, id.store(dir, key, &res)
}

func (a *Agent) registrationClient(server, token string) (*http.Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("server: %q is no https:// URL", server)
	}
	if token == "" {
		c, err := newClients(a.Config.Data, 10*time.Second, a.clock.now)
		if err != nil {
			return nil, err
		}
		return c.plain, nil
	}
	pin, ok := enroll.Pin(token)
	if !ok {
		return nil, errors.New("the registration token is incomplete: it reads reg_<secret>_<pin>; copy the whole of it")
	}
	pinned := pki.PinnedConfig(pin, u.Hostname(), a.clock.now, nil)
	tr := &http.Transport{TLSClientConfig: pinned, TLSHandshakeTimeout: 10 * time.Second, Proxy: http.ProxyFromEnvironment}
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}, nil
}

func postRegistration(ctx context.Context, client *http.Client, server, token string, req *api.RegisterRequest, res *api.RegisterResponse) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	data, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode registration: %w", err)
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(server, "/")+"/api/v1/agents/register", bytes.NewReader(data))
	if err != nil {
		return err
	}
	hr.Header.Set("Content-Type", "application/json")
	hr.Header.Set(api.HeaderProtocolVersion, strconv.Itoa(api.ProtocolVersion))
	if token != "" {
		hr.Header.Set(api.HeaderRegistrationToken, token)
	}
	answer, err := client.Do(hr)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return link.Decode(answer, res)
}

// describe is what the agent says of itself when it registers.
func (a *Agent) describe() api.RegisterRequest {
	c := &a.Config
	return api.RegisterRequest{
		ID: c.ID, Name: c.Name, Version: obs.BuildVersion(), Group: c.Group, Environment: c.Environment,
		Labels: c.Labels, Platform: platform(), Capabilities: a.capabilities.names(), SignsHeartbeats: true,
	}
}
