package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"stella-ops.org/stella/internal/pki"
)

// approach is how the agent went about to reach its server: what the explanation
// of an error needs to know beside the error.
type approach struct {
	server string    // its URL
	proxy  *url.URL  // that the environment puts in between; nil for none
	now    time.Time // by this machine's clock
	// serverTime is the server's clock, when it was asked for it; zero otherwise.
	serverTime time.Time
}

// toward is the approach to a server from here and now.
func toward(server string, now time.Time) approach {
	by := approach{server: server, now: now}
	if u, err := url.Parse(server); err == nil {
		if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil {
			by.proxy = proxy
		}
	}
	return by
}

// diagnosis says why a server was not reached, or not trusted, and what to do.
type diagnosis struct {
	what, next string
	// untrusted says that something answered that is not the agent's server: to
	// try again does not help. A clock that is wrong may be set meanwhile.
	untrusted bool
	err       error
}

// Error returns what happened, and what to do next.
func (d *diagnosis) Error() string { return d.what + ": " + d.next }

// Unwrap returns the cause.
func (d *diagnosis) Unwrap() error { return d.err }

// proxyRefusal is a proxy's answer when it does not let a connection through.
type proxyRefusal struct{ status int }

// Error says what it answered.
func (e *proxyRefusal) Error() string {
	return fmt.Sprintf("the proxy answered %d %s", e.status, http.StatusText(e.status))
}

// throughProxy looks at a proxy's answer to CONNECT; net/http's own error has
// nothing of it but words.
func throughProxy(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
	if res.StatusCode == http.StatusOK {
		return nil
	}
	return &proxyRefusal{res.StatusCode}
}

// explain returns a *diagnosis of an error that kept the agent from its server.
// What says all by itself, as what the server has answered, is returned as it is.
func (by approach) explain(err error) error {
	if _, explained := errors.AsType[*diagnosis](err); err == nil || explained {
		return err
	}
	if d := by.atProxy(err); d != nil {
		d.err = err
		return d
	}
	for _, look := range []func(error) *diagnosis{by.ofName, by.ofCertificate, by.ofTLS, by.ofConnection} {
		if d := look(err); d != nil {
			if by.proxy != nil {
				d.next += fmt.Sprintf("; the way there is through the proxy %s, which HTTPS_PROXY names: NO_PROXY=%s leaves it out", by.proxyName(), by.name())
			}
			d.err = err
			return d
		}
	}
	return err
}

// at is the server's host and port, name its host alone.
func (by approach) at() string {
	u, err := url.Parse(by.server)
	switch {
	case err != nil || u.Host == "":
		return "the server"
	case u.Port() == "":
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return u.Host
}

func (by approach) name() string {
	host, _, err := net.SplitHostPort(by.at())
	if err != nil {
		return by.at()
	}
	return host
}

// proxyName is the proxy without the user and the password that its address may have.
func (by approach) proxyName() string { return by.proxy.Scheme + "://" + by.proxy.Host }

// atProxy explains what kept the agent from getting past the proxy.
func (by approach) atProxy(err error) *diagnosis {
	if by.proxy == nil {
		return nil
	}
	without := fmt.Sprintf("or set NO_PROXY=%s where no proxy is needed", by.name())
	if no, ok := errors.AsType[*proxyRefusal](err); ok {
		next := "have it let the agent through, " + without
		if no.status == http.StatusProxyAuthRequired {
			next = "give HTTPS_PROXY a user and a password that it takes, " + without
		}
		return &diagnosis{what: fmt.Sprintf("the proxy %s, which HTTPS_PROXY names, lets nobody through to %s (it answered %d %s)", by.proxyName(), by.at(), no.status, http.StatusText(no.status)), next: next}
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "proxyconnect" || op.Op == "socks connect") {
		return &diagnosis{
			what: fmt.Sprintf("the proxy %s, which HTTPS_PROXY names, cannot be reached (%s)", by.proxyName(), innermost(op)),
			next: "set HTTPS_PROXY to a proxy that runs, " + without,
		}
	}
	return nil
}

// ofName explains what DNS said.
func (by approach) ofName(err error) *diagnosis {
	dns, ok := errors.AsType[*net.DNSError](err)
	switch {
	case !ok:
		return nil
	case dns.IsNotFound:
		return &diagnosis{what: fmt.Sprintf("DNS knows no host by the server's name %q", dns.Name), next: "check the name in the server's URL, and which DNS this machine asks"}
	}
	return &diagnosis{
		what: fmt.Sprintf("the server's name %q cannot be resolved, because this machine's DNS does not answer as it should (%s)", dns.Name, dns.Err),
		next: "check this machine's network and DNS",
	}
}

// ofConnection explains why no connection came about, or one broke.
func (by approach) ofConnection(err error) *diagnosis {
	op, isOp := errors.AsType[*net.OpError](err)
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case isRefused(err):
		return &diagnosis{
			what: fmt.Sprintf("the connection to %s is refused", by.at()),
			next: "see that the server runs and listens at this port, and that no firewall rejects it",
		}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), isNet && timeout.Timeout():
		return &diagnosis{
			what: fmt.Sprintf("the server at %s did not answer in time", by.at()),
			next: "check the address, and that no firewall drops what goes to this port",
		}
	case isOp && op.Op == "dial":
		return &diagnosis{
			what: fmt.Sprintf("there is no connection to %s (%s)", by.at(), innermost(op)),
			next: "check the address, this machine's network and its routes",
		}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return &diagnosis{
			what: fmt.Sprintf("the connection to %s was closed by the other end", by.at()),
			next: "if it stays so, check the port, what lies between here and there, and the server's log",
		}
	}
	return nil
}

