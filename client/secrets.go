package client

import (
	"context"
	"iter"
	"net/http"

	"stella-ops.org/stella/api"
)

const secretsPath = "/api/v1/secrets" //nolint:gosec // a path

// SecretFilter picks secrets.
type SecretFilter struct {
	// Filter is what must match, in the language that docs/filter.md
	// describes, and Sort the order; by name when it is empty.
	Filter string
	Sort   string
	// Cursor begins behind a page, and Limit is how long a page may be; the
	// server chooses when it is 0.
	Cursor string
	Limit  int
}

// SetSecret gives a secret a value, and makes it if there is none of that name.
func (c *Client) SetSecret(ctx context.Context, name, value string) (*api.Secret, error) {
	path, err := item(secretsPath, name)
	if err != nil {
		return nil, err
	}
	return change[api.Secret](ctx, c, http.MethodPut, path, api.SecretRequest{Value: value})
}

// SecretPage returns one page of the secrets that match, without their values.
func (c *Client) SecretPage(ctx context.Context, f SecretFilter) (*api.SecretList, error) {
	return get[api.SecretList](ctx, c, secretsPath, newQuery(f.Filter, f.Sort, f.Cursor, f.Limit).values)
}

// Secrets walks all secrets that match, a page at a time.
func (c *Client) Secrets(ctx context.Context, f SecretFilter) iter.Seq2[api.Secret, error] {
	return pages(func(cursor string) ([]api.Secret, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		list, err := c.SecretPage(ctx, f)
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
}

// Secret returns what is known of a secret, and which targets refer to it.
func (c *Client) Secret(ctx context.Context, name string) (*api.Secret, error) {
	path, err := item(secretsPath, name)
	if err != nil {
		return nil, err
	}
	return get[api.Secret](ctx, c, path, nil)
}

// DeleteSecret removes a secret; with force also one that targets refer to.
func (c *Client) DeleteSecret(ctx context.Context, name string, force bool) error {
	path, err := item(secretsPath, name)
	if err != nil {
		return err
	}
	if force {
		path += "?force=true"
	}
	_, err = change[api.Deleted](ctx, c, http.MethodDelete, path, nil)
	return err
}
