package api

import "time"

// CAPhase is where the rotation of the certificate authority stands.
type CAPhase string

// The phases. A rotation goes round: steady, prepared, activated, steady.
const (
	// CASteady: there is one authority.
	CASteady CAPhase = "steady"
	// CAPrepared: there is a next one, which is trusted and does not issue.
	CAPrepared CAPhase = "prepared"
	// CAActivated: the next one issues, and the one before is trusted still.
	CAActivated CAPhase = "activated"
)

// CAStatus is the answer of GET /api/v1/ca, and of each step of a rotation.
type CAStatus struct {
	Phase       CAPhase                `json:"phase" enum:"steady,prepared,activated" doc:"steady: one authority; prepared: the next one is trusted and does not issue; activated: the next one issues, and the one before is trusted still."`
	Since       time.Time              `json:"since" doc:"When the last step was taken."`
	Trust       string                 `json:"trust" doc:"Names what agents are to trust and who issues; it changes with every step."`
	Authorities []CertificateAuthority `json:"authorities" nullable:"false" doc:"The authorities that are trusted, the oldest first."`
	Agents      CAFollowers            `json:"agents" doc:"How many agents have followed the last step."`
	SigningKeys []SigningKey           `json:"signingKeys" nullable:"false" doc:"The keys by which servers sign tasks and commands, the oldest first."`
}

// SigningKey is a key by which servers sign what they send to agents.
type SigningKey struct {
	ID    string    `json:"id" doc:"The first 8 bytes of the public key's SHA-256, in hex."`
	State string    `json:"state" enum:"active,next,before" doc:"active: it signs; next: it will; before: it did, and vouches for the next one."`
	From  time.Time `json:"from" doc:"When it begins to sign, or began."`
}

// CertificateAuthority is a root with its issuing intermediate.
type CertificateAuthority struct {
	ID          string    `json:"id" doc:"The beginning of the pin."`
	State       string    `json:"state" enum:"active,next,retiring" doc:"active: it issues; next: it will; retiring: it did."`
	Pin         string    `json:"pin" doc:"SHA-256 of the root's public key, in hex."`
	MadeAt      time.Time `json:"madeAt" doc:"When it was made."`
	NotAfter    time.Time `json:"notAfter" doc:"When its root ends."`
	IssuesUntil time.Time `json:"issuesUntil" doc:"When its intermediate ends: rotate before."`
}

// CAFollowers counts agents, of all tenants, that are not revoked.
type CAFollowers struct {
	Total       int      `json:"total" doc:"All agents."`
	Followed    int      `json:"followed" doc:"Those that use a certificate that was issued since the last step."`
	Waiting     int      `json:"waiting" doc:"Those that do not yet and are heard, or were until lately."`
	WaitingDead int      `json:"waitingDead" doc:"Those that do not and are not heard any more."`
	Names       []string `json:"names,omitempty" doc:"Some that have not followed, those that are heard first."`
}

// CARetireRequest is POST /api/v1/ca/retire.
type CARetireRequest struct {
	LoseDead bool `json:"loseDead,omitempty" doc:"Agents that are not heard any more may be lost: they would have to be registered again."`
}
