package rest

import "stella-ops.org/stella/api"

// aboutAdmin is about tokens and the audit log.
func aboutAdmin() map[string]about {
	gone := []string{"404 token_not_found"}
	return map[string]about{
		"registration-token.create": {
			tag: "tokens",
			text: "Makes a token that agents register with. What it binds, an agent that registers with it cannot override; a token that binds a name or an id registers one agent only. " +
				"The secret is in this answer and nowhere else. Not idempotent: repeated, it is another token.",
			request: exampleRegistrationTokenRequest(), answers: "The token, with its secret.", answer: exampleRegistrationTokenMade(),
		},
		"registration-token.list": {
			tag: "tokens", text: "Lists registration tokens without their secrets, the newest first unless told otherwise.",
			answers: "A page of tokens.", answer: api.RegistrationTokenList{Items: []api.RegistrationToken{exampleRegistrationToken()}},
		},
		"registration-token.revoke": {
			tag: "tokens", text: "Ends a registration token. Agents that have registered with it keep their identity. Idempotent.",
			answers: "The token is revoked.", answer: deleted, refuses: gone,
		},
		"api-token.create": {
			tag: "tokens", text: "Makes an API token for a person or a script. The secret is in this answer and nowhere else. Not idempotent: repeated, it is another token.",
			request: exampleAPITokenRequest(), answers: "The token, with its secret.", answer: exampleAPITokenMade(),
		},
		"api-token.list": {
			tag: "tokens", text: "Lists API tokens without their secrets, the newest first unless told otherwise.",
			answers: "A page of tokens.", answer: api.APITokenList{Items: []api.APIToken{exampleAPIToken()}},
		},
		"api-token.revoke": {
			tag: "tokens", text: "Ends an API token: its next request is refused. Idempotent.",
			answers: "The token is revoked.", answer: deleted, refuses: gone,
		},
		"audit.list": {
			tag: "audit", text: "Lists who changed what, the newest first unless told otherwise: every change that a person made, every one that was refused, and what agents did with their identity.",
			answers: "A page of the log.", answer: api.AuditList{Items: []api.AuditEvent{exampleAuditEvent()}, Next: exampleCursor},
		},
		"audit.verify": {
			tag: "audit",
			text: "Walks through the audit log and says whether it is as it was written: every line, where the log begins and where it ends. A log that does not hold is an answer, and no error. " +
				"It works for some seconds; in a longer log it then says by `next` where to go on. Lines that are added meanwhile do no harm, and verifications wait for each other. Idempotent.",
			answers: "What was found.", answer: exampleAuditVerification(),
		},
	}
}

// aboutServer is about the server itself, and about what happens.
func aboutServer() map[string]about {
	return map[string]about{
		"event.list": {
			tag: "events",
			text: "Streams what happens as server-sent events: agents that come, go and fall silent, tasks and commands that move on. `event` is the kind, `data` is an Event as JSON, `id` grows. " +
				"A comment comes every 15 seconds. A reader that is too slow is cut off; it may connect again, and reads what it missed from the lists. " +
				"It ends, with a comment that says why, within seconds after the API token is revoked or has expired.",
			refuses: []string{"404 agent_not_found"},
		},
		"whoami": {
			tag: "server", text: "Says whom the API token belongs to and what it may do, and which version the server is.",
			answers: "The token's owner.", answer: api.WhoAmI{Name: "ci", Role: api.RoleOperator, Tenant: "default", Server: "1.4.0"},
		},
		"server.health": {
			tag: "server", text: "Says that the server runs, whatever state its database is in. For who restarts what does not answer.",
			answers: "It runs.", answer: api.ServerStatus{Status: "ok"},
		},
		"server.ready": {
			tag: "server", text: "Says whether the server can do its work: whether its database takes writes. For who decides where requests go.",
			answers: "It can.", answer: api.ServerStatus{Status: "ready"}, refuses: []string{"503 not_ready"},
		},
		"server.crl": {
			tag: "server",
			text: "Gives the list of agents' certificates that were ended before their time: by a revocation, a deletion, or a newer one that took their place. For whoever else has to do with agents' certificates; " +
				"Stella's own servers ask the database. It is good for a day, and some seconds old at the most.",
			refuses: []string{"404 authority_not_found"},
		},
		"server.metrics": {
			tag: "server",
			text: "Gives what the server counts, for Prometheus and what reads its format: certificates, registrations, revocations, and whom limits have turned away. " +
				"It counts all tenants together, and so is for API tokens of the first one. Each server counts for itself what it has done; what is read from the database is the same on all, and up to half a minute old.",
			refuses: []string{"403 not_your_installation"},
		},
		"server.root-certificate": {
			tag: "server",
			text: "Gives the root certificate of the server's own authority, in PEM. Nothing vouches for the answer to who does not trust the server yet: " +
				"compare the SHA-256 of its public key with the pin that a registration token ends with, or that the server printed when it started.",
		},
	}
}