// wsaRefused is what Windows says where others say ECONNREFUSED.
const wsaRefused = syscall.Errno(10061)

func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || runtime.GOOS == "windows" && errors.Is(err, wsaRefused)
}

// innermost is the last cause of an error, which says what the system said.
func innermost(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// ofTLS explains why no TLS came about with what listens there.
func (by approach) ofTLS(err error) *diagnosis {
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	switch text := err.Error(); {
	case noTLS, errors.Is(err, http.ErrSchemeMismatch):
		return &diagnosis{
			untrusted: true, what: fmt.Sprintf("what listens at %s does not speak TLS", by.at()),
			next: "check the port: a Stella server listens on 8443 unless told otherwise",
		}
	case strings.Contains(text, "protocol version"): // crypto/tls has no type for it
		return &diagnosis{
			untrusted: true, what: fmt.Sprintf("what listens at %s does not speak TLS 1.3, which every Stella server does", by.at()),
			next: "check the address, and that nothing between here and there ends TLS",
		}
	case strings.Contains(text, "tls: "):
		return &diagnosis{
			what: fmt.Sprintf("no TLS connection to %s came about (%s)", by.at(), innermost(err)),
			next: "check the address, and that nothing between here and there ends TLS; the server's log says more",
		}
	}
	return nil
}

// ofCertificate explains why the certificate that was shown is not trusted.
func (by approach) ofCertificate(err error) *diagnosis {
	if other, ok := errors.AsType[*pki.NotPinnedError](err); ok {
		return &diagnosis{
			untrusted: true, what: fmt.Sprintf("what answers at %s is not the server that made the token: its certificate is issued by %s, and its chain has no root of the token's pin", by.at(), issuer(other.Leaf)),
			next: "check the server's URL, take a token of this very server, and see that nothing between here and there ends TLS",
		}
	}
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return &diagnosis{
			untrusted: true, what: fmt.Sprintf("what answers at %s is not the server that this agent knows: its certificate is issued by %s", by.at(), issuer(unknown.Cert)),
			next: "check the server's URL, and that nothing between here and there ends TLS; where the server was set up anew, register this agent anew",
		}
	}
	if wrong, ok := errors.AsType[x509.HostnameError](err); ok {
		return &diagnosis{
			untrusted: true, what: fmt.Sprintf("the certificate of the server at %s is for other names%s", by.at(), names(wrong.Certificate)),
			next: "use one of them in the server's URL, or start the server with --advertise and this address",
		}
	}
	bad, ok := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case !ok:
		return nil
	case bad.Reason == x509.Expired && bad.Cert != nil:
		return by.ofTime(bad.Cert)
	}
	return &diagnosis{
		untrusted: true, what: fmt.Sprintf("the certificate of the server at %s is not acceptable (%v)", by.at(), bad),
		next: "check that the address is that of a Stella server",
	}
}

func issuer(cert *x509.Certificate) string {
	if cert == nil {
		return "an unknown authority"
	}
	return fmt.Sprintf("%q", cert.Issuer.String()) // quoted: it is whatever somebody has put there
}

func names(cert *x509.Certificate) string {
	if cert == nil {
		return ""
	}
	all := append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%q)", all)
}

// ofTime explains that a certificate is not good now, by one clock or the other.
func (by approach) ofTime(cert *x509.Certificate) *diagnosis {
	from, to := cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339)
	ahead := by.now.Sub(by.serverTime)
	way := "ahead of"
	if ahead < 0 {
		way = "behind"
	}
	switch {
	case by.serverTime.IsZero():
		return &diagnosis{
			what: fmt.Sprintf("the server's certificate is good from %s to %s, and this machine's clock says %s", from, to, by.now.UTC().Format(time.RFC3339)),
			next: "set this machine's clock right (" + setClock() + "), or the server's",
		}
	case by.serverTime.Before(cert.NotBefore) || by.serverTime.After(cert.NotAfter):
		return &diagnosis{
			what: fmt.Sprintf("the server's certificate is good from %s to %s, and by the server's own clock it is %s", from, to, by.serverTime.UTC().Format(time.RFC3339)),
			next: "set the server's clock right, and look at its log",
		}
	}
	return &diagnosis{
		what: fmt.Sprintf("this machine's clock is %s %s the server's, so that the server's certificate is not good by it", roughly(ahead.Abs()), way),
		next: "set this machine's clock right (" + setClock() + ")",
	}
}

// setClock is the command that has a machine's clock set.
func setClock() string {
	if runtime.GOOS == "windows" {
		return "`w32tm /resync`"
	}
	return "`timedatectl set-ntp true`"
}

// roughly is a duration in the words of people, who do not count days in hours.
func roughly(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 2*day {
		return fmt.Sprintf("%d days", d.Round(day)/day)
	}
	return d.Round(time.Second).String()
}
