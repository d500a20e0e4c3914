package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/cli/out"
)

// errorWords says a result's error type as a person would.
var errorWords = map[string]string{
	api.ErrDigestMismatch:    "the content is not what its digest says",
	api.ErrPullFailed:        "the image could not be pulled",
	api.ErrPreHookFailed:     "the hook before the deployment failed",
	api.ErrPostHookFailed:    "the hook after the deployment failed",
	api.ErrSwitchFailed:      "the new version could not be put in place",
	api.ErrHealthCheckFailed: "the health check did not pass",
	api.ErrRollbackFailed:    "it failed, and so did going back to the previous version",
	api.ErrNothingToRestore:  "there is nothing to go back to",
	api.ErrCommandFailed:     "the command failed",
	api.ErrTimeout:           "it took longer than it may",
	api.ErrCancelled:         "it was cancelled",
	api.ErrAgentLost:         "the agent was lost",
	api.ErrAgentRestarted:    "the agent was restarted",
	api.ErrUnsupported:       "the target cannot do this",
	api.ErrInvalidPayload:    "the request does not fit the target",
	api.ErrTargetUnreachable: "the target cannot be reached",
	api.ErrInternal:          "something went wrong on the agent",
}

// what a task does, for sentences.
var taskWords = map[api.TaskType]string{
	api.TaskDeploy:         "deployment to",
	api.TaskRollback:       "rollback of",
	api.TaskHealthCheck:    "health check of",
	api.TaskInspect:        "look at",
	api.TaskExecuteCommand: "command on",
	api.TaskUploadFiles:    "upload to",
	api.TaskWriteSticker:   "sticker on",
	api.TaskReadSticker:    "sticker of",
}

func taskPhrase(t *api.Task) string {
	word := taskWords[t.Type]
	if word == "" {
		word = string(t.Type) + " on"
	}
	return word + " " + t.TargetName
}

// summary tells how a task ended, in lines for stderr: what happened, the last
// lines of what was deployed, what runs now, and what to do next.
func summary(t *api.Task, lastLines []string, style out.Style) []string {
	if t.State == api.TaskSucceeded {
		return successLines(t, style)
	}
	lines := []string{style.Bad("✗") + " " + style.Bold(failure(t))}
	if text := failureText(t); text != "" {
		lines = append(lines, "  "+out.Plain(text))
	}
	if deploys(t) {
		if len(lastLines) > 0 {
			lines = append(lines, "  its last lines were:")
			for _, l := range lastLines {
				lines = append(lines, "  "+style.Faint("│")+" "+out.Plain(l))
			}
		}
		lines = append(lines, "  "+whatRuns(t, style))
	}
	if next := nextStep(t); next != "" {
		lines = append(lines, style.Faint("next:")+" "+next)
	}
	return lines
}

func successLines(t *api.Task, style out.Style) []string {
	took := ""
	if d := duration(t); d > 0 {
		took = " " + style.Faint("("+out.Seconds(d)+")")
	}
	text := taskPhrase(t) + " succeeded"
	if deploys(t) {
		text = t.TargetName + " runs " + release(t)
	}
	return append([]string{style.Good("✓") + " " + style.Bold(text) + took}, warningLines(t, style)...)
}

func warningLines(t *api.Task, style out.Style) (lines []string) {
	if t.Result == nil {
		return nil
	}
	warnings, _ := t.Result.Outputs["warnings"].([]any)
	for _, w := range warnings {
		lines = append(lines, style.Warn("warning:")+" "+out.Plain(fmt.Sprint(w)))
	}
	return lines
}

// lineOf is how a task among several ended, in one line; its warnings follow
// in theirs.
func lineOf(t *api.Task, style out.Style) []string {
	if t.State == api.TaskSucceeded {
		line := style.Good("✓") + " " + t.TargetName
		if d := duration(t); d > 0 {
			line += " " + style.Faint(out.Seconds(d))
		}
		return append([]string{line}, warningLines(t, style)...)
	}
	return []string{style.Bad("✗") + " " + t.TargetName + " " + reason(t) + " " + style.Faint("(task "+t.ID+")")}
}

// reason is an outcome with all that is known of why, in one line.
func reason(t *api.Task) string {
	if code, ok := ownExitCode(t); ok && t.Type == api.TaskExecuteCommand {
		return fmt.Sprintf("exited with %d", code)
	}
	text := outcome(t)
	if t.Result != nil && t.Result.RolledBack {
		text += ", rolled back"
	}
	if why := failureText(t); why != "" {
		text += ": " + out.Plain(oneLine(why))
	}
	return text
}

func deploys(t *api.Task) bool { return t.Type == api.TaskDeploy || t.Type == api.TaskRollback }

// duration is how long the work took, without the wait for an agent.
func duration(t *api.Task) time.Duration {
	from := t.StartedAt
	if from == nil {
		from = t.AssignedAt
	}
	if from == nil || t.FinishedAt == nil {
		return 0
	}
	return t.FinishedAt.Sub(*from)
}

