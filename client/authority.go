package client

import (
	"context"
	"net/http"

	"stella-ops.org/stella/api"
)

const caPath = "/api/v1/ca"

// CA returns the certificate authorities that are trusted, and where the
// rotation from one to the next stands.
func (c *Client) CA(ctx context.Context) (*api.CAStatus, error) {
	return get[api.CAStatus](ctx, c, caPath, nil)
}

// PrepareCA makes the next certificate authority, and has it trusted. It is not
// idempotent: repeated, it is a problem with the code ca_phase.
func (c *Client) PrepareCA(ctx context.Context) (*api.CAStatus, error) {
	return change[api.CAStatus](ctx, c, http.MethodPost, caPath+"/prepare", nil)
}

// RotateSigningKey makes the next key by which servers sign tasks and commands;
// it signs after a while. It is not idempotent: repeated before that, it is a
// problem with the code signing_key_settling.
func (c *Client) RotateSigningKey(ctx context.Context) (*api.CAStatus, error) {
	return change[api.CAStatus](ctx, c, http.MethodPost, caPath+"/signing-key", nil)
}

// ActivateCA has the next certificate authority issue. It is not idempotent.
func (c *Client) ActivateCA(ctx context.Context) (*api.CAStatus, error) {
	return change[api.CAStatus](ctx, c, http.MethodPost, caPath+"/activate", nil)
}

// RetireCA ends the trust in the certificate authority before. While agents
// would be lost, it is a problem with the code agents_would_be_lost. It is not
// idempotent.
func (c *Client) RetireCA(ctx context.Context, req api.CARetireRequest) (*api.CAStatus, error) {
	return change[api.CAStatus](ctx, c, http.MethodPost, caPath+"/retire", req)
}
