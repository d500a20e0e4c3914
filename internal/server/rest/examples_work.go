package rest

import (
	"stella-ops.org/stella/api"
)

func exampleTargetRequest() api.TargetRequest {
	return api.TargetRequest{Name: "shop", Kind: "docker", Agent: "web-1", Environment: "production", Labels: map[string]string{"team": "sales"}}
}

func exampleTarget() api.Target {
	return api.Target{
		ID: exampleTargetID, Name: "shop", Kind: "docker", AgentID: exampleAgentID, AgentName: "web-1", Environment: "production",
		Labels: map[string]string{"team": "sales"}, CreatedAt: at(5, 0), UpdatedAt: at(5, 0),
	}
}

func exampleDeploy() api.DeployPayload {
	return api.DeployPayload{
		Image: exampleImage, Digest: exampleDigest,
		Config: api.DeployConfig{
			ReleaseID: "2026.3.1", Ports: []string{"8080:80"}, Environment: map[string]string{"LOG_LEVEL": "info"},
			HealthCheck: &api.HealthCheck{Type: "http", URL: "http://127.0.0.1:8080/healthz", Timeout: 30},
		},
	}
}

// exampleDeployShown is the deployment as people may see it.
func exampleDeployShown() api.DeployPayload {
	p := exampleDeploy()
	p.Config.Environment = map[string]string{"LOG_LEVEL": "***"}
	return p
}

func exampleTaskRequest() api.TaskRequest {
	return api.TaskRequest{
		Type: api.TaskDeploy, Target: "shop", Payload: raw(exampleDeploy()), Timeout: 600, Priority: api.PriorityHigh,
		Credentials:    &api.Credentials{Registry: &api.RegistryAuth{Username: "robot", Password: "correct horse battery staple"}},
		IdempotencyKey: "pipeline-4711",
	}
}

func exampleTasksRequest() api.TasksRequest {
	return api.TasksRequest{
		Selector: api.TargetSelector{Kind: "docker", Environment: "production", Labels: map[string]string{"team": "sales"}},
		Type:     api.TaskDeploy, Payload: raw(exampleDeploy()), Timeout: 600, Priority: api.PriorityHigh, IdempotencyKey: "pipeline-4711",
	}
}

// exampleTaskQueued is the task as it begins, exampleTask as it ends.
func exampleTaskQueued() api.Task {
	return api.Task{
		ID: exampleTaskID, Type: api.TaskDeploy, TargetID: exampleTargetID, TargetName: "shop", State: api.TaskQueued,
		Priority: api.PriorityHigh, Payload: raw(exampleDeployShown()), Timeout: 600, IdempotencyKey: "pipeline-4711",
		CreatedBy: "ci", CreatedAt: at(30, 0), ExpiresAt: at(90, 0),
	}
}

func exampleTask() api.Task {
	t := exampleTaskQueued()
	t.AgentID, t.AgentName, t.State, t.Attempt = exampleAgentID, "web-1", api.TaskSucceeded, 1
	t.AssignedAt, t.StartedAt, t.FinishedAt, t.Result = atp(30, 2), atp(30, 2), atp(30, 41), exampleResult()
	return t
}

func exampleTaskCancelled() api.Task {
	t := exampleTaskQueued()
	t.State, t.Reason, t.FinishedAt = api.TaskCancelled, "cancelled by ci", atp(30, 1)
	return t
}

func exampleTaskMany() api.Task {
	t := exampleTaskQueued()
	t.IdempotencyKey = "pipeline-4711/" + exampleTargetID
	return t
}

func exampleResult() *api.TaskResult {
	return &api.TaskResult{
		TaskID: exampleTaskID, Attempt: 1, Success: true, StartedAt: at(30, 2), CompletedAt: at(30, 41),
		Outputs: map[string]any{"digest": exampleDigest, "previousDigest": exampleBefore},
		Metrics: api.TaskMetrics{PullDurationMs: 21400, DeployDurationMs: 38900, HealthCheckDurationMs: 6100},
		Phases: []api.PhaseTime{
			{Name: "pull", State: "done", StartedAt: at(30, 2), DurationMs: 21400},
			{Name: "health-check", State: "done", StartedAt: at(30, 34), DurationMs: 6100},
		},
	}
}

