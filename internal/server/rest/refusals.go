package rest

import (
	"slices"

	"github.com/danielgtaylor/huma/v2"
)

// refusals are all the ways in which an operation may refuse: the status and
// the code, and when that is. An answer tells more: which one, and what to do
// next.
var refusals = map[string]string{ //nolint:gosec // codes, and no secrets
	"400 malformed":                "the body is missing, or is no JSON",
	"400 protocol_version":         "the protocol version that the caller names is not spoken here",
	"401 unauthenticated":          "there is no API token, or it is unknown, expired or revoked",
	"401 certificate_missing":      "the connection shows no client certificate",
	"401 certificate_expired":      "the client certificate has ended",
	"401 recovery_over":            "the client certificate ended too long ago to get the next one by it",
	"401 certificate_refused":      "the client certificate names no agent",
	"401 token_missing":            "the token that this needs is not there",
	"401 token_refused":            "the token is unknown, used up, expired, revoked, altered, or of another certificate",
	"401 heartbeat_unsigned":       "the heartbeat, or the stream, is not signed, and its agent is heard only by what it signs",
	"401 signature_refused":        "the signature is not by the agent's certificate on this very request",
	"401 number_refused":           "the signature's boot and number are not above what was heard of the agent; knownBoot says which boot was",
	"403 signing_required":         "the server registers only agents that sign their heartbeats",
	"403 role_missing":             "the API token's role does not suffice",
	"403 agent_unknown":            "the client certificate is of an agent that was deleted",
	"403 agent_revoked":            "the agent is revoked",
	"403 certificate_revoked":      "the client certificate was replaced by a newer one",
	"403 not_your_identity":        "the client certificate is of another agent than the request is for",
	"403 token_of_another_task":    "the token is good for another task",
	"403 token_of_another_attempt": "the token is good for another attempt",
	"403 not_a_recipient":          "the command was not sent to this agent",
	"403 foreign_origin":           "the request comes from a page of another site",
	"403 not_your_installation":    "this is the whole installation's, and for people of its first tenant",
	"404 agent_not_found":          "there is no such agent",
	"404 authority_not_found":      "no such certificate authority is trusted",
	"404 group_not_found":          "no agent is in the group",
	"404 target_not_found":         "there is no such target",
	"404 task_not_found":           "there is no such task",
	"404 agent_program_not_found":  "the server has no agent for that system",
	"404 artifact_not_found":       "there is no such artifact; for an agent: none that its task was made with",
	"404 command_not_found":        "there is no such command; it is kept for some days after it ended",
	"404 rollout_not_found":        "there is no such rollout",
	"404 secret_not_found":         "there is no such secret",
	"404 token_not_found":          "there is no such token",
	"408 timeout":                  "the body did not come in time",
	"409 agents_would_be_lost":     "agents have no certificate of the authority that is to stay",
	"409 ca_phase":                 "the rotation of the authority is in another phase",
	"409 identity_in_use":          "another host works with the agent's identity: this one is a copy, or that one is",
	"409 ca_settling":              "other servers may not know of the step before yet",
	"409 signing_key_settling":     "the last new signing key does not sign yet",
	"409 agent_missing":            "no agent serves the target",
	"409 agent_revoked":            "the agent is revoked, and stays so",
	"409 agent_changed":            "the agent was replaced meanwhile; try again",
	"409 capability_missing":       "no agent of the target can do this",
	"409 encryption_key_missing":   "the task has credentials, and the agent registered no encryption key to seal them to",
	"409 identity_exists":          "the agent's id is registered already, and the caller did not prove to be it",
	"409 name_taken":               "the name is taken",
	"409 release_unknown":          "there is no deployment of that version on record to go back to",
	"409 attempt_replaced":         "another agent has taken the task up since",
	"409 rollout_busy":             "tasks of the rollout are not over",
	"409 rollout_state":            "the rollout is in a state in which this cannot be done",
	"409 rollout_unchanged":        "the rollout has changed no target",
	"409 secret_in_use":            "targets refer to the secret",
	"409 target_changed":           "another agent has changed the target since",
	"409 target_busy":              "a task is not over that needs the target",
	"409 task_finished":            "the task is over",
	"409 artifact_in_use":          "a task that is not over, or a deployment that a rollback may repeat, uses the artifact",
	"409 artifact_incomplete":      "the artifact's upload is not complete",
	"409 size_differs":             "the artifact is there, or is being uploaded, with another size",
	"409 wrong_offset":             "the upload does not go on there; the header Upload-Offset says where",
	"413 payload_too_large":        "the payload is larger than 256 KiB",
	"413 result_too_large":         "the result is larger than 256 KiB",
	"413 artifact_too_large":       "the artifact is larger than the server takes",
	"413 too_large":                "the body is larger than this takes",
	"415 unsupported_media_type":   "the body is of a kind that is not read here; send what the operation takes",
	"416 range_not_satisfiable":    "the artifact ends before the range that is asked for; Content-Range says where",
	"422 artifact_missing":         "an artifact that the task needs is not in the store, or not complete",
	"422 digest_mismatch":          "the content has another digest than was announced; nothing of it is kept",
	"422 invalid":                  "something in the request is not as it should be; errors says what and where",
	"429 rate_limited":             "too many requests of this address came without a token or certificate, or with one that is refused; Retry-After says when to try again",
	"426 websocket_expected":       "the request does not ask for a WebSocket",
	"500 internal":                 "something went wrong in the server; its log tells more",
	"503 keyring_unavailable":      "the server cannot read its keys now; its log tells why",
	"503 master_key_outdated":      "the master key was rotated on another server and was not copied to this one",
	"503 not_ready":                "the server cannot do its work now; its log tells why",
	"503 overloaded":               "more waits for the database than the server can hold; try again shortly",
	"503 revocation_not_recorded":  "it is done, but not written down beside the database yet, so that a backup put back now would undo it; the server tries again by itself",
	"503 server_stopping":          "the server is about to stop; try again shortly",
	"503 shutting_down":            "the server is about to stop; try again shortly",
	"503 store_unavailable":        "the database does not answer; try again shortly",
}

