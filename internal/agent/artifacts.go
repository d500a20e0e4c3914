package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/artifact"
)

// artifactStall is for how long nothing may come of an artifact before the
// request is given up, and made again.
const artifactStall = time.Minute

// artifactStore is Stella's store of artifacts as this agent reaches it: the
// server gives it those that its own running tasks were made with.
type artifactStore struct {
	// present returns the client to ask by now: a token is for one certificate.
	present func() *presented
	agent   *url.URL // this agent's own part of the API
	stall   time.Duration
	// token gets a token for all of the agent's tasks.
	token func(ctx context.Context, by *presented) (string, error)
}

func newArtifactStore(server *calls, present func() *presented) (*artifactStore, error) {
	base, err := url.Parse(server.server)
	if err != nil {
		return nil, fmt.Errorf("server URL: %w", err)
	}
	return &artifactStore{
		present: present, agent: base.JoinPath("/api/v1/agents", url.PathEscape(server.agentID)), stall: artifactStall, token: server.token,
	}, nil
}

// of returns the store as one task may read it.
func (s *artifactStore) of(t *api.AgentTask) artifact.Source {
	return &taskArtifacts{artifactStore: s, taskID: t.ID, token: t.Token}
}

type taskArtifacts struct {
	*artifactStore
	taskID, token string
}

var _ artifact.Source = (*taskArtifacts)(nil)

// Open implements artifact.Source.
func (s *taskArtifacts) Open(ctx context.Context, digest string, offset int64) (io.ReadCloser, error) {
	by := s.present()
	// A task's own token belongs to the certificate that the agent had when it
	// got the task; that may have been replaced since.
	if of := certificateOf(s.token); of == "" || of == by.certificate {
		body, err := s.open(ctx, by, s.token, digest, offset)
		if !errors.Is(err, errTokenRefused) {
			return body, err
		}
	}
	token, err := s.artifactStore.token(ctx, by)
	if err != nil {
		return nil, deploy.Fail(api.ErrPullFailed, "get artifact %s from Stella's store: get a token: %w", digest, err).Retry()
	}
	return s.open(ctx, by, token, digest, offset)
}

// certificateOf is the thumbprint of the certificate that a token belongs to
// (RFC 8705, x5t#S256), as the token says; "" when it says nothing that can be
// read here. Whether it is true is the server's to find out.
func certificateOf(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	var said struct {
		Confirm struct {
			Certificate string `json:"x5t#S256"`
		} `json:"cnf"`
	}
	if err != nil || json.Unmarshal(claims, &said) != nil {
		return ""
	}
	return said.Confirm.Certificate
}

// errTokenRefused is in the error of a request whose token was refused.
var errTokenRefused = errors.New("the token was refused")

func (s *taskArtifacts) open(ctx context.Context, by *presented, token, digest string, offset int64) (io.ReadCloser, error) {
	at := s.agent.JoinPath("tasks", url.PathEscape(s.taskID), "artifacts", digest)
	fail := func(format string, args ...any) *deploy.Error {
		return deploy.Fail(api.ErrPullFailed, "get artifact %s from Stella's store: %w", digest, fmt.Errorf(format, args...))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	idle := time.AfterFunc(s.stall, func() { cancel(errStalled) })
	body := &artifactBody{idle: idle, cancel: cancel, stall: s.stall, ctx: ctx}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), http.NoBody)
	if err != nil {
		body.end()
		return nil, fail("%w", plain(err))
	}
	req.Header.Set(api.HeaderProtocolVersion, strconv.Itoa(api.ProtocolVersion))
	req.Header.Set("Authorization", "Bearer "+token)
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	res, err := by.client.Do(req) //nolint:bodyclose // artifactBody closes it
	if err != nil {
		err = body.why(plain(err))
		body.end()
		return nil, fail("%w", err).Retry()
	}
	idle.Stop()
	body.ReadCloser = res.Body
	switch {
	case res.StatusCode == http.StatusOK && offset == 0, res.StatusCode == http.StatusPartialContent && offset > 0:
		return body, nil
	case res.StatusCode == http.StatusRequestedRangeNotSatisfiable && res.Header.Get("Content-Range") == fmt.Sprintf("bytes */%d", offset):
		// The connection broke behind the last byte.
		return http.NoBody, body.Close()
	}
	defer body.Close()
	said, code := refusal(res)
	if res.StatusCode == http.StatusUnauthorized && code == "token_refused" {
		return nil, fail("%w: %s", errTokenRefused, said)
	}
	e := fail("%s", said)
	e.Retriable = res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusRequestTimeout
	return nil, e
}

// refusal is what the server says of its answer that is no content, and the
// code of it, if it has one.
func refusal(res *http.Response) (said, code string) {
	var p api.Problem
	if json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&p) == nil && p.Detail != "" {
		return fmt.Sprintf("the server answered %d: %s", res.StatusCode, p.Detail), p.Code
	}
	return "the server answered " + res.Status, ""
}

// plain takes the URL, which says nothing new, out of an error of net/http.
func plain(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

var errStalled = errors.New("nothing came for too long")

// artifactBody is a download that ends when nothing comes of it.
type artifactBody struct {
	io.ReadCloser
	ctx    context.Context
	idle   *time.Timer
	stall  time.Duration
	cancel context.CancelCauseFunc
}

// Read implements io.Reader.
func (b *artifactBody) Read(p []byte) (int, error) {
	b.idle.Reset(b.stall)
	n, err := b.ReadCloser.Read(p)
	b.idle.Stop() // whoever reads may take a while with it
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.why(err)
	}
	return n, err
}

// why is the reason of an error, if that is its having stalled.
func (b *artifactBody) why(err error) error {
	if errors.Is(context.Cause(b.ctx), errStalled) {
		return errStalled
	}
	return err
}

func (b *artifactBody) end() {
	b.idle.Stop()
	b.cancel(nil)
}

// Close ends the download.
func (b *artifactBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}
