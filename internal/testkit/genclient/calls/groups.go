package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	. "stella-ops.org/stella/internal/testkit/genclient" //nolint:staticcheck // the whole program is about it
)

func (c *caller) server(ctx context.Context, admin *ClientWithResponses) {
	get(c, func(a *ServerHealthAnswer) *ServerStatus { return a.JSON200 })(200)(admin.ServerHealthWithResponse(ctx))
	get(c, func(a *ServerReadyAnswer) *ServerStatus { return a.JSON200 })(200)(admin.ServerReadyWithResponse(ctx))
	get(c, func(a *ServerRootCertificateAnswer) *[]byte { return &a.Body })(200)(admin.ServerRootCertificateWithResponse(ctx))
	get(c, func(a *ServerCrlAnswer) *[]byte { return &a.Body })(200)(admin.ServerCrlWithResponse(ctx, nil))
	get(c, func(a *ServerMetricsAnswer) *[]byte { return &a.Body })(200)(admin.ServerMetricsWithResponse(ctx))
	get(c, func(a *ServerSigningKeyAnswer) *[]byte { return &a.Body })(200)(admin.ServerSigningKeyWithResponse(ctx))
	get(c, func(a *InstallerLinuxAnswer) *[]byte { return &a.Body })(200)(admin.InstallerLinuxWithResponse(ctx))
	get(c, func(a *InstallerWindowsAnswer) *[]byte { return &a.Body })(200)(admin.InstallerWindowsWithResponse(ctx))
	get(c, func(a *AgentProgramChecksumsAnswer) *[]byte { return &a.Body })(200)(admin.AgentProgramChecksumsWithResponse(ctx))
	get(c, func(a *AgentProgramSignatureAnswer) *[]byte { return &a.Body })(200)(admin.AgentProgramSignatureWithResponse(ctx))
	get(c, func(a *AgentProgramGetAnswer) *[]byte { return &a.Body })(404)(admin.AgentProgramGetWithResponse(ctx, "plan9", "amd64", "stella-agent"))
	get(c, func(a *WhoamiAnswer) *WhoAmI { return a.JSON200 })(200)(admin.WhoamiWithResponse(ctx))
	get(c, func(a *AuditListAnswer) *AuditList { return a.JSON200 })(200)(admin.AuditListWithResponse(ctx, &AuditListParams{Limit: ptr(int64(5))}))
	get(c, func(a *AuditVerifyAnswer) *AuditVerification { return a.JSON200 })(200)(admin.AuditVerifyWithResponse(ctx, nil))
}

// tokens returns the text of a registration token.
func (c *caller) tokens(ctx context.Context, admin *ClientWithResponses) string {
	key := get(c, func(a *ApiTokenCreateAnswer) *APIToken { return a.JSON201 })(201)(admin.ApiTokenCreateWithResponse(ctx, APITokenRequest{Name: "x", Role: "viewer"}))
	get(c, func(a *ApiTokenListAnswer) *APITokenList { return a.JSON200 })(200)(admin.ApiTokenListWithResponse(ctx, &ApiTokenListParams{Sort: ptr("-createdAt")}))
	get(c, func(a *ApiTokenRevokeAnswer) *Deleted { return a.JSON200 })(200)(admin.ApiTokenRevokeWithResponse(ctx, key.Id))
	get(c, func(a *AgentBootstrapAnswer) *Bootstrap { return a.JSON201 })(201)(admin.AgentBootstrapWithResponse(ctx, BootstrapRequest{Name: ptr("bootstrapped")}))
	create := get(c, func(a *RegistrationTokenCreateAnswer) *RegistrationToken { return a.JSON201 })(201)
	unused := create(admin.RegistrationTokenCreateWithResponse(ctx, RegistrationTokenRequest{}))
	get(c, func(a *RegistrationTokenListAnswer) *RegistrationTokenList { return a.JSON200 })(200)(admin.RegistrationTokenListWithResponse(ctx, nil))
	get(c, func(a *RegistrationTokenRevokeAnswer) *Deleted { return a.JSON200 })(200)(admin.RegistrationTokenRevokeWithResponse(ctx, unused.Id))
	made := create(admin.RegistrationTokenCreateWithResponse(ctx, RegistrationTokenRequest{MaxUses: ptr(int64(1))}))
	if made.Token == nil {
		c.failed = append(c.failed, fmt.Errorf("a new token has no text"))
		return ""
	}
	return *made.Token
}

