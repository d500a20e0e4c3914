package api

import "time"

// CertificateRenewal is what a renewal of an agent's certificate brought: the
// result of the command renew-certificate, and the answer of the agent's local
// socket.
type CertificateRenewal struct {
	Renewed  bool      `json:"renewed" doc:"Whether there is a new certificate; otherwise it was not due."`
	NotAfter time.Time `json:"notAfter" doc:"When the certificate ends that the agent has now."`
	RenewsAt time.Time `json:"renewsAt" doc:"When the agent will renew it by itself."`
	Serial   string    `json:"serial" doc:"Its serial number, in hex."`
}

// RenewalRequest is the payload of the command renew-certificate, and the body
// of POST /v1/renew-certificate on the agent's local socket.
type RenewalRequest struct {
	// Force renews also what is not due.
	Force bool `json:"force,omitempty"`
}
