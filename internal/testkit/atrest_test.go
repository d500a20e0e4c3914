package testkit_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/postgres"
	"stella-ops.org/stella/internal/store/sqlite"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/peers"
)

// raw is all that is in a server's database, as whoever steals it would find it.
func raw(t *testing.T, cp *testkit.ControlPlane) []byte {
	t.Helper()
	if url := cp.Config().Database; url != "" {
		dump, err := exec.CommandContext(t.Context(), "pg_dump", url).Output()
		if err != nil {
			t.Fatal(err)
		}
		return dump
	}
	var all []byte
	files, err := filepath.Glob(filepath.Join(cp.Data, "stella.db*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}

// holds looks for a text in every form in which a database may keep it.
func holds(all []byte, text string) bool {
	for _, form := range []string{text, hex.EncodeToString([]byte(text)), base64.StdEncoding.EncodeToString([]byte(text))} {
		if bytes.Contains(all, []byte(form)) {
			return true
		}
	}
	return false
}

// Whoever has the database without the master key has no payload, no
// credentials, no secret and no key.
func TestNothingIsReadableAtRest(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, cp *testkit.ControlPlane) {
		cp.StartAgent("web", func(c *agent.Config) { c.Capabilities = []string{"host"} })
		if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "app", Kind: "host", Agent: "web", Config: api.TargetConfig{Directory: filepath.Join(t.TempDir(), "app")}}); err != nil {
			t.Fatal(err)
		}
		if _, err := cp.Client.SetSecret(t.Context(), "token", "marker-of-the-secret"); err != nil {
			t.Fatal(err)
		}
		credentials := &api.Credentials{Registry: &api.RegistryAuth{Username: "marker-of-the-user", Password: "marker-of-the-password"}}
		payload := func(release string) api.DeployPayload {
			return api.DeployPayload{
				Artifacts: []api.ArtifactReference{{Name: "marker-of-the-name", Content: []byte("marker-of-the-file")}},
				Config: api.DeployConfig{
					ReleaseID: release, Start: "true",
					Environment: map[string]string{"TOKEN": "secret://token", "PLAIN": "marker-of-the-variable"},
				},
				Hooks: api.Hooks{PreDeploy: &api.Hook{Command: []string{"true"}, Environment: map[string]string{"X": "marker-of-the-hook"}}},
			}
		}
		if k := submit(t, cp, api.TaskDeploy, "app", payload("one"), credentials); k.State != api.TaskSucceeded {
			t.Fatalf("%s %s", k.State, k.Reason)
		}
		data, err := json.Marshal(payload("two"))
		if err != nil {
			t.Fatal(err)
		}
		(&estate{T: t, cp: cp}).run(api.RolloutRequest{Filter: "name=app", Payload: data, Credentials: credentials}, api.RolloutSucceeded)
		if k := submit(t, cp, api.TaskRollback, "app", api.RollbackPayload{}, nil); k.State != api.TaskSucceeded {
			t.Fatalf("%s %s", k.State, k.Reason)
		}
		all := raw(t, cp)
		// The search finds what is meant to be seen.
		if !holds(all, "marker-of-the-name") {
			t.Error("what people may see is not found either: the search is blind")
		}
		for _, secret := range []string{
			"marker-of-the-secret", "marker-of-the-password", "marker-of-the-user", "marker-of-the-file", "marker-of-the-variable", "marker-of-the-hook",
			"rootKey", "signingKey", `"keys":[`, cp.AdminToken,
		} {
			if holds(all, secret) {
				t.Errorf("%s is readable", secret)
			}
		}
		master, err := os.ReadFile(filepath.Join(cp.Data, "master.key"))
		if err != nil {
			t.Fatal(err)
		}
		if holds(all, string(master)) {
			t.Error("the master key is in the database")
		}
	})
}

