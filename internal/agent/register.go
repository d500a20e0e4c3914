package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent/link"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/obs"
	"stella-ops.org/stella/internal/pki"
)

// Registration says as whom an agent is registered, and where.
type Registration struct {
	AgentID string
	Name    string // as the server has it; empty where that is not known
	Server  string // its URL
	// Already is whether it was before, so that no token was spent.
	Already bool
}

// Register registers the agent when it is not registered yet, and does not run it.
// It blocks until the server has answered: what may pass, as that the server is out
// of reach, is tried again until ctx ends, and the error says what it was. An agent
// that is registered may run meanwhile; nothing is changed then, and the server is
// not asked. To call it again after an error is safe: the token that was spent on an
// answer that got lost is good for this very agent.
func (a *Agent) Register(ctx context.Context) (*Registration, error) {
	id, err := loadIdentity(a.Config.Data)
	if err != nil {
		return nil, err
	}
	if id != nil {
		_, err := loadCredential(a.Config.Data)
		return &Registration{AgentID: id.AgentID, Name: id.Registered.Name, Server: id.ServerURL, Already: true}, err
	}
	p, err := a.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if id, err = a.ensureIdentity(ctx, hopeless); err != nil {
		return nil, err
	}
	return &Registration{AgentID: id.AgentID, Name: id.Registered.Name, Server: id.ServerURL}, nil
}

// refused reports whether the server has said a no that stays one.
func refused(err error) bool {
	p, ok := errors.AsType[*api.Problem](err)
	return ok && p.Status < http.StatusInternalServerError && p.Status != http.StatusTooManyRequests
}

// hopeless reports whether whoever waits for a registration is told at once that it
// fails: it was refused, or whoever answers is not the server.
func hopeless(err error) bool {
	d, ok := errors.AsType[*diagnosis](err)
	return refused(err) || ok && d.untrusted
}

// ensureIdentity returns the agent's identity: the one it has, brought up to
// date with the server if the agent has changed since, or a new one by token. An
// error that is final ends the registration; others may pass.
func (a *Agent) ensureIdentity(ctx context.Context, final func(error) bool) (*identity, error) {
	id, err := loadIdentity(a.Config.Data)
	if err != nil {
		return nil, err
	}
	if id == nil {
		if a.Token == "" {
			return nil, fmt.Errorf("%w: %s holds no identity; make a token with `stella agent bootstrap`, and give it to `stella-agent register` by --token-file or by $STELLA_BOOTSTRAP_TOKEN", ErrNotRegistered, a.Config.Data)
		}
		return a.register(ctx, a.Token, nil, final)
	}
	a.inherit(id)
	if err := a.keys.registered(id.Registered.EncryptionPublicKey); err != nil {
		return nil, err
	}
	if !a.changed(id) {
		return id, nil
	}
	// The key that the agent has proves who it is; no token is spent. A
	// server that is away now will learn of the change at the next start.
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := a.recoverCertificate(short, id); err != nil {
		a.Log.WarnContext(ctx, "the certificate ended while the agent was off, and there is no new one yet", "error", toward(id.ServerURL, a.clock.now()).explain(err))
	}
	anew, err := a.register(short, "", id, final)
	if err != nil {
		a.Log.WarnContext(ctx, "what has changed about this agent could not be registered", "error", err)
		return id, nil
	}
	return anew, nil
}

// inherit fills what the command line leaves out from the last registration.
func (a *Agent) inherit(id *identity) {
	c, was := &a.Config, id.Registered
	if c.ID == "" {
		c.ID = id.AgentID
	}
	if c.Group == "" {
		c.Group = was.Group
	}
	if c.Environment == "" {
		c.Environment = was.Environment
	}
	if c.Labels == nil {
		c.Labels = was.Labels
	}
	if was.Name != "" {
		c.Name = was.Name
	}
}

