package artifact

import (
	"context"
	"errors"
	"io"
	"time"

	"stella-ops.org/stella/internal/deploy"
)

// patience is how often in a row a broken download is taken up again without
// a byte more, and firstPause how long after the first time; each pause is
// twice the one before.
const (
	patience   = 5
	firstPause = 200 * time.Millisecond
)

// storedReader reads an artifact of Stella's store, and goes on where it was
// when the connection breaks: a large artifact must not start anew.
type storedReader struct {
	ctx    context.Context
	store  Source
	digest string

	body   io.ReadCloser
	offset int64
	broken int // times in a row without a byte
}

func (r *storedReader) Read(p []byte) (int, error) {
	for {
		err := r.open()
		if err == nil {
			var n int
			n, err = r.body.Read(p)
			r.offset += int64(n)
			if n > 0 {
				r.broken = 0
				if !errors.Is(err, io.EOF) && err != nil {
					r.drop() // what came counts; the next call goes on from there
					err = nil
				}
				return n, err
			}
			if err == nil || errors.Is(err, io.EOF) {
				return 0, err
			}
		} else if e, ok := errors.AsType[*deploy.Error](err); ok && !e.Retriable {
			return 0, err
		}
		r.drop()
		if r.broken++; r.broken > patience {
			return 0, err
		}
		select {
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		case <-time.After(firstPause << (r.broken - 1)):
		}
	}
}

func (r *storedReader) open() error {
	if r.body != nil {
		return nil
	}
	body, err := r.store.Open(r.ctx, r.digest, r.offset)
	if err != nil {
		return err
	}
	r.body = body
	return nil
}

func (r *storedReader) drop() {
	if r.body != nil {
		_ = r.body.Close()
		r.body = nil
	}
}

// Close ends the download.
func (r *storedReader) Close() error {
	r.drop()
	return nil
}
