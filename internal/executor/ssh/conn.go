package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

const (
	defaultConnectTimeout = 30 * time.Second
	defaultKeepAlive      = 15 * time.Second
	// keepAliveMisses is how many tries in a row may stay without an answer.
	keepAliveMisses = 3
)

// link is a connection to a target's host, with those to the jump hosts before
// it. It is safe for use by several goroutines.
type link struct {
	*ssh.Client
	hops []*ssh.Client // from the agent outwards; the last is Client
	done chan struct{} // closed when the connection is gone

	once sync.Once
	err  error // why; guarded by once and done
}

// dialer is what connecting takes beside the target's own configuration.
type dialer struct {
	credentials *api.Credentials
	authSock    string
}

// dial connects to a target's host through its jumps and logs in. It blocks
// for at most the connection timeout, or until ctx ends. Its error is a
// deploy.Error, or the cause of ctx's end.
func (d *dialer) dial(ctx context.Context, c *api.SSHConfig) (*link, error) {
	timeout := defaultConnectTimeout
	if c.ConnectionTimeout > 0 {
		timeout = time.Duration(c.ConnectionTimeout) * time.Millisecond
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	hops, err := d.through(limited, append(append([]api.SSHHop(nil), c.Jumps...), c.SSHHop))
	if ctx.Err() != nil {
		closeAll(hops)
		return nil, context.Cause(ctx)
	}
	if err != nil {
		closeAll(hops)
		if limited.Err() != nil {
			return nil, deploy.Fail(api.ErrTargetUnreachable, "%w (the connection timeout of %v ran out)", err, timeout).Retry()
		}
		return nil, err
	}
	l := &link{Client: hops[len(hops)-1], hops: hops, done: make(chan struct{})}
	go func() { l.end(l.Wait()) }()
	interval := defaultKeepAlive
	if c.KeepAliveInterval > 0 {
		interval = time.Duration(c.KeepAliveInterval) * time.Millisecond
	}
	go l.keepAlive(interval)
	return l, nil
}

// through connects to each hop by way of the one before. On an error it returns
// those that it had reached.
func (d *dialer) through(ctx context.Context, route []api.SSHHop) (hops []*ssh.Client, err error) {
	for i := range route {
		hop := &route[i]
		var conn net.Conn
		if i == 0 {
			// TCP's own keep-alive finds a peer that is gone even while
			// nothing of SSH is running, as during a login.
			dial := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 10 * time.Second, Count: 5}}
			conn, err = dial.DialContext(ctx, "tcp", address(hop))
		} else {
			conn, err = hops[i-1].DialContext(ctx, "tcp", address(hop))
		}
		if err != nil {
			return hops, unreachable(hop, via(route[:i]), err)
		}
		client, err := d.login(ctx, conn, hop, via(route[:i]))
		if err != nil {
			return hops, err
		}
		hops = append(hops, client)
	}
	return hops, nil
}

