package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"stella-ops.org/stella/api"
)

const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// deployed runs `stella deploy` and returns the request that it made.
func deployed(t *testing.T, kind string, term *terminal, f *fakeAPI, args ...string) (api.TaskRequest, api.DeployPayload) {
	t.Helper()
	f.answer("GET /api/v1/targets/web", api.Target{ID: "id-web", Name: "web", Kind: kind})
	f.answer("POST /api/v1/tasks", api.Task{ID: "t1", Type: api.TaskDeploy, TargetName: "web", State: api.TaskQueued})
	term.must(t, append([]string{"deploy", "web", "--no-wait"}, args...)...)
	if term.stdout != "t1\n" {
		t.Errorf("stdout: %q", term.stdout)
	}
	req := taken[api.TaskRequest](t, f, "POST /api/v1/tasks")
	var p api.DeployPayload
	if err := json.Unmarshal(req.Payload, &p); err != nil {
		t.Fatal(err)
	}
	return req, p
}

func TestDeployDocker(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	term := newTerminal(t, f)
	envFile := filepath.Join(term.home, "env")
	if err := os.WriteFile(envFile, []byte("# secrets\nPASSWORD=a=b\n\nMODE=file\nHOME_OF\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	term.env["HOME_OF"] = "cats"
	term.stdin = "hunter2\n"
	req, p := deployed(t, "docker", term, f,
		"--image", "registry.example.com:5000/team/web:1.4@"+digest, "--env-file", envFile, "-e", "MODE=flag",
		"-p", "80:8080", "--port", "127.0.0.1:53:53/udp", "-v", "data:/data:ro", "--network", "front", "--restart", "on-failure:3",
		"--memory", "512m", "--cpus", "0.5", "--name", "web-1", "--release", "1.4.2", "--keep-previous",
		"--health-http", "http://127.0.0.1/healthz", "--health-http-status", "204", "--health-timeout", "90s",
		"--pre-hook", `sh -c 'echo "a b"'`, "--post-hook", "/bin/notify --all", "--hook-timeout", "1m",
		"--registry-user", "joe", "--registry-password-stdin", "--timeout", "1500ms", "--delivery-timeout", "2h",
		"--priority", "high", "--idempotency-key", "build-7", "--stop-timeout", "30s", "--", "serve", "--verbose")
	no := false
	want := api.DeployPayload{
		Image: "registry.example.com:5000/team/web", Digest: digest,
		Config: api.DeployConfig{
			ReleaseID: "1.4.2", ReleaseName: "1.4.2", ContainerName: "web-1",
			Environment: map[string]string{"PASSWORD": "a=b", "MODE": "flag", "HOME_OF": "cats"},
			Ports:       []string{"80:8080", "127.0.0.1:53:53/udp"}, Volumes: []string{"data:/data:ro"}, Networks: []string{"front"},
			RestartPolicy: "on-failure:3", MemoryLimit: 512 << 20, CPULimit: 0.5, Command: []string{"serve", "--verbose"},
			CleanupPrevious: &no, StopTimeout: 30,
			HealthCheck: &api.HealthCheck{Type: "http", URL: "http://127.0.0.1/healthz", ExpectedStatus: 204, Timeout: 90},
		},
		Hooks: api.Hooks{
			PreDeploy:  &api.Hook{Command: []string{"sh", "-c", `echo "a b"`}, Timeout: 60},
			PostDeploy: &api.Hook{Command: []string{"/bin/notify", "--all"}, Timeout: 60},
		},
	}
	if diff := cmp.Diff(want, p, ignorePadding); diff != "" {
		t.Error(diff)
	}
	req.Payload = nil
	wantReq := api.TaskRequest{
		Type: api.TaskDeploy, Target: "id-web", Timeout: 2, DeliveryTimeout: 7200, Priority: api.PriorityHigh, IdempotencyKey: "build-7",
		Credentials: &api.Credentials{Registry: &api.RegistryAuth{Username: "joe", Password: "hunter2"}},
	}
	if diff := cmp.Diff(wantReq, req); diff != "" {
		t.Error(diff)
	}
}

// The API's types carry a field that only says how they are decoded.
var ignorePadding = cmpopts.IgnoreUnexported(api.ArtifactReference{}, api.VersionSticker{})

func TestDeployHost(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	term := newTerminal(t, f)
	write := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(term.home, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	write("dist/bin/app", "binary", 0o755)
	write("dist/app.conf", "conf", 0o644)
	odd := write("odd:name:0600", "odd", 0o600)
	script := write("migrate.sh", "#!/bin/sh", 0o600)
	unit := write("web.service", "[Unit]", 0o644)
	dist := filepath.Join(term.home, "dist")
	req, p := deployed(t, "host", term, f,
		"--file", dist, "--file", dist+"/", "--file", dist+":"+"static", "--file", dist+"/app.conf:etc/web.conf:0600",
		"--file", dist+"/bin/app::0700", "--file", odd,
		"--file", "https://files.example.com/app.tgz?x=1@"+digest, "--file", "https://files.example.com/x@"+digest+":data/x:0644",
		"--script", script, "--unit-file", unit, "--release", "first try", "--health-tcp", "127.0.0.1:80")
	want := []api.ArtifactReference{
		{Name: "dist/app.conf", Content: []byte("conf")},
		{Name: "dist/bin/app", Content: []byte("binary"), Mode: "0755"},
		{Name: "app.conf", Content: []byte("conf")},
		{Name: "bin/app", Content: []byte("binary"), Mode: "0755"},
		{Name: "static/app.conf", Content: []byte("conf")},
		{Name: "static/bin/app", Content: []byte("binary"), Mode: "0755"},
		{Name: "etc/web.conf", Content: []byte("conf"), Mode: "0600"},
		{Name: "app", Content: []byte("binary"), Mode: "0700"},
		{Name: "odd:name:0600", Content: []byte("odd")},
		{Name: "app.tgz", URL: "https://files.example.com/app.tgz?x=1", Digest: digest},
		{Name: "data/x", URL: "https://files.example.com/x", Digest: digest, Mode: "0644"},
		{Name: "migrate.sh", Type: "deploy_script", Content: []byte("#!/bin/sh")},
		{Name: "web.service", Type: "systemd_unit", Content: []byte("[Unit]")},
	}
	if diff := cmp.Diff(want, p.Artifacts, ignorePadding); diff != "" {
		t.Error(diff)
	}
	wantConfig := api.DeployConfig{
		ReleaseName: "first try", Unit: "web.service", HealthCheck: &api.HealthCheck{Type: "tcp", Address: "127.0.0.1:80"},
	}
	if diff := cmp.Diff(wantConfig, p.Config); diff != "" {
		t.Error(diff)
	}
	if req.IdempotencyKey == "" {
		t.Error("there is no idempotency key")
	}
}

func TestDeployRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		kind, args, want string
	}{
		{"docker", "", "a docker target takes an image"},
		{"docker", "--image nginx@sha256:12", "is no digest"},
		{"docker", "--image UPPER@" + digest, "is no image"},
		{"docker", "--image nginx@" + digest + " --file x", "--file is for a compose or host or ssh target"},
		{"docker", "--image nginx@" + digest + " --registry-password-stdin", "a password needs a user"},
		{"docker", "--image nginx@" + digest + " --registry-user joe --registry-password hunter22", "takes a secret's name, and never the password itself"},
		{"docker", "--image nginx@" + digest + " --registry-password secret://pull", "a password needs a user"},
		{"docker", "--image nginx@" + digest + " --registry-user joe", "needs a password"},
		{"docker", "--image nginx@" + digest + " --health-http http://x --health-docker", "one health check"},
		{"docker", "--image nginx@" + digest + " --health-timeout 1m", "there is none"},
		{"docker", "--image nginx@" + digest + " --env =x", "is no variable"},
		{"docker", "--image nginx@" + digest + " --env UNSET", "UNSET has no value here"},
		{"docker", "--image nginx@" + digest + " --env-file nope", "the environment file"},
		{"docker", "--image nginx@" + digest + " --memory lots", "write it as in 512m"},
		{"docker", "--image nginx@" + digest + " --timeout 0", "write it as in 90s"},
		{"docker", "--image nginx@" + digest + " --pre-hook 'open", "ends in the middle of a word"},
		{"docker", "--image nginx@" + digest + " --compose-file x", "--compose-file is for a compose target"},
		{"compose", "", "a compose target takes a compose file"},
		{"compose", "--compose-file nope", "no such file"},
		{"compose", "--compose-file x --image nginx", "--image is for a docker target"},
		{"compose", "--compose-file x -- y", "only a docker target takes a command"},
		{"host", "--keep-previous", "--keep-previous is for a compose or docker or ssh target"},
		{"host", "", "takes files, and there is none"},
		{"host", "--file nope", "there is no file nope"},
		{"host", "--image nginx", "--image is for a docker target"},
		{"host", "--file https://example.com/x", "has no digest"},
		{"host", "--script . ", "is no plain file"},
		{"host", "--start x -- y", "only a docker target takes a command"},
		{"ssh", "", "a target of kind ssh takes files, and there is none"},
		{"ssh", "--unit app.service", "--unit is for a host target"},
		{"ssh", "--image nginx", "--image is for a docker target"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			f := newFakeAPI(t)
			f.answer("GET /api/v1/targets/web", api.Target{ID: "id-web", Name: "web", Kind: tc.kind})
			term := newTerminal(t, f)
			code := term.run(t.Context(), append([]string{"deploy", "web"}, strings.Fields(tc.args)...)...)
			if code != exitUsage || !strings.Contains(term.stderr, tc.want) {
				t.Errorf("exit code %d, %s", code, term.stderr)
			}
			for _, r := range f.asked() {
				if strings.HasPrefix(r, "POST") {
					t.Errorf("a task was queued: %s", r)
				}
			}
		})
	}
}

