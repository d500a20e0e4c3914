package rest

import (
	"slices"

	"stella-ops.org/stella/api"
)

// aboutProtocol is about what agents call.
func aboutProtocol() map[string]about {
	return map[string]about{
		"agent.register": {
			tag: "agent-protocol",
			text: "Gives an agent its identity: a client certificate for the key of the certificate request. The agent shows either a registration token, " +
				"or the client certificate that it has, to renew it. What the token binds, the request cannot override.\n\n" +
				"An `id` that the agent brings is its own in the first tenant; in others the agent is called by a hash of it, so that nobody learns which ids another tenant has. Go by the answer's `agentId`.\n\n" +
				"Safe to repeat: the same token with the same key gives the same answer. A token that is no good is refused in one way, whatever is wrong with it.",
			request: exampleRegisterRequest(), answers: "The identity.", answer: exampleRegisterResponse(),
			refuses: []string{
				"400 protocol_version", "401 token_missing", "401 token_refused", "401 certificate_expired", "401 certificate_refused",
				"403 agent_revoked", "403 agent_unknown", "403 certificate_revoked", "403 not_your_identity", "403 signing_required", "409 identity_in_use", "409 identity_exists", "409 name_taken",
			},
		},
		"agent.renew": {
			tag: "agent-protocol",
			text: "Gives the agent its next certificate, for a new key. The agent shows the certificate that it has; one that has ended is good enough for as long as the server allows " +
				"(90 days unless it is set otherwise), so that a host that was off for weeks needs no new token.\n\n" +
				"Safe to repeat: the certificate in use goes on until the next one has been used for the first time, and a minute more. Renew when two thirds of its life are over, at a moment that differs from agent to agent.",
			request: api.CertificateRequest{CSR: exampleRegisterRequest().CSR}, answers: "The certificate.", answer: exampleCertificate(), refuses: []string{"409 identity_in_use"},
		},
		"agent.server-keys": {
			tag: "agent-protocol",
			text: "Gives the keys by which servers sign tasks and commands. An agent that meets a signature by a key that it does not know follows from the one that it knows: " +
				"each key is signed by the one before. What cannot be reached so is not the server's.",
			answers: "The keys.", answer: exampleServerKeys(),
		},
		"agent.token": {
			tag: "agent-protocol",
			text: "Gives a token that is good for all of the agent's task endpoints for an hour. It is bound to the client certificate (RFC 8705) " +
				"and worth nothing without it. A task that is handed out brings a token of its own, so an agent may never need this.",
			answers: "The token.", answer: api.AgentToken{Token: exampleJWT, ExpiresIn: agentTokenLife},
		},
		"agent.heartbeat": {
			tag: "agent-protocol",
			text: "Says that the agent is alive, and how its machine is. For an agent that holds no stream, the answer hands out its tasks and commands: " +
				"a task comes again until it is named in `runningTasks` or completed, so run it once; a command comes once. " +
				"What a task holds is sealed to the key that the agent registered, and each task is signed: `signatures` has one for each, in order.\n\n" +
				"Does not wait for tasks to come. Report every `intervalMs` of the answer. Unknown fields are passed over: an agent may be newer than its server.\n\n" +
				"An agent that registered with `signsHeartbeats` signs each (RFC 9421, with the digest of the body by RFC 9530), by the key of its client certificate. " +
				"The nonce is `boot.number`: how often the agent was started, and how many it has signed since; each is good once, and none after a higher one. " +
				"An agent whose disk was restored learns from `knownBoot` of the refusal `number_refused` which boot to go beyond.",
			request: exampleHeartbeatRequest(), answers: "What there is to do.", answer: exampleHeartbeatResponse(),
			refuses: append(slices.Clone(sealing), "401 heartbeat_unsigned", "401 signature_refused", "401 number_refused", "409 identity_in_use"),
		},
		"agent.complete": {
			tag: "agent-protocol",
			text: "Says how a task ended. Safe to repeat: it counts once. The result of an attempt that is over, because another one has taken its place, " +
				"is answered with `acknowledged: false` and the reason; it need not be sent again. The answer comes when the result is durable.",
			request: exampleCompleteRequest(), answers: "Whether the result counts.", answer: api.CompleteResponse{Acknowledged: true},
			refuses: append(slices.Clone(sealing), "403 token_of_another_attempt", "404 task_not_found"),
		},
		"agent.credentials": {
			tag: "agent-protocol",
			text: "Gives a task's credentials again, sealed to its key, to the agent that has the attempt, or had it last: after a restart it needs them to undo or to finish what it had begun, and it keeps none on disk. " +
				"The attempt may be over by then. It is refused when another agent has taken up the task, or has changed its target since: then the target is to be left alone. Safe to repeat.",
			request: api.CredentialsRequest{Attempt: 1}, answers: "The credentials, sealed.", answer: exampleCredentials(),
			refuses: append(slices.Clone(sealing), "404 task_not_found", "404 target_not_found", "404 secret_not_found", "409 attempt_replaced", "409 encryption_key_missing", "409 target_changed"),
		},
		"agent.logs": {
			tag: "agent-protocol",
			text: "Adds entries to a task's log. `firstSeq` numbers the first of them, so that entries that are sent twice are stored once. " +
				"A log holds 8 MiB; what is beyond is dropped, and said so in the log.",
			request: exampleLogRequest(), answers: "Up to where the log is stored.", answer: api.LogResponse{LastSeq: 3},
			refuses: []string{"403 token_of_another_attempt", "404 task_not_found"},
		},
		"command.ack": {
			tag: "agent-protocol",
			text: "Says how a command ended on the agent; without a body, that all is well. Safe to repeat: the first answer stands, and another one changes nothing. " +
				"The answer comes when what the agent said is durable.",
			request: exampleAck(), answers: "What stands.", answer: api.CommandAckResponse{Acknowledged: true, State: api.CommandAcknowledged},
			refuses: []string{"403 not_a_recipient", "404 command_not_found", "413 result_too_large", "503 overloaded", "503 shutting_down"},
		},
		"agent.events": {
			tag: "agent-protocol",
			text: "Streams the agent's commands as server-sent events: `event` is the command's type, `data` is an AgentCommand as JSON, `id` grows. " +
				"A comment comes every 15 seconds. It ends with the connection, and when the server stops.\n\n" +
				"An agent has one stream of events; a second one ends the first. What was missed does not come again: ask for `GET …/commands?state=pending`. Acknowledge each command.",
			refuses: []string{"503 server_stopping"},
		},
		"agent.task-stream": {
			tag: "agent-protocol",
			text: "Opens the agent's task stream, a WebSocket (RFC 6455) over HTTP/1.1: tasks and commands come down as they are there, logs, results and heartbeats go up. " +
				"An agent that holds it need not ask by heartbeat.\n\n" +
				"An agent that signs its heartbeats begins with a signed hello, and puts a MAC on each heartbeat; the stream in JSON has no form for that, and is closed to it.\n\n" +
				"With the subprotocol `stella.v1.proto` each binary message is one frame of `api/stella/v1/link.proto`. Without a subprotocol each text message is a StreamMessage as JSON; " +
				"`x-messages` lists them, either way, with an example each. Such an agent need not say `hello`. A receiver passes over a type that it does not know. " +
				"The server pings; an agent that does not answer is cut off.\n\n" +
				"The server closes with 1000 when all is well, with 4000 and the HTTP status of the refusal (4401, 4403, 4409 …) and its code as the reason otherwise. " +
				"An agent has one stream; a newer one ends it. The same frames flow over gRPC by `stella.v1.LinkService/Connect` on the same port.",
			refuses: []string{"401 heartbeat_unsigned", "403 foreign_origin", "426 websocket_expected"},
		},
	}
}
