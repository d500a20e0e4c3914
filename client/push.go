package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"stella-ops.org/stella/api"
)

const (
	// partBytes is how much of an artifact one request carries: what is between
	// here and the server may have limits, and an answer shows that all is well.
	partBytes = 32 << 20
	// pushPatience is how often in a row a push goes on after a failure without
	// a byte more.
	pushPatience = 6
)

// PushArtifact brings an artifact to the server, from where an earlier push of
// the same bytes has ended, and returns when all of it is durable there and has
// the digest. When the connection breaks it goes on, and gives up when nothing
// came through several times in a row. progress, when not nil, is told how much
// is there, now and then, from this goroutine. The content is not read at all
// when the server has it already.
func (c *Client) PushArtifact(ctx context.Context, req api.ArtifactRequest, content io.ReaderAt, progress func(received int64)) (*api.ArtifactUpload, error) {
	if progress == nil {
		progress = func(int64) {}
	}
	up, err := c.BeginArtifact(ctx, req)
	for failures := 0; ; {
		if err != nil {
			return nil, err
		}
		progress(up.Received)
		if up.Complete {
			return up, nil
		}
		before := up.Received
		if up, err = c.AppendArtifact(ctx, req.Digest, before, part(req, content, before, progress)); err == nil {
			failures = 0
			continue
		}
		if !resumable(err) {
			return nil, err
		}
		if failures++; failures > pushPatience || !await(ctx, err, backoff(failures, 5*time.Second)) {
			return nil, err
		}
		if up, err = c.BeginArtifact(ctx, req); err == nil && up.Received > before {
			failures = 0
		}
	}
}

// resumable reports whether an upload may go on behind an error.
func resumable(err error) bool {
	if p, ok := errors.AsType[*api.Problem](err); ok && (p.Code == "wrong_offset" || p.Status == http.StatusRequestTimeout) {
		return true // somebody else uploads it too, or the body broke off
	}
	return passing(err)
}

func part(req api.ArtifactRequest, content io.ReaderAt, from int64, progress func(int64)) io.Reader {
	n := min(partBytes, req.Size-from)
	return &counted{Reader: io.NewSectionReader(content, from, n), sent: from, progress: progress}
}

// counted tells how much of an upload was read to be sent.
type counted struct {
	io.Reader
	sent     int64
	progress func(int64)
}

func (r *counted) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.sent += int64(n)
	r.progress(r.sent)
	return n, err
}

// BeginArtifact begins the upload of an artifact, or takes it up again, and
// returns how much of it is stored.
func (c *Client) BeginArtifact(ctx context.Context, req api.ArtifactRequest) (*api.ArtifactUpload, error) {
	up := &api.ArtifactUpload{}
	if err := c.do(ctx, call{method: http.MethodPost, path: artifactsPath, body: req, into: up, repeat: true}); err != nil {
		return nil, err
	}
	return up, nil
}

// AppendArtifact adds to an upload, from an offset on, what content holds, which
// may be a part of what is left. It is sent once: after an error, ask with
// BeginArtifact how much of it has come.
func (c *Client) AppendArtifact(ctx context.Context, digest string, offset int64, content io.Reader) (*api.ArtifactUpload, error) {
	path, err := item(artifactsPath, digest)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, c.base+path, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set(api.HeaderUploadOffset, strconv.FormatInt(offset, 10))
	res, err := c.answer(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	up := &api.ArtifactUpload{}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(up); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, c.connectError(ctx, fmt.Errorf("read the answer: %w", err))
	}
	return up, nil
}

// ArtifactContent returns an artifact's bytes from an offset on; the caller
// closes them, and compares their digest. An artifact that ends before the
// offset is a problem of status 416.
func (c *Client) ArtifactContent(ctx context.Context, digestOrName string, offset int64) (io.ReadCloser, error) {
	path, err := item(artifactsPath, digestOrName, "content")
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/octet-stream, application/problem+json")
	want := http.StatusOK
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		want = http.StatusPartialContent
	}
	res, err := c.answer(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != want {
		res.Body.Close()
		return nil, fmt.Errorf("%s answered GET %s with %s, and not with the part that was asked for", c.base, path, res.Status)
	}
	return res.Body, nil
}

// PullArtifact writes an artifact's bytes to dst, and goes on where it was when
// the connection breaks. It does not compare their digest.
func (c *Client) PullArtifact(ctx context.Context, digest string, size int64, dst io.Writer) error {
	at := int64(0)
	for failures := 0; at < size; {
		n, err := c.copyFrom(ctx, digest, at, dst)
		if at += n; err == nil {
			break
		}
		if n > 0 {
			failures = 0
		}
		var write *writeError
		if errors.As(err, &write) || !passing(err) {
			return err
		}
		if failures++; failures > pushPatience || !await(ctx, err, backoff(failures, 5*time.Second)) {
			return err
		}
	}
	if at != size {
		return fmt.Errorf("%d bytes of %s came, and it has %d", at, digest, size)
	}
	return nil
}

// writeError is one of the writer's, which no other try makes good.
type writeError struct{ error }

func (w *writeError) Unwrap() error { return w.error }

type writer struct{ io.Writer }

func (w writer) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		err = &writeError{err}
	}
	return n, err
}

func (c *Client) copyFrom(ctx context.Context, digest string, at int64, dst io.Writer) (int64, error) {
	body, err := c.ArtifactContent(ctx, digest, at)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	n, err := io.Copy(writer{dst}, body)
	if _, ours := errors.AsType[*writeError](err); err != nil && !ours {
		err = c.connectError(ctx, err)
	}
	return n, err
}
