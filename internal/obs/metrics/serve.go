package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// CheckAddr checks an address that metrics are to be read at, over plain HTTP and
// by whoever reaches it: it must name a port, and a host of this machine or of a
// private network. A host that is given by name is looked at again by Listen.
func CheckAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return fmt.Errorf("%q is no address: write host:port, as in 127.0.0.1:9464", addr)
	}
	if host == "" {
		return errors.New("it names no host, and so would be every network that this machine is in: name one that is private, as in 127.0.0.1:9464")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return private(ip)
	}
	return nil
}

// shared is for addresses behind a provider's NAT (RFC 6598), which overlay
// networks use too.
var shared = netip.MustParsePrefix("100.64.0.0/10")

func private(ip netip.Addr) error {
	ip = ip.Unmap()
	switch {
	case ip.IsLoopback(), ip.IsPrivate(), ip.IsLinkLocalUnicast(), shared.Contains(ip):
		return nil
	case ip.IsUnspecified():
		return fmt.Errorf("%s is every network that this machine is in: name an address that is private, as in 127.0.0.1:9464", ip)
	}
	return fmt.Errorf("%s is not private, and metrics are read there without TLS and without a token: name an address of this machine or of a private network, as in 127.0.0.1:9464", ip)
}

// Listen opens an address for Serve. What CheckAddr refuses, it refuses too.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	if err := CheckAddr(addr); err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if at, ok := l.Addr().(*net.TCPAddr); ok {
		if err := private(at.AddrPort().Addr().WithZone("")); err != nil {
			_ = l.Close()
			return nil, err
		}
	}
	return l, nil
}

// Serve answers GET /metrics, over plain HTTP and to everybody, until ctx ends.
// It closes the listener.
func Serve(ctx context.Context, l net.Listener, metrics http.Handler, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	srv := &http.Server{
		Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	log.InfoContext(ctx, "metrics can be read", "url", "http://"+l.Addr().String()+"/metrics")
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })() // a scrape that is cut is made again
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
