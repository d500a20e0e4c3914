package testkit_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

var tripsOfRollouts = []row{
	{"rollout.preview", func(w *trip) {
		_, err := w.admin.CreateTarget(w.Context(), api.TargetRequest{Name: "one-of-many", Kind: "docker", Agent: "hand", Labels: map[string]string{"tier": "web"}})
		w.ok(err)
		got, err := w.admin.PreviewRollout(w.Context(), manyRequest())
		w.ok(err)
		if len(got.Targets) != 1 || got.Problems != 0 || got.Targets[0].To != "r9" {
			w.Errorf("%+v", got)
		}
		none := manyRequest()
		none.Filter = "label.tier=none"
		_, err = w.admin.PreviewRollout(w.Context(), none)
		w.refused(err, 404, "target_not_found")
	}, ""},
	{"rollout.create", func(w *trip) {
		made, err := w.admin.CreateRollout(w.Context(), manyRequest())
		w.ok(err)
		w.rollout = made.ID
		again, err := w.admin.CreateRollout(w.Context(), manyRequest())
		w.ok(err)
		if again.ID != made.ID || made.Total != 1 || strings.Contains(string(made.Payload), "secret") {
			w.Errorf("%+v, %+v", made, again)
		}
		both := manyRequest()
		both.Targets, both.IdempotencyKey = []string{"one-of-many"}, ""
		_, err = w.admin.CreateRollout(w.Context(), both)
		w.refused(err, 422, "invalid")
	}, ""},
	{"rollout.list", func(w *trip) {
		list, err := w.viewer.RolloutPage(w.Context(), client.RolloutFilter{Filter: "release=r9", Limit: 1})
		w.ok(err)
		if len(list.Items) != 1 || list.Items[0].Payload != nil {
			w.Errorf("%+v", list)
		}
		_, err = w.viewer.RolloutPage(w.Context(), client.RolloutFilter{Filter: "colour=blue"})
		w.refused(err, 422, "invalid")
	}, ""},
	{"rollout.get", func(w *trip) {
		_, err := w.viewer.Rollout(w.Context(), w.rollout)
		w.ok(err)
		_, err = w.viewer.Rollout(w.Context(), "nothing")
		w.refused(err, 404, "rollout_not_found")
	}, ""},
	{"rollout.pause", func(w *trip) {
		got, err := w.admin.PauseRollout(w.Context(), w.rollout)
		w.ok(err)
		if got.State != api.RolloutPaused {
			w.Errorf("%+v", got)
		}
		_, err = w.admin.PauseRollout(w.Context(), w.rollout)
		w.refused(err, 409, "rollout_state")
	}, ""},
	{"rollout.resume", func(w *trip) {
		_, err := w.admin.ResumeRollout(w.Context(), w.rollout, false)
		w.ok(err)
		_, err = w.viewer.ResumeRollout(w.Context(), w.rollout, true)
		w.refused(err, 403, "role_missing")
	}, ""},
	{"rollout.cancel", func(w *trip) {
		_, err := w.admin.CancelRollout(w.Context(), w.rollout)
		w.ok(err)
		_, err = w.admin.CancelRollout(w.Context(), w.rollout)
		w.refused(err, 409, "rollout_state")
	}, ""},
	{"rollout.rollback", func(w *trip) {
		_, err := w.admin.RollbackRollout(w.Context(), "nothing")
		w.refused(err, 404, "rollout_not_found")
		// One that has changed something.
		req := manyRequest()
		req.IdempotencyKey = "second"
		made, err := w.admin.CreateRollout(w.Context(), req)
		w.ok(err)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for made.State != api.RolloutSucceeded {
			<-tick.C
			var out api.HeartbeatResponse
			w.ok(w.call(w.Context(), w.agents, http.MethodPost, w.me("/heartbeat"), nil, api.HeartbeatRequest{MaxTasks: 5}, &out))
			for _, task := range out.Tasks {
				w.ok(w.call(w.Context(), w.agents, http.MethodPost, w.me("/tasks/"+task.ID+"/complete"), w.withToken(), api.CompleteRequest{Success: true, Attempt: task.Attempt}, nil))
			}
			made, err = w.admin.Rollout(w.Context(), made.ID)
			w.ok(err)
		}
		got, err := w.admin.RollbackRollout(w.Context(), made.ID)
		w.ok(err)
		if got.State != api.RolloutRollingBack {
			w.Errorf("%+v", got)
		}
	}, ""},
}

func manyRequest() api.RolloutRequest {
	payload, _ := json.Marshal(api.DeployPayload{
		Image: "reg.test/app", Digest: "sha256:" + strings.Repeat("ab", 32),
		Config: api.DeployConfig{ReleaseID: "r9", Environment: map[string]string{"PASSWORD": "secret"}},
	})
	return api.RolloutRequest{Filter: "label.tier=web", Payload: payload, IdempotencyKey: "many"}
}
