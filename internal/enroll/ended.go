package enroll

import "time"

// Why a certificate was ended before its time.
const (
	WhyRevoked  = "revoked"  // its agent was revoked
	WhyDeleted  = "deleted"  // its agent was deleted
	WhyReplaced = "replaced" // a newer one is used, or the host has registered again
)

// Ended is a certificate that was ended before its time.
type Ended struct {
	Serial   string // in hex
	TenantID string // empty where only the serial is known
	AgentID  string // as above
	At       time.Time
	NotAfter time.Time // when it would have ended by itself
	Why      string
}

// Standing is a certificate of an agent that is not revoked.
type Standing struct {
	Serial      string
	Fingerprint string
	TenantID    string
	AgentID     string
	AgentName   string
	EndsAt      time.Time // when it was, or will be, ended; zero when it is not
}
