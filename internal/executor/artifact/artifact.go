// Package artifact brings the files that go with a task: it checks their
// names, gets their content, inline or from a URL, and verifies its digest.
//
// It never chooses where a file goes: callers write into an os.Root of theirs.
package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

// MaxSize is the most that one artifact may hold.
const MaxSize = 4 << 30

// The types of artifacts.
const (
	TypeFile         = "file"
	TypeDeployScript = "deploy_script"
	TypeSystemdUnit  = "systemd_unit"
	TypeComposeLock  = "compose_lock"
	TypeEnvFile      = "env_file"
)

// Source is Stella's own store of artifacts, as far as the task at hand may
// read it.
type Source interface {
	// Open returns the content of an artifact of the task, by its digest
	// (sha256:…), from an offset in bytes on. An error is a deploy.Error, which
	// says whether it may be gone later.
	Open(ctx context.Context, digest string, offset int64) (io.ReadCloser, error)
}

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Validate says what is wrong with an artifact before anything is fetched.
func Validate(a *api.ArtifactReference) error {
	if err := CheckName(a.Name); err != nil {
		return err
	}
	invalid := func(format string, args ...any) error {
		return deploy.Fail(api.ErrInvalidPayload, "artifact %q: "+format, append([]any{a.Name}, args...)...)
	}
	switch a.Type {
	case "", TypeFile, TypeDeployScript, TypeSystemdUnit, TypeComposeLock, TypeEnvFile:
	default:
		return invalid("type %q is not known; use file, deploy_script, systemd_unit, compose_lock or env_file", a.Type)
	}
	if a.Digest != "" && !digestPattern.MatchString(a.Digest) {
		return invalid("digest %q is not sha256: and 64 hexadecimal digits", a.Digest)
	}
	if _, err := Mode(a); err != nil {
		return err
	}
	if a.URL == "" {
		return nil
	}
	if len(a.Content) > 0 {
		return invalid("it has both content and a url; give one of them")
	}
	if stored, ok := strings.CutPrefix(a.URL, api.ArtifactScheme); ok {
		if stored != a.Digest {
			return invalid("its url names %s, and its digest is %q", stored, a.Digest)
		}
		return nil
	}
	u, err := url.Parse(a.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return invalid("its url is no http or https URL")
	}
	if a.Digest == "" {
		return invalid("it has a url and no digest; give the sha256 of its content")
	}
	return nil
}

// CheckName refuses a name that is not a plain relative path with forward
// slashes, or that is one of Stella's own.
func CheckName(name string) error {
	bad := func(why string) error {
		return deploy.Fail(api.ErrInvalidPayload, "the name %q %s; use a relative path without ..", name, why)
	}
	switch {
	case name == "" || name == ".":
		return bad("is empty")
	case strings.ContainsAny(name, "\\\x00"):
		return bad("has a backslash or a NUL in it")
	case path.IsAbs(name) || strings.Contains(name, ":") && len(name) > 1 && name[1] == ':':
		return bad("is absolute")
	case path.Clean(name) != name || !fs.ValidPath(name):
		return bad("leads elsewhere or is not in its shortest form")
	case strings.HasPrefix(name, ".stella") || strings.Contains(name, "/.stella"):
		return bad("is kept for Stella's own files")
	}
	return nil
}

// Mode is an artifact's permissions.
func Mode(a *api.ArtifactReference) (fs.FileMode, error) {
	if a.Mode == "" {
		if a.Type == TypeDeployScript {
			return 0o755, nil
		}
		return 0o644, nil
	}
	mode, err := strconv.ParseUint(a.Mode, 8, 32)
	if err != nil || mode > 0o777 {
		return 0, deploy.Fail(api.ErrInvalidPayload, "artifact %q: mode %q is no octal number up to 0777", a.Name, a.Mode)
	}
	return fs.FileMode(mode), nil
}

// client has no limit for the whole of a download, which the task's own
// timeout gives; a server that stops answering is noticed all the same.
var client = &http.Client{Transport: &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
	TLSHandshakeTimeout:   30 * time.Second,
	ResponseHeaderTimeout: 60 * time.Second,
	IdleConnTimeout:       30 * time.Second,
}}

// Copy writes an artifact's content to dst and returns its size. An error
// means that what dst got must not be used; a wrong digest is one of type
// digest_mismatch. Store may be nil where there is none.
func Copy(ctx context.Context, dst io.Writer, a *api.ArtifactReference, store Source) (int64, error) {
	src := io.Reader(bytes.NewReader(a.Content))
	switch {
	case strings.HasPrefix(a.URL, api.ArtifactScheme):
		if store == nil {
			return 0, deploy.Fail(api.ErrPullFailed, "artifact %q is in Stella's store, which cannot be reached from here", a.Name)
		}
		stored := &storedReader{ctx: ctx, store: store, digest: a.Digest}
		defer stored.Close()
		src = stored
	case a.URL != "":
		body, err := get(ctx, a)
		if err != nil {
			return 0, err
		}
		defer body.Close()
		src = body
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(dst, sum), io.LimitReader(src, MaxSize+1))
	switch {
	case ctx.Err() != nil && err != nil:
		return n, context.Cause(ctx)
	case err != nil:
		return n, deploy.Fail(api.ErrPullFailed, "get artifact %q: %w", a.Name, err).Retry()
	case n > MaxSize:
		return n, deploy.Fail(api.ErrInvalidPayload, "artifact %q is larger than %d bytes", a.Name, int64(MaxSize))
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); a.Digest != "" && got != a.Digest {
		return n, deploy.Fail(api.ErrDigestMismatch,
			"artifact %q has the digest %s and not %s; it is not what was released: find out who changed it", a.Name, got, a.Digest)
	}
	return n, nil
}

func get(ctx context.Context, a *api.ArtifactReference) (io.ReadCloser, error) {
	fail := func(err error) *deploy.Error {
		return deploy.Fail(api.ErrPullFailed, "get artifact %q from %s: %w", a.Name, where(a.URL), err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.URL, nil)
	if err != nil {
		return nil, fail(plain(err))
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fail(plain(err)).Retry()
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		e := fail(fmt.Errorf("the server answered %s", resp.Status))
		e.Retriable = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests
		return nil, e
	}
	if resp.ContentLength > MaxSize {
		resp.Body.Close()
		return nil, deploy.Fail(api.ErrInvalidPayload, "artifact %q is larger than %d bytes", a.Name, int64(MaxSize))
	}
	return resp.Body, nil
}

// where is a URL without what may be secret in it: a signed URL's query, and a
// password.
func where(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "its url"
	}
	return u.Scheme + "://" + u.Host + u.Path
}

// plain takes the URL, which may hold secrets, out of an error of net/http.
func plain(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}