// aboutCA is about the certificate authority.
func aboutCA() map[string]about {
	elsewhere := "403 not_your_installation"
	return map[string]about{
		"ca.status": {
			tag: "ca", text: "Shows the certificate authorities that are trusted, where the rotation from one to the next stands, and how many agents have followed its last step.",
			answers: "Where it stands.", answer: exampleCA(api.CASteady), refuses: []string{elsewhere},
		},
		"ca.prepare": {
			tag: "ca",
			text: "Makes the next certificate authority. Servers and agents trust it from then on, beside the present one, which goes on issuing: agents renew their certificates to get both roots, " +
				"within a minute or so of a heartbeat. Repeated, it is refused.",
			answers: "Where it stands now.", answer: exampleCA(api.CAPrepared), refuses: []string{elsewhere, "409 ca_phase", "409 ca_settling"},
		},
		"ca.activate": {
			tag: "ca",
			text: "Has the next certificate authority issue. Whoever trusts only the one before still believes the servers, for that one vouches for the next; agents renew to get a certificate of the next. " +
				"New registration tokens carry the pin of the next, and those that were made before stay good. Repeated, it is refused.",
			answers: "Where it stands now.", answer: exampleCA(api.CAActivated), refuses: []string{elsewhere, "409 ca_phase", "409 ca_settling"},
		},
		"ca.rotate-signing-key": {
			tag: "ca",
			text: "Makes the next key by which servers sign tasks and commands, and tokens for agents. The present one signs it, so that agents follow by themselves; it signs after twenty seconds, when every server knows it. " +
				"Repeated before that, it is refused.",
			answers: "Where it stands now.", answer: exampleCA(api.CASteady), refuses: []string{elsewhere, "409 signing_key_settling"},
		},
		"ca.retire": {
			tag: "ca",
			text: "Ends the trust in the certificate authority before. It is refused while any agent that is heard would be lost, and while one that is not heard would be, unless `loseDead` says so. " +
				"Registration tokens that were made before the next one was activated are worth nothing from then on, and people whose client trusts the old root log in again. Repeated, it is refused.",
			request: api.CARetireRequest{}, answers: "Where it stands now.", answer: exampleCA(api.CASteady),
			refuses: []string{elsewhere, "409 ca_phase", "409 ca_settling", "409 agents_would_be_lost"},
		},
	}
}

func exampleCA(phase api.CAPhase) api.CAStatus {
	one := func(id, state string) api.CertificateAuthority {
		return api.CertificateAuthority{
			ID: id, State: state, Pin: id + "a9e8d7c6b5a4938271605f4e3d2c1b0a99887766554433",
			MadeAt: at(0, 0), NotAfter: at(20*365*24*60, 0), IssuesUntil: at(5*365*24*60, 0),
		}
	}
	s := api.CAStatus{
		Phase: phase, Since: at(0, 0), Trust: "5a1f0c3e9b7d2468", Agents: api.CAFollowers{Total: 120, Followed: 120},
		SigningKeys: []api.SigningKey{{ID: "3c59dc048e885024", State: "active", From: at(0, 0)}},
	}
	switch phase {
	case api.CASteady:
		s.Authorities = []api.CertificateAuthority{one("0f1e2d3c4b5a6978", "active")}
	case api.CAPrepared:
		s.Authorities = []api.CertificateAuthority{one("0f1e2d3c4b5a6978", "active"), one("a1b2c3d4e5f60718", "next")}
		s.Agents = api.CAFollowers{Total: 120, Followed: 112, Waiting: 7, WaitingDead: 1, Names: []string{"web-1", "web-2"}}
	case api.CAActivated:
		s.Authorities = []api.CertificateAuthority{one("0f1e2d3c4b5a6978", "retiring"), one("a1b2c3d4e5f60718", "active")}
	}
	return s
}
