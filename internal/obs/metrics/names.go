package metrics

// The names of all metrics; docs/metrics.md says what each is, and a test that
// it does. They are promises: alerts are made of them. Those that begin with
// stella_agent_bootstrap are of all agents, and counted by the server.
const (
	// Of the server: registrations, certificates and the authority.
	AgentBootstraps          = "stella_agent_bootstrap_total"
	AgentBootstrapsSucceeded = "stella_agent_bootstrap_success_total"
	AgentBootstrapsFailed    = "stella_agent_bootstrap_failed_total"
	CertificatesIssued       = "stella_server_certificates_issued_total"
	CertificatesAdopted      = "stella_server_certificates_adopted_total"
	RenewalsRefused          = "stella_server_renewals_refused_total"
	Agents                   = "stella_server_agents"
	AgentsCertificateEnded   = "stella_server_agents_certificate_ended"
	AgentsCertificateEnding  = "stella_server_agents_certificate_ending"
	AgentsTrust              = "stella_server_agents_trust"
	AuthorityExpiry          = "stella_server_certificate_expiry_timestamp_seconds"
	// Of the server: who was put out.
	Revocations = "stella_server_revocations_total"
	LinksCut    = "stella_server_links_cut_total"
	// Of the server: whom limits have turned away.
	RequestsLimited     = "stella_server_requests_limited_total"
	Handshakes          = "stella_server_handshakes"
	HandshakesFailed    = "stella_server_handshakes_failed_total"
	HandshakesDisplaced = "stella_server_handshakes_displaced_total"

	// Of an agent.
	AgentConnected          = "stella_agent_connected"
	AgentCertificateExpiry  = "stella_agent_certificate_expiry_seconds"
	AgentCertificateRenewal = "stella_agent_certificate_renewal_total"
	AgentCertificateRenewed = "stella_agent_certificate_renewal_timestamp_seconds"
)
