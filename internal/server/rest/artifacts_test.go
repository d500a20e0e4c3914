package rest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/artifact"
	"stella-ops.org/stella/internal/store/sqlite"
)

// pushed is a server whose store has one artifact.
func pushed(t *testing.T, name string, content []byte) (*Server, *artifact.Artifact) {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	s := newServer(nil)
	s.Artifacts = artifact.NewService(st, artifact.Options{}, time.Now, slog.New(slog.DiscardHandler))
	sum := sha256.Sum256(content)
	req := api.ArtifactRequest{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content)), Name: name}
	a, err := s.Artifacts.Begin(t.Context(), "default", "me", req)
	if err == nil && !a.Complete {
		a, err = s.Artifacts.Append(t.Context(), "default", a.Digest, 0, bytes.NewReader(content))
	}
	if err != nil {
		t.Fatal(err)
	}
	return s, a
}

// downloads serves an artifact to whoever asks.
func downloads(t *testing.T, s *Server, a *artifact.Artifact) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	humago.New(mux, huma.DefaultConfig("t", "1")).Adapter().Handle(&huma.Operation{Method: http.MethodGet, Path: "/a"}, func(hc huma.Context) { s.download(hc, a) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

func TestDownloadRanges(t *testing.T) {
	t.Parallel()
	content := []byte("0123456789")
	s, a := pushed(t, "app.tgz", content)
	server := downloads(t, s, a)
	tag := `"` + a.Digest + `"`
	for name, c := range map[string]struct {
		header, want, part string
		status             int
	}{
		"all":                    {"", "0123456789", "", 200},
		"from the middle":        {"Range: bytes=4-", "456789", "bytes 4-9/10", 206},
		"some":                   {"Range: bytes=4-5", "45", "bytes 4-5/10", 206},
		"the last":               {"Range: bytes=-3", "789", "bytes 7-9/10", 206},
		"more than there is":     {"Range: bytes=8-100", "89", "bytes 8-9/10", 206},
		"behind the end":         {"Range: bytes=10-", "", "bytes */10", 416},
		"nonsense":               {"Range: bytes=x", "", "", 416},
		"the same still":         {"Range: bytes=4-|If-Range: " + tag, "456789", "bytes 4-9/10", 206},
		"another by now":         {"Range: bytes=4-|If-Range: \"other\"", "0123456789", "", 200},
		"the client has it":      {"If-None-Match: " + tag, "", "", 304},
		"the client has another": {"If-None-Match: \"other\"", "0123456789", "", 200},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/a", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			for h := range strings.SplitSeq(c.header, "|") {
				if k, v, ok := strings.Cut(h, ": "); ok {
					req.Header.Set(k, v)
				}
			}
			res, err := server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != c.status || res.Header.Get("Content-Range") != c.part {
				t.Fatalf("%d %v %s", res.StatusCode, res.Header, body)
			}
			switch c.status {
			case 416:
				var p api.Problem
				if json.Unmarshal(body, &p) != nil || p.Code != "range_not_satisfiable" || res.Header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("%v %s", res.Header, body)
				}
			case 304:
			default:
				if string(body) != c.want || res.Header.Get("ETag") != tag || res.Header.Get("Content-Type") != octets || res.ContentLength != int64(len(c.want)) {
					t.Errorf("%v %q", res.Header, body)
				}
			}
		})
	}
}

// An artifact that goes while it is read does not look as if that were its end.
func TestDownloadOfWhatGoes(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("x"), 3*artifact.PieceBytes)
	s, a := pushed(t, "", content)
	gone := *a
	gone.UploadID = "another" // as after a removal
	server := downloads(t, s, &gone)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/a", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := server.Client().Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	if err == nil {
		t.Error("all seems well")
	}
}

func TestDisposition(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"":                 "attachment",
		"app-1.0.tgz":      "attachment; filename=app-1.0.tgz",
		"../../etc/passwd": "attachment; filename=passwd",
		`C:\evil.exe`:      "attachment; filename=evil.exe",
		`a"; x="b`:         `attachment; filename="a\"; x=\"b"`,
		"ä.tgz":            "attachment; filename*=utf-8''%C3%A4.tgz",
	} {
		if got := disposition(name); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}

// A body that stands still is given up; one that goes on, however slowly, is
// not.
func TestPatientBody(t *testing.T) {
	t.Parallel()
	const stall = 200 * time.Millisecond
	ended := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &patientBody{r: r.Body, control: http.NewResponseController(w), stall: stall}
		_, err := io.Copy(io.Discard, body)
		if err != nil && !errors.Is(err, body.err) {
			err = errors.New("it keeps another error")
		}
		ended <- err
	}))
	t.Cleanup(server.Close)
	send := func(write func(conn net.Conn)) error {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "PATCH / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		write(conn)
		return <-ended
	}
	began := time.Now()
	if err := send(func(conn net.Conn) {
		tick := time.NewTicker(stall / 4)
		defer tick.Stop()
		for range 10 {
			<-tick.C
			_, _ = conn.Write([]byte("x")) // the server says what is wrong
		}
	}); err != nil || time.Since(began) < 2*stall {
		t.Errorf("slow, for %s: %v", time.Since(began), err)
	}
	if err := send(func(conn net.Conn) { _, _ = conn.Write([]byte("xxx")) }); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("standing still: %v", err)
	}
}

// FuzzDisposition: whatever an artifact is called, the header says one name to
// keep it under, without a path and without another header.
func FuzzDisposition(f *testing.F) {
	for _, name := range []string{"", "app.tar.gz", "a/b/c", `a\b`, "a\r\nSet-Cookie: x=1", `"; filename="x`, "ä…", "..", "a/..", "\x00", "\xff", "a;b=c", "*=utf-8''x", "/"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		header := disposition(name)
		kind, params, err := mime.ParseMediaType(header)
		if err != nil || kind != "attachment" || len(params) > 1 {
			t.Fatalf("%q: %q is %q, %v, %v", name, header, kind, params, err)
		}
		if strings.ContainsAny(header, "\r\n\x00") || strings.ContainsAny(params["filename"], `/\`) {
			t.Fatalf("%q: %q", name, header)
		}
	})
}
