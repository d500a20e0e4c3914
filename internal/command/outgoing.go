package command

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"stella-ops.org/stella/api"
)

// Signer signs what goes to agents.
type Signer interface {
	// Sign signs a message of a domain.
	Sign(domain string, message []byte) []byte
}

// Outgoing is a command on its way to its recipients: written once for all,
// and signed for each apart, so that what one agent got is of no use to
// another. It does not change, and is safe for concurrent use.
type Outgoing struct {
	ID, TenantID, Type string

	wire   api.AgentCommand
	json   []byte // of wire, in one line
	signer Signer
}

// Outgoing prepares a command for its recipients.
func (s *Service) Outgoing(c *Command) (*Outgoing, error) {
	data, err := encode(c.ForAgent())
	if err != nil {
		return nil, fmt.Errorf("encode command %s: %w", c.ID, err)
	}
	o := &Outgoing{ID: c.ID, TenantID: c.TenantID, Type: c.Type, json: data, signer: s.signer}
	// The payload is signed as it stands there, which is not how it came.
	if err := json.Unmarshal(data, &o.wire); err != nil {
		return nil, fmt.Errorf("encode command %s: %w", c.ID, err)
	}
	return o, nil
}

// For returns the command as one agent gets it.
func (o *Outgoing) For(agentID string) api.AgentCommand {
	c := o.wire
	c.Signature = o.sign(agentID)
	return c
}

// JSON is For, in one line.
func (o *Outgoing) JSON(agentID string) []byte {
	const before, after = `,"signature":"`, `"}`
	signature := o.sign(agentID)
	out := make([]byte, 0, len(o.json)+len(before)+base64.StdEncoding.EncodedLen(len(signature))+len(after))
	out = append(out, o.json[:len(o.json)-1]...)
	out = append(out, before...)
	out = base64.StdEncoding.AppendEncode(out, signature)
	return append(out, after...)
}

func (o *Outgoing) sign(agentID string) []byte {
	return o.signer.Sign(api.PurposeCommand, api.CommandText(agentID, &o.wire))
}

// encode writes JSON without escapes for HTML: whatever carries a command
// writes it so, and the payload's bytes stay the same.
func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}
