package load

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// bookRun is a run against a server that knows nothing but its root.
func bookRun(t *testing.T, file string) *run {
	t.Helper()
	var root []byte
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(root)
	}))
	t.Cleanup(srv.Close)
	root = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	conn := Connection{URL: srv.URL, Token: "stl_x", CA: root}
	api, err := newControl(conn)
	if err != nil {
		t.Fatal(err)
	}
	return &run{Options: Options{Connection: conn, Identities: file}, api: api}
}

func TestIdentitiesAreKept(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ids.json")
	r := bookRun(t, file)
	b, err := r.openBook(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expired := newTestIdentity(t, "expired")
	expired.notAfter = time.Now().Add(-time.Minute)
	soon := newTestIdentity(t, "soon")
	soon.notAfter = time.Now().Add(10 * time.Second)
	b.add([]*Identity{newTestIdentity(t, "one"), expired, soon, newTestIdentity(t, "two")})
	if err := b.save(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	again, err := r.openBook(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(again.agents) != 3 {
		t.Errorf("%d identities were kept, want those that have not expired", len(again.agents))
	}
	ids := again.usable(10)
	if len(ids) != 2 || ids[0].Name != "one" || ids[1].ID != "id-of-two" || len(ids[1].cert.Certificate) != 1 || !ids[1].key.Equal(b.agents[3].key) {
		t.Errorf("%+v", ids)
	}
	if n := len(again.usable(1)); n != 1 {
		t.Errorf("%d identities, asked for one", n)
	}
}

func TestIdentitiesOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, says string }{
		"another server": {`{"root":"other","agents":[]}`, "are of another server"},
		"something else": {`{"a":1}`, "no file of identities"},
		"no JSON":        {`hello`, "no file of identities"},
	} {
		file := filepath.Join(t.TempDir(), "ids.json")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := bookRun(t, file).openBook(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
