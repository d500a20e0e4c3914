package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/cli/out"
)

// rolling is a server with two targets and a rollout to them, which each look
// finds one step further.
func rolling(t *testing.T, steps ...api.Rollout) (*fakeAPI, *terminal) {
	t.Helper()
	f, term := selecting(t, api.TaskDeploy, map[string]api.Task{"web-1": {}, "web-2": {}})
	f.answer("POST /api/v1/rollouts/preview", api.RolloutPreview{Targets: []api.RolloutPreviewTarget{
		{ID: "id-web-1", Name: "web-1", Environment: "prod", From: "1.0", FromDigest: digest, FromAt: ago(time.Hour), To: "1.1", ToDigest: digest},
		{ID: "id-web-2", Name: "web-2", Environment: "prod", ToDigest: digest},
	}})
	var n atomic.Int64
	f.answer("GET /api/v1/rollouts/r1", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i := min(int(n.Add(1)), len(steps)-1)
		_ = json.NewEncoder(w).Encode(steps[i])
	}))
	f.answer("POST /api/v1/rollouts", steps[0])
	return f, term
}

// at a state, with its targets at theirs.
func rolloutAt(state api.RolloutState, reason string, targets ...api.RolloutTargetState) api.Rollout {
	r := api.Rollout{ID: "r1", State: state, Reason: reason, Total: len(targets), Counts: map[api.RolloutTargetState]int{}, MaxParallel: 1, MaxFailures: 1, OnFailure: "stop"}
	for i, s := range targets {
		r.Counts[s]++
		x := api.RolloutTarget{ID: fmt.Sprintf("id-web-%d", i+1), Name: fmt.Sprintf("web-%d", i+1), State: s, TaskID: fmt.Sprintf("t%d", i+1)}
		if s == api.RolloutTargetFailed {
			x.Reason = "not healthy\nafter 10s"
		}
		r.Targets = append(r.Targets, x)
	}
	return r
}

const (
	waiting = api.RolloutTargetPending
	atWork  = api.RolloutTargetRunning
	good    = api.RolloutTargetSucceeded
	bad     = api.RolloutTargetFailed
)

func TestDeploySelect(t *testing.T) {
	t.Parallel()
	f, term := rolling(t,
		rolloutAt(api.RolloutRunning, "", atWork, waiting),
		rolloutAt(api.RolloutRunning, "", good, atWork),
		rolloutAt(api.RolloutSucceeded, "", good, good))
	term.must(t, "deploy", "--select", "env=prod", "--yes", "--image", "nginx@"+digest, "--release", "1.1", "--max-parallel", "2", "--max-failures", "3",
		"--pause-after", "1", "--on-failure", "rollback-all", "--strategy", "rolling", "--timeout", "1m", "--idempotency-key", "k")
	want := `TARGET  ENVIRONMENT  NOW                               THEN                     PROBLEM
web-1   prod         1.0 sha256:e3b0c44298fc (1h ago)  1.1 sha256:e3b0c44298fc
web-2   prod         nothing                           sha256:e3b0c44298fc
rollout r1
✓ web-1 succeeded
✓ web-2 succeeded
the rollout succeeded: 2 succeeded
`
	if diff := cmp.Diff(want, term.stderr); diff != "" {
		t.Error(diff)
	}
	got := taken[api.RolloutRequest](t, f, "POST /api/v1/rollouts")
	payload := got.Payload
	got.Payload = nil
	if diff := cmp.Diff(api.RolloutRequest{
		Targets: []string{"id-web-1", "id-web-2"}, Strategy: "rolling", MaxParallel: 2, MaxFailures: 3, PauseAfter: 1,
		OnFailure: api.OnFailureRollbackAll, Timeout: 60, IdempotencyKey: "k",
	}, got); diff != "" || !strings.Contains(string(payload), `"releaseId":"1.1"`) {
		t.Errorf("%s %s", payload, diff)
	}
}

func TestDeploySelectFails(t *testing.T) {
	t.Parallel()
	_, term := rolling(t,
		rolloutAt(api.RolloutRunning, "", atWork, waiting),
		rolloutAt(api.RolloutStopped, "1 target failed; look at their tasks", bad, waiting))
	if code := term.run(t.Context(), "deploy", "--select", "env=prod", "--yes", "--image", "nginx@"+digest); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{
		"✗ web-1 failed: not healthy after 10s (task t1)\n",
		"the rollout is stopped: 1 failed, 1 pending — 1 target failed; look at their tasks\n",
		"`stella rollout resume r1` goes on (--retry-failed), `stella rollout rollback r1` goes back\n",
	} {
		if !strings.Contains(term.stderr, want) {
			t.Errorf("no %q in\n%s", want, term.stderr)
		}
	}
}

