package task_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

var (
	dockerTarget = &target.Target{Name: "d", Kind: "docker"}
	hostTarget   = &target.Target{Name: "h", Kind: "host"}
)

// some is the digest of a good deploy.
var some = digest("image")

func TestBadPayloadNamesItsField(t *testing.T) {
	t.Parallel()
	good := `"image":"reg.test/app","digest":"` + some + `"`
	for _, c := range []struct {
		name  string
		typ   api.TaskType
		tgt   *target.Target
		raw   string
		field string // behind body.payload
	}{
		{"no json", api.TaskDeploy, dockerTarget, `{"image":`, ""},
		{"no object", api.TaskDeploy, dockerTarget, `[]`, ""},
		{"two objects", api.TaskDeploy, dockerTarget, `{` + good + `} {}`, ""},
		{"trailing text", api.TaskDeploy, dockerTarget, `{` + good + `} x`, ""},
		{"unknown field", api.TaskDeploy, dockerTarget, `{` + good + `,"imgae":"x"}`, ".imgae"},
		{"unknown field within", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"prots":[]}}`, ".prots"},
		{"text for a list", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"ports":"80:80"}}`, ".config.ports"},
		{"number for a text", api.TaskDeploy, dockerTarget, `{"image":5}`, ".image"},
		{"text for a number", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"memoryLimit":"1g"}}`, ".config.memoryLimit"},

		{"nothing", api.TaskDeploy, dockerTarget, ``, ".image"},
		{"null", api.TaskDeploy, dockerTarget, `null`, ".image"},
		{"no image", api.TaskDeploy, dockerTarget, `{"digest":"` + some + `"}`, ".image"},
		{"tag in image", api.TaskDeploy, dockerTarget, `{"image":"reg.test/app:1","digest":"` + some + `"}`, ".image"},
		{"tag in image without registry", api.TaskDeploy, dockerTarget, `{"image":"app:latest","digest":"` + some + `"}`, ".image"},
		{"tag behind a port", api.TaskDeploy, dockerTarget, `{"image":"reg.test:5000/app:1","digest":"` + some + `"}`, ".image"},
		{"digest in image", api.TaskDeploy, dockerTarget, `{"image":"reg.test/app@` + some + `","digest":"` + some + `"}`, ".image"},
		{"no digest", api.TaskDeploy, dockerTarget, `{"image":"app"}`, ".digest"},
		{"short digest", api.TaskDeploy, dockerTarget, `{"image":"app","digest":"sha256:12ab"}`, ".digest"},
		{"long digest", api.TaskDeploy, dockerTarget, `{"image":"app","digest":"` + some + `0"}`, ".digest"},
		{"upper-case digest", api.TaskDeploy, dockerTarget, `{"image":"app","digest":"sha256:` + strings.Repeat("A", 64) + `"}`, ".digest"},
		{"other hash", api.TaskDeploy, dockerTarget, `{"image":"app","digest":"sha512:` + strings.Repeat("a", 64) + `"}`, ".digest"},
		{"artifacts for docker", api.TaskDeploy, dockerTarget, `{` + good + `,"artifacts":[{"name":"a"}]}`, ".artifacts"},
		{"container name", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"containerName":"a b"}}`, ".config.containerName"},
		{"release id with a slash", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"releaseId":"../x"}}`, ".config.releaseId"},
		{"variable with =", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"environment":{"A=B":"c"}}}`, ".config.environment"},
		{"variable without name", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"environment":{"":"c"}}}`, ".config.environment"},
		{"empty pre-hook", api.TaskDeploy, dockerTarget, `{` + good + `,"hooks":{"preDeploy":{"command":[]}}}`, ".hooks.preDeploy.command"},
		{"empty post-hook", api.TaskDeploy, dockerTarget, `{` + good + `,"hooks":{"postDeploy":{}}}`, ".hooks.postDeploy.command"},

		{"http check without URL", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"healthCheck":{"type":"http"}}}`, ".config.healthCheck.url"},
		{"http check of a file", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"healthCheck":{"type":"http","url":"file:///etc/passwd"}}}`, ".config.healthCheck.url"},
		{"tcp check without port", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"healthCheck":{"type":"tcp","address":"db"}}}`, ".config.healthCheck.address"},
		{"command check without command", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"healthCheck":{"type":"command"}}}`, ".config.healthCheck.command"},
		{"unknown check", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"healthCheck":{"type":"ping"}}}`, ".config.healthCheck.type"},
		{"check without type", api.TaskDeploy, dockerTarget, `{` + good + `,"config":{"healthCheck":{"url":"http://x"}}}`, ".config.healthCheck.type"},
		{"image's check on a host", api.TaskHealthCheck, hostTarget, `{"healthCheck":{"type":"docker"}}`, ".healthCheck.type"},
		{"host without a check", api.TaskHealthCheck, hostTarget, `{}`, ".healthCheck"},

		{"image for a host", api.TaskDeploy, hostTarget, `{"image":"app","artifacts":[{"name":"a"}]}`, ".image"},
		{"digest for a host", api.TaskDeploy, hostTarget, `{"digest":"` + some + `","artifacts":[{"name":"a"}]}`, ".image"},
		{"release without files", api.TaskDeploy, hostTarget, `{}`, ".artifacts"},
		{"unit and start", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a"}],"config":{"unit":"a.service","start":"./a"}}`, ".config.unit"},
		{"file without name", api.TaskDeploy, hostTarget, `{"artifacts":[{"content":"YQ=="}]}`, ".artifacts[0].name"},
		{"parent folder", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"ok"},{"name":"../evil"}]}`, ".artifacts[1].name"},
		{"parent folder itself", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":".."}]}`, ".artifacts[0].name"},
		{"the folder itself", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"."}]}`, ".artifacts[0].name"},
		{"hidden parent folder", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a/../../evil"}]}`, ".artifacts[0].name"},
		{"absolute", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"/etc/passwd"}]}`, ".artifacts[0].name"},
		{"backslash", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"..\\evil"}]}`, ".artifacts[0].name"},
		{"null byte", api.TaskDeploy, hostTarget, "{\"artifacts\":[{\"name\":\"a\\u0000\"}]}", ".artifacts[0].name"},
		{"trailing slash", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a/"}]}`, ".artifacts[0].name"},
		{"twice", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a"},{"name":"a"}]}`, ".artifacts[1].name"},
		{"kind of file", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a","type":"virus"}]}`, ".artifacts[0].type"},
		{"permissions", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a","mode":"rwx"}]}`, ".artifacts[0].mode"},
		{"set-user-id twice over", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a","mode":"17777"}]}`, ".artifacts[0].mode"},
		{"url and content", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a","url":"https://x","content":"YQ==","digest":"` + some + `"}]}`, ".artifacts[0].url"},
		{"url of a file", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a","url":"file:///x","digest":"` + some + `"}]}`, ".artifacts[0].url"},
		{"url without digest", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a","url":"https://x"}]}`, ".artifacts[0].digest"},
		{"digest of other content", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a","content":"YQ==","digest":"` + some + `"}]}`, ".artifacts[0].digest"},
		{"content that is no base64", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a","content":"!"}]}`, ""},

		{"server's own field", api.TaskRollback, dockerTarget, `{"deploy":{"image":"x"}}`, ".deploy"},
		{"rollback to a tag", api.TaskRollback, dockerTarget, `{"targetDigest":"v1"}`, ".targetDigest"},
		{"rollback to a path", api.TaskRollback, hostTarget, `{"releaseId":"a/b"}`, ".releaseId"},
		{"no command", api.TaskExecuteCommand, hostTarget, `{}`, ".command"},
		{"empty command", api.TaskExecuteCommand, hostTarget, `{"command":[""]}`, ".command"},
		{"no files", api.TaskUploadFiles, hostTarget, `{}`, ".files"},
		{"file outside", api.TaskUploadFiles, hostTarget, `{"files":[{"name":"../x"}]}`, ".files[0].name"},
		{"sticker without release", api.TaskWriteSticker, hostTarget, `{"sticker":{}}`, ".sticker.releaseId"},
		{"field of another type", api.TaskInspect, dockerTarget, `{"command":["x"]}`, ".command"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := task.Check(c.typ, c.tgt, json.RawMessage(c.raw))
			wantFault(t, err, fault.Invalid, "invalid")
			f := fault.As(err)
			if len(f.Fields) != 1 || f.Fields[0].Location != "body.payload"+c.field {
				t.Fatalf("the fault names %+v, want body.payload%s", f.Fields, c.field)
			}
			if strings.Contains(f.Message, "json:") || len(f.Message) > 400 {
				t.Errorf("not for people: %s", f.Message)
			}
		})
	}
}

func TestGoodPayloads(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		typ  api.TaskType
		tgt  *target.Target
		raw  string
	}{
		{"registry with a port", api.TaskDeploy, dockerTarget, `{"image":"reg.test:5000/team/app","digest":"` + some + `"}`},
		{"image's own check", api.TaskDeploy, dockerTarget, `{"image":"app","digest":"` + some + `","config":{"healthCheck":{"type":"docker"}}}`},
		{"file in a folder", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"bin/a","mode":"0755"},{"name":"..a"}]}`},
		{"content elsewhere", api.TaskDeploy, hostTarget, `{"artifacts":[{"name":"a","url":"https://x/a","digest":"` + some + `"}]}`},
		{"rollback without words", api.TaskRollback, hostTarget, ``},
		{"the container's state", api.TaskHealthCheck, dockerTarget, `{}`},
		{"tcp over IPv6", api.TaskHealthCheck, hostTarget, `{"healthCheck":{"type":"tcp","address":"[::1]:80"}}`},
		{"inspect", api.TaskInspect, dockerTarget, `  `},
		{"sticker", api.TaskWriteSticker, hostTarget, `{"sticker":{"releaseId":"r1"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, _, err := task.Check(c.typ, c.tgt, json.RawMessage(c.raw)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What people may see holds the names of variables and files, and neither
// values nor contents; what the agent gets holds all.
func TestPublicPayloadHidesValuesAndContents(t *testing.T) {
	t.Parallel()
	const value, content = "s3cret value", "file content"
	hook := &api.Hook{Command: []string{"x"}, Environment: map[string]string{"HOOK": value}}
	files := []api.ArtifactReference{{Name: "a.txt", Content: []byte(content)}}
	for _, c := range []struct {
		name    string
		typ     api.TaskType
		tgt     *target.Target
		payload any
		shown   []string
		hidden  []string
	}{
		{"docker", api.TaskDeploy, dockerTarget, api.DeployPayload{
			Image: "app", Digest: some, Config: api.DeployConfig{Environment: map[string]string{"DB": value}},
			Hooks: api.Hooks{PreDeploy: hook, PostDeploy: hook},
		}, []string{`"DB":"***"`, `"HOOK":"***"`, some}, []string{value}},
		{"host", api.TaskDeploy, hostTarget, api.DeployPayload{
			Artifacts: files, Config: api.DeployConfig{Environment: map[string]string{"DB": value}},
		}, []string{`"DB":"***"`, `"a.txt"`, digest(content)}, []string{value, string(encode([]byte(content)))}},
		{"command", api.TaskExecuteCommand, hostTarget, api.CommandPayload{
			Command: []string{"env"}, Environment: map[string]string{"TOKEN": value},
		}, []string{`"TOKEN":"***"`, `"env"`}, []string{value}},
		{
			"upload", api.TaskUploadFiles, hostTarget,
			api.UploadPayload{Files: files},
			[]string{`"a.txt"`, digest(content)},
			[]string{string(encode([]byte(content)))},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			whole, public, err := task.Check(c.typ, c.tgt, encode(c.payload))
			must(t, err)
			for _, want := range c.shown {
				if !strings.Contains(string(public), want) {
					t.Errorf("people do not see %s: %s", want, public)
				}
			}
			for _, secret := range c.hidden {
				if strings.Contains(string(public), secret) {
					t.Errorf("people see %s: %s", secret, public)
				}
				if !strings.Contains(string(whole), secret) {
					t.Errorf("the agent does not get %s: %s", secret, whole)
				}
			}
		})
	}
}

// The stored row shows nothing either, and the agent gets its credentials.
func TestSecretsReachTheAgentAndNobodyElse(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	req := deploy("d", "r1", some)
	req.Credentials = &api.Credentials{Registry: &api.RegistryAuth{Username: "u", Password: "registry password"}}
	k := b.submit(req)
	stored := b.state(k.ID)
	for _, secret := range []string{"registry password", "value of r1"} {
		if strings.Contains(string(stored.Payload), secret) || strings.Contains(string(stored.Sealed), secret) {
			t.Errorf("%q is in the store", secret)
		}
	}
	got := b.next(a)
	if diff := cmp.Diff(req.Credentials, got.Credentials); diff != "" {
		t.Errorf("credentials (-want +got):\n%s", diff)
	}
	if !strings.Contains(string(got.Payload), "value of r1") {
		t.Errorf("the agent's payload lacks its values: %s", got.Payload)
	}
}

func FuzzPayload(f *testing.F) {
	all := []api.TaskType{
		api.TaskDeploy, api.TaskRollback, api.TaskHealthCheck, api.TaskInspect, api.TaskExecuteCommand,
		api.TaskUploadFiles, api.TaskWriteSticker, api.TaskReadSticker,
	}
	for i, raw := range []string{
		`{"image":"app","digest":"` + some + `","config":{"environment":{"A":"b"}}}`, `{"releaseId":"r"}`,
		`{"healthCheck":{"type":"tcp","address":"a:1"}}`, `{}`, `{"command":["a"]}`, `{"files":[{"name":"a","content":"YQ=="}]}`,
		`{"sticker":{"releaseId":"r"}}`, `null`, `{"artifacts":[{"name":"a/../b"}]}`, `[`, `{"a":{}}`,
	} {
		f.Add(uint8(i), true, []byte(raw))
		f.Add(uint8(0), false, []byte(raw))
	}
	f.Fuzz(func(t *testing.T, typ uint8, docker bool, raw []byte) {
		kind, tgt := all[int(typ)%len(all)], hostTarget
		if docker {
			tgt = dockerTarget
		}
		whole, public, err := task.Check(kind, tgt, raw)
		if err != nil {
			if f := fault.As(err); f == nil || f.Kind != fault.Invalid || len(f.Fields) != 1 || !strings.HasPrefix(f.Fields[0].Location, "body.payload") {
				t.Fatalf("%q: %v names no field", raw, err)
			}
			return
		}
		// What was taken is taken again, and means the same.
		again, publicAgain, err := task.Check(kind, tgt, whole)
		if err != nil || string(again) != string(whole) || string(publicAgain) != string(public) {
			t.Fatalf("%s came back as %s, %v", whole, again, err)
		}
		var p api.DeployPayload
		if kind == api.TaskDeploy {
			must(t, json.Unmarshal(public, &p))
			for name, v := range p.Config.Environment {
				if v != "***" {
					t.Fatalf("%s=%s is shown", name, v)
				}
			}
			if slices.ContainsFunc(p.Artifacts, func(a api.ArtifactReference) bool { return len(a.Content) > 0 }) {
				t.Fatal("content is shown")
			}
		}
	})
}
