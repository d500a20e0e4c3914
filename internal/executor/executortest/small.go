package executortest

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

func testStickers(t *testing.T, b *bench) {
	if s := b.sticker(); s != nil {
		t.Fatalf("a sticker on a fresh target: %+v", s)
	}
	b.deployed("v1")
	want := api.VersionSticker{
		ReleaseID: "r-9", ReleaseName: "by hand", TargetID: b.TargetID, TargetName: b.Target.Name,
		TaskID: "another", DeployedAt: time.Now().UTC().Truncate(time.Second),
	}
	if res := b.do(api.TaskWriteSticker, api.StickerPayload{Sticker: want}); !res.Success {
		t.Fatalf("write-sticker: %s", res.Error)
	}
	if diff := cmp.Diff(&want, b.sticker(), cmp.AllowUnexported(api.VersionSticker{})); diff != "" {
		t.Error(diff)
	}
	// A sticker that cannot be journaled is not written.
	second := want
	second.ReleaseID = "r-10"
	for failAt := 1; failAt <= 2; failAt++ {
		res := b.run(t.Context(), b.task(api.TaskWriteSticker, api.StickerPayload{Sticker: second}), &journal{t: t, failAt: failAt})
		if res.Success {
			t.Fatal("write-sticker succeeded without a journal")
		}
		if diff := cmp.Diff(&want, b.sticker(), cmp.AllowUnexported(api.VersionSticker{})); diff != "" {
			t.Error(diff)
		}
	}
}

func testInspect(t *testing.T, b *bench) {
	res := b.do(api.TaskInspect, api.InspectPayload{})
	if !res.Success || res.Outputs["running"] != false {
		t.Errorf("inspect of a fresh target: %+v", res)
	}
	b.deployed("v1")
	res = b.do(api.TaskInspect, api.InspectPayload{})
	if !res.Success || res.Outputs["running"] != true || res.Outputs["releaseId"] != "v1" {
		t.Errorf("inspect: %+v", res)
	}
}

func testHealthCheck(t *testing.T, b *bench) {
	b.deployed("v1")
	hc := *b.Deploy("v1").Config.HealthCheck
	if res := b.do(api.TaskHealthCheck, api.HealthCheckPayload{HealthCheck: &hc}); !res.Success {
		t.Errorf("health-check: %s", res.Error)
	}
	if res := b.do(api.TaskHealthCheck, api.HealthCheckPayload{}); !res.Success {
		t.Errorf("health-check of its own: %s", res.Error)
	}
	hc.ExpectedStatus, hc.Timeout = 418, 1
	b.fails(b.do(api.TaskHealthCheck, api.HealthCheckPayload{HealthCheck: &hc}), api.ErrHealthCheckFailed, "v1")
}

func testCommand(t *testing.T, b *bench) {
	b.deployed("v1")
	res := b.do(api.TaskExecuteCommand, api.CommandPayload{Command: b.Say("hello there")})
	if !res.Success || *convert[int](t, res.Outputs["exitCode"]) != 0 {
		t.Errorf("say: %+v", res)
	}
	if !strings.Contains(b.log.String(), "stdout: hello there") {
		t.Errorf("the output is not in the log:\n%s", b.log)
	}
	res = b.do(api.TaskExecuteCommand, api.CommandPayload{Command: b.Exit(3)})
	b.fails(res, api.ErrCommandFailed, "v1")
	if *convert[int](t, res.Outputs["exitCode"]) != 3 {
		t.Errorf("outputs %v", res.Outputs)
	}
	res = b.do(api.TaskExecuteCommand, api.CommandPayload{Command: []string{"/no/such/program"}})
	b.fails(res, api.ErrCommandFailed, "v1")

	// An agent that is killed during a command does not run it again.
	task := b.task(api.TaskExecuteCommand, api.CommandPayload{Command: b.Say("again")})
	j := &journal{t: t, stopAt: 1, after: true}
	if res := b.killed(task, j); res != nil {
		t.Fatal("the command did not write the journal")
	}
	res = b.recovered(j.last, &journal{t: t})
	b.fails(res, api.ErrAgentRestarted, "v1")
	if strings.Contains(b.log.String(), "stdout: again") {
		t.Error("the command was run by the recovery")
	}
}

func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func testUpload(t *testing.T, b *bench) {
	b.deployed("v1")
	file := func(name, content string) api.ArtifactReference {
		return api.ArtifactReference{Name: b.UploadDir + name, Content: []byte(content), Digest: digest(content)}
	}
	res := b.do(api.TaskUploadFiles, api.UploadPayload{Files: []api.ArtifactReference{file("a.txt", "one"), file("sub/b.txt", "two")}})
	if !res.Success {
		t.Fatalf("upload: %s: %s", res.ErrorType, res.Error)
	}
	if a, c := b.Read("a.txt"), b.Read("sub/b.txt"); a != "one" || c != "two" {
		t.Errorf("read back %q and %q", a, c)
	}
	wrong := file("a.txt", "three")
	wrong.Digest = digest("four")
	res = b.do(api.TaskUploadFiles, api.UploadPayload{Files: []api.ArtifactReference{file("sub/b.txt", "five"), wrong}})
	b.fails(res, api.ErrDigestMismatch, "v1")
	if a, c := b.Read("a.txt"), b.Read("sub/b.txt"); a != "one" || c != "two" {
		t.Errorf("a failed upload left %q and %q", a, c)
	}
	for _, name := range []string{"../evil", "/etc/evil", "a/../../evil", "..", "", "a//b", `a\..\b`, "./x"} {
		res := b.do(api.TaskUploadFiles, api.UploadPayload{Files: []api.ArtifactReference{{Name: name, Content: []byte("x")}}})
		b.fails(res, api.ErrInvalidPayload, "v1")
	}
	everyKill(t, func(j *journal, name string) bool {
		task := b.task(api.TaskUploadFiles, api.UploadPayload{Files: []api.ArtifactReference{file("a.txt", "six"), file("new.txt", "six")}})
		res := b.killed(task, j)
		over := res != nil
		if !over && j.last != nil {
			res = b.recovered(j.last, &journal{t: t})
			b.check(task, res)
		}
		switch a, c := b.Read("a.txt"), b.Read("new.txt"); {
		case a == "one" && c == "" && !over:
		case a == "six" && c == "six" && (b.UploadStays || res != nil && res.Success):
			return true
		default:
			t.Fatalf("%s: %q and %q", name, a, c)
		}
		return over
	})
}

func testInvalid(t *testing.T, b *bench) {
	b.deployed("v1")
	task := b.task(api.TaskDeploy, nil)
	task.Payload = []byte(`{"config": 3}`)
	b.fails(b.run(t.Context(), task, &journal{t: t}), api.ErrInvalidPayload, "v1")
	b.fails(b.do("make-coffee", struct{}{}), api.ErrUnsupported, "v1")
	b.fails(b.do(api.TaskExecuteCommand, api.CommandPayload{}), api.ErrInvalidPayload, "v1")
	p := b.payload("v2")
	p.Config.HealthCheck = &api.HealthCheck{Type: "prayer"}
	b.fails(b.do(api.TaskDeploy, p), api.ErrInvalidPayload, "v1")
	p = b.payload("v2")
	p.Hooks.PreDeploy = &api.Hook{}
	b.fails(b.do(api.TaskDeploy, p), api.ErrInvalidPayload, "v1")
}
