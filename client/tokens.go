package client

import (
	"context"
	"net/http"

	"stella-ops.org/stella/api"
)

const (
	registrationTokensPath = "/api/v1/admin/agent-tokens" //nolint:gosec // a path
	apiTokensPath          = "/api/v1/admin/api-tokens"   //nolint:gosec // a path
)

// CreateRegistrationToken makes a token that agents register with. The secret
// is in this answer alone.
func (c *Client) CreateRegistrationToken(ctx context.Context, req api.RegistrationTokenRequest) (*api.RegistrationToken, error) {
	return change[api.RegistrationToken](ctx, c, http.MethodPost, registrationTokensPath, req)
}

// RegistrationTokens returns the registration tokens, without their secrets.
func (c *Client) RegistrationTokens(ctx context.Context) (*api.RegistrationTokenList, error) {
	return get[api.RegistrationTokenList](ctx, c, registrationTokensPath, nil)
}

// RevokeRegistrationToken ends a registration token.
func (c *Client) RevokeRegistrationToken(ctx context.Context, id string) error {
	return c.revokeToken(ctx, registrationTokensPath, id)
}

// CreateAPIToken makes a token for a person or a script. The secret is in this
// answer alone.
func (c *Client) CreateAPIToken(ctx context.Context, req api.APITokenRequest) (*api.APIToken, error) {
	return change[api.APIToken](ctx, c, http.MethodPost, apiTokensPath, req)
}

// APITokens returns the API tokens, without their secrets.
func (c *Client) APITokens(ctx context.Context) (*api.APITokenList, error) {
	return get[api.APITokenList](ctx, c, apiTokensPath, nil)
}

// RevokeAPIToken ends an API token.
func (c *Client) RevokeAPIToken(ctx context.Context, id string) error {
	return c.revokeToken(ctx, apiTokensPath, id)
}

func (c *Client) revokeToken(ctx context.Context, collection, id string) error {
	path, err := item(collection, id)
	if err != nil {
		return err
	}
	_, err = change[api.Deleted](ctx, c, http.MethodDelete, path, nil)
	return err
}
