package api

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"time"
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
	// PurposeCommand is a command to one agent: the signature on its CommandText.
	PurposeCommand = "stella/v1/command"
	// PurposeServerKey is the server's next signing key: the signature on its
	// ServerKeyText, by the key before it.
	PurposeServerKey = "stella/v1/server-key"
	// PurposeChecksums is what /download/SHA256SUMS lists: the signature is on its
	// bytes.
	PurposeChecksums = "stella/v1/checksums"
)

// SealInfo is HPKE's info: what a sealed text is bound to, so that it is of no
// use anywhere else. Each part stands behind its length (two bytes, the most
// significant first): the purpose, the task's id, the attempt in decimal, and
// the agent's id.
func SealInfo(purpose, taskID string, attempt int64, agentID string) []byte {
	return parts(purpose, taskID, strconv.FormatInt(attempt, 10), agentID)
}

// CommandText is what the server signs of a command, for each of its recipients
// apart: the recipient's id, the command's id, its type, and its createdAt and
// expiresAt as they stand in its JSON, each behind its length (two bytes, the
// most significant first); behind them the payload's JSON, byte for byte as it
// stands.
func CommandText(agentID string, c *AgentCommand) []byte {
	return append(parts(agentID, c.ID, c.Type, c.CreatedAt.Format(time.RFC3339Nano), c.ExpiresAt.Format(time.RFC3339Nano)), c.Payload...)
}

// ServerKeyText is what a signing key of the server signs of the next one: the
// public key in base64 and when it begins to sign, as they stand in the JSON,
// each behind its length.
func ServerKeyText(publicKey []byte, from time.Time) []byte {
	return parts(base64.StdEncoding.EncodeToString(publicKey), from.Format(time.RFC3339Nano))
}

// parts joins texts so that no two lists of them are the same bytes.
func parts(texts ...string) []byte {
	var out []byte
	for _, t := range texts {
		out = binary.BigEndian.AppendUint16(out, uint16(len(t))) //nolint:gosec // ids and times are short
		out = append(out, t...)
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
