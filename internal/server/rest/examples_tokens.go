package rest

import "stella-ops.org/stella/api"

func exampleRegistrationTokenRequest() api.RegistrationTokenRequest {
	return api.RegistrationTokenRequest{Name: "web-1", Group: "web", Environment: "production", Capabilities: []string{"docker", "host"}, TTLSeconds: 900}
}

// exampleRegistrationToken is the token as it is listed, exampleRegistrationTokenMade with its secret.
func exampleRegistrationToken() api.RegistrationToken {
	return api.RegistrationToken{
		ID: exampleTokenID, State: "usable", Name: "web-1", Environment: "production", Group: "web", Capabilities: []string{"docker", "host"},
		MaxUses: 1, CreatedBy: "ci", CreatedAt: at(-5, 0), ExpiresAt: at(10, 0),
	}
}

func exampleRegistrationTokenMade() api.RegistrationToken {
	t := exampleRegistrationToken()
	t.Token = "reg_mzxw6ytboi4dqmrtgq2tmnzyhe_ovqxg3dtmfzgc5dfnz2gk4tjnztsa5dpoj2ca43imuqgs3tl"
	t.ServerURL = exampleServer
	return t
}

func exampleAPITokenRequest() api.APITokenRequest {
	return api.APITokenRequest{Name: "ci", Role: api.RoleOperator, TTLSeconds: 7776000}
}

func exampleAPIToken() api.APIToken {
	return api.APIToken{
		ID: exampleTokenID, Name: "ci", Role: api.RoleOperator, State: "usable", CreatedBy: "initial admin",
		CreatedAt: at(-60, 0), ExpiresAt: atp(60*24*90-60, 0), LastUsedAt: atp(30, 0),
	}
}

func exampleAPITokenMade() api.APIToken {
	t := exampleAPIToken()
	t.Token, t.LastUsedAt = exampleSecret, nil
	return t
}

func exampleAuditEvent() api.AuditEvent {
	return api.AuditEvent{
		Seq: 1042, Tenant: "default", At: at(30, 0), Actor: "token:" + exampleTokenID + " (ci)", Action: "task.create", Object: exampleTaskID,
		Remote: "192.0.2.17:51124", Outcome: "ok",
		PreviousHash: exampleAuditFloorHash, Hash: exampleAuditHash,
	}
}

const (
	exampleAuditHash      = "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"
	exampleAuditFloorHash = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
)

func exampleAuditVerification() api.AuditVerification {
	return api.AuditVerification{
		Holds: true, From: 501, To: 1042, Lines: 542, Head: &api.AuditMark{Seq: 1042, Hash: exampleAuditHash},
		Floor: &api.AuditFloor{Seq: 500, Hash: exampleAuditFloorHash, At: at(-600, 0)}, Contains: "yes",
	}
}
