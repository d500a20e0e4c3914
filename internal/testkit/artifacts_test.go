package testkit_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/testkit"
)

// release is the bytes of an artifact of a size that takes a while.
func release(seed uint64, size int) ([]byte, api.ArtifactRequest) {
	data := make([]byte, size)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(data) // it never fails
	return data, api.ArtifactRequest{Digest: digestOf(data), Size: int64(size), Name: "release.bin"}
}

// through is a client of the control plane that calls it through a proxy.
func through(t *testing.T, cp *testkit.ControlPlane, p *proxy) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{URL: "https://" + p.addr, Token: cp.AdminToken, CACert: cp.CA})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// hostTarget adds a host target and returns its folder.
func hostTarget(t *testing.T, cp *testkit.ControlPlane, name, agentName string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: name, Kind: "host", Agent: agentName, Config: api.TargetConfig{Directory: dir}}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func deployment(req api.ArtifactRequest) api.DeployPayload {
	return api.DeployPayload{
		Artifacts: []api.ArtifactReference{{Name: "release.bin", URL: api.ArtifactScheme + req.Digest}},
		Config:    api.DeployConfig{Start: "true"},
	}
}

func deployed(t *testing.T, dir string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, "current", "release.bin"))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes are there (%v), and not the %d that were pushed", len(got), err, len(want))
	}
}

// What was pushed over broken connections is what an agent puts in its place,
// and what was pushed by halves is not pushed again.
func TestArtifactIsPushedAndDeployed(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, cp *testkit.ControlPlane) {
		data, req := release(1, 20<<20)
		p := startProxy(t, cp.Listen)
		c := through(t, cp, p)

		// Whoever pushes gives up in the middle.
		ctx, stop := context.WithCancel(t.Context())
		_, err := c.PushArtifact(ctx, req, bytes.NewReader(data), func(received int64) {
			if received > 8<<20 {
				stop()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("it was stopped, and says %v", err)
		}
		stop()
		got, err := cp.Client.Artifact(t.Context(), req.Digest)
		if err != nil || got.Complete {
			t.Fatalf("%+v %v", got, err)
		}

		// The next push goes on from there, and is cut off once more. What was
		// read of the content shows that nothing came twice that had arrived.
		read := &reads{ReaderAt: bytes.NewReader(data)}
		cuts := 0
		up, err := c.PushArtifact(t.Context(), req, read, func(received int64) {
			if received > 14<<20 && cuts == 0 {
				cuts++
				p.cut()
			}
		})
		if err != nil || !up.Complete {
			t.Fatalf("%+v %v", up, err)
		}
		if cuts != 1 || read.first == 0 {
			t.Errorf("cut off %d times; the second push began at byte %d", cuts, read.first)
		}

		cp.StartAgent("web-1")
		dir := hostTarget(t, cp, "app", "web-1")
		if task := submit(t, cp, api.TaskDeploy, "app", deployment(req), nil); task.State != api.TaskSucceeded {
			t.Fatalf("%s %s", task.State, task.Reason)
		}
		deployed(t, dir, data)
		if err := cp.Client.DeleteArtifact(t.Context(), req.Digest); err == nil {
			t.Error("what a rollback may need was deleted")
		}
		var pulled bytes.Buffer
		if err := c.PullArtifact(t.Context(), req.Digest, req.Size, &pulled); err != nil || !bytes.Equal(pulled.Bytes(), data) {
			t.Errorf("pulled %d bytes: %v", pulled.Len(), err)
		}
	})
}

// reads notes where the content was read first.
type reads struct {
	io.ReaderAt
	first int64
	any   bool
}

func (r *reads) ReadAt(p []byte, off int64) (int, error) {
	if !r.any {
		r.first, r.any = off, true
	}
	return r.ReaderAt.ReadAt(p, off)
}

