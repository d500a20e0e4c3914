package client

import (
	"context"
	"iter"
	"net/http"

	"stella-ops.org/stella/api"
)

const artifactsPath = "/api/v1/artifacts"

// ArtifactFilter picks artifacts; every field that is set must match.
type ArtifactFilter struct {
	Name string
	// Filter is what else must match, in the language that docs/filter.md
	// describes, and Sort the order, as in -createdAt,name.
	Filter string
	Sort   string
	// Cursor begins behind a page, and Limit is how long a page may be; the
	// server chooses when it is 0.
	Cursor string
	Limit  int
}

// ArtifactPage returns one page of the artifacts that match.
func (c *Client) ArtifactPage(ctx context.Context, f ArtifactFilter) (*api.ArtifactList, error) {
	q := newQuery(f.Filter, f.Sort, f.Cursor, f.Limit)
	q.set("name", f.Name)
	return get[api.ArtifactList](ctx, c, artifactsPath, q.values)
}

// Artifacts walks all artifacts that match, a page at a time.
func (c *Client) Artifacts(ctx context.Context, f ArtifactFilter) iter.Seq2[api.Artifact, error] {
	return pages(func(cursor string) ([]api.Artifact, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		list, err := c.ArtifactPage(ctx, f)
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
}

// Artifact returns the artifact with that digest, or else the newest of that
// name, and the last tasks that were made with it.
func (c *Client) Artifact(ctx context.Context, digestOrName string) (*api.Artifact, error) {
	path, err := item(artifactsPath, digestOrName)
	if err != nil {
		return nil, err
	}
	return get[api.Artifact](ctx, c, path, nil)
}

// DeleteArtifact forgets an artifact that nothing needs, or an upload.
func (c *Client) DeleteArtifact(ctx context.Context, digest string) error {
	path, err := item(artifactsPath, digest)
	if err != nil {
		return err
	}
	_, err = change[api.Deleted](ctx, c, http.MethodDelete, path, nil)
	return err
}