func openStore(t *testing.T, cp *testkit.ControlPlane) *store.Store {
	t.Helper()
	var st *store.Store
	var err error
	if url := cp.Config().Database; url != "" {
		st, err = postgres.Open(t.Context(), url)
	} else {
		st, err = sqlite.Open(t.Context(), filepath.Join(cp.Data, "stella.db"))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

// shortGrace is longer than a running server takes to see a new keyring.
const shortGrace = 5 * time.Second

func rotation(cp *testkit.ControlPlane, before func(string) error) *server.MasterKeyRotation {
	return &server.MasterKeyRotation{Config: cp.Config(), Log: slog.New(slog.DiscardHandler), Out: io.Discard, Grace: shortGrace, Before: before}
}

// A server under load, its agents and its people notice nothing of a rotation,
// nor of one that is killed, with the server, and finished later.
func TestRotationUnderARunningServer(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, cp *testkit.ControlPlane) {
		cp.StartAgent("web", func(c *agent.Config) { c.Capabilities = []string{"host"} })
		dir := t.TempDir()
		if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "app", Kind: "host", Agent: "web", Config: api.TargetConfig{Directory: filepath.Join(dir, "app")}}); err != nil {
			t.Fatal(err)
		}
		key := func() string {
			data, err := os.ReadFile(filepath.Join(cp.Data, "master.key"))
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
		st, old := openStore(t, cp), key()
		head := func() []byte {
			text, err := st.Key(t.Context(), "pki/authority")
			if err != nil {
				t.Fatal(err)
			}
			return text[:9]
		}
		oldHead := head()
		write := func(i int64) error {
			name := fmt.Sprint("s", i%40)
			if _, err := cp.Client.SetSecret(t.Context(), name, fmt.Sprint("value-", i)); err != nil {
				return err
			}
			payload := fmt.Sprintf(`{"command":["/bin/sh","-c","case $S in value-*) ;; *) exit 1;; esac"],"environment":{"S":"secret://%s"}}`, name)
			_, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: api.TaskExecuteCommand, Target: "app", Payload: json.RawMessage(payload)})
			return err
		}
		var count atomic.Int64
		load := func() (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					for tick := time.NewTicker(20 * time.Millisecond); ctx.Err() == nil; <-tick.C {
						if err := write(count.Add(1)); err != nil {
							t.Errorf("while it rotates: %v", err)
							return
						}
					}
				})
			}
			return func() { cancel(); wg.Wait() }
		}
		for i := range int64(40) {
			if err := write(i); err != nil {
				t.Fatal(err)
			}
		}
		// Killed when the database says the new key and the file the old one;
		// the server is killed, too, and starts.
		stop := load()
		killed := errors.New("killed")
		if err := rotation(cp, func(step string) error {
			if step == seal.StepReplaceFile {
				return killed
			}
			return nil
		}).Run(t.Context()); !errors.Is(err, killed) {
			t.Fatal(err)
		}
		if key() != old {
			t.Fatal("the file was replaced already")
		}
		stop()
		if err := cp.Stop(); err != nil {
			t.Fatal(err)
		}
		cp.Start()
		if key() == old {
			t.Error("the server has not finished the replacement of the file")
		}
		stop = load()
		if err := rotation(cp, nil).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(head(), oldHead) {
			t.Error("the certificate authority is sealed under the old key")
		}
		stop()
		// All of it is under the new key, nothing was lost, and the old one is of
		// no use.
		for _, table := range st.SealedTables() {
			left, err := st.OutdatedTexts(t.Context(), table, head(), nil, 10)
			if err != nil || len(left) > 0 {
				t.Errorf("%s: %d texts are not under the new key, %v", table, len(left), err)
			}
		}
		testkit.Eventually(t, time.Minute, "all tasks to end well", func() (bool, string) {
			open := 0
			for k, err := range cp.Client.Tasks(t.Context(), client.TaskFilter{Filter: "state != succeeded"}) {
				if err != nil {
					return false, err.Error()
				}
				if k.State.Final() {
					t.Fatalf("%s %s", k.State, k.Reason)
				}
				open++
			}
			return open == 0, fmt.Sprint(open, " are not over")
		})
		if err := cp.Stop(); err != nil {
			t.Fatal(err)
		}
		cp.Start()
		cp.WaitOnline("web")
		for i := range int64(40) {
			if err := write(1000 + i); err != nil {
				t.Fatal(err)
			}
		}
		former := filepath.Join(t.TempDir(), "master.key")
		if err := os.WriteFile(former, []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.OpenKeyring(t.Context(), st, former, slog.New(slog.DiscardHandler)); err == nil {
			t.Error("the old master key opens the keyring")
		}
		if count.Load() < 20 {
			t.Errorf("there were only %d writes", count.Load())
		}
	})
}

