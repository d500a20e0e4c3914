// Package client is the Go client of Stella's REST API: one method for each
// operation, with the types of package api.
//
// An error that the server answered with is an *api.Problem; one that kept the
// request from being answered is a *ConnectError, which says which server that
// was and what to do next. Find either with errors.As.
//
// Local asks the agent of this host instead, by its local socket.
//
// The package knows nothing of terminals and configuration, and of files only
// where agents have their sockets; it imports the standard library and package
// api alone.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"stella-ops.org/stella/api"
)

// Options say which server a client talks to, and as whom.
type Options struct {
	// URL is the server's, as in https://stella.example.com:8443.
	URL string
	// Token is an API token (stl_…); empty for what needs none.
	Token string
	// CACert holds the certificates to trust, in PEM; nil stands for the
	// system's.
	CACert []byte
	// HTTPClient is used as it is, instead of one made from CACert.
	HTTPClient *http.Client
	// UserAgent names the program to the server.
	UserAgent string
}

// Client calls one server. It is safe for concurrent use.
type Client struct {
	base      string
	token     string
	userAgent string
	http      *http.Client
}

// maxAnswer bounds what an answer may be long, so that a stranger on the
// server's port cannot fill the memory.
const maxAnswer = 64 << 20

// New returns a client. It does not connect yet.
func New(o Options) (*Client, error) {
	base, err := baseURL(o.URL)
	if err != nil {
		return nil, err
	}
	c := &Client{base: base, token: o.Token, userAgent: o.UserAgent, http: o.HTTPClient}
	if c.userAgent == "" {
		c.userAgent = "stella-go-client"
	}
	if c.http != nil {
		return c, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	if len(o.CACert) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(o.CACert) {
			return nil, errors.New("the CA certificate is not PEM, or holds no certificate")
		}
	}
	c.http = newHTTPClient(conf)
	return c, nil
}

// URL returns the server's address, without a slash at its end.
func (c *Client) URL() string { return c.base }

// Close closes the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func baseURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("%q is no server URL: give one as in https://stella.example.com:8443", text)
	}
	if u.Scheme != "https" {
		return "", fmt.Errorf("the server URL %s must begin with https://: a token is not sent in the clear", text)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("the server URL %s has more in it than a host, a port and a path", u.Redacted())
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// newHTTPClient returns a client without a time limit of its own: callers give
// one by their context, and a followed log may run for hours.
func newHTTPClient(conf *tls.Config) *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           dialer.DialContext,
			TLSClientConfig:       conf,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: time.Minute,
			IdleConnTimeout:       90 * time.Second,
			ForceAttemptHTTP2:     true,
			// A connection whose other end vanished without a word is noticed
			// by this, also while a log is followed that says nothing.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
		},
		// The API redirects nowhere; following one could take the token along.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// call is one operation.
type call struct {
	method string
	path   string // below the base, escaped
	query  url.Values
	body   any  // nil for none
	into   any  // nil when the answer does not matter
	repeat bool // safe to send again
}

func (c *Client) do(ctx context.Context, op call) error {
	var body []byte
	if op.body != nil {
		var err error
		if body, err = json.Marshal(op.body); err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
	}
	return retry(ctx, op.repeat, func() error {
		res, err := c.send(ctx, op, body, "application/json")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if op.into == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20)) // only to use the connection again
			return nil
		}
		raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		if err != nil {
			return c.connectError(ctx, err)
		}
		if err := json.Unmarshal(raw, op.into); err != nil {
			return fmt.Errorf("%s answered %s %s with what is not the JSON that was expected: %w", c.base, op.method, op.path, err)
		}
		return nil
	})
}

// send returns an answer of success, whose body the caller closes.
func (c *Client) send(ctx context.Context, op call, body []byte, accept string) (*http.Response, error) {
	target := c.base + op.path
	if len(op.query) > 0 {
		target += "?" + op.query.Encode()
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, op.method, target, reader)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept+", application/problem+json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return c.answer(req)
}

// answer sends a request and returns an answer of success, whose body the
// caller closes.
func (c *Client) answer(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	req.Header.Set("User-Agent", c.userAgent)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.connectError(ctx, err)
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, c.problem(res)
}

// get, post and the like are what the operations are written in.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (*T, error) {
	into := new(T)
	if err := c.do(ctx, call{method: http.MethodGet, path: path, query: query, into: into, repeat: true}); err != nil {
		return nil, err
	}
	return into, nil
}

func change[T any](ctx context.Context, c *Client, method, path string, body any) (*T, error) {
	into := new(T)
	if err := c.do(ctx, call{method: method, path: path, body: body, into: into}); err != nil {
		return nil, err
	}
	return into, nil
}

// item is the path of one thing below a collection, and of an action on it.
// What cannot be an id or name is not found without asking: in a path it would
// mean something else.
func item(collection, idOrName string, action ...string) (string, error) {
	if strings.Trim(idOrName, ".") == "" {
		return "", &api.Problem{
			Title: http.StatusText(http.StatusNotFound), Status: http.StatusNotFound, Code: "not_found",
			Detail: fmt.Sprintf("%q is no id or name", idOrName),
		}
	}
	return strings.Join(append([]string{collection, url.PathEscape(idOrName)}, action...), "/"), nil
}
