package rest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"stella-ops.org/stella/internal/server/apidocs"
)

// Document returns the document that describes the API, in YAML, as it is
// checked in: a server's own differs from it in version and address.
func Document() ([]byte, error) {
	text, err := undated().YAML()
	if err != nil {
		return nil, err
	}
	return append([]byte("# Generated from the handlers by openapigen: `make generate` writes it again.\n"), text...), nil
}

// Document30 returns the same document in OpenAPI 3.0.3, for generators that do
// not read 3.1.
func Document30() ([]byte, error) { return undated().DowngradeYAML() }

// undated is the document of no server in particular.
func undated() *huma.OpenAPI {
	s := New(Deps{
		Version: "v1", BaseURL: func() string { return exampleServer }, Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	return s.document()
}

// address says where the server is, which is known when it listens.
func (s *Server) address() {
	s.huma.OpenAPI().Servers = []*huma.Server{{URL: s.BaseURL(), Description: "This server."}}
}

// file is a text that does not change while the server runs; it is made when
// somebody asks for it first.
type file struct {
	kind string
	text []byte
	etag string
	err  error
}

func (s *Server) lazily(kind string, write func(*huma.OpenAPI) ([]byte, error)) func() *file {
	return sync.OnceValue(func() *file {
		f := &file{kind: kind}
		if f.text, f.err = write(s.document()); f.err != nil {
			s.log.Error("the API's document cannot be written", "error", f.err)
		}
		sum := sha256.Sum256(f.text)
		f.etag = `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
		return f
	})
}

// documents adds the API's document in its forms. 3.0 is for generators of
// clients that do not read 3.1 yet.
func (s *Server) documents() {
	s.document = sync.OnceValue(func() *huma.OpenAPI {
		s.address()
		return s.huma.OpenAPI()
	})
	for suffix, get := range map[string]func() *file{
		".json":     s.lazily("application/openapi+json", func(d *huma.OpenAPI) ([]byte, error) { return json.Marshal(d) }),
		".yaml":     s.lazily("application/openapi+yaml", (*huma.OpenAPI).YAML),
		"-3.0.json": s.lazily("application/openapi+json", (*huma.OpenAPI).Downgrade),
		"-3.0.yaml": s.lazily("application/openapi+yaml", (*huma.OpenAPI).DowngradeYAML),
	} {
		s.open("GET /api/v1/openapi"+suffix, func(w http.ResponseWriter, r *http.Request) { get().serve(w, r) })
	}
	page := s.lazily("text/html; charset=utf-8", func(d *huma.OpenAPI) ([]byte, error) {
		text, err := json.Marshal(d)
		if err != nil {
			return nil, err
		}
		return apidocs.Page(text)
	})
	s.open("GET /docs/api", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", apidocs.Policy())
		h.Set("Referrer-Policy", "no-referrer")
		page().serve(w, r)
	})
}

// serve answers with the file, or that the client has it already.
func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	if f.err != nil {
		writeProblem(w, problemOf(fmt.Errorf("document: %w", f.err)))
		return
	}
	h := w.Header()
	h.Set("ETag", f.etag)
	h.Set("Cache-Control", "no-cache") // keep it, and ask whether it is still the same
	if matches(r.Header.Get("If-None-Match"), f.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", f.kind)
	_, _ = w.Write(f.text) // the client is gone otherwise
}

// matches reports whether an If-None-Match header names an entity tag.
func matches(header, etag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		if one = strings.TrimSpace(one); one == "*" || strings.TrimPrefix(one, "W/") == etag {
			return true
		}
	}
	return false
}
