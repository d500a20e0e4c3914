package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Content reads a complete artifact, a piece at a time. It is for one goroutine.
type Content struct {
	ctx   context.Context
	store Store
	a     *Artifact

	offset   int64  // of the next byte
	piece    []byte // the one that was read last
	position int64  // where it begins
	err      error
}

var _ io.ReadSeeker = (*Content)(nil)

// Content returns the bytes of an artifact; reading ends with ctx, and with a
// fault of kind NotFound when the artifact is removed meanwhile. Nothing is
// checked: whoever gets the bytes knows their digest.
func (s *Service) Content(ctx context.Context, a *Artifact) *Content {
	return &Content{ctx: ctx, store: s.store, a: a}
}

// Read implements io.Reader.
func (c *Content) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if c.offset >= c.a.Size {
		return 0, io.EOF
	}
	if c.offset < c.position || c.offset >= c.position+int64(len(c.piece)) {
		position, piece, err := c.store.ArtifactPiece(c.ctx, c.a.UploadID, c.offset)
		if err == nil && c.offset >= position+int64(len(piece)) {
			err = fmt.Errorf("artifact %s has a gap at byte %d", c.a.Digest, c.offset)
		}
		if err != nil {
			c.err = err
			return 0, err
		}
		c.position, c.piece = position, piece
	}
	n := copy(p, c.piece[c.offset-c.position:])
	c.offset += int64(n)
	return n, nil
}

// Seek implements io.Seeker.
func (c *Content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += c.offset
	case io.SeekEnd:
		offset += c.a.Size
	default:
		return 0, errors.New("seek: from where?")
	}
	if offset < 0 {
		return 0, errors.New("seek: before the beginning")
	}
	c.offset = offset
	return offset, nil
}

// Err is why reading has ended before the end of the artifact; nil when it has
// not.
func (c *Content) Err() error { return c.err }
