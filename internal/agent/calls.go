package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent/link"
	"stella-ops.org/stella/internal/deploy"
)

// calls are what an agent asks its server beside the link, over the same
// identity.
type calls struct {
	client  *http.Client
	server  string
	agentID string
	unwrap  *unwrapper
	log     *slog.Logger
	// recover gets a new certificate when the one that the agent has has ended.
	recover func(ctx context.Context) error
}

// patient is how long an unanswered call may take before it is made again.
const patient = 30 * time.Second

// credentials gets a task's credentials again. It asks until the server answers
// or ctx ends: what was begun can be undone only with them. When the server
// says that another agent has the target by now, it is an error for good.
func (c *calls) credentials(ctx context.Context, taskID string, attempt int64) (*api.Credentials, error) {
	path := "/api/v1/agents/" + url.PathEscape(c.agentID) + "/tasks/" + url.PathEscape(taskID) + "/credentials"
	recovered := false
	for try := 0; ; try++ {
		var res api.TaskCredentials
		err := c.post(ctx, path, api.CredentialsRequest{Attempt: attempt}, &res)
		if err == nil {
			out, err := c.unwrap.credentials(ctx, taskID, attempt, &res)
			if err != nil && !errors.Is(err, errKeysAway) {
				return nil, deploy.Fail(api.ErrRollbackFailed, "the agent cannot use the credentials of task %s that it was given again: %w", taskID, err)
			}
			if err == nil {
				return out, nil
			}
		}
		p, ok := errors.AsType[*api.Problem](err)
		if ok && p.Code == api.CodeCertificateExpired && !recovered && c.recover(ctx) == nil {
			recovered = true
			continue
		}
		if ok && p.Status < 500 && p.Status != http.StatusTooManyRequests && p.Code != api.CodeCertificateExpired {
			return nil, deploy.Fail(api.ErrRollbackFailed, "the server does not give out the credentials of task %s again: %w", taskID, err)
		}
		wait := backoff(time.Second, try, 0)
		c.log.WarnContext(ctx, "a task's credentials are needed to undo or finish it, and the server is out of reach",
			"task", taskID, "error", toward(c.server, time.Now()).explain(err), "retry", wait.Round(time.Millisecond).String())
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("get the credentials of task %s again: %w", taskID, errors.Join(context.Cause(ctx), err))
		case <-time.After(wait):
		}
	}
}

// token gets a token for the task endpoints, bound to the certificate that a
// client presents.
func (c *calls) token(ctx context.Context, by *presented) (string, error) {
	var out api.AgentToken
	err := c.postBy(ctx, by.client, "/api/v1/agents/token", nil, &out)
	return out.Token, err
}

// serverKeys gets the keys by which the server signs.
func (c *calls) serverKeys(ctx context.Context) (*api.ServerKeys, error) {
	var out api.ServerKeys
	return &out, c.do(ctx, c.client, http.MethodGet, "/api/v1/agents/"+url.PathEscape(c.agentID)+"/server-keys", nil, &out)
}

// post sends in as JSON, if there is any, and reads the answer into out. It
// makes one attempt.
func (c *calls) post(ctx context.Context, path string, in, out any) error {
	return c.do(ctx, c.client, http.MethodPost, path, in, out)
}

func (c *calls) postBy(ctx context.Context, client *http.Client, path string, in, out any) error {
	return c.do(ctx, client, http.MethodPost, path, in, out)
}

func (c *calls) do(ctx context.Context, client *http.Client, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	var body io.Reader = http.NoBody
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.server, "/")+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return link.Decode(res, out)
}
