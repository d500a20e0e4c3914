package client

import (
	"context"
	"io"
	"net/http"

	"stella-ops.org/stella/api"
)

// Bootstrap makes a registration token for a new agent, and returns it with the
// lines that start the agent by it. The secret is in this answer alone.
func (c *Client) Bootstrap(ctx context.Context, req api.BootstrapRequest) (*api.Bootstrap, error) {
	return change[api.Bootstrap](ctx, c, http.MethodPost, "/api/v1/admin/agents/bootstrap", req)
}

// LinuxInstaller returns the script that installs an agent on Linux.
func (c *Client) LinuxInstaller(ctx context.Context) ([]byte, error) {
	return c.bytes(ctx, call{method: http.MethodGet, path: "/install.sh"}, "text/x-shellscript")
}

// WindowsInstaller returns the script that installs an agent on Windows.
func (c *Client) WindowsInstaller(ctx context.Context) ([]byte, error) {
	return c.bytes(ctx, call{method: http.MethodGet, path: "/install.ps1"}, "text/plain")
}

// AgentChecksums lists the agents' programs that the server gives out, as
// sha256sum does.
func (c *Client) AgentChecksums(ctx context.Context) ([]byte, error) {
	return c.bytes(ctx, call{method: http.MethodGet, path: "/download/SHA256SUMS"}, "text/plain")
}

// AgentChecksumsSignature returns the server's signature on the checksums
// (Ed25519, RFC 8032), which is on api.PurposeChecksums, a NUL, and their bytes.
func (c *Client) AgentChecksumsSignature(ctx context.Context) ([]byte, error) {
	return c.bytes(ctx, call{method: http.MethodGet, path: "/download/SHA256SUMS.sig"}, "application/octet-stream")
}

// SigningKey returns the public key by which the server signs now, in PEM.
func (c *Client) SigningKey(ctx context.Context) ([]byte, error) {
	return c.bytes(ctx, call{method: http.MethodGet, path: "/pki/signing-key.pem"}, "application/x-pem-file")
}

// AgentProgram opens an agent's program, for a system as Go names it, as in
// linux and arm64; the caller closes it. It makes one attempt.
func (c *Client) AgentProgram(ctx context.Context, goos, arch string) (io.ReadCloser, error) {
	path, err := item("/download", goos)
	if err != nil {
		return nil, err
	}
	if path, err = item(path, arch, "stella-agent"); err != nil {
		return nil, err
	}
	res, err := c.send(ctx, call{method: http.MethodGet, path: path}, nil, "application/octet-stream")
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}
