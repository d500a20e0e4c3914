package rest

import (
	"slices"

	"stella-ops.org/stella/api"
)

// aboutRollouts is about deployments to many targets.
func aboutRollouts() map[string]about {
	const gone, state = "404 rollout_not_found", "409 rollout_state"
	cannot := append(slices.Clone(sealing), "404 target_not_found", "409 agent_missing", "409 agent_revoked", "409 capability_missing", "409 encryption_key_missing")
	return map[string]about{
		"rollout.preview": {
			tag: "rollouts",
			text: "Says what a rollout would do, target by target: which release would replace which, and what stands in its way. It does nothing. " +
				"Give the ids that it answers to `POST /api/v1/rollouts` as `targets`, and it will be these.",
			request: exampleRolloutRequest(), answers: "What would happen.", answer: exampleRolloutPreview(), refuses: []string{"404 target_not_found"},
		},
		"rollout.create": {
			tag: "rollouts",
			text: "Begins to deploy to many targets, 500 at the most and all of one kind. All are checked before the first is touched: one that cannot be served refuses the whole. " +
				"It answers when the rollout is durable, and does not wait; it goes on whatever becomes of who asked, and of the server.\n\n" +
				"With an `idempotencyKey` it is safe to repeat: a key that was seen gives the rollout that was made with it, as it stands now, with 200 instead of 201.",
			request: exampleRolloutRequest(), answers: "The rollout has begun.", answer: exampleRollout(), refuses: cannot,
		},
		"rollout.list": {
			tag: "rollouts", text: "Lists rollouts without their payloads and targets, the newest first unless told otherwise.",
			answers: "A page of rollouts.", answer: api.RolloutList{Items: []api.Rollout{exampleRolloutListed()}},
		},
		"rollout.get": {
			tag: "rollouts", text: "Shows one rollout with its targets as they stand.",
			answers: "The rollout.", answer: exampleRollout(), refuses: []string{gone},
		},
		"rollout.pause": {
			tag: "rollouts", text: "Has a running rollout begin no other target. The tasks that were begun go on. Repeated, it answers 409.",
			answers: "The rollout as it is now.", answer: exampleRolloutPaused(), refuses: []string{gone, state},
		},
		"rollout.resume": {
			tag: "rollouts",
			text: "Has a paused or stopped rollout go on. The failures until now count no more towards its limit. With `retryFailed` the targets that failed have another turn, " +
				"also those of a rollout that has ended as failed. Repeated, it answers 409.",
			request: api.RolloutResume{RetryFailed: true}, answers: "The rollout as it is now.", answer: exampleRollout(), refuses: []string{gone, state},
		},
		"rollout.cancel": {
			tag: "rollouts",
			text: "Ends a rollout: no other target is begun, and the tasks that were begun are asked to stop and undo what they did. It does not wait for them. " +
				"What has succeeded stays; to bring it back, roll the rollout back. Repeated, it answers 409.",
			answers: "The rollout as it is now.", answer: exampleRolloutCancelling(), refuses: []string{gone, state},
		},
		"rollout.rollback": {
			tag: "rollouts",
			text: "Brings the targets that a rollout has changed back to the release that each ran before, the last one first. " +
				"A target that was changed since is left alone, and the rollout says so. It is refused while tasks of the rollout are not over, and when nothing was changed.",
			answers: "The rollout as it is now.", answer: exampleRolloutGoingBack(), refuses: []string{gone, state, "409 rollout_busy", "409 rollout_unchanged"},
		},
	}
}

const exampleRolloutID = "019b3a60-2f00-7c5d-9b1e-5d0f6a7b8c9d"

func exampleRolloutRequest() api.RolloutRequest {
	return api.RolloutRequest{
		Filter: "environment=production and label.team=sales", Payload: raw(exampleDeploy()), MaxParallel: 5, MaxFailures: 1, PauseAfter: 1,
		OnFailure: api.OnFailureRollbackFailed, Timeout: 600, IdempotencyKey: "pipeline-4711",
	}
}

func exampleRolloutPreview() api.RolloutPreview {
	d := exampleDeploy()
	return api.RolloutPreview{Targets: []api.RolloutPreviewTarget{
		{
			ID: exampleTargetID, Name: "shop", Kind: "docker", Environment: "production", From: "2026.2.9", FromDigest: d.Digest, FromAt: atp(0, 0),
			To: d.Config.ReleaseID, ToDigest: d.Digest,
		},
	}}
}

func exampleRollout() api.Rollout {
	d := exampleDeployShown()
	return api.Rollout{
		ID: exampleRolloutID, State: api.RolloutRunning, ReleaseID: d.Config.ReleaseID, ReleaseName: d.Config.ReleaseName,
		MaxParallel: 5, MaxFailures: 1, PauseAfter: 1, OnFailure: api.OnFailureRollbackFailed,
		Counts: map[api.RolloutTargetState]int{api.RolloutTargetRunning: 1}, Total: 1, CreatedBy: "ci", CreatedAt: at(30, 0), UpdatedAt: at(30, 1),
		Payload: raw(d),
		Targets: []api.RolloutTarget{{
			ID: exampleTargetID, Name: "shop", State: api.RolloutTargetRunning, From: "2026.2.9", TaskID: exampleTaskID, StartedAt: atp(30, 1),
		}},
	}
}

func exampleRolloutListed() api.Rollout {
	r := exampleRollout()
	r.Payload, r.Targets = nil, nil
	return r
}

func exampleRolloutIn(state api.RolloutState, reason string) api.Rollout {
	r := exampleRollout()
	r.State, r.Reason, r.UpdatedAt = state, reason, at(31, 0)
	return r
}

func exampleRolloutPaused() api.Rollout {
	return exampleRolloutIn(api.RolloutPaused, "paused by ci")
}

func exampleRolloutCancelling() api.Rollout {
	return exampleRolloutIn(api.RolloutCancelling, "cancelled by ci")
}

func exampleRolloutGoingBack() api.Rollout {
	return exampleRolloutIn(api.RolloutRollingBack, "rolled back by ci")
}