// An agent's download that breaks goes on where it was.
func TestArtifactDownloadIsTakenUp(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	data, req := release(2, 24<<20)
	if _, err := cp.Client.PushArtifact(t.Context(), req, bytes.NewReader(data), nil); err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, cp.Listen)
	p.mu.Lock()
	p.cutAfter = 12 << 20
	p.mu.Unlock()
	cp.StartAgent("web-1", func(c *agent.Config) { c.Server = "https://" + p.addr })
	dir := hostTarget(t, cp, "app", "web-1")
	if task := submit(t, cp, api.TaskDeploy, "app", deployment(req), nil); task.State != api.TaskSucceeded {
		t.Fatalf("%s %s", task.State, task.Reason)
	}
	deployed(t, dir, data)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cutAfter != 0 {
		t.Error("the connection was never cut")
	}
	// What was under way when it was cut is lost: it is some megabytes at most.
	if most := int64(len(data)) + 10<<20; p.down > most {
		t.Errorf("%d bytes came down for %d", p.down, len(data))
	}
}

// An agent gets what its own task was made with, with that task's token or its
// own, and while it holds the task.
func TestArtifactIsForTheTaskThatNeedsIt(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	data, req := release(3, 1000)
	_, unused := release(4, 1000)
	for _, r := range []api.ArtifactRequest{req, unused} {
		content := data
		if r.Digest == unused.Digest {
			content, _ = release(4, 1000)
		}
		if _, err := cp.Client.PushArtifact(t.Context(), r, bytes.NewReader(content), nil); err != nil {
			t.Fatal(err)
		}
	}
	type holder struct {
		*handmade
		http   *http.Client
		task   api.AgentTask
		bearer string
	}
	hold := func(name, target string, payload api.DeployPayload) *holder {
		h := &holder{handmade: newHandmade(t, cp, name, "host")}
		h.http = httpClient(tlsConfig(cp, h.cert))
		t.Cleanup(h.http.CloseIdleConnections)
		hostTarget(t, cp, target, name)
		raw, err := json.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: api.TaskDeploy, Target: target, Payload: raw}); err != nil {
			t.Fatal(err)
		}
		var out api.HeartbeatResponse
		if _, body := h.beat(t, h.http); json.Unmarshal(body, &out) != nil || len(out.Tasks) != 1 {
			t.Fatalf("%s got %s", name, body)
		}
		h.task = out.Tasks[0]
		var token api.AgentToken
		if _, body := call(t, h.http, http.MethodPost, cp.URL+"/api/v1/agents/token", nil, nil); json.Unmarshal(body, &token) != nil {
			t.Fatal(string(body))
		}
		h.bearer = token.Token
		return h
	}
	a := hold("a", "of-a", api.DeployPayload{Artifacts: []api.ArtifactReference{{Name: "x", Content: []byte("x")}}, Config: api.DeployConfig{Start: "true"}})
	b := hold("b", "of-b", deployment(req))
	asks := func(c *http.Client, agentID, taskID, digest, token string, status int, code string) {
		t.Helper()
		header := map[string]string{"Authorization": "Bearer " + token}
		got, body := call(t, c, http.MethodGet, cp.URL+"/api/v1/agents/"+agentID+"/tasks/"+taskID+"/artifacts/"+digest, header, nil)
		if got != status || code != "" && !strings.Contains(string(body), `"`+code+`"`) || code == "" && !bytes.Equal(body, data) {
			t.Errorf("%d %.200q, want %d %s", got, body, status, code)
		}
	}
	asks(b.http, b.id, b.task.ID, req.Digest, b.task.Token, 200, "")
	asks(b.http, b.id, b.task.ID, req.Digest, b.bearer, 200, "")
	asks(b.http, b.id, b.task.ID, unused.Digest, b.task.Token, 404, "artifact_not_found")
	// A with all that it has.
	asks(a.http, a.id, a.task.ID, req.Digest, a.task.Token, 404, "artifact_not_found")
	asks(a.http, a.id, b.task.ID, req.Digest, a.bearer, 404, "artifact_not_found")
	asks(a.http, a.id, b.task.ID, req.Digest, a.task.Token, 403, "token_of_another_task")
	asks(a.http, b.id, b.task.ID, req.Digest, a.bearer, 403, "not_your_identity")
	// And with what was B's: a token is worth nothing with another certificate.
	asks(a.http, a.id, b.task.ID, req.Digest, b.task.Token, 401, "token_refused")
	asks(a.http, b.id, b.task.ID, req.Digest, b.task.Token, 403, "not_your_identity")
	asks(httpClient(tlsConfig(cp)), b.id, b.task.ID, req.Digest, b.task.Token, 401, "certificate_missing")
	asks(b.http, b.id, b.task.ID, req.Digest, cp.AdminToken, 401, "token_refused")
}

