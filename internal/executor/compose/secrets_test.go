package compose_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/compose"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/testkit/peers"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

// plainJournal keeps the last record, and the log's lines; line is called with
// each.
type plainJournal struct {
	mu    sync.Mutex
	saved []*deploy.Record
	lines []string
	line  func(n int, stream, text string)
	data  string
}

func (j *plainJournal) Save(_ context.Context, rec *deploy.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	copied := *rec
	j.saved = append(j.saved, &copied)
	return nil
}

func (j *plainJournal) Line(stream, text string) {
	j.mu.Lock()
	j.lines = append(j.lines, stream+": "+text)
	n := len(j.lines)
	j.mu.Unlock()
	if j.line != nil {
		j.line(n, stream, text)
	}
}

func (j *plainJournal) Phase(name, state string) { j.Line("phase", name+" "+state) }

func (j *plainJournal) env(t *testing.T) executor.Env {
	if j.data == "" {
		j.data = t.TempDir()
	}
	return executor.Env{AgentID: "agent-1", DataDir: j.data, Journal: j, Log: j}
}

func (f *fixture) deployTask(t *testing.T, payload api.DeployPayload) *api.AgentTask {
	t.Helper()
	data, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	return &api.AgentTask{ID: "task-" + unique(), Attempt: 1, Type: api.TaskDeploy, TargetID: f.TargetID, Target: f.Target, Payload: data}
}

// TestSecretsStayInside: variables reach their container, whatever is in them,
// and neither arguments, nor the journal, nor the log has them.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	values := map[string]string{
		"FIRST": `hunter2 "quoted" 'and' $HOME ${X} \n \ # end`, "SECOND": "hunter2\nsecond line\t", "LANG": "hunter2-lang",
	}
	v1 := l.image(t, sampleimage.Options{Version: "v1"})
	lock := f.file(f.service("web", v1, "ports: ['"+f.web+":8080']", "environment:",
		`  FIRST: "${FIRST}"`, `  SECOND: "${SECOND}"`, `  LANG: "${LANG}"`, `  FROM_FILE: "${FROM_FILE}"`))
	p := f.payload("v1", lock)
	p.Config.Environment = maps.Clone(values)
	p.Artifacts = append(p.Artifacts, api.ArtifactReference{Name: "x.env", Type: "env_file", Content: []byte("FROM_FILE=swordfish-hunter2\n")})
	j := &plainJournal{}
	seen := map[string]bool{}
	j.line = func(int, string, string) {
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range all {
			if data, err := os.ReadFile(name); err == nil && strings.Contains(string(data), "hunter2") {
				seen[strings.ReplaceAll(string(data), "\x00", " ")] = true
			}
		}
	}
	res := l.executor.Run(t.Context(), f.deployTask(t, p), j.env(t))
	if !res.Success {
		t.Fatalf("%s\n%s", res.Error, strings.Join(j.lines, "\n"))
	}
	if len(seen) > 0 {
		t.Errorf("an argument holds a secret: %v", seen)
	}
	records, err := json.Marshal(j.saved)
	if err != nil || strings.Contains(string(records), "hunter2") || strings.Contains(strings.Join(j.lines, "\n"), "hunter2") {
		t.Errorf("a secret is in a record or in the log: %v\n%s\n%s", err, records, strings.Join(j.lines, "\n"))
	}
	values["FROM_FILE"] = "swordfish-hunter2"
	out, err := l.docker("inspect", "--format", "{{json .Config.Env}}", f.project+"-web-1")
	var env []string
	if err := json.Unmarshal([]byte(out), &env); err != nil {
		t.Fatal(err, out)
	}
	for name, want := range values {
		found := false
		for _, kv := range env {
			found = found || kv == name+"="+want
		}
		if !found {
			t.Errorf("%s is not %q in the container: %q %v", name, want, env, err)
		}
	}
	// What an env file holds is masked where a failure quotes it.
	p.Artifacts[0].Content = []byte(strings.Replace(lock, "ports:", "mem_limit: ${FROM_FILE}\n    ports:", 1))
	j = &plainJournal{}
	res = l.executor.Run(t.Context(), f.deployTask(t, p), j.env(t))
	if records, err := json.Marshal(j.saved); err != nil || res.Success || strings.Contains(string(records), "swordfish") || strings.Contains(res.Error, "swordfish") {
		t.Errorf("%v %s: %s", err, res.Error, records)
	}
}