func TestOtherRequests(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args, request, body string
	}{
		{
			"agent bootstrap --name a1 --env prod --platform linux --capability docker.deploy --capabilities host,health_check --cluster c --label k=v --group g --id a-1 --ttl 90s",
			"POST /api/v1/admin/agents/bootstrap",
			`{"name":"a1","agentId":"a-1","environment":"prod","group":"g","cluster":"c","platform":"linux","capabilities":["docker.deploy","host","health_check"],"labels":{"k":"v"},"ttlSeconds":90,"maxUses":1}`,
		},
		{
			"agent bootstrap --env prod --uses 20 --server-url https://stella.example.com", "POST /api/v1/admin/agents/bootstrap",
			`{"environment":"prod","platform":"linux","ttlSeconds":900,"maxUses":20,"serverUrl":"https://stella.example.com"}`,
		},
		{
			"token create --role operator --name ci --ttl 24h", "POST /api/v1/admin/api-tokens",
			`{"name":"ci","role":"operator","ttlSeconds":86400}`,
		},
		{
			"target add docker web --agent a1 --env prod --label k=v --docker-host tcp://10.0.0.1:2375 --sticker-location volume --sticker-volume s",
			"POST /api/v1/targets",
			`{"name":"web","kind":"docker","agent":"a1","environment":"prod","labels":{"k":"v"},"config":{"dockerHost":"tcp://10.0.0.1:2375","stickerLocation":"volume","stickerVolume":"s"}}`,
		},
		{
			"target add host web --agent-selector group=g,env=prod,label.zone=a,label.rack=1 --dir /opt/web", "POST /api/v1/targets",
			`{"name":"web","kind":"host","agentSelector":{"group":"g","environment":"prod","labels":{"rack":"1","zone":"a"}},"config":{"directory":"/opt/web"}}`,
		},
		{
			"target add compose shop --agent a1 --dir /opt/shop --project shop-1 --docker-host unix:///run/d.sock", "POST /api/v1/targets",
			`{"name":"shop","kind":"compose","agent":"a1","config":{"directory":"/opt/shop","dockerHost":"unix:///run/d.sock","project":"shop-1"}}`,
		},
		{
			"target add ssh web --agent a1 --dir /opt/web --host app-1 --port 2222 --user deploy --key secret://k --passphrase secret://p --known-hosts /etc/kh --jump b1 --jump joe@b2:2200 --sudo --sudo-user web --sudo-password secret://s --connect-timeout 5s --keep-alive 2s",
			"POST /api/v1/targets",
			`{"name":"web","kind":"ssh","agent":"a1","config":{"directory":"/opt/web","ssh":{"host":"app-1","port":2222,"username":"deploy","knownHosts":"/etc/kh","privateKeyRef":"secret://k","passphraseRef":"secret://p",` +
				`"jumps":[{"host":"b1","username":"deploy","knownHosts":"/etc/kh","privateKeyRef":"secret://k","passphraseRef":"secret://p"},{"host":"b2","port":2200,"username":"joe","knownHosts":"/etc/kh","privateKeyRef":"secret://k","passphraseRef":"secret://p"}],` +
				`"sudo":true,"sudoUser":"web","sudoPasswordRef":"secret://s","connectionTimeout":5000,"keepAliveInterval":2000}}}`,
		},
		{
			"target update web --dir /opt/b --label x=y", "PUT /api/v1/targets/id-web",
			`{"name":"web","kind":"host","agent":"id-a","environment":"prod","labels":{"x":"y"},"config":{"directory":"/opt/b","stickerPath":"/s"}}`,
		},
		{
			"target update web --agent-selector env=prod", "PUT /api/v1/targets/id-web",
			`{"name":"web","kind":"host","agentSelector":{"environment":"prod"},"environment":"prod","labels":{"k":"v"},"config":{"directory":"/opt/a","stickerPath":"/s"}}`,
		},
		{
			"rollback web --digest nginx@" + digest + " --no-wait --idempotency-key k", "POST /api/v1/tasks",
			`{"type":"rollback","target":"web","payload":{"targetDigest":"` + digest + `"},"idempotencyKey":"k"}`,
		},
		{
			"rollback web --release 1.0 --no-wait --idempotency-key k", "POST /api/v1/tasks",
			`{"type":"rollback","target":"web","payload":{"releaseId":"1.0"},"idempotencyKey":"k"}`,
		},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			f := newFakeAPI(t)
			f.answer("GET /api/v1/targets/web", api.Target{
				ID: "id-web", Name: "web", Kind: "host", AgentID: "id-a", Environment: "prod", Labels: map[string]string{"k": "v"},
				Config: api.TargetConfig{Directory: "/opt/a", StickerPath: "/s"},
			})
			f.answer(tc.request, struct{}{})
			newTerminal(t, f).must(t, strings.Fields(tc.args)...)
			if diff := cmp.Diff(tc.body, string(f.bodies[tc.request])); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestQueries(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"agent list --status STALE --capability docker --env prod --group g --label a=b --name x": "GET /api/v1/agents?capability=docker&environment=prod&group=g&label=a%3Db&limit=500&name=x&status=STALE",
		"target list --kind host --env prod --agent a1 --name web --label a=b":                    "GET /api/v1/targets?agent=a1&environment=prod&kind=host&label=a%3Db&limit=500&name=web",
		"task list --state failed --target web --agent a1 --type deploy --limit 5":                "GET /api/v1/tasks?agent=a1&limit=5&state=failed&target=web&type=deploy",
		"task list --limit 0":                 "GET /api/v1/tasks?limit=500",
		"audit --limit 3":                     "GET /api/v1/audit?limit=3",
		"audit list --limit 3 --filter seq>1": "GET /api/v1/audit?filter=seq%3E1&limit=3",
		"token list --api":                    "GET /api/v1/admin/api-tokens?limit=500",

		"agent list --filter status=live --sort -name":               "GET /api/v1/agents?filter=status%3Dlive&limit=500&sort=-name",
		"target list --filter agent=a1 --sort env,name --limit 7":    "GET /api/v1/targets?filter=agent%3Da1&limit=7&sort=env%2Cname",
		"task list --filter createdAt>-7d --sort finishedAt":         "GET /api/v1/tasks?filter=createdAt%3E-7d&limit=20&sort=finishedAt",
		"token list --filter state=usable --sort expiresAt":          "GET /api/v1/admin/agent-tokens?filter=state%3Dusable&limit=500&sort=expiresAt",
		"token list --api --filter role=admin --sort name --limit 3": "GET /api/v1/admin/api-tokens?filter=role%3Dadmin&limit=3&sort=name",
		"audit --filter outcome=denied --sort at --limit 4":          "GET /api/v1/audit?filter=outcome%3Ddenied&limit=4&sort=at",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			f := newFakeAPI(t)
			path, _, _ := strings.Cut(want, "?")
			f.answer(path, map[string]any{"items": []any{}})
			newTerminal(t, f).must(t, strings.Fields(args)...)
			if diff := cmp.Diff([]string{want}, f.asked()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
