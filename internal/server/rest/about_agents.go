package rest

import "stella-ops.org/stella/api"

// aboutAgents is about what people do with agents.
func aboutAgents() map[string]about {
	return map[string]about{
		"agent.list": {
			tag: "agents",
			text: "Lists the agents that match everything that is asked for. `status` takes a word of any of the three vocabularies: what the list shows " +
				"(online, degraded, offline), what heartbeats say (live, stale, dead), and what people decided (active, inactive, revoked).",
			answers: "A page of agents.", answer: api.AgentList{Items: []api.Agent{exampleAgent()}, Next: exampleCursor},
		},
		"agent.get": {
			tag: "agents", text: "Shows one agent: its status, its load as of its last heartbeat, and how it is connected.",
			answers: "The agent.", answer: exampleAgent(), refuses: []string{"404 agent_not_found"},
		},
		"agent.update": {
			tag: "agents",
			text: "Replaces an agent's labels, its capabilities, or both; what is left out stays. Idempotent. " +
				"An agent that registers anew says its labels and capabilities anew.",
			request: exampleAgentUpdate(), answers: "The agent as it is now.", answer: exampleAgentUpdated(),
			refuses: []string{"404 agent_not_found"},
		},
		"agent.delete": {
			tag: "agents",
			text: "Deletes an agent and ends its identity: its connections are cut within a second, and its certificate is worth nothing from then on. " +
				"Targets that it reached stay, and can be given another agent. Repeated, it answers 404.",
			answers: "The agent is deleted.", answer: deleted, refuses: []string{"404 agent_not_found", "503 revocation_not_recorded"},
		},
		"agent.activate": {
			tag: "agents", text: "Lets an inactive agent have tasks again. Idempotent. It does not wait for the agent.",
			answers: "The agent as it is now.", answer: exampleAgentIn(api.LifecycleActive),
			refuses: []string{"404 agent_not_found", "409 agent_revoked"},
		},
		"agent.deactivate": {
			tag:     "agents",
			text:    "Gives an agent no more tasks. It stays connected, finishes what it has, and still takes commands. Idempotent. It does not wait for running tasks.",
			answers: "The agent as it is now.", answer: exampleAgentIn(api.LifecycleInactive),
			refuses: []string{"404 agent_not_found", "409 agent_revoked"},
		},
		"agent.revoke": {
			tag: "agents",
			text: "Ends an agent's identity for good: it is refused everywhere, and its connections are cut within a second. Its record stays; " +
				"to let the host register again, delete it. Idempotent.",
			answers: "The agent as it is now.", answer: exampleAgentIn(api.LifecycleRevoked), refuses: []string{"404 agent_not_found", "503 revocation_not_recorded"},
		},
	}
}