// A second server, on another host, whose file was not replaced, says so, writes
// nothing that would be lost, and goes on when it has the file.
func TestServerWithoutTheNewMasterKey(t *testing.T) {
	t.Parallel()
	database := peers.Database(t)
	first := testkit.StartServer(t, func(c *server.Config) { c.Database = database })
	data := t.TempDir()
	copyKey := func() {
		key, err := os.ReadFile(filepath.Join(first.Data, "master.key"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(data, "master.key"), key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copyKey()
	for _, name := range []string{"ca.pem", "admin.token"} { // which the first one has made
		text, err := os.ReadFile(filepath.Join(first.Data, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(data, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second := testkit.StartServer(t, func(c *server.Config) { c.Database, c.Data = database, data })
	if _, err := second.Client.SetSecret(t.Context(), "a", "value"); err != nil {
		t.Fatal(err)
	}
	if err := rotation(first, nil).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the second server to refuse", func() (bool, string) {
		_, err := second.Client.SetSecret(t.Context(), "a", "another")
		p, ok := errors.AsType[*api.Problem](err)
		if err == nil {
			return false, "it takes it"
		}
		return ok && p.Status == http.StatusServiceUnavailable && p.Code == "master_key_outdated", err.Error()
	})
	if err := second.Client.Ready(t.Context()); err == nil {
		t.Error("it is ready")
	}
	for _, err := range second.Client.Secrets(t.Context(), client.SecretFilter{}) {
		if err != nil {
			t.Errorf("what needs no key: %v", err)
		}
	}
	copyKey()
	if _, err := second.Client.SetSecret(t.Context(), "b", "value"); err != nil {
		t.Errorf("with the new file: %v", err)
	}
	if _, err := first.Client.SetSecret(t.Context(), "c", "value"); err != nil {
		t.Error(err)
	}
}

// The command, as people run it: it is killed, and the server starts and works.
func TestRotateMasterKeyCommand(t *testing.T) {
	t.Parallel()
	run := func(args ...string) *program {
		t.Helper()
		return startProgram(t, "", nil, "stella", append([]string{"server", "rotate-master-key"}, args...)...)
	}
	nowhere := run("--data", t.TempDir())
	if err := <-nowhere.done; err == nil || !strings.Contains(nowhere.stderr.String(), "there is no installation in") {
		t.Errorf("without an installation: %v %s", err, nowhere.stderr.String())
	}
	cp := testkit.StartServer(t)
	old, err := os.ReadFile(filepath.Join(cp.Data, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	p := run("--data", cp.Data)
	testkit.Eventually(t, 20*time.Second, "it to wait", func() (bool, string) {
		out := p.stdout.String()
		return strings.Contains(out, "waiting 30s"), out + p.stderr.String()
	})
	second := run("--data", cp.Data)
	if err := <-second.done; err == nil || !strings.Contains(second.stderr.String(), "another process is replacing") {
		t.Errorf("a second one: %v %s", err, second.stderr.String())
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-p.done; err == nil {
		t.Error("it was killed, and ended well")
	}
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	cp.Start()
	now, err := os.ReadFile(filepath.Join(cp.Data, "master.key"))
	if err != nil || bytes.Equal(now, old) {
		t.Errorf("the file was not replaced: %v", err)
	}
	if err := rotation(cp, nil).Run(t.Context()); err != nil {
		t.Error(err)
	}
	if strings.Contains(p.stdout.String(), hex.EncodeToString(now)) {
		t.Error("it prints the key")
	}
}