// A pause that was asked for is no failure.
func TestDeploySelectPauses(t *testing.T) {
	t.Parallel()
	_, term := rolling(t, rolloutAt(api.RolloutRunning, "", atWork, waiting), rolloutAt(api.RolloutPaused, "paused after 1 target", good, waiting))
	term.must(t, "deploy", "--select", "env=prod", "--yes", "--image", "nginx@"+digest, "--pause-after", "1", "-o", "json")
	if !strings.Contains(term.stderr, "the rollout is paused: 1 succeeded, 1 pending — paused after 1 target\n") {
		t.Error(term.stderr)
	}
	var r api.Rollout
	if err := json.Unmarshal([]byte(term.stdout), &r); err != nil || r.State != api.RolloutPaused {
		t.Errorf("%s: %v", term.stdout, err)
	}
}

func TestDeploySelectRefuses(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"deploy web --max-parallel 2":               "--max-parallel is for a deployment to many targets",
		"deploy web --on-failure stop":              "--on-failure is for a deployment to many targets",
		"deploy --select env=prod --max-failures 0": "--max-failures 0 is no number of targets",
		"deploy --select env=prod --yes --follow":   "--follow is for one target",
		"deploy --select env=prod":                  "2 targets match, and there is nobody to ask",
	} {
		f, term := rolling(t, rolloutAt(api.RolloutSucceeded, "", good, good))
		code := term.run(t.Context(), append(strings.Fields(args), "--image", "nginx@"+digest)...)
		if code != exitUsage || !strings.Contains(term.stderr, want) {
			t.Errorf("%s: exit code %d, %s", args, code, term.stderr)
		}
		if f.bodies["POST /api/v1/rollouts"] != nil {
			t.Errorf("%s: it was begun", args)
		}
	}
	// What cannot be deployed to is seen before anything is begun.
	f, term := rolling(t, rolloutAt(api.RolloutSucceeded, "", good, good))
	f.answer("POST /api/v1/rollouts/preview", api.RolloutPreview{Problems: 1, Targets: []api.RolloutPreviewTarget{{Name: "web-1", Problem: "its agent is revoked"}}})
	code := term.run(t.Context(), "deploy", "--select", "env=prod", "--yes", "--image", "nginx@"+digest)
	if code != exitFailed || !strings.Contains(term.stderr, "its agent is revoked") || !strings.Contains(term.stderr, "1 target cannot be deployed to, so nothing was begun") {
		t.Errorf("exit code %d, %s", code, term.stderr)
	}
	if f.bodies["POST /api/v1/rollouts"] != nil {
		t.Error("it was begun")
	}
}

func TestDeploySelectDetaches(t *testing.T) {
	t.Parallel()
	f, term := rolling(t, rolloutAt(api.RolloutRunning, "", atWork, waiting))
	ctx, cancel := context.WithCancel(t.Context())
	f.answer("GET /api/v1/rollouts/r1", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cancel() }))
	code := term.run(ctx, "deploy", "--select", "env=prod", "--yes", "--image", "nginx@"+digest)
	if code != exitInterrupted || !strings.Contains(term.stderr, "detached: rollout r1 goes on without you") {
		t.Errorf("exit code %d, %s", code, term.stderr)
	}
}

func TestRolloutSteers(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]struct{ request, body, says string }{
		"pause r1":                       {"POST /api/v1/rollouts/r1/pause", "", "rollout r1 is paused: 1 succeeded, 1 pending"},
		"cancel r1":                      {"POST /api/v1/rollouts/r1/cancel", "", "rollout r1 is cancelled"},
		"resume r1 --wait=false":         {"POST /api/v1/rollouts/r1/resume", "{}", "rollout r1 goes on; `stella rollout watch r1` shows it"},
		"resume r1 --retry-failed":       {"POST /api/v1/rollouts/r1/resume", `{"retryFailed":true}`, "the rollout is paused"},
		"rollback r1 --yes":              {"POST /api/v1/rollouts/r1/rollback", "", "the rollout is paused"},
		"rollback r1 --yes --wait=false": {"POST /api/v1/rollouts/r1/rollback", "", "rollout r1 goes back"},
		"watch r1":                       {"GET /api/v1/rollouts/r1", "", "the rollout is paused"},
	} {
		f, term := rolling(t, rolloutAt(api.RolloutPaused, "", good, waiting))
		if strings.HasPrefix(want.request, "POST") {
			f.answer(want.request, rolloutAt(api.RolloutPaused, "", good, waiting))
		}
		term.must(t, append([]string{"rollout"}, strings.Fields(args)...)...)
		if !strings.Contains(term.stderr, want.says) {
			t.Errorf("%s: %s", args, term.stderr)
		}
		if got := string(f.bodies[want.request]); got != want.body && got != "null" {
			t.Errorf("%s: %s was sent", args, got)
		}
	}
}