func (c *caller) agents(ctx context.Context, admin *ClientWithResponses) {
	get(c, func(a *AgentListAnswer) *AgentList { return a.JSON200 })(200)(admin.AgentListWithResponse(ctx, &AgentListParams{Filter: ptr(`name = generated`)}))
	get(c, func(a *AgentGetAnswer) *Agent { return a.JSON200 })(200)(admin.AgentGetWithResponse(ctx, "generated"))
	got := get(c, func(a *AgentUpdateAnswer) *Agent { return a.JSON200 })(200)(admin.AgentUpdateWithResponse(ctx, "generated", AgentUpdate{Labels: &map[string]string{"a": "b"}}))
	if got.Labels["a"] != "b" {
		c.failed = append(c.failed, fmt.Errorf("the labels are %v", got.Labels))
	}
	get(c, func(a *AgentDeactivateAnswer) *Agent { return a.JSON200 })(200)(admin.AgentDeactivateWithResponse(ctx, "generated"))
	get(c, func(a *AgentActivateAnswer) *Agent { return a.JSON200 })(200)(admin.AgentActivateWithResponse(ctx, "generated"))
	// What is refused is read as a problem, with its code.
	lost := get(c, func(a *AgentGetAnswer) *Problem { return (*Problem)(a.ApplicationproblemJSON404) })(404)(admin.AgentGetWithResponse(ctx, "nobody"))
	if lost.Code != "agent_not_found" {
		c.failed = append(c.failed, fmt.Errorf("the problem is %+v", lost))
	}
}

