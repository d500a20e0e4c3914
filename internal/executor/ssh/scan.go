package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"stella-ops.org/stella/api"
)

// scanTimeout bounds a scan, jumps included: the agent does its own commands one
// after the other, and a drain must not wait for long.
const scanTimeout = 15 * time.Second

// ScanRequest says whose keys to look at.
type ScanRequest struct {
	Host string `json:"host"`
	Port int    `json:"port,omitempty"`
	// Jumps are logged in to, by keys in files of the agent's host or by its
	// ssh-agent: secrets come only with a task.
	Jumps []api.SSHHop `json:"jumps,omitempty"`
}

// Scanned are the keys that a host has shown. Nobody has said that they are
// the right ones.
type Scanned struct {
	Host string    `json:"host"`
	Port int       `json:"port"`
	Keys []HostKey `json:"keys"`
}

// HostKey is one public key of a host.
type HostKey struct {
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"` // SHA256:…
	Key         string `json:"key"`         // as a target's hostKeys have it
}

// errSeen ends a handshake as soon as the key is known.
var errSeen = errors.New("the key was seen")

// Scan asks a host for its public keys, one connection for each kind, and logs
// in nowhere but at the jumps. It blocks for a quarter of a minute at most, and
// may be called from several goroutines at once.
func Scan(ctx context.Context, req *ScanRequest) (*Scanned, error) {
	if req.Host == "" || strings.ContainsAny(req.Host, " /@") || req.Port < 0 || req.Port > 65535 {
		return nil, fmt.Errorf("the payload of ssh-scan names a host, and a port if it is not 22; %q is no host", req.Host)
	}
	ctx, cancel := context.WithTimeout(ctx, scanTimeout)
	defer cancel()
	hop := api.SSHHop{Host: req.Host, Port: req.Port}
	if hop.Port == 0 {
		hop.Port = 22
	}
	connect := func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", address(&hop))
	}
	if len(req.Jumps) > 0 {
		hops, err := (&dialer{authSock: os.Getenv("SSH_AUTH_SOCK")}).through(ctx, req.Jumps)
		defer closeAll(hops)
		if err != nil {
			return nil, err
		}
		connect = func(ctx context.Context) (net.Conn, error) {
			return hops[len(hops)-1].DialContext(ctx, "tcp", address(&hop))
		}
	}
	kinds := [][]string{
		{ssh.KeyAlgoED25519},
		{ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521},
		{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
	}
	keys, errs := make([]ssh.PublicKey, len(kinds)), make([]error, len(kinds))
	var wg sync.WaitGroup
	for i, algorithms := range kinds {
		wg.Go(func() { keys[i], errs[i] = keyOf(ctx, connect, &hop, algorithms) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		first := errs[slices.IndexFunc(errs, func(err error) bool { return err != nil })]
		return nil, unreachable(&hop, via(req.Jumps), first)
	}
	found := &Scanned{Host: req.Host, Port: hop.Port, Keys: []HostKey{}}
	for _, key := range keys {
		if key != nil {
			found.Keys = append(found.Keys, HostKey{
				Type: key.Type(), Fingerprint: ssh.FingerprintSHA256(key), Key: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))),
			})
		}
	}
	if len(found.Keys) == 0 {
		return nil, fmt.Errorf("%s has no Ed25519, ECDSA or RSA key", address(&hop))
	}
	return found, nil
}

// keyOf is the host's key of one kind; nil when it has none.
func keyOf(ctx context.Context, connect func(context.Context) (net.Conn, error), hop *api.SSHHop, algorithms []string) (ssh.PublicKey, error) {
	conn, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	var seen ssh.PublicKey
	_, _, _, err = ssh.NewClientConn(conn, address(hop), &ssh.ClientConfig{
		User: "stella", ClientVersion: "SSH-2.0-Stella", HostKeyAlgorithms: algorithms,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			seen = key
			return errSeen
		},
	})
	var none *ssh.AlgorithmNegotiationError
	switch {
	case seen != nil, errors.As(err, &none):
		return seen, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("it does not speak SSH: %w", err)
}