func exampleAgentTask() api.AgentTask {
	return api.AgentTask{
		ID: exampleTaskID, AgentID: exampleAgentID, Attempt: 1, Type: api.TaskDeploy, TargetID: exampleTargetID,
		Target: api.AgentTarget{Name: "shop", Kind: "docker", Environment: "production"},
		Sealed: exampleSealed(), Timeout: 600, Priority: api.PriorityHigh,
		IdempotencyKey: "pipeline-4711", AssignedAt: at(30, 2), ExpiresAt: at(40, 2), Token: exampleJWT,
	}
}

func exampleCompleteRequest() api.CompleteRequest {
	return api.CompleteRequest{Success: true, Attempt: 1, Result: exampleResult()}
}

func exampleLogEntries() []api.LogEntry {
	return []api.LogEntry{
		{Seq: 1, At: at(30, 2), Stream: "system", Text: "pull " + exampleImage, Phase: "pull", PhaseState: "started"},
		{Seq: 2, At: at(30, 23), Stream: "stdout", Text: "Status: Downloaded newer image"},
		{Seq: 3, At: at(30, 41), Stream: "system", Text: "shop runs 2026.3.1"},
	}
}

func exampleLogRequest() api.LogRequest {
	return api.LogRequest{Attempt: 1, FirstSeq: 1, Entries: exampleLogEntries()}
}

func exampleCommandRequest() api.CommandRequest {
	return api.CommandRequest{Type: "doctor", Payload: raw(map[string]any{"checks": []string{"disk", "docker"}}), ExpiresIn: 120}
}

// exampleCommandTo is the command right after it was sent.
func exampleCommandTo(scope api.CommandScope, recipient string, recipients int) api.Command {
	return api.Command{
		ID: exampleCommandID, Type: "doctor", Payload: exampleCommandRequest().Payload, Scope: scope, Recipient: recipient, Recipients: recipients,
		Counts: api.CommandCounts{Pending: recipients}, CreatedBy: "ci", CreatedAt: at(35, 0), ExpiresAt: at(37, 0),
	}
}

func exampleCommandDone() api.Command {
	c := exampleCommandTo(api.ScopeGroup, "web", 2)
	c.Counts, c.Done = api.CommandCounts{Acknowledged: 1, Failed: 1}, true
	return c
}

func exampleAck() api.CommandAck {
	return api.CommandAck{Status: api.CommandAcknowledged, Result: raw(map[string]any{"healthy": true, "warnings": 0})}
}

func exampleProgress() api.CommandProgress {
	return api.CommandProgress{Command: exampleCommandDone(), Deliveries: []api.CommandDelivery{
		{
			AgentID: exampleAgentID, AgentName: "web-1", State: api.CommandAcknowledged, DeliveredAt: atp(35, 0), EndedAt: atp(35, 1),
			Result: exampleAck().Result,
		},
		{
			AgentID: "0195a1c1-77aa-7d05-8b44-1e2f3a4b5c6d", AgentName: "web-2", State: api.CommandFailed, DeliveredAt: atp(35, 0),
			EndedAt: atp(35, 2), Error: "the disk of /var/lib/docker is full",
		},
	}}
}

func exampleAgentCommand() api.AgentCommand {
	c := exampleCommandDone()
	return api.AgentCommand{ID: c.ID, Type: c.Type, Payload: c.Payload, CreatedAt: c.CreatedAt, ExpiresAt: c.ExpiresAt}
}

func exampleEvent() api.Event {
	return api.Event{
		ID: 1773480641000000, At: at(30, 41), Kind: api.EventTaskSucceeded, AgentID: exampleAgentID, AgentName: "web-1",
		TaskID: exampleTaskID, TargetID: exampleTargetID, Target: "shop", Type: string(api.TaskDeploy),
	}
}

func exampleInventory() api.InventoryEntry {
	d := exampleDeployShown()
	return api.InventoryEntry{
		TargetID: exampleTargetID, TargetName: "shop", Kind: "docker", Environment: "production", State: api.InventoryDiffers,
		Expected:    &api.InventoryRelease{ReleaseID: d.Config.ReleaseID, Digest: d.Digest, TaskID: exampleTaskID, At: at(31, 0)},
		Observed:    &api.InventoryObservation{ReleaseID: d.Config.ReleaseID, Digest: d.Digest, State: "exited", TaskID: exampleTaskID, At: at(45, 0)},
		Differences: []string{"nothing runs, and " + d.Config.ReleaseID + " should: the container is exited", "there is no sticker"},
	}
}
