package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

func digestOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// stores has the fake take an artifact, of which it has a part already.
func (f *fakeAPI) stores(content, name string, has int) string {
	digest, size := digestOf(content), int64(len(content))
	f.answer("POST /api/v1/artifacts", api.ArtifactUpload{Digest: digest, Size: size, Received: int64(has), Complete: int64(has) == size})
	f.answer("PATCH /api/v1/artifacts/"+digest, api.ArtifactUpload{Digest: digest, Size: size, Received: size, Complete: true})
	f.answer("GET /api/v1/artifacts/"+digest, api.Artifact{
		Digest: digest, Name: name, Size: size, Received: size, Complete: true, CreatedBy: "ci", CreatedAt: *ago(time.Hour), LastUsedAt: *ago(time.Minute),
		UsedBy: []api.ArtifactUse{{TaskID: "t1", Type: api.TaskDeploy, TargetName: "web", State: api.TaskSucceeded}},
	})
	return digest
}

func writeFile(t *testing.T, term *terminal, name, content string) string {
	t.Helper()
	p := filepath.Join(term.home, name)
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestArtifactPush(t *testing.T) {
	t.Parallel()
	const content = "a release, packed"
	for name, tc := range map[string]struct {
		has  int
		sent string // what the request carries
		says string
	}{
		"new":   {0, content, "pushed, 17 B\n"},
		"half":  {9, content[9:], "pushed, 17 B, from 52% on\n"},
		"whole": {len(content), "", "was there already, 17 B\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeAPI(t)
			digest := f.stores(content, "app.tgz", tc.has)
			term := newTerminal(t, f)
			term.must(t, "artifact", "push", writeFile(t, term, "app.tgz", content), "--notes", "of main")
			want := api.ArtifactRequest{Digest: digest, Size: int64(len(content)), Name: "app.tgz", Notes: "of main"}
			if diff := cmp.Diff(want, taken[api.ArtifactRequest](t, f, "POST /api/v1/artifacts")); diff != "" {
				t.Error(diff)
			}
			if sent := string(f.bodies["PATCH /api/v1/artifacts/"+digest]); sent != tc.sent {
				t.Errorf("sent: %q", sent)
			}
			if term.stdout != "artifact://"+digest+"\n" {
				t.Errorf("stdout: %q", term.stdout)
			}
			if !strings.Contains(term.stderr, tc.says) || !strings.Contains(term.stderr, "deploy it with `stella deploy TARGET --file artifact://"+digest+":app.tgz`") {
				t.Errorf("stderr: %q", term.stderr)
			}
			term.must(t, "artifact", "push", filepath.Join(term.home, "app.tgz"), "-o", "json")
			var list api.ArtifactList
			if err := json.Unmarshal([]byte(term.stdout), &list); err != nil || len(list.Items) != 1 || list.Items[0].Digest != digest {
				t.Errorf("as JSON: %s", term.stdout)
			}
		})
	}
}

func TestArtifactRefusals(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	term := newTerminal(t, f)
	one := writeFile(t, term, "one", "1")
	for args, want := range map[string]string{
		"push":                           "does not take 0 arguments",
		"push " + one + " x --name y":    "one name is not for 2 files",
		"push " + term.home:              "is no plain file",
		"push " + term.home + "/nothing": "no such file",
		"show":                           "does not take 0 arguments",
		"remove":                         "does not take 0 arguments",
	} {
		if code := term.run(t.Context(), append([]string{"artifact"}, strings.Fields(args)...)...); code != exitUsage || !strings.Contains(term.stderr, want) {
			t.Errorf("%s: exit code %d, %s", args, code, term.stderr)
		}
	}
	if len(f.asked()) != 0 {
		t.Errorf("the server was asked %q", f.asked())
	}
}

