package rest

import (
	"slices"

	"stella-ops.org/stella/api"
)

// aboutWork is about targets and tasks.
func aboutWork() map[string]about {
	const gone = "404 target_not_found"
	cannot := append(slices.Clone(sealing), gone, "409 agent_missing", "409 agent_revoked", "409 capability_missing", "409 encryption_key_missing", "409 release_unknown", "422 artifact_missing")
	return map[string]about{
		"target.create": {
			tag: "targets", text: "Makes a target. Nothing is done on it until a task is. Not idempotent: repeated, the name is taken.",
			request: exampleTargetRequest(), answers: "The target.", answer: exampleTarget(), refuses: []string{"409 name_taken"},
		},
		"target.list": {
			tag: "targets", text: "Lists the targets that match everything that is asked for.",
			answers: "A page of targets.", answer: api.TargetList{Items: []api.Target{exampleTarget()}}, refuses: []string{"404 agent_not_found"},
		},
		"target.get": {
			tag: "targets", text: "Shows one target. What runs on it is told by a task of the type inspect or read-sticker.",
			answers: "The target.", answer: exampleTarget(), refuses: []string{gone},
		},
		"target.update": {
			tag: "targets", text: "Says anew all that is said of a target; what is left out is empty then. Its id and its kind stay. Idempotent. Tasks that have begun are not touched by it.",
			request: exampleTargetRequest(), answers: "The target as it is now.", answer: exampleTarget(), refuses: []string{gone, "409 name_taken"},
		},
		"target.delete": {
			tag: "targets", text: "Forgets a target and its history of deployments; what runs there goes on running. It is refused while a task for it is not over. Repeated, it answers 404.",
			answers: "The target is deleted.", answer: deleted, refuses: []string{gone, "409 target_busy"},
		},
		"inventory.list": {
			tag: "targets",
			text: "Compares, target by target, what should run (what was deployed or rolled back to last, with success), what the version sticker says, and what really ran when the target was looked at last. " +
				"It looks at nothing itself: a task of the type inspect does, and what was not looked at since the last deployment is `unknown`.",
			answers: "A page of targets.", answer: api.Inventory{Items: []api.InventoryEntry{exampleInventory()}}, refuses: []string{"404 agent_not_found"},
		},
		"task.create": {
			tag: "tasks",
			text: "Queues a task for a target; the payload is in the shape of its type (deploy: DeployPayload, rollback: RollbackPayload, health-check: HealthCheckPayload, " +
				"inspect and read-sticker: InspectPayload, execute-command: CommandPayload, upload-files: UploadPayload, write-sticker: StickerPayload). " +
				"It answers when the task is durable, and does not wait for the agent.\n\n" +
				"With an `idempotencyKey` it is safe to repeat: a key that was seen gives the task that was made with it, as it stands now, with 200 instead of 201.",
			request: exampleTaskRequest(), answers: "The task is queued.", answer: exampleTaskQueued(), refuses: cannot,
		},
		"task.create-many": {
			tag: "tasks",
			text: "Queues the same task for every target that matches, 500 at the most. All are checked before the first is queued: one that cannot be served refuses the whole. " +
				"With an `idempotencyKey` no target gets a second task when it is repeated.",
			request: exampleTasksRequest(), answers: "The tasks.", answer: api.TaskList{Items: []api.Task{exampleTaskMany()}}, refuses: cannot,
		},
		"task.list": {
			tag: "tasks", text: "Lists the tasks that match everything that is asked for, the newest first unless told otherwise.",
			answers: "A page of tasks.", answer: api.TaskList{Items: []api.Task{exampleTask()}, Next: exampleCursor},
			refuses: []string{"404 agent_not_found", gone},
		},
		"task.get": {
			tag: "tasks", text: "Shows one task as it stands. To wait until it is over, follow its log.",
			answers: "The task.", answer: exampleTask(), refuses: []string{"404 task_not_found"},
		},
		"task.cancel": {
			tag: "tasks",
			text: "Ends a queued task at once. For a task that an agent has, it asks the agent to stop and undo it, and does not wait: " +
				"the answer has `cancelRequested`, and the task ends as the agent says. Repeated on a task that is over, it answers 409.",
			answers: "The task as it is now.", answer: exampleTaskCancelled(), refuses: []string{"404 task_not_found", "409 task_finished"},
		},
		"task.logs": {
			tag: "tasks",
			text: "Reads a task's log as far as it is. With `follow=true` the entries come as a stream of JSON lines, as they are written, until the task is over; " +
				"an empty line is a sign of life. A follower that lost its connection goes on with `after`, the number of entries that it has seen. " +
				"Within seconds after the API token is revoked or has expired the stream ends, with an entry that says so.",
			answers: "The log.", answer: api.TaskLogs{Entries: exampleLogEntries()}, refuses: []string{"404 task_not_found"},
		},
	}
}

// aboutCommands is about commands, as people see them.
func aboutCommands() map[string]about {
	const text = "It answers when the command is durable, and does not wait for the agents: ask for the command to see what came of it. Not idempotent: repeated, it is another command."
	too := "413 payload_too_large"
	return map[string]about{
		"command.send": {
			tag: "commands", text: "Sends a command to one agent, which may be away: the command waits for it until it expires. " + text,
			request: exampleCommandRequest(), answers: "The command is on its way.", answer: exampleCommandTo(api.ScopeAgent, "web-1", 1),
			refuses: []string{"404 agent_not_found", "409 agent_revoked", "409 agent_changed", too},
		},
		"command.send-group": {
			tag: "commands", text: "Sends a command to the agents of a group that are active and live now. If none is, the command has no recipients, and is done. " + text,
			request: exampleCommandRequest(), answers: "The command is on its way.", answer: exampleCommandTo(api.ScopeGroup, "web", 2),
			refuses: []string{"404 group_not_found", too},
		},
		"command.send-all": {
			tag: "commands", text: "Sends a command to all agents that are active and live now. If none is, the command has no recipients, and is done. " + text,
			request: exampleCommandRequest(), answers: "The command is on its way.", answer: exampleCommandTo(api.ScopeAll, "", 2), refuses: []string{too},
		},
		"command.list": {
			tag: "commands", text: "Lists commands, the newest first unless told otherwise. A command is kept for some days after it ended.",
			answers: "A page of commands.", answer: api.CommandList{Items: []api.Command{exampleCommandDone()}},
		},
		"command.get": {
			tag: "commands", text: "Shows a command with a page of its recipients, in the order of their ids unless told otherwise. Ask again until `done`.",
			answers: "The command and its recipients.", answer: exampleProgress(), refuses: []string{"404 command_not_found"},
		},
		"command.list-agent": {
			tag:     "commands",
			text:    "Lists the commands that were sent to an agent, the newest first unless told otherwise. The agent itself asks so for what it missed (`state=pending`) when its stream was down.",
			answers: "A page of commands.",
			answer:  api.AgentCommandList{Items: []api.AgentCommandItem{{AgentCommand: exampleAgentCommand(), State: api.CommandAcknowledged}}},
			refuses: []string{"404 agent_not_found"},
		},
	}
}