func (c *caller) work(ctx context.Context, admin, agent, plain *ClientWithResponses, id string) {
	box := TargetRequest{Name: "box", Kind: "host", Agent: ptr("generated"), Config: &TargetConfig{Directory: ptr("/opt/box")}}
	get(c, func(a *TargetCreateAnswer) *Target { return a.JSON201 })(201)(admin.TargetCreateWithResponse(ctx, box))
	get(c, func(a *TargetGetAnswer) *Target { return a.JSON200 })(200)(admin.TargetGetWithResponse(ctx, "box"))
	get(c, func(a *TargetUpdateAnswer) *Target { return a.JSON200 })(200)(admin.TargetUpdateWithResponse(ctx, "box", box))
	get(c, func(a *TargetListAnswer) *TargetList { return a.JSON200 })(200)(admin.TargetListWithResponse(ctx, nil))

	get(c, func(a *InventoryListAnswer) *Inventory { return a.JSON200 })(200)(admin.InventoryListWithResponse(ctx, nil))

	payload := &TaskRequest_Payload{}
	if err := payload.FromCommandPayload(CommandPayload{Command: &[]string{"uptime"}}); err != nil {
		c.failed = append(c.failed, err)
	}
	task := get(c, func(a *TaskCreateAnswer) *Task { return a.JSON201 })(201)(admin.TaskCreateWithResponse(ctx, TaskRequest{Type: "execute-command", Target: "box", Payload: payload}))
	many := get(c, func(a *TaskCreateManyAnswer) *TaskList { return a.JSON201 })(201)(admin.TaskCreateManyWithResponse(ctx, TasksRequest{Type: "inspect", Selector: TargetSelector{Kind: ptr("host")}}))
	get(c, func(a *TaskListAnswer) *TaskList { return a.JSON200 })(200)(admin.TaskListWithResponse(ctx, &TaskListParams{Target: ptr("box")}))
	beat := get(c, func(a *AgentHeartbeatAnswer) *HeartbeatResponse { return a.JSON200 })(200)(plain.AgentHeartbeatWithResponse(ctx, id, &AgentHeartbeatParams{}, HeartbeatRequest{Status: ptr("online"), MaxTasks: ptr(int64(1))}))
	if len(beat.Tasks) != 1 || len(many.Items) != 1 || beat.Tasks[0].Id != task.Id {
		c.failed = append(c.failed, fmt.Errorf("the heartbeat handed out %+v, and %d tasks were made for many", beat.Tasks, len(many.Items)))
		return
	}
	attempt := beat.Tasks[0].Attempt
	get(c, func(a *AgentCredentialsAnswer) *TaskCredentials { return a.JSON200 })(200)(plain.AgentCredentialsWithResponse(ctx, id, task.Id, CredentialsRequest{Attempt: &attempt}))
	get(c, func(a *AgentLogsAnswer) *LogResponse { return a.JSON200 })(200)(agent.AgentLogsWithResponse(ctx, id, task.Id, LogRequest{
		Attempt: &attempt, FirstSeq: 1, Entries: &[]LogEntry{{At: time.Now().UTC(), Stream: "stdout", Text: "up 1 day"}},
	}))
	done := get(c, func(a *AgentCompleteAnswer) *CompleteResponse { return a.JSON200 })(200)(agent.AgentCompleteWithResponse(ctx, id, task.Id, CompleteRequest{Attempt: &attempt, Success: true}))
	if !done.Acknowledged {
		c.failed = append(c.failed, fmt.Errorf("the result was not taken: %+v", done))
	}
	got := get(c, func(a *TaskGetAnswer) *Task { return a.JSON200 })(200)(admin.TaskGetWithResponse(ctx, task.Id))
	if got.State != "succeeded" {
		c.failed = append(c.failed, fmt.Errorf("the task is %s", got.State))
	}
	log := get(c, func(a *TaskLogsAnswer) *TaskLogs { return a.JSON200 })(200)(admin.TaskLogsWithResponse(ctx, task.Id, nil))
	if len(log.Entries) != 1 {
		c.failed = append(c.failed, fmt.Errorf("the log is %+v", log))
	}
	get(c, func(a *TaskCancelAnswer) *Task { return a.JSON200 })(200)(admin.TaskCancelWithResponse(ctx, many.Items[0].Id))
}

func (c *caller) rollouts(ctx context.Context, admin *ClientWithResponses) {
	req := RolloutRequest{Targets: &[]string{"box"}, Payload: map[string]any{
		"artifacts": []map[string]any{{"name": "a", "content": "eA=="}}, "config": map[string]any{"releaseId": "r1"},
	}}
	preview := get(c, func(a *RolloutPreviewAnswer) *RolloutPreview { return a.JSON200 })(200)(admin.RolloutPreviewWithResponse(ctx, req))
	if len(preview.Targets) != 1 || preview.Problems != 0 {
		c.failed = append(c.failed, fmt.Errorf("the preview is %+v", preview))
	}
	made := get(c, func(a *RolloutCreateAnswer) *Rollout { return a.JSON201 })(201)(admin.RolloutCreateWithResponse(ctx, req))
	get(c, func(a *RolloutListAnswer) *RolloutList { return a.JSON200 })(200)(admin.RolloutListWithResponse(ctx, nil))
	get(c, func(a *RolloutPauseAnswer) *Rollout { return a.JSON200 })(200)(admin.RolloutPauseWithResponse(ctx, made.Id))
	get(c, func(a *RolloutResumeAnswer) *Rollout { return a.JSON200 })(200)(admin.RolloutResumeWithResponse(ctx, made.Id, RolloutResume{}))
	get(c, func(a *RolloutCancelAnswer) *Rollout { return a.JSON200 })(200)(admin.RolloutCancelWithResponse(ctx, made.Id))
	refused := get(c, func(a *RolloutRollbackAnswer) *Problem { return (*Problem)(a.ApplicationproblemJSON409) })(409)(admin.RolloutRollbackWithResponse(ctx, made.Id))
	if refused.Code == "" {
		c.failed = append(c.failed, fmt.Errorf("the refusal is %+v", refused))
	}
	for { // until nothing needs the target any more
		got := get(c, func(a *RolloutGetAnswer) *Rollout { return a.JSON200 })(200)(admin.RolloutGetWithResponse(ctx, made.Id))
		if got.State == "cancelled" || len(c.failed) > 0 {
			return
		}
	}
}