func TestPrivateRegistry(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	private := peers.PrivateRegistry(t)
	repository := private.Address + "/stella-test/" + unique()
	image := repository + "@" + sampleimage.Push(t, repository, sampleimage.Options{Version: "v1", Label: repository, Username: private.Username, Password: private.Password})
	t.Cleanup(func() { _, _ = l.docker("image", "rm", "--force", image) })
	f := l.fixture(t)
	alone := f.payload("v1", f.file(f.service("web", image, "ports: ['"+f.web+":8080']")))
	// Each time with an image that has to be pulled from the other registry.
	both := func() api.DeployPayload {
		return f.payload("v1", f.file(f.service("web", image, "ports: ['"+f.web+":8080']"),
			f.service("db", l.image(t, sampleimage.Options{Version: "db-" + unique()}), "command: [wait]")))
	}
	deployWith := func(p api.DeployPayload, login *api.RegistryAuth) (*api.TaskResult, string) {
		j := &plainJournal{}
		task := f.deployTask(t, p)
		task.Credentials = &api.Credentials{Registry: login}
		secrets := 0
		j.line = func(_ int, stream, text string) {
			if left, _ := filepath.Glob(filepath.Join(j.data, "compose", "*")); stream == "phase" && text == "pull done" && len(left) > 0 {
				t.Errorf("left over after the pull: %v", left)
			}
			if found, _ := filepath.Glob(filepath.Join(j.data, "compose", "*", "config.json")); len(found) > 0 {
				secrets++
				info, err := os.Stat(found[0])
				folder, err2 := os.Stat(filepath.Dir(found[0]))
				if err == nil && err2 == nil && (info.Mode().Perm() != 0o600 || folder.Mode().Perm() != 0o700) {
					t.Errorf("the login's permissions are %v in %v", info.Mode(), folder.Mode())
				}
				if data, err := os.ReadFile(found[0]); err == nil && strings.Contains(string(data), `"`+peers.Registry(t)+`"`) {
					t.Error("the login went to another registry")
				}
			}
		}
		res := l.executor.Run(t.Context(), task, j.env(t))
		if left, _ := filepath.Glob(filepath.Join(j.data, "compose", "*")); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
		if login != nil && secrets == 0 {
			t.Error("the login was never written")
		}
		return res, strings.Join(j.lines, "\n")
	}
	for _, p := range []api.DeployPayload{alone, both(), both()} {
		for _, login := range []*api.RegistryAuth{nil, {Username: private.Username, Password: "wrong-password"}} {
			res, log := deployWith(p, login)
			if res.ErrorType != api.ErrPullFailed || !strings.Contains(res.Error, "credentials") || strings.Contains(res.Error, "wrong-password") {
				t.Errorf("%s: %s\n%s", res.ErrorType, res.Error, log)
			}
		}
	}
	right := &api.RegistryAuth{Username: private.Username, Password: private.Password}
	for _, p := range []api.DeployPayload{both(), alone} {
		res, log := deployWith(p, right)
		if !res.Success || !strings.Contains(log, "pulled the images") {
			t.Errorf("%s: %s\n%s", res.ErrorType, res.Error, log)
		}
		bad := f.payload("v2", f.file(f.service("web", l.image(t, sampleimage.Options{Version: "v2"}), "ports: ['"+f.web+":8080']")))
		f.deployed(t, bad)
		_, _ = l.docker("image", "rm", "--force", image)
	}
}

