package api

import (
	"encoding/binary"
	"strconv"
)

// How an agent signs its heartbeats. A plain request carries a signature of its
// own (RFC 9421); on a link the hello is signed, and vouches for a key under
// which each heartbeat carries a MAC. docs/protocol.md has it in whole.
const (
	// SignatureTag says of a signature that it is on a heartbeat (RFC 9421, tag).
	SignatureTag = "stella-heartbeat"
	// PurposeHello is a link's hello, PurposeHeartbeat a heartbeat on it, and
	// PurposeHeartbeatKey the key of its heartbeats.
	PurposeHello        = "stella/v1/hello"
	PurposeHeartbeat    = "stella/v1/heartbeat"
	PurposeHeartbeatKey = "stella/v1/heartbeat-key"
	// LinkExporter is the label of what TLS exports for a link (RFC 8446, section
	// 7.5), LinkExporterSize how many bytes of it.
	LinkExporter     = "EXPORTER-stella-link-v1"
	LinkExporterSize = 32
)

// SignedComponents are what the signature of a heartbeat covers, no more and no
// less, in any order. The host is not among them: a proxy that passes TLS on may
// change its name, and the certificate that keyid names is good for one
// installation only.
func SignedComponents() []string {
	return []string{"@method", "@path", "content-digest", "content-type"}
}

// SignatureNonce is the nonce of a heartbeat's signature: the boot and the
// number, in decimal.
func SignatureNonce(boot, number int64) string {
	return strconv.FormatInt(boot, 10) + "." + strconv.FormatInt(number, 10)
}

// SignedHelloText is what the signature of a hello is on: the hello byte for byte
// as it is sent, bound to what TLS exports for its connection and to the agent.
func SignedHelloText(exported []byte, agentID string, hello []byte) []byte {
	out := make([]byte, 0, len(PurposeHello)+1+len(exported)+2+len(agentID)+len(hello))
	out = append(out, PurposeHello...)
	out = append(out, 0)
	out = append(out, exported...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(agentID))) //nolint:gosec // ids are short
	out = append(out, agentID...)
	return append(out, hello...)
}

// HeartbeatKeyInfo is the info of HKDF for a link's key.
func HeartbeatKeyInfo(agentShare, serverShare []byte, agentID string) string {
	return PurposeHeartbeatKey + "\x00" + string(agentShare) + string(serverShare) + agentID
}

// SignedHeartbeatPrefix is what stands before a heartbeat in what its MAC is of.
func SignedHeartbeatPrefix(number int64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(PurposeHeartbeat)+9), PurposeHeartbeat+"\x00"...), uint64(number)) //nolint:gosec // its eight bytes, whatever they are
}

// Codes of the problems that an agent gets about its signatures.
const (
	// CodeHeartbeatUnsigned: a heartbeat or a hello is not signed, and must be.
	CodeHeartbeatUnsigned = "heartbeat_unsigned"
	// CodeSignatureRefused: its signature or MAC is not good.
	CodeSignatureRefused = "signature_refused"
	// CodeNumberRefused: its boot and number are not above what was heard, which
	// the problem's KnownBoot names.
	CodeNumberRefused = "number_refused"
	// CodeSigningRequired: the server registers no agent that does not sign.
	CodeSigningRequired = "signing_required"
)