// sealing are those of operations that keep something encrypted, or read it.
var sealing = []string{"503 keyring_unavailable", "503 master_key_outdated"}

// usualRefusals are those that follow from who may call an operation and from
// what it takes.
func usualRefusals(who need, op *huma.Operation) []string {
	keys := []string{"429 rate_limited", "500 internal", "503 store_unavailable"}
	person := []string{"401 unauthenticated"}
	agent := []string{
		"400 protocol_version", "401 certificate_missing", "401 certificate_expired", "401 certificate_refused",
		"403 agent_unknown", "403 agent_revoked", "403 certificate_revoked",
	}
	self := append(slices.Clone(agent), "403 not_your_identity")
	switch who {
	case nobody, anybody:
		if op.Metadata[plainKey] != nil {
			return []string{"429 rate_limited"} // it asks nobody for anything else
		}
	case registrant:
		keys = append(append(keys, agent[1:]...), agent[0], "401 token_missing", "401 token_refused")
	case viewer:
		keys = append(keys, person...)
	case operator, admin:
		keys = append(append(keys, person...), "403 role_missing")
	case agentAny:
		keys = append(keys, agent...)
	case agentSelf:
		keys = append(keys, self...)
	case agentRenewing:
		keys = append(keys, "401 recovery_over")
		keys = append(keys, slices.DeleteFunc(self, func(k string) bool { return k == "401 certificate_expired" })...)
	case agentTask:
		keys = append(append(keys, self...), "401 token_missing", "401 token_refused", "403 token_of_another_task")
	case agentOrViewer:
		keys = append(append(keys, self...), person...)
	}
	if op.RequestBody != nil && op.RequestBody.Content[octets] != nil {
		keys = append(keys, "408 timeout", "415 unsupported_media_type")
	} else if op.RequestBody != nil {
		keys = append(keys, "400 malformed", "408 timeout", "413 too_large", "415 unsupported_media_type", "422 invalid")
	}
	if len(op.Parameters) > 0 {
		keys = append(keys, "422 invalid")
	}
	return keys
}
