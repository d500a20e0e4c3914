package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hpke"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent/link"
	"stella-ops.org/stella/internal/atomicfile"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/obs"
	"stella-ops.org/stella/internal/pki"
)

// Files of an agent's data folder. identity.json is written last: when it is
// there, the others are.
const (
	identityFile   = "identity.json"
	keyFile        = "key.pem"
	certFile       = "cert.pem"
	caFile         = "ca.pem"
	encryptionFile = "encryption.key"
	journalFile    = "journal.db"
)

// identity is what registration gave to the agent.
type identity struct {
	AgentID         string `json:"agentId"`
	ServerURL       string `json:"serverUrl"`
	ServerPublicKey string `json:"serverPublicKey"`
	// Registered is what the agent last said of itself.
	Registered api.RegisterRequest `json:"registered"`
}

// loadIdentity returns nil when the agent is not registered.
func loadIdentity(dir string) (*identity, error) {
	data, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	var id identity
	if err := json.Unmarshal(data, &id); err != nil {
		return nil, fmt.Errorf("identity %s: %w", filepath.Join(dir, identityFile), err)
	}
	return &id, nil
}

// privateKey reads the agent's key, and makes it when there is none: a
// registration that is tried again must be for the same key.
func privateKey(dir string) (crypto.Signer, error) {
	path := filepath.Join(dir, keyFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("make key: %w", err)
		}
		data = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		return key, atomicfile.Write(path, data, 0o600)
	} else if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("key %s: it is no PEM file; restore it, or delete the data folder and register anew", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s: it cannot sign", path)
	}
	return signer, nil
}

// encryptionKey returns the public half of the agent's encryption key, in
// base64; the private half is made when there is none.
func encryptionKey(dir string) (string, error) {
	path, kem := filepath.Join(dir, encryptionFile), hpke.MLKEM768X25519()
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key, err := kem.GenerateKey()
		if err != nil {
			return "", fmt.Errorf("make encryption key: %w", err)
		}
		if data, err = key.Bytes(); err != nil {
			return "", fmt.Errorf("make encryption key: %w", err)
		}
		if err := atomicfile.Write(path, data, 0o600); err != nil {
			return "", err
		}
	} else if err != nil {
		return "", fmt.Errorf("encryption key: %w", err)
	}
	key, err := kem.NewPrivateKey(data)
	if err != nil {
		return "", fmt.Errorf("encryption key %s: %w", path, err)
	}
	return base64.StdEncoding.EncodeToString(key.PublicKey().Bytes()), nil
}

// register asks the server for an identity. With a token, the server is known
// by the token's pin; without, by the certificate authority that the agent has,
// and the agent by its certificate. It retries until ctx ends, unless the
// server says a final no.
func (a *Agent) register(ctx context.Context, token string, known *identity) (*identity, error) {
	dir := a.Config.Data
	key, err := privateKey(dir)
	if err != nil {
		return nil, err
	}
	req := a.describe()
	if req.EncryptionPublicKey, err = encryptionKey(dir); err != nil {
		return nil, err
	}
	server := a.Config.Server
	if known != nil {
		req.ID = known.AgentID
		if server == "" {
			server = known.ServerURL
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	req.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
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
	if skew := time.Since(res.Config.ServerTime); skew.Abs() > 30*time.Second {
		a.Log.WarnContext(ctx, "this machine's clock and the server's differ; certificates may be refused until they agree", "difference", skew.Round(time.Second).String())
	}
	id := &identity{AgentID: res.AgentID, ServerURL: server, ServerPublicKey: res.ServerPublicKey, Registered: req}
	id.Registered.CSR = ""
	return id, id.store(dir, &res)
}

func (id *identity) store(dir string, res *api.RegisterResponse) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{certFile, []byte(res.Certificate)}, {caFile, []byte(res.CACertificate)}, {identityFile, append(data, '\n')}} {
		if err := atomicfile.Write(filepath.Join(dir, f.name), f.data, 0o600); err != nil {
			return fmt.Errorf("keep the identity: %w", err)
		}
	}
	return nil
}

func (a *Agent) registrationClient(server, token string) (*http.Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("server: %q is no https:// URL", server)
	}
	if token == "" {
		return a.client(10*time.Second, true)
	}
	pin, ok := enroll.Pin(token)
	if !ok {
		return nil, errors.New("the registration token is incomplete: it reads reg_<secret>_<pin>; copy the whole of it")
	}
	tr := &http.Transport{TLSClientConfig: pki.PinnedConfig(pin, u.Hostname(), nil), TLSHandshakeTimeout: 10 * time.Second, Proxy: http.ProxyFromEnvironment}
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}, nil
}

// client makes an HTTP client that presents the agent's certificate and trusts
// its server's authority alone. It has no timeout, for it carries streams. A
// WebSocket needs HTTP/1.1, everything else is better off with HTTP/2.
func (a *Agent) client(handshake time.Duration, http2 bool) (*http.Client, error) {
	dir := a.Config.Data
	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("identity: %s holds no certificate", filepath.Join(dir, caFile))
	}
	load := func() (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile))
		if err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
		// The server knows the issuer, which would cost it memory for each
		// agent that is connected.
		c.Certificate = c.Certificate[:1]
		return &c, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	tr := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		ForceAttemptHTTP2:   http2,
		TLSHandshakeTimeout: handshake,
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConns:        2,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 20 * time.Second, PingTimeout: 15 * time.Second},
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			RootCAs:    roots,
			// Read anew for each handshake: the certificate may have been
			// renewed.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() },
		},
	}
	if !http2 {
		tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	return &http.Client{Transport: tr}, nil
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
		Labels: c.Labels, Platform: platform(), Capabilities: a.capabilities.names(),
	}
}
