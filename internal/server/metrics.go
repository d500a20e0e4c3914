package server

import (
	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/obs/metrics"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/server/limit"
	"stella-ops.org/stella/internal/server/link"
)

// meter counts what the server's parts tell it of. It is safe for concurrent
// use.
type meter struct {
	bootstraps, succeeded, failed    *metrics.Counters
	issued, adopted, renewalsRefused *metrics.Counters
	revocations                      *metrics.Counters

	environments, platforms *metrics.Words
}

var _ enroll.Meter = (*meter)(nil)

// Bounds of labels that agents have a say in.
const (
	mostEnvironments = 50
	mostPlatforms    = 20
)

func newMeter(r *metrics.Registry) *meter {
	one := func(values ...string) (begin [][]string) {
		for _, v := range values {
			begin = append(begin, []string{v})
		}
		return begin
	}
	return &meter{
		bootstraps: r.Counters(metrics.AgentBootstraps, "Registrations by token that have ended, well or not, by what the token or the agent says.", []string{"environment", "platform"}, []string{"", ""}),
		succeeded:  r.Counters(metrics.AgentBootstrapsSucceeded, "Registrations by token that gave an identity.", []string{"environment"}, []string{""}),
		failed: r.Counters(metrics.AgentBootstrapsFailed, "Registrations by token that were refused or failed, by the code of the reason.", []string{"environment", "reason"},
			[]string{"", "token_unknown"}, []string{"", "token_used"}, []string{"", "token_expired"}, []string{"", "token_revoked"}),
		issued: r.Counters(metrics.CertificatesIssued, "Certificates issued to agents, by why.", []string{"reason"},
			one(enroll.ForRegistration, enroll.ForReregistration, enroll.ForRenewal, enroll.ForRecovery)...),
		adopted: r.Counters(metrics.CertificatesAdopted, "Renewed certificates that were used for the first time, by which those before them end.", nil),
		renewalsRefused: r.Counters(metrics.RenewalsRefused, "Requests for the next certificate that were refused or failed, by the code of the reason.", []string{"reason"},
			one("agent_revoked", "agent_unknown", "certificate_revoked", "recovery_over", "internal")...),
		revocations: r.Counters(metrics.Revocations, "Agents that were put out by people, by how.", []string{"reason"}, one("revoked", "deleted")...),

		environments: metrics.NewWords(mostEnvironments), platforms: metrics.NewWords(mostPlatforms),
	}
}

// Bootstrapped implements enroll.Meter.
func (m *meter) Bootstrapped(environment, platform, refusal string) {
	environment = m.environments.Of(environment)
	m.bootstraps.Inc(environment, m.platforms.Of(platform))
	if refusal == "" {
		m.succeeded.Inc(environment)
	} else {
		m.failed.Inc(environment, refusal)
	}
}

// Issued implements enroll.Meter.
func (m *meter) Issued(why string) { m.issued.Inc(why) }

// Adopted implements enroll.Meter.
func (m *meter) Adopted() { m.adopted.Inc() }

// renewalRefused counts a certificate that was not renewed.
func (m *meter) renewalRefused(code string) { m.renewalsRefused.Inc(code) }

// agentNews is the bus as what people do to agents goes to it: on the way, those
// that are put out are counted.
type agentNews struct {
	fleet.Notifier
	meter *meter
}

// Publish implements event.Publisher.
func (n *agentNews) Publish(tenant string, happened ...api.Event) {
	n.Notifier.Publish(tenant, happened...)
	for _, e := range happened {
		switch e.Kind {
		case api.EventAgentRevoked:
			n.meter.revocations.Inc("revoked")
		case api.EventAgentDeleted:
			n.meter.revocations.Inc("deleted")
		}
	}
}

// measured are the parts that count for themselves, and are asked at each scrape.
type measured struct {
	ca         *pki.Authority
	names      []string // that the server's certificate is for
	agents     *agentCounts
	hub        *link.Hub
	strangers  *limit.Strangers
	handshakes *limit.Handshakes
}

func (m *measured) register(r *metrics.Registry) {
	r.Gauge(metrics.Agents, "Agents that are registered and not revoked, by liveness.", []string{"liveness"},
		m.agents.byLiveness(func(c *enroll.CertificateCount) int { return c.Agents }))
	r.Gauge(metrics.AgentsCertificateEnded, "Agents whose certificate has ended, by liveness.", []string{"liveness"},
		m.agents.byLiveness(func(c *enroll.CertificateCount) int { return c.Ended }))
	r.Gauge(metrics.AgentsCertificateEnding, "Agents whose certificate has not ended and will within a time, by liveness. A longer time counts those of the shorter ones too.", []string{"within", "liveness"}, m.agents.ending)
	r.Gauge(metrics.AgentsTrust, "Agents whose certificate was issued since the last step of a rotation of the authority (current), and before it (outdated), by liveness.", []string{"trust", "liveness"},
		func() []metrics.Sample { return m.agents.byTrust(m.ca.Trust()) })
	r.Gauge(metrics.AuthorityExpiry, "When the certificates end that the server shows and issues by, in Unix seconds.", []string{"certificate"}, m.expiry)

	r.Count(metrics.LinksCut, "Links and streams of agents that were ended because the agent may not be connected by its certificate any more, by the code of the reason.", []string{"reason"},
		func() []metrics.Sample { return metrics.Each(m.hub.Cuts()) })
	r.Count(metrics.RequestsLimited, "Requests of strangers over a limit, by the limit: that of refused tokens and certificates, and that of requests that show nothing.", []string{"limit"},
		func() []metrics.Sample {
			refused, anonymous := m.strangers.TurnedAway()
			return metrics.Each(map[string]int64{"refused": refused, "anonymous": anonymous})
		})
	r.Gauge(metrics.Handshakes, "TLS handshakes that are under way.", nil, func() []metrics.Sample { return metrics.One(float64(m.handshakes.Open())) })
	r.Count(metrics.HandshakesFailed, "TLS handshakes that failed, those of displaced connections with them.", nil, func() []metrics.Sample { return metrics.One(float64(m.handshakes.Failed())) })
	r.Count(metrics.HandshakesDisplaced, "Connections that were closed in their handshake to make room for others.", nil, func() []metrics.Sample { return metrics.One(float64(m.handshakes.Displaced())) })
}

// expiry is when the certificates end that the server works by.
func (m *measured) expiry() []metrics.Sample {
	root, intermediate := m.ca.Expiry()
	out := []metrics.Sample{
		{Labels: []string{"root"}, Value: float64(root.Unix())}, {Labels: []string{"intermediate"}, Value: float64(intermediate.Unix())},
	}
	if own, err := m.ca.ServerCertificate(m.names); err == nil {
		out = append(out, metrics.Sample{Labels: []string{"server"}, Value: float64(own.Leaf.NotAfter.Unix())})
	}
	return out
}
