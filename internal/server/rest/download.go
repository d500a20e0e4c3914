package rest

import (
	"io"
	"maps"
	"mime"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"stella-ops.org/stella/internal/artifact"
)

// Ranges are the headers of a request for a part; net/http reads them.
type Ranges struct {
	Range   string `header:"Range" maxLength:"255" doc:"Which part, as in bytes=1048576-."`
	IfRange string `header:"If-Range" maxLength:"255" doc:"The part only if the entity tag is this one; all of it otherwise."`
}

// content describes the answer of an operation that gives an artifact's bytes.
func content(op *huma.Operation) {
	bytes := func() map[string]*huma.MediaType {
		return map[string]*huma.MediaType{octets: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}, Example: "the content's bytes"}}
	}
	text := &huma.Schema{Type: huma.TypeString}
	headers := map[string]*huma.Param{
		"ETag": {Description: "The digest, in quotes.", Schema: text}, "Accept-Ranges": {Description: "bytes", Schema: text},
		"Content-Disposition": {Description: "The artifact's name, to keep it under.", Schema: text},
	}
	part := map[string]*huma.Param{"Content-Range": {Description: "Which part it is.", Schema: text}}
	maps.Copy(part, headers)
	op.Responses = map[string]*huma.Response{
		"200": {Description: "All of the content.", Content: bytes(), Headers: headers},
		"206": {Description: "The part that was asked for.", Content: bytes(), Headers: part},
		"304": {Description: "The content is the one that If-None-Match names."},
	}
}

// download answers with an artifact's bytes, or the part that is asked for.
func (s *Server) download(hc huma.Context, a *artifact.Artifact) {
	r, w := humago.Unwrap(hc)
	ctx := hc.Context()
	src := s.Artifacts.Content(ctx, a)
	w.Header().Set("Cache-Control", "private, no-cache")
	s.give(w, r, a.Digest, a.Name, src)
	// Whoever gets them sees that it was not the end: the length was said.
	if err := src.Err(); err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "an artifact's bytes were not read to their end", "digest", a.Digest, "error", err)
	}
}

// give answers with content that has a digest, all of it or the part that is
// asked for.
func (s *Server) give(w http.ResponseWriter, r *http.Request, digest, name string, content io.ReadSeeker) {
	h, control := w.Header(), http.NewResponseController(w)
	h.Set("Content-Type", octets)
	h.Set("ETag", `"`+digest+`"`)
	h.Set("Content-Disposition", disposition(name))
	http.ServeContent(&rangeRefusal{ResponseWriter: w}, r, "", time.Time{}, &patientContent{content, control, s.bodyTimeout})
	_ = control.SetWriteDeadline(time.Time{}) // the connection is gone otherwise
}

// disposition has a browser keep what it gets, under a name without a path.
func disposition(name string) string {
	if d := mime.FormatMediaType("attachment", map[string]string{"filename": baseName(name)}); d != "" && name != "" {
		return d
	}
	return "attachment"
}

func baseName(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' || name[i] == '\\' {
			return name[i+1:]
		}
	}
	return name
}

// patientContent gives each part that it reads some time to be sent: a slow
// reader is let be, and one that stands still is not.
type patientContent struct {
	io.ReadSeeker
	control *http.ResponseController
	stall   time.Duration
}

func (c *patientContent) Read(p []byte) (int, error) {
	if err := c.control.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.ReadSeeker.Read(p)
}

// rangeRefusal makes the one refusal that net/http itself has a problem like
// all others.
type rangeRefusal struct {
	http.ResponseWriter
	refused bool
}

// WriteHeader implements http.ResponseWriter.
func (w *rangeRefusal) WriteHeader(status int) {
	if w.refused = status == http.StatusRequestedRangeNotSatisfiable; w.refused {
		h := w.Header()
		size := h.Get("Content-Range")
		h.Del("Content-Disposition")
		writeProblem(w.ResponseWriter, newProblem(status, "range_not_satisfiable", "there is nothing in this range: the content is "+size))
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *rangeRefusal) Write(p []byte) (int, error) {
	if w.refused {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}
