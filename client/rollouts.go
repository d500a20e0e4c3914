package client

import (
	"context"
	"iter"
	"net/http"

	"stella-ops.org/stella/api"
)

const rolloutsPath = "/api/v1/rollouts"

// RolloutFilter picks rollouts.
type RolloutFilter struct {
	// Filter is what must match, in the language that docs/filter.md
	// describes, and Sort the order; the newest come first when it is empty.
	Filter string
	Sort   string
	// Cursor begins behind a page, and Limit is how long a page may be; the
	// server chooses when it is 0.
	Cursor string
	Limit  int
}

// PreviewRollout says what a rollout would do, target by target.
func (c *Client) PreviewRollout(ctx context.Context, req api.RolloutRequest) (*api.RolloutPreview, error) {
	return change[api.RolloutPreview](ctx, c, http.MethodPost, rolloutsPath+"/preview", req)
}

// CreateRollout begins to deploy to many targets. With an idempotency key that
// was seen it returns the rollout that was made with it.
func (c *Client) CreateRollout(ctx context.Context, req api.RolloutRequest) (*api.Rollout, error) {
	return change[api.Rollout](ctx, c, http.MethodPost, rolloutsPath, req)
}

// RolloutPage returns one page of the rollouts that match, without their
// payloads and targets.
func (c *Client) RolloutPage(ctx context.Context, f RolloutFilter) (*api.RolloutList, error) {
	return get[api.RolloutList](ctx, c, rolloutsPath, newQuery(f.Filter, f.Sort, f.Cursor, f.Limit).values)
}

// Rollouts walks all rollouts that match, a page at a time.
func (c *Client) Rollouts(ctx context.Context, f RolloutFilter) iter.Seq2[api.Rollout, error] {
	return pages(func(cursor string) ([]api.Rollout, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		list, err := c.RolloutPage(ctx, f)
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
}

// Rollout returns a rollout with its targets.
func (c *Client) Rollout(ctx context.Context, id string) (*api.Rollout, error) {
	path, err := item(rolloutsPath, id)
	if err != nil {
		return nil, err
	}
	return get[api.Rollout](ctx, c, path, nil)
}

// PauseRollout has a running rollout begin no other target.
func (c *Client) PauseRollout(ctx context.Context, id string) (*api.Rollout, error) {
	return c.steer(ctx, id, "pause", nil)
}

// ResumeRollout has a paused or stopped rollout go on; with retryFailed, the
// targets that failed have another turn.
func (c *Client) ResumeRollout(ctx context.Context, id string, retryFailed bool) (*api.Rollout, error) {
	return c.steer(ctx, id, "resume", api.RolloutResume{RetryFailed: retryFailed})
}

// CancelRollout ends a rollout; it does not wait for the tasks that were begun.
func (c *Client) CancelRollout(ctx context.Context, id string) (*api.Rollout, error) {
	return c.steer(ctx, id, "cancel", nil)
}

// RollbackRollout brings a rollout's targets back to what they ran before; it
// does not wait for them.
func (c *Client) RollbackRollout(ctx context.Context, id string) (*api.Rollout, error) {
	return c.steer(ctx, id, "rollback", nil)
}

func (c *Client) steer(ctx context.Context, id, how string, body any) (*api.Rollout, error) {
	path, err := item(rolloutsPath, id)
	if err != nil {
		return nil, err
	}
	return change[api.Rollout](ctx, c, http.MethodPost, path+"/"+how, body)
}