// login is the part of SSH that comes before any use: the exchange of keys, the
// check of the host's, and the login. It owns conn.
func (d *dialer) login(ctx context.Context, conn net.Conn, hop *api.SSHHop, via string) (*ssh.Client, error) {
	keys, err := trustOf(hop)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	auth, err := d.authOf(hop)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	defer auth.close()
	var refused error // what the check of the host's key said
	config := &ssh.ClientConfig{
		User: hop.Username, Auth: auth.methods, HostKeyAlgorithms: keys.algorithms,
		AuthCallback:  auth.note,
		ClientVersion: "SSH-2.0-Stella",
		HostKeyCallback: func(name string, remote net.Addr, key ssh.PublicKey) error {
			refused = keys.check(name, remote, key)
			return refused
		},
	}
	// The library knows no contexts: closing the connection ends the handshake.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	sc, channels, requests, err := ssh.NewClientConn(conn, address(hop), config)
	if !stop() && err == nil {
		err = context.Cause(ctx)
		_ = sc.Close()
	}
	if err == nil {
		return ssh.NewClient(sc, channels, requests), nil
	}
	_ = conn.Close()
	at := address(hop) + via
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case ctx.Err() != nil:
		return nil, deploy.Fail(api.ErrTargetUnreachable, "%s did not answer as an SSH server in time", at).Retry()
	case refused != nil:
		return nil, deploy.Fail(api.ErrTargetUnreachable, "%w", refused)
	case errors.As(err, &negotiation):
		return nil, deploy.Fail(api.ErrTargetUnreachable,
			"%s has no %s in common with Stella: it offers %s; update its SSH server", at, negotiation.What, strings.Join(negotiation.RequestedAlgorithms, ", "))
	case auth.begun && (errors.Is(err, io.EOF) || errors.As(err, new(*net.OpError))):
		return nil, deploy.Fail(api.ErrTargetUnreachable, "%s closed the connection during the login: %w; its own log says why", at, err).Retry()
	case strings.Contains(err.Error(), "unable to authenticate") || strings.Contains(err.Error(), "too many authentication") || auth.begun:
		return nil, auth.failed(hop, at, err)
	}
	return nil, deploy.Fail(api.ErrTargetUnreachable, "the key exchange with %s failed: %w; see that it is an SSH server", at, err).Retry()
}

func address(h *api.SSHHop) string {
	port := h.Port
	if port == 0 {
		port = 22
	}
	return net.JoinHostPort(strings.Trim(h.Host, "[]"), strconv.Itoa(port))
}

func via(before []api.SSHHop) string {
	if len(before) == 0 {
		return ""
	}
	return " (through " + address(&before[len(before)-1]) + ")"
}

// unreachable says why there is no connection to a hop.
func unreachable(hop *api.SSHHop, via string, err error) error {
	at := address(hop) + via
	fail := func(format string, args ...any) error {
		return deploy.Fail(api.ErrTargetUnreachable, format, args...).Retry()
	}
	var dns *net.DNSError
	var refused *ssh.OpenChannelError
	switch {
	case errors.As(err, &dns):
		return fail("the name %s cannot be resolved on the agent's host: %w; see that it is written right", hop.Host, dns)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fail("%s refused the connection; see that an SSH server runs there, on this port", at)
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT):
		return fail("%s did not answer in time; see that it is up, and that no firewall keeps the agent out", at)
	case errors.As(err, &refused):
		return fail("the jump host did not connect to %s: %s; see that it can be reached from there, and that AllowTcpForwarding permits it", at, refused.Message)
	}
	return fail("there is no way to %s: %w", at, err)
}

// keepAlive asks a silent peer whether it is there, until the link ends.
func (l *link) keepAlive(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	answers := make(chan struct{}, keepAliveMisses)
	missed := 0
	for {
		select {
		case <-l.done:
			return
		case <-answers:
			missed = 0
			continue
		case <-tick.C:
		}
		if missed == keepAliveMisses {
			l.end(fmt.Errorf("it did not answer %d keep-alives in a row, %v apart", keepAliveMisses, interval))
			return
		}
		missed++
		go func() {
			// A refusal is an answer too.
			if _, _, err := l.SendRequest("keepalive@openssh.com", true, nil); err == nil {
				answers <- struct{}{}
			}
		}()
	}
}

// end closes the connection; the first reason stands.
func (l *link) end(why error) {
	l.once.Do(func() {
		l.err = why
		close(l.done)
		closeAll(l.hops)
	})
}

func (l *link) alive() bool {
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}

// lost is the error of what was cut off by the end of the link.
func (l *link) lost() error {
	<-l.done
	why := l.err
	if why == nil {
		why = errors.New("the other side closed it")
	}
	return deploy.Fail(api.ErrTargetUnreachable, "the connection to %s was lost: %w", l.RemoteAddr(), why).Retry()
}

func closeAll(hops []*ssh.Client) {
	for _, hop := range slices.Backward(hops) {
		_ = hop.Close()
	}
}