func (c *caller) secrets(ctx context.Context, admin *ClientWithResponses) {
	set := get(c, func(a *SecretSetAnswer) *Secret { return a.JSON200 })(200)(admin.SecretSetWithResponse(ctx, "db", SecretRequest{Value: "hunter22"}))
	list := get(c, func(a *SecretListAnswer) *SecretList { return a.JSON200 })(200)(admin.SecretListWithResponse(ctx, nil))
	if set.Version != 1 || len(list.Items) != 1 {
		c.failed = append(c.failed, fmt.Errorf("the secret is %+v, and the list %+v", set, list))
	}
	get(c, func(a *SecretGetAnswer) *Secret { return a.JSON200 })(200)(admin.SecretGetWithResponse(ctx, "db"))
	get(c, func(a *SecretDeleteAnswer) *Deleted { return a.JSON200 })(200)(admin.SecretDeleteWithResponse(ctx, "db", nil))
}

// artifacts pushes one, and has the agent fetch it for a task.
func (c *caller) artifacts(ctx context.Context, admin, agent, plain *ClientWithResponses, id string) {
	content := []byte("the content")
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	get(c, func(a *ArtifactBeginAnswer) *ArtifactUpload { return a.JSON200 })(200)(admin.ArtifactBeginWithResponse(ctx, ArtifactRequest{Digest: digest, Size: int64(len(content)), Name: ptr("thing")}))
	up := get(c, func(a *ArtifactAppendAnswer) *ArtifactUpload { return a.JSON200 })(200)(admin.ArtifactAppendWithBodyWithResponse(ctx, digest,
		&ArtifactAppendParams{UploadOffset: 0}, "application/octet-stream", bytes.NewReader(content)))
	if !up.Complete {
		c.failed = append(c.failed, fmt.Errorf("the upload is %+v", up))
	}
	get(c, func(a *ArtifactListAnswer) *ArtifactList { return a.JSON200 })(200)(admin.ArtifactListWithResponse(ctx, &ArtifactListParams{Name: ptr("thing")}))
	get(c, func(a *ArtifactGetAnswer) *Artifact { return a.JSON200 })(200)(admin.ArtifactGetWithResponse(ctx, digest))
	whole := get(c, func(a *ArtifactContentAnswer) *[]byte { return &a.Body })(200)(admin.ArtifactContentWithResponse(ctx, digest, nil))

	payload := &TaskRequest_Payload{}
	if err := payload.FromUploadPayload(UploadPayload{Files: &[]ArtifactReference{{Name: "thing", Url: ptr("artifact://" + digest)}}}); err != nil {
		c.failed = append(c.failed, err)
	}
	task := get(c, func(a *TaskCreateAnswer) *Task { return a.JSON201 })(201)(admin.TaskCreateWithResponse(ctx, TaskRequest{Type: "upload-files", Target: "box", Payload: payload}))
	get(c, func(a *AgentHeartbeatAnswer) *HeartbeatResponse { return a.JSON200 })(200)(plain.AgentHeartbeatWithResponse(ctx, id, &AgentHeartbeatParams{}, HeartbeatRequest{Status: ptr("online"), MaxTasks: ptr(int64(1))}))
	part := get(c, func(a *AgentArtifactAnswer) *[]byte { return &a.Body })(206)(agent.AgentArtifactWithResponse(ctx, id, task.Id, digest, &AgentArtifactParams{Range: ptr("bytes=4-")}))
	if string(*whole) != string(content) || string(*part) != string(content[4:]) {
		c.failed = append(c.failed, fmt.Errorf("the content is %q, and a part of it %q", *whole, *part))
	}
	get(c, func(a *AgentCompleteAnswer) *CompleteResponse { return a.JSON200 })(200)(agent.AgentCompleteWithResponse(ctx, id, task.Id, CompleteRequest{Success: true}))
	get(c, func(a *ArtifactDeleteAnswer) *Deleted { return a.JSON200 })(200)(admin.ArtifactDeleteWithResponse(ctx, digest))
}