// What was changed in the database is not deployed.
func TestTamperedArtifactIsRefused(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	data, req := release(5, 3<<20)
	if _, err := cp.Client.PushArtifact(t.Context(), req, bytes.NewReader(data), nil); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(cp.Data, "stella.db")+"?_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	done, err := db.ExecContext(t.Context(), "UPDATE artifact_chunks SET data = zeroblob(length(data)) WHERE position = 1048576")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := done.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("%d pieces were changed: %v", n, err)
	}
	cp.StartAgent("web-1")
	dir := hostTarget(t, cp, "app", "web-1")
	task := submit(t, cp, api.TaskDeploy, "app", deployment(req), nil)
	if task.State != api.TaskFailed || task.Result == nil || task.Result.ErrorType != api.ErrDigestMismatch {
		t.Fatalf("%s %+v", task.State, task.Result)
	}
	if _, err := os.Stat(filepath.Join(dir, "current")); !os.IsNotExist(err) {
		t.Errorf("something was deployed: %v", err)
	}
}

// A rollback brings what its artifacts were, and a deployment with an artifact
// that went meanwhile says so at once.
func TestRollbackNeedsItsArtifacts(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	cp.StartAgent("web-1")
	dir := hostTarget(t, cp, "app", "web-1")
	var first []byte
	for i := range 2 {
		data, req := release(uint64(10+i), 1<<20)
		if i == 0 {
			first = data
		}
		if _, err := cp.Client.PushArtifact(t.Context(), req, bytes.NewReader(data), nil); err != nil {
			t.Fatal(err)
		}
		payload := deployment(req)
		payload.Config.Keep = 1 // so that nothing is left to restore but what is fetched anew
		if task := submit(t, cp, api.TaskDeploy, "app", payload, nil); task.State != api.TaskSucceeded {
			t.Fatalf("%s %s", task.State, task.Reason)
		}
	}
	if task := submit(t, cp, api.TaskRollback, "app", api.RollbackPayload{}, nil); task.State != api.TaskSucceeded {
		t.Fatalf("%s %s", task.State, task.Reason)
	}
	deployed(t, dir, first)
	used, err := cp.Client.Artifact(t.Context(), digestOf(first))
	if err != nil || len(used.UsedBy) != 2 || used.UsedBy[0].Type != api.TaskRollback {
		t.Errorf("%+v %v", used, err)
	}
	_, missing := release(99, 10)
	raw, err := json.Marshal(deployment(missing))
	if err != nil {
		t.Fatal(err)
	}
	_, err = cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: api.TaskDeploy, Target: "app", Payload: raw})
	p, ok := errors.AsType[*api.Problem](err)
	if !ok || p.Code != "artifact_missing" || len(p.Errors) != 1 || p.Errors[0].Location != "body.payload.artifacts[0].url" || !strings.Contains(p.Detail, "stella artifact push") {
		t.Errorf("%v", err)
	}
}

// What is stored when the server stops is there when it is back.
func TestPushSurvivesTheServersRestart(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	data, req := release(6, 6<<20)
	if _, err := cp.Client.BeginArtifact(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if _, err := cp.Client.AppendArtifact(t.Context(), req.Digest, 0, bytes.NewReader(data[:5<<20])); err != nil {
		t.Fatal(err)
	}
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	cp.Start()
	read := &reads{ReaderAt: bytes.NewReader(data)}
	if up, err := cp.Client.PushArtifact(t.Context(), req, read, nil); err != nil || !up.Complete || read.first != 5<<20 {
		t.Fatalf("%+v from %d: %v", up, read.first, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var pulled bytes.Buffer
	if err := cp.Client.PullArtifact(ctx, req.Digest, req.Size, &pulled); err != nil || !bytes.Equal(pulled.Bytes(), data) {
		t.Errorf("pulled %d bytes: %v", pulled.Len(), err)
	}
}
