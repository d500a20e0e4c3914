package api

import (
	"encoding/binary"
	"encoding/json"
	"strconv"
)

// Sealed is a text that only one agent can read: by RFC 9180 (HPKE), in its
// base mode, with HKDF-SHA256 and AES-256-GCM, sealed to the public key that the
// agent registered. The key's length says the KEM: 1216 bytes are
// MLKEM768-X25519, 32 bytes are DHKEM(X25519, HKDF-SHA256).
type Sealed struct {
	KeyID string `json:"keyId" doc:"Which of the agent's keys opens it: the first 8 bytes of the public key's SHA-256, in hex."`
	// Data is the encapsulated key, of 1120 or 32 bytes, and then the ciphertext.
	Data []byte `json:"data" doc:"The KEM's encapsulated key (1120 or 32 bytes), and then the ciphertext, in base64."`
}

// SealedTask is what a task's Sealed holds, as JSON.
type SealedTask struct {
	Payload     json.RawMessage `json:"payload"`
	Credentials *Credentials    `json:"credentials,omitempty"`
}

// What a text is sealed for, and what a signature is on.
const (
	// PurposeTask is a task: its Sealed, and the signature on its JSON.
	PurposeTask = "stella/v1/task"
	// PurposeCredentials is a task's credentials that are given again.
	PurposeCredentials = "stella/v1/credentials" //nolint:gosec // a word, and no secret
)

// SealInfo is HPKE's info: what a sealed text is bound to, so that it is of no
// use anywhere else. Each part stands behind its length (two bytes, the most
// significant first): the purpose, the task's id, the attempt in decimal, and
// the agent's id.
func SealInfo(purpose, taskID string, attempt int64, agentID string) []byte {
	var out []byte
	for _, part := range []string{purpose, taskID, strconv.FormatInt(attempt, 10), agentID} {
		out = binary.BigEndian.AppendUint16(out, uint16(len(part))) //nolint:gosec // ids are short
		out = append(out, part...)
	}
	return out
}

// TaskCredentials is the answer of POST
// /api/v1/agents/{id}/tasks/{taskId}/credentials.
type TaskCredentials struct {
	Attempt int64 `json:"attempt" doc:"The attempt that they are for."`
	// Sealed is left out when the task has no credentials and the agent no key.
	Sealed *Sealed `json:"sealed,omitempty" doc:"The credentials, as JSON, sealed to the agent's key; left out when there are none."`
	// Signature is on SealInfo(PurposeCredentials, …) and Sealed.Data behind it.
	Signature []byte `json:"signature,omitempty" doc:"The server's Ed25519 signature on what the sealed text is bound to and the text behind it; see the protocol's page."`
}