func (c *caller) commands(ctx context.Context, admin, plain *ClientWithResponses, id string) {
	doctor := CommandRequest{Type: "doctor", Payload: map[string]any{"checks": []string{"disk"}}}
	sent := get(c, func(a *CommandSendAnswer) *Command { return a.JSON202 })(202)(admin.CommandSendWithResponse(ctx, id, doctor))
	get(c, func(a *CommandSendGroupAnswer) *Command { return a.JSON202 })(202)(admin.CommandSendGroupWithResponse(ctx, "web", doctor))
	get(c, func(a *CommandSendAllAnswer) *Command { return a.JSON202 })(202)(admin.CommandSendAllWithResponse(ctx, doctor))
	get(c, func(a *CommandListAnswer) *CommandList { return a.JSON200 })(200)(admin.CommandListWithResponse(ctx, nil))
	get(c, func(a *CommandListAgentAnswer) *AgentCommandList { return a.JSON200 })(200)(plain.CommandListAgentWithResponse(ctx, id, nil))
	get(c, func(a *CommandAckAnswer) *CommandAckResponse { return a.JSON200 })(200)(plain.CommandAckWithResponse(ctx, id, sent.Id, CommandAck{Result: map[string]any{"healthy": true}}))
	got := get(c, func(a *CommandGetAnswer) *CommandProgress { return a.JSON200 })(200)(admin.CommandGetWithResponse(ctx, sent.Id, nil))
	if !got.Done || got.Counts.Acknowledged != 1 {
		c.failed = append(c.failed, fmt.Errorf("the command is %+v", got))
	}
}

func (c *caller) end(ctx context.Context, admin *ClientWithResponses) {
	get(c, func(a *TargetDeleteAnswer) *Deleted { return a.JSON200 })(200)(admin.TargetDeleteWithResponse(ctx, "box"))
	get(c, func(a *AgentRevokeAnswer) *Agent { return a.JSON200 })(200)(admin.AgentRevokeWithResponse(ctx, "generated"))
	get(c, func(a *AgentDeleteAnswer) *Deleted { return a.JSON200 })(200)(admin.AgentDeleteWithResponse(ctx, "generated"))
	get(c, func(a *CaStatusAnswer) *CAStatus { return a.JSON200 })(200)(admin.CaStatusWithResponse(ctx))
	get(c, func(a *CaRotateSigningKeyAnswer) *CAStatus { return a.JSON200 })(200)(admin.CaRotateSigningKeyWithResponse(ctx))
	get(c, func(a *CaPrepareAnswer) *CAStatus { return a.JSON200 })(200)(admin.CaPrepareWithResponse(ctx))
	get(c, func(a *CaActivateAnswer) *CAStatus { return a.JSON200 })(200)(admin.CaActivateWithResponse(ctx))
	get(c, func(a *CaRetireAnswer) *CAStatus { return a.JSON200 })(200)(admin.CaRetireWithResponse(ctx, CARetireRequest{LoseDead: ptr(true)}))
}
