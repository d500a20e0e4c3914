package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"stella-ops.org/stella/api"
)

const (
	registrationTokensPath = "/api/v1/admin/agent-tokens" //nolint:gosec // a path
	apiTokensPath          = "/api/v1/admin/api-tokens"   //nolint:gosec // a path
)

// TokenFilter picks tokens.
type TokenFilter struct {
	// Filter is what must match, in the language that docs/filter.md
	// describes, and Sort the order; the newest come first when it is empty.
	Filter string
	Sort   string
	// Cursor begins behind a page, and Limit is how long a page may be; the
	// server chooses when it is 0.
	Cursor string
	Limit  int
}

func (f *TokenFilter) query() url.Values {
	return newQuery(f.Filter, f.Sort, f.Cursor, f.Limit).values
}

// CreateRegistrationToken makes a token that agents register with. The secret
// is in this answer alone.
func (c *Client) CreateRegistrationToken(ctx context.Context, req api.RegistrationTokenRequest) (*api.RegistrationToken, error) {
	return change[api.RegistrationToken](ctx, c, http.MethodPost, registrationTokensPath, req)
}

// RegistrationTokenPage returns one page of the registration tokens that match,
// without their secrets.
func (c *Client) RegistrationTokenPage(ctx context.Context, f TokenFilter) (*api.RegistrationTokenList, error) {
	return get[api.RegistrationTokenList](ctx, c, registrationTokensPath, f.query())
}

// RegistrationTokens walks all registration tokens that match, a page at a
// time.
func (c *Client) RegistrationTokens(ctx context.Context, f TokenFilter) iter.Seq2[api.RegistrationToken, error] {
	return pages(func(cursor string) ([]api.RegistrationToken, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		list, err := c.RegistrationTokenPage(ctx, f)
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
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

// APITokenPage returns one page of the API tokens that match, without their
// secrets.
func (c *Client) APITokenPage(ctx context.Context, f TokenFilter) (*api.APITokenList, error) {
	return get[api.APITokenList](ctx, c, apiTokensPath, f.query())
}

// APITokens walks all API tokens that match, a page at a time.
func (c *Client) APITokens(ctx context.Context, f TokenFilter) iter.Seq2[api.APIToken, error] {
	return pages(func(cursor string) ([]api.APIToken, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		list, err := c.APITokenPage(ctx, f)
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
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