// TestLoginAfterCrash: what a killed agent left of a login is removed.
func TestLoginAfterCrash(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	j := &plainJournal{}
	env := j.env(t)
	task := f.deployTask(t, f.Deploy("v1"))
	ctx, cancel := context.WithCancelCause(t.Context())
	j.line = func(_ int, stream, text string) {
		if stream == "phase" && text == "pull started" {
			cancel(deploy.ErrStopping)
		}
	}
	if res := l.executor.Run(ctx, task, env); res.Success {
		t.Fatal("the deployment was not cut short")
	}
	var rec *deploy.Record
	for _, r := range j.saved {
		if r.Step == deploy.PhasePull && r.Failure == nil {
			rec = r
		}
	}
	login := filepath.Join(j.data, "compose", "login-"+task.ID)
	if err := os.MkdirAll(login, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(login, "config.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	j.line = nil
	if res := l.executor.Recover(t.Context(), rec, env); res.ErrorType != api.ErrAgentRestarted {
		t.Errorf("%s: %s", res.ErrorType, res.Error)
	}
	if _, err := os.Stat(login); !os.IsNotExist(err) {
		t.Errorf("the login is still there: %v", err)
	}
}

// TestInterruptedSwitch: wherever docker compose is cut short, the old version
// runs afterwards, and nothing is left of the new one.
func TestInterruptedSwitch(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	project := func(version string) api.DeployPayload {
		image := l.image(t, sampleimage.Options{Version: version})
		return f.payload(version, f.file(f.service("web", image, "ports: ['"+f.web+":8080']"), f.service("db", image, "command: [wait]")))
	}
	f.deployed(t, project("v1"))
	want := f.services(t)
	for at := 1; ; at++ {
		j := &plainJournal{}
		ctx, cancel := context.WithCancelCause(t.Context())
		switching, lines := false, 0
		j.line = func(_ int, stream, text string) {
			switch {
			case stream == "phase":
				switching = text == "switch started"
			case switching && stream != "system":
				if lines++; lines == at {
					cancel(deploy.ErrCancelled)
				}
			}
		}
		res := l.executor.Run(ctx, f.deployTask(t, project("v2")), j.env(t))
		cancel(nil)
		if res.Success {
			if at < 5 {
				t.Errorf("compose said only %d lines:\n%s", at-1, strings.Join(j.lines, "\n"))
			}
			return
		}
		if res.ErrorType != api.ErrCancelled || !res.RolledBack {
			t.Fatalf("at line %d: %s: %s\n%s", at, res.ErrorType, res.Error, strings.Join(j.lines, "\n"))
		}
		executortest.Await(t, f.Fixture, "v1")
		if got := fmt.Sprint(f.services(t)); got != fmt.Sprint(want) {
			t.Fatalf("at line %d: %s, want %s\n%s", at, got, want, strings.Join(j.lines, "\n"))
		}
		if left := f.leftovers(t); len(left) > 0 {
			t.Fatalf("at line %d: left over %v", at, left)
		}
	}
}

// TestCapabilities: what is missing is said, and what to do about it.
func TestCapabilities(t *testing.T) {
	host, config := peers.Docker(t), peers.Compose(t)
	names, err := compose.New(compose.Options{Host: host, ConfigDir: config}).Capabilities(t.Context())
	if err != nil || len(names) != 7 || names[0] != "compose.deploy" {
		t.Errorf("%v, %v", names, err)
	}
	dir := t.TempDir()
	program := func(name, script string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
		return p
	}
	// The programs of other versions say what these do.
	none := program("no-plugin", `echo "docker: 'compose' is not a docker command." >&2; exit 1`)
	first := program("plugin-1", "echo 1.29.2")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	check := func(name, want string, o compose.Options) {
		t.Helper()
		names, err := compose.New(o).Capabilities(t.Context())
		if len(names) > 0 || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", name, names, err, want)
		}
	}
	check("no docker", "no docker program", compose.Options{Docker: filepath.Join(dir, "none")})
	check("no plugin", "no compose plugin; install", compose.Options{Docker: none})
	check("an old plugin", `version "1.29.2"`, compose.Options{Docker: first})
	check("no engine", "does not answer", compose.Options{Host: "unix:///nonexistent/docker.sock", ConfigDir: config})
	program("docker-compose", "echo 1.29.2")
	check("only the old program", "docker-compose 1.29.2, which cannot be used; install", compose.Options{Docker: none})
	program("docker-compose", "echo 2.30.0")
	check("only the new program", "link it into ~/.docker/cli-plugins", compose.Options{Docker: none})

	nowhere := compose.New(compose.Options{Host: "unix:///nonexistent/docker.sock", ConfigDir: config})
	task := &api.AgentTask{ID: "t", Type: api.TaskInspect, Target: api.AgentTarget{Name: "web", Config: api.TargetConfig{Directory: t.TempDir()}}}
	if res := nowhere.Run(t.Context(), task, (&plainJournal{}).env(t)); res.ErrorType != api.ErrTargetUnreachable || !res.Retriable {
		t.Errorf("%s retriable=%v: %s", res.ErrorType, res.Retriable, res.Error)
	}
}
