package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/artifact"
	"stella-ops.org/stella/internal/fault"
)

// octets is the kind of content of an artifact, whatever is in it: nothing that
// somebody uploaded is ever shown by a browser as if it were the server's.
const octets = "application/octet-stream"

// uploads adds what brings artifacts.
func (s *Server) uploads() {
	type beginning struct{ Body api.ArtifactRequest }
	handle(s, s.operation(http.MethodPost, "/api/v1/artifacts", "artifact.begin", "Begin an artifact's upload, or take it up again", operator),
		func(ctx context.Context, in *beginning) (api.ArtifactUpload, error) {
			p := principal(ctx)
			a, err := s.Artifacts.Begin(ctx, p.TenantID, p.Name, in.Body)
			if err != nil {
				return api.ArtifactUpload{}, err
			}
			return viewUpload(a), nil
		})

	op := s.operation(http.MethodPatch, "/api/v1/artifacts/{digest}", "artifact.append", "Add to an artifact's upload", operator)
	op.RequestBody = &huma.RequestBody{
		Required: true, Description: "The bytes from the offset on, all that are left or a part of them.",
		Content: map[string]*huma.MediaType{octets: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}},
	}
	handle(s, op, func(ctx context.Context, in *piece) (api.ArtifactUpload, error) {
		// However long the whole takes, each part of it comes in its time.
		in.body.stall = s.bodyTimeout
		if err := in.body.control.SetWriteDeadline(time.Time{}); err != nil {
			return api.ArtifactUpload{}, fmt.Errorf("wait for the upload: %w", err)
		}
		a, err := s.Artifacts.Append(ctx, principal(ctx).TenantID, in.Digest, in.Offset, in.body)
		if err := in.body.control.SetWriteDeadline(time.Now().Add(4 * s.bodyTimeout)); err != nil {
			return api.ArtifactUpload{}, fmt.Errorf("limit the answer: %w", err)
		}
		if wrong, ok := errors.AsType[*artifact.WrongOffset](err); ok {
			in.header.Set(api.HeaderUploadOffset, strconv.FormatInt(wrong.Want, 10))
		}
		if in.body.err != nil && errors.Is(err, in.body.err) {
			err = fault.Wrap(err, fault.Timeout, "timeout", "the body broke off, or nothing came of it for "+s.bodyTimeout.String()+
				": what came is stored; ask with POST /api/v1/artifacts where to go on")
		}
		if err != nil {
			return api.ArtifactUpload{}, err
		}
		in.header.Set(api.HeaderUploadOffset, strconv.FormatInt(a.Received, 10))
		return viewUpload(a), nil
	})
}

// piece is the input of an append, whose body is not read into memory.
type piece struct {
	DigestPath
	Offset int64 `header:"Upload-Offset" required:"true" minimum:"0" doc:"How much of the artifact comes before this: what the server said as received."`

	header http.Header // of the answer
	body   *patientBody
}

// Resolve is called by huma before the handler.
func (p *piece) Resolve(ctx huma.Context) []error {
	r, w := humago.Unwrap(ctx)
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != octets {
		return []error{newProblem(http.StatusUnsupportedMediaType, "unsupported_media_type", "an artifact's bytes are sent as "+octets)}
	}
	p.header, p.body = w.Header(), &patientBody{r: r.Body, control: http.NewResponseController(w)}
	return nil
}

// patientBody is a body that may take as long as it wants, but not stand still.
type patientBody struct {
	r       io.Reader
	control *http.ResponseController
	stall   time.Duration
	err     error // that reading has ended with, other than io.EOF
}

func (b *patientBody) Read(p []byte) (int, error) {
	err := b.control.SetReadDeadline(time.Now().Add(b.stall))
	n := 0
	if err == nil {
		if n, err = b.r.Read(p); err == nil {
			return n, nil
		}
		// A deadline that passes later would end what the connection is used
		// for next.
		if clearErr := b.control.SetReadDeadline(time.Time{}); clearErr != nil && errors.Is(err, io.EOF) {
			err = clearErr
		}
	}
	if !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}