// release names what was deployed: by the sticker that the agent wrote, or
// else by what was asked for.
func release(t *api.Task) string {
	s := stickerOf(t)
	if s == nil {
		s = &api.VersionSticker{}
		var p api.DeployPayload
		if t.Type == api.TaskDeploy && json.Unmarshal(t.Payload, &p) == nil {
			s.Image, s.Digest, s.ReleaseID, s.ReleaseName = p.Image, p.Digest, p.Config.ReleaseID, p.Config.ReleaseName
		}
	}
	image := ""
	if s.Image != "" || s.Digest != "" {
		image = strings.TrimPrefix(s.Image+"@"+out.ShortDigest(s.Digest), "@")
	}
	name := first(s.ReleaseName, s.ReleaseID)
	switch {
	case image != "" && name != "" && name != t.ID:
		return image + ", release " + out.Plain(name)
	case image != "":
		return image
	case name != "":
		return "release " + out.Plain(name)
	}
	return "the new version"
}

// stickerOf reads the sticker among a result's outputs, or returns nil.
func stickerOf(t *api.Task) *api.VersionSticker {
	if t.Result == nil || t.Result.Outputs["sticker"] == nil {
		return nil
	}
	raw, err := json.Marshal(t.Result.Outputs["sticker"])
	if err != nil {
		return nil
	}
	s := &api.VersionSticker{}
	if json.Unmarshal(raw, s) != nil {
		return nil
	}
	return s
}

func failure(t *api.Task) string { return taskPhrase(t) + " " + outcome(t) }

// outcome says how a task that did not succeed ended, behind the name of what
// did not.
func outcome(t *api.Task) string {
	switch t.State {
	case api.TaskExpired:
		return "expired: no agent took it in time"
	case api.TaskCancelled:
		return "was cancelled"
	case api.TaskQueued, api.TaskAssigned, api.TaskRunning, api.TaskSucceeded, api.TaskFailed:
	}
	if t.Result != nil {
		if words := errorWords[t.Result.ErrorType]; words != "" {
			return "failed: " + words
		}
	}
	return "failed"
}

func failureText(t *api.Task) string {
	if t.Result != nil && t.Result.Error != "" {
		return t.Result.Error
	}
	return t.Reason
}

// whatRuns says what a failed deployment has left.
func whatRuns(t *api.Task, style out.Style) string {
	name := t.TargetName
	switch {
	case t.Result == nil && t.AgentID == "":
		return "nothing on " + name + " was touched"
	case t.Result == nil:
		return style.Warn("what runs on " + name + " now is not known")
	case t.Result.ErrorType == api.ErrRollbackFailed:
		return style.Bad("what runs on " + name + " now is uncertain: it needs a look by hand")
	case t.Result.RolledBack:
		return style.Good(name + " runs again what it ran before")
	case t.Result.ErrorType == api.ErrAgentLost:
		return style.Warn("what runs on " + name + " now is not known until its agent is back")
	}
	for _, p := range t.Result.Phases {
		if p.Name == "switch" {
			return style.Warn("nothing runs on " + name + ": it ran nothing before that could be brought back")
		}
	}
	return name + " runs what it ran before: it was not touched"
}

func nextStep(t *api.Task) string {
	switch t.State {
	case api.TaskExpired:
		return "`stella agent list` shows which agents are there; then do it again"
	case api.TaskCancelled:
		return ""
	case api.TaskQueued, api.TaskAssigned, api.TaskRunning, api.TaskSucceeded, api.TaskFailed:
	}
	if t.Result == nil {
		return "`stella task show " + t.ID + "` tells more"
	}
	logs := "`stella task logs " + t.ID + "` shows the whole log"
	switch t.Result.ErrorType {
	case api.ErrPullFailed:
		return "check the image's name; a registry that asks for a login needs --registry-user"
	case api.ErrDigestMismatch:
		return "find out who changed the content, then deploy the digest that you mean"
	case api.ErrHealthCheckFailed:
		if !deploys(t) {
			return "`stella inspect " + t.TargetName + "` shows what runs there"
		}
		return logs + "; mend the version, or its health check, and deploy again"
	case api.ErrRollbackFailed:
		return "`stella inspect " + t.TargetName + "` shows what is there; " + logs
	case api.ErrTimeout:
		return "give it longer by --timeout, or find out in the log what hangs: " + logs
	case api.ErrAgentLost, api.ErrAgentRestarted, api.ErrTargetUnreachable:
		return "`stella agent status " + first(t.AgentName, t.AgentID) + "` shows how the agent is; then do it again"
	case api.ErrNothingToRestore:
		return "deploy the version that you want with `stella deploy " + t.TargetName + "`"
	case api.ErrInvalidPayload, api.ErrUnsupported, api.ErrCancelled:
		return ""
	}
	if t.Result.Retriable {
		return "the same again may well work; " + logs
	}
	return logs
}