func (a *Agent) changed(id *identity) bool {
	now, was := a.describe(), id.Registered
	if now.Version != was.Version || now.Group != was.Group || len(now.Labels) != len(was.Labels) || !was.SignsHeartbeats || !slices.Equal(now.Capabilities, was.Capabilities) {
		return true
	}
	if was.EncryptionPublicKey != a.keys.public() {
		return true // the file was lost, and made anew: what is sealed to the old one cannot be read
	}
	for k, v := range now.Labels {
		if was.Labels[k] != v {
			return true
		}
	}
	return false
}

// register asks the server for an identity. With a token, the server is known
// by the token's pin; without, by the certificate authority that the agent has,
// and the agent by its certificate. It retries until ctx ends, or until an error
// is final.
func (a *Agent) register(ctx context.Context, token string, known *identity, final func(error) bool) (*identity, error) {
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
	client, err := a.registrationClient(server, token, a.clock.now)
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	var res api.RegisterResponse
	var why error // the last attempt failed; not that there was no time for another
	for try := 0; ; try++ {
		err := postRegistration(ctx, client, server, token, &req, &res)
		if err == nil {
			break
		}
		if why == nil || ctx.Err() == nil {
			why = a.explainRegistration(ctx, server, token, err)
		}
		switch {
		case refused(why):
			return nil, fmt.Errorf("the server refused the registration: %w", why)
		case final(why):
			return nil, fmt.Errorf("not registered: %w", why)
		}
		wait := backoff(a.Config.ReconnectBackoff, try, 0)
		a.Log.WarnContext(ctx, "registration did not get through and is tried again", "server", server, "error", why, "in", wait.Round(time.Millisecond).String())
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("not registered: %w", why)
		case <-time.After(wait):
		}
	}
	a.clock.compare(ctx, a.Log, res.Config.ServerTime)
	if res.Name != "" {
		// A token may have bound another one than the agent has said.
		a.Config.Name, req.Name = res.Name, res.Name
	}
	id := &identity{AgentID: res.AgentID, ServerURL: server, ServerPublicKey: res.ServerPublicKey, Registered: req}
	id.Registered.CSR, id.Registered.Instance = "", ""
	if known != nil && token == "" {
		// It goes on from the key that it knows: the next ones are vouched for.
		id.ServerPublicKey = known.ServerPublicKey
	}
	return id, id.store(dir, key, &res)
}

// explainRegistration explains an error of a registration. When the server's
// certificate is not good by this machine's clock, the server is asked for its own.
func (a *Agent) explainRegistration(ctx context.Context, server, token string, err error) error {
	by := toward(server, a.clock.now())
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok && bad.Reason == x509.Expired && bad.Cert != nil {
		middle := bad.Cert.NotBefore.Add(bad.Cert.NotAfter.Sub(bad.Cert.NotBefore) / 2)
		client, err := a.registrationClient(server, token, func() time.Time { return middle })
		if err == nil {
			by.serverTime = dateOf(ctx, client, server) // zero when it cannot be learned
			client.CloseIdleConnections()
		}
	}
	return by.explain(err)
}

func (a *Agent) registrationClient(server, token string, now func() time.Time) (*http.Client, error) {
	u, err := url.Parse(server)
	switch {
	case server == "":
		return nil, errors.New("it is not known where to register: say so by --server https://HOST:8443, or in the configuration")
	case err != nil, u.Scheme != "https", u.Host == "":
		return nil, fmt.Errorf("server: %q is no https:// URL", server)
	}
	if token == "" {
		c, err := newClients(a.Config.Data, a.Pace.handshake(), now)
		if err != nil {
			return nil, err
		}
		return c.plain, nil
	}
	pin, ok := enroll.Pin(token)
	if !ok {
		return nil, errors.New("the registration token is incomplete: it reads reg_<secret>_<pin>; copy the whole of it")
	}
	tr := newTransport(pki.PinnedConfig(pin, u.Hostname(), now, nil), a.Pace.handshake(), false)
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