func TestArtifactListAndShow(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	digest := f.stores("x", "app.tgz", 1)
	half := api.Artifact{Digest: digestOf("y"), Name: "half\x1b[2J", Size: 4 << 20, Received: 1 << 20, CreatedBy: "ci", CreatedAt: *ago(time.Minute), LastUsedAt: *ago(time.Minute)}
	f.answer("GET /api/v1/artifacts", api.ArtifactList{Items: []api.Artifact{{
		Digest: digest, Name: "app.tgz", Size: 1, Received: 1, Complete: true, CreatedBy: "ci", CreatedAt: *ago(time.Hour), LastUsedAt: *ago(time.Minute),
	}, half}})
	term := newTerminal(t, f)
	term.must(t, "artifact", "list", "--filter", "size > 0", "--sort", "-size", "--name", "a")
	want := `DIGEST                NAME      SIZE     STATE          AGE  USED    BY
` + "sha256:" + digest[7:19] + `…  app.tgz   1 B      complete       1h   1m ago  ci
` + "sha256:" + half.Digest[7:19] + `…  half�[2J  4.0 MiB  uploading 25%  1m   1m ago  ci
`
	if diff := cmp.Diff(want, term.stdout); diff != "" {
		t.Error(diff)
	}
	if asked := f.asked(); asked[0] != "GET /api/v1/artifacts?filter=size+%3E+0&limit=500&name=a&sort=-size" {
		t.Errorf("asked %q", asked)
	}
	// However one calls it, it is the same.
	for _, id := range []string{digest, "artifact://" + digest, digest[7:]} {
		term.must(t, "artifact", "show", id)
		for _, part := range []string{digest, "app.tgz", "1 B (1 bytes)", "complete", "t1", "deploy", "web", "succeeded"} {
			if !strings.Contains(term.stdout, part) {
				t.Errorf("%s is not in\n%s", part, term.stdout)
			}
		}
	}
	f.answer("DELETE /api/v1/artifacts/"+digest, api.Deleted{Deleted: true})
	term.must(t, "artifact", "remove", "artifact://"+digest, "--yes")
}

func TestArtifactPull(t *testing.T) {
	t.Parallel()
	const content = "a release, packed"
	f := newFakeAPI(t)
	digest := f.stores(content, "../../etc/app.tgz", 0)
	path := "GET /api/v1/artifacts/" + digest + "/content"
	f.answer(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
	}))
	term := newTerminal(t, f)
	to := filepath.Join(term.home, "here")
	term.must(t, "artifact", "pull", digest, "--to", to)
	if got, err := os.ReadFile(to); err != nil || string(got) != content || term.stdout != to+"\n" {
		t.Errorf("%q %v %q", got, err, term.stdout)
	}
	// What is not the right one is not left behind, and what was there stays.
	f.answer(path, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.ToUpper([]byte(content)))
	}))
	if code := term.run(t.Context(), "artifact", "pull", digest, "--to", to); code != exitFailed || !strings.Contains(term.stderr, digestOf(strings.ToUpper(content))) {
		t.Errorf("another content: %d %s", code, term.stderr)
	}
	entries, err := os.ReadDir(term.home)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v %v", entries, err)
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != content {
		t.Errorf("%q %v", got, err)
	}
}

// Files that are too much for a task go to the store first, but for the small
// ones; what was pushed before is named by its reference.
func TestDeployPushesWhatIsLarge(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	large := strings.Repeat("large ", maxContent/6+1)
	digest := f.stores(large, "data.bin", 0)
	other := digestOf("elsewhere")
	f.answer("GET /api/v1/artifacts/"+other, api.Artifact{Digest: other, Name: "dist/lib.so"})
	term := newTerminal(t, f)
	_, p := deployed(t, "host", term, f, "--file", writeFile(t, term, "data.bin", large)+":var/data.bin:0600", "--file", writeFile(t, term, "app", "small"),
		"--file", "artifact://"+other, "--file", "artifact://"+other+":lib/b.so:0755", "--start", "./app")
	want := []api.ArtifactReference{
		{Name: "var/data.bin", URL: "artifact://" + digest, Digest: digest, Mode: "0600"},
		{Name: "app", Content: []byte("small")},
		{Name: "lib.so", URL: "artifact://" + other, Digest: other},
		{Name: "lib/b.so", URL: "artifact://" + other, Digest: other, Mode: "0755"},
	}
	if diff := cmp.Diff(want, p.Artifacts, ignorePadding); diff != "" {
		t.Error(diff)
	}
	if string(f.bodies["PATCH /api/v1/artifacts/"+digest]) != large {
		t.Error("what was pushed is not the file")
	}
	if !strings.Contains(term.stderr, "more than the 11.0 MiB that go with a task") {
		t.Errorf("it does not say why: %s", term.stderr)
	}
}

func TestDeployRefusesBadReferences(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.answer("GET /api/v1/targets/web", api.Target{ID: "id-web", Name: "web", Kind: "host"})
	f.answer("GET /api/v1/artifacts/"+digest, api.Artifact{Digest: digest})
	term := newTerminal(t, f)
	for file, want := range map[string]string{
		"artifact://sha256:12":            "is no artifact",
		"artifact://app.tgz":              "is no artifact",
		"artifact://" + digest + ":a:b:c": "too many parts",
		"artifact://" + digest:            "the artifact has no name",
	} {
		if code := term.run(t.Context(), "deploy", "web", "--file", file); code != exitUsage || !strings.Contains(term.stderr, want) {
			t.Errorf("%s: exit code %d, %s", file, code, term.stderr)
		}
	}
}
