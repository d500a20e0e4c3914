package rest

import (
	"encoding/json"
	"time"

	"stella-ops.org/stella/api"
)

// The examples of the API's document. They are values of the very types, so
// that they cannot drift, and they tell one story: the operator "ci" deploys
// release 2026.3.1 to the target "shop", which the agent "web-1" reaches.
const (
	exampleAgentID   = "0195a1c0-3f5e-7c1a-9b52-6d1f0e8a4c11"
	exampleTargetID  = "0195a1c4-88d0-7f02-8c3e-5b7a91d2e640"
	exampleTaskID    = "0195a1d2-7b14-7e9d-a0f3-2c4d6e8f1a35"
	exampleCommandID = "0195a1d8-10aa-7b6c-8d21-93f4c5e6a7b8"
	exampleTokenID   = "0195a1be-62c7-7d33-b1e9-4f8a2c6d0e57" //nolint:gosec // no token, but its id
	exampleServer    = "https://stella.example.com:8443"
	exampleImage     = "registry.example.com/team/shop"
	exampleDigest    = "sha256:9f2c1e7a5b3d4860f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708"
	exampleBefore    = "sha256:3c8e5d7f9a1b2c4d6e8f0a1b3c5d7e9f1a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d"
	exampleCursor    = "eyJvIjoibmFtZSIsInYiOlsid2ViLTEiXX0"
	exampleSecret    = "stl_k4vq7m2zr5xw3n6y1t8b9c0d" //nolint:gosec // of nobody
	exampleJWT       = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIwMTk1YTFjMCJ9.c2lnbmF0dXJl"
)

// exampleDay is when the story happens.
var exampleDay = time.Date(2026, time.March, 14, 9, 0, 0, 0, time.UTC)

func at(minutes, seconds int) time.Time {
	return exampleDay.Add(time.Duration(minutes)*time.Minute + time.Duration(seconds)*time.Second)
}

func atp(minutes, seconds int) *time.Time {
	t := at(minutes, seconds)
	return &t
}

// raw is a value where the API lets any JSON stand.
func raw(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic("an example does not marshal: " + err.Error())
	}
	return data
}

func exampleRegisterRequest() api.RegisterRequest {
	return api.RegisterRequest{
		Name: "web-1", Version: "1.4.0", Platform: "linux", Group: "web", Environment: "production",
		Capabilities: []string{"docker", "host"}, Labels: map[string]string{"zone": "eu-1"},
		CSR: "-----BEGIN CERTIFICATE REQUEST-----\nMIHOMHYCAQAwFDESMBAGA1UEAwwJd2ViLTEuZXgxWTATBgcqhkjOPQIBBggqhkjO\n-----END CERTIFICATE REQUEST-----\n",
	}
}

func exampleRegisterResponse() api.RegisterResponse {
	return api.RegisterResponse{
		AgentID:       exampleAgentID,
		Name:          "web-1",
		Certificate:   "-----BEGIN CERTIFICATE-----\nMIIB2zCCAYGgAwIBAgIRAI…\n-----END CERTIFICATE-----\n",
		CACertificate: "-----BEGIN CERTIFICATE-----\nMIIBkTCCATegAwIBAgIQfJ…\n-----END CERTIFICATE-----\n",
		EventsURL:     exampleServer + "/api/v1/agents/" + exampleAgentID + "/events",
		TaskStreamURL: "wss://stella.example.com:8443/api/v1/agents/" + exampleAgentID + "/task-stream",
		Config:        api.AgentSettings{HeartbeatIntervalMs: 30000, ServerTime: at(0, 0)},

		ServerPublicKey: "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=",
	}
}

func exampleCertificate() api.CertificateResponse {
	identity := exampleRegisterResponse()
	return api.CertificateResponse{
		Certificate: identity.Certificate, CACertificate: identity.CACertificate, NotAfter: at(24*60, 0), ServerTime: at(0, 0),
		ServerPublicKey: identity.ServerPublicKey,
	}
}

func exampleUsage() *api.ResourceUsage {
	return &api.ResourceUsage{
		CPUPercent: 3.5, MemoryPercent: 41.2, MemoryTotalBytes: 16 << 30, DiskPercent: 58, DiskFreeBytes: 84 << 30,
		Load1: 0.42, AgentMemoryBytes: 18 << 20,
	}
}

func exampleAgent() api.Agent {
	return api.Agent{
		ID: exampleAgentID, Name: "web-1", Version: "1.4.0", Status: api.StatusOnline, Lifecycle: api.LifecycleActive, Liveness: api.Live,
		Group: "web", Environment: "production", Platform: "linux", Labels: map[string]string{"zone": "eu-1"},
		Capabilities: []string{"docker", "host"}, ResourceUsage: exampleUsage(), LastHeartbeat: atp(30, 2), Transport: "websocket", SignsHeartbeats: true,
		CertificateFingerprint: "5d41402abc4b2a76b9719d911017c592ae1b0c3d4e5f60718293a4b5c6d7e8f9",
		CertificateNotAfter:    atp(60*24*30, 0), CreatedAt: at(0, 0), UpdatedAt: at(0, 0),
	}
}

// exampleAgentIn is the agent after somebody has decided about it.
func exampleAgentIn(l api.Lifecycle) api.Agent {
	a := exampleAgent()
	a.Lifecycle, a.UpdatedAt = l, at(31, 0)
	if l != api.LifecycleActive {
		a.Status = api.StatusOffline
	}
	if l == api.LifecycleRevoked {
		a.Transport = ""
	}
	return a
}

func exampleAgentUpdate() api.AgentUpdate {
	return api.AgentUpdate{Labels: &map[string]string{"zone": "eu-2", "rack": "12"}}
}

func exampleAgentUpdated() api.Agent {
	a := exampleAgent()
	a.Labels, a.UpdatedAt = *exampleAgentUpdate().Labels, at(31, 0)
	return a
}

func exampleHeartbeatRequest() api.HeartbeatRequest {
	return api.HeartbeatRequest{
		Status: "online", ResourceUsage: exampleUsage(), MaxTasks: 5, SentAt: atp(30, 0),
		RunningTasks: []api.TaskRef{{TaskID: "0195a1d0-55c1-7a08-9e6b-7f2d3c4b5a69", Attempt: 1}},
	}
}

func exampleServerKeys() api.ServerKeys {
	return api.ServerKeys{Keys: []api.ServerKey{
		{PublicKey: exampleRegisterResponse().ServerPublicKey, From: at(0, 0)},
		{PublicKey: "VKpVyBRGkCNT6WzqLjY7cQVJGDyD4oqDMXkLyJ4Ovbk=", From: at(60, 0), Signature: exampleCredentials().Signature},
	}}
}

func exampleHeartbeatResponse() api.HeartbeatResponse {
	return api.HeartbeatResponse{
		Tasks: []api.AgentTask{exampleAgentTask()}, Signatures: [][]byte{exampleCredentials().Signature}, Commands: []api.AgentCommand{exampleAgentCommand()},
		IntervalMs: 30000, ServerTime: at(30, 2), ReconnectWindowMs: 1000,
	}
}