func TestRolloutShows(t *testing.T) {
	t.Parallel()
	f, term := rolling(t, rolloutAt(api.RolloutStopped, "1 target failed", good, bad))
	r := rolloutAt(api.RolloutStopped, "1 target failed", good, bad)
	r.CreatedAt, r.CreatedBy, r.ReleaseID = at.Add(-time.Hour), "ann", "1.1"
	f.answer("GET /api/v1/rollouts", api.RolloutList{Items: []api.Rollout{r}})
	f.answer("GET /api/v1/rollouts/r1", r)
	term.must(t, "rollout", "list", "--filter", "state=stopped")
	if want := "r1  stopped  1.1      1 succeeded, 1 failed  1h ago  ann  1 target failed"; !strings.Contains(term.stdout, want) {
		t.Error(term.stdout)
	}
	term.must(t, "rollout", "show", "r1")
	for _, want := range []string{"1 at a time, stops at 1 failure, then: stop", "✓  web-1   succeeded", "✗  web-2   failed", "t2    not healthy after 10s"} {
		if !strings.Contains(term.stdout, want) {
			t.Errorf("no %q in\n%s", want, term.stdout)
		}
	}
}

// On a terminal the table is drawn in its place; where it does not fit, what
// matters is shown.
func TestRolloutBoard(t *testing.T) {
	t.Parallel()
	states := []api.RolloutTargetState{good, good, good, bad, atWork, waiting, waiting}
	r := rolloutAt(api.RolloutRunning, "", states...)
	lines := rolloutBoard(&r, out.Style{}, 7, 3*time.Second)
	if len(lines) != 7 || !strings.Contains(lines[5], "and 3 targets more") || !strings.HasPrefix(lines[6], "running: 3 succeeded, 1 failed, 1 running, 2 pending") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	for i, want := range []string{"web-4", "web-5", "web-6", "web-7"} {
		if !strings.Contains(lines[1+i], want) {
			t.Errorf("line %d: %s", 1+i, lines[1+i])
		}
	}
	var screen bytes.Buffer
	b := (&out.IO{Err: &screen, ErrTTY: true}).Board()
	b.Draw([]string{"one", "two"})
	b.Draw([]string{"three"})
	if want := "\rone\x1b[K\n\rtwo\x1b[K\n\x1b[J\x1b[2A\rthree\x1b[K\n\x1b[J"; screen.String() != want {
		t.Errorf("%q", screen.String())
	}
}

// What is large and goes to many targets is pushed once, and does not go with
// each of their tasks.
func TestDeploySelectPushesWhatIsLarge(t *testing.T) {
	t.Parallel()
	f, term := rolling(t, rolloutAt(api.RolloutSucceeded, "", good, good))
	f.answer("GET /api/v1/targets", api.TargetList{Items: []api.Target{{ID: "id-web-1", Name: "web-1", Kind: "host"}, {ID: "id-web-2", Name: "web-2", Kind: "host"}}})
	large := strings.Repeat("x", inlineContent+1)
	stored := f.stores(large, "", 0)
	term.must(t, "deploy", "--select", "env=prod", "--yes", "--file", writeFile(t, term, "large", large), "--file", writeFile(t, term, "small", "y"))
	var p api.DeployPayload
	if err := json.Unmarshal(taken[api.RolloutRequest](t, f, "POST /api/v1/rollouts").Payload, &p); err != nil || len(p.Artifacts) != 2 {
		t.Fatalf("%+v, %v", p, err)
	}
	if a := p.Artifacts[0]; a.URL != api.ArtifactScheme+stored || len(a.Content) > 0 {
		t.Errorf("the large one goes along: %s, %d bytes", a.URL, len(a.Content))
	}
	if a := p.Artifacts[1]; a.URL != "" || string(a.Content) != "y" {
		t.Errorf("the small one: %+v", a)
	}
}
