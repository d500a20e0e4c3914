package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"stella-ops.org/stella/api"
)

// ConnectError says that a server could not be reached, or not be trusted, and
// what to do next.
type ConnectError struct {
	// Server is the URL that was tried.
	Server string
	// What says what happened, Hint what to do next.
	What string
	Hint string
	// Untrusted says that a server answered, and that its certificate is not
	// one to trust; trying again does not help.
	Untrusted bool
	Err       error
}

// Error returns what happened and what to do next.
func (e *ConnectError) Error() string { return e.What + ": " + e.Hint }

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

// connectError explains why a request has no answer. The end of the caller's
// own context is not explained but returned.
func (c *Client) connectError(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if _, ok := errors.AsType[*ConnectError](err); ok {
		return err
	}
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	return explain(c.base, err)
}

func explain(server string, err error) *ConnectError {
	host := server
	if u, parseErr := url.Parse(server); parseErr == nil {
		host = u.Host
	}
	e := &ConnectError{Server: server, Err: err}
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		wrongName x509.HostnameError
		invalid   x509.CertificateInvalidError
		notTLS    tls.RecordHeaderError
		alert     tls.AlertError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &dns):
		e.What = fmt.Sprintf("the name of the server %s cannot be resolved", server)
		e.Hint = "check the spelling, and the DNS of this machine"
		if dns.IsTimeout {
			e.Hint = "this machine's DNS does not answer; try again when its network is up"
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		e.What = fmt.Sprintf("nothing listens at %s", server)
		e.Hint = "start the server there with `stella server`, or name another with --server"
	case errors.As(err, &authority):
		e.Untrusted = true
		e.What = fmt.Sprintf("the certificate of %s is signed by an authority that is not trusted here", server)
		e.Hint = fmt.Sprintf("trust the server's own root with `stella login %s --ca FILE` (its ca.pem) or `--ca-pin`", server)
	case errors.As(err, &wrongName):
		e.Untrusted = true
		e.What = fmt.Sprintf("the certificate of %s is for other names", server)
		e.Hint = "use one of the names that it has" + namesOf(wrongName.Certificate) + ", or start the server with --advertise and this address"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Untrusted = true
		e.What = fmt.Sprintf("the certificate of %s is not valid now (%s)", server, time.Now().UTC().Format(time.RFC3339))
		e.Hint = "check this machine's clock, then the server's"
	case errors.As(err, &invalid):
		e.Untrusted = true
		e.What = fmt.Sprintf("the certificate of %s is not acceptable (%v)", server, invalid)
		e.Hint = "check that the address is that of a Stella server"
	case errors.As(err, &notTLS), errors.Is(err, http.ErrSchemeMismatch):
		e.Untrusted = true
		e.What = fmt.Sprintf("what listens at %s does not speak TLS", host)
		e.Hint = "check the port: a Stella server listens on 8443 unless told otherwise"
	case errors.As(err, &alert), strings.Contains(err.Error(), "tls: "):
		e.Untrusted = true
		e.What = fmt.Sprintf("no TLS 1.3 connection to %s came about (%v)", server, err)
		e.Hint = "check the port, and that nothing between here and there ends TLS"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		e.What = fmt.Sprintf("%s did not answer in time", server)
		e.Hint = "check the address, and that no firewall drops the connection"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		e.What = fmt.Sprintf("the connection to %s broke", server)
		e.Hint = "try again; if it stays so, look at the server's log"
	default:
		e.What = fmt.Sprintf("%s cannot be reached (%v)", server, err)
		e.Hint = "check the address and the network"
	}
	return e
}

func namesOf(cert *x509.Certificate) string {
	if cert == nil {
		return ""
	}
	names := append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return ""
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// problem reads the problem of an answer that is no success. What is not one
// comes from something else on the way, such as a proxy, and is told so.
func (c *Client) problem(res *http.Response) *api.Problem {
	p := &api.Problem{}
	mediaType, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	known := false
	if mediaType == "application/problem+json" || mediaType == "application/json" {
		raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		known = err == nil && json.Unmarshal(raw, p) == nil && (p.Title != "" || p.Detail != "" || p.Code != "")
	}
	if !known {
		p = &api.Problem{
			Title: http.StatusText(res.StatusCode), Code: fmt.Sprintf("http_%d", res.StatusCode),
			Detail: fmt.Sprintf("%s answered %s, and not as a Stella server does: check the address, and what lies between here and there", c.base, res.Status),
		}
	}
	p.Status, p.RetryAfter = res.StatusCode, retryAfter(res.Header.Get("Retry-After"), time.Now())
	return p
}
