package testkit_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/testkit"
)

func marshal(t testing.TB, v any) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func into(t testing.TB, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
}

// at is a request whose path names one thing.
func at(param, value string) func(*matrix, *caller) attempt {
	return func(*matrix, *caller) attempt { return attempt{params: map[string]string{param: value}} }
}

// with is a request with a body, which is made anew for each cell.
func with(body func(m *matrix) any) func(*matrix, *caller) attempt {
	return func(m *matrix, _ *caller) attempt { return attempt{body: body(m)} }
}

// path is the id in an agent's path: those that are no agents any more try their
// own, everybody else the one agent's.
func (m *matrix) path(c *caller) map[string]string {
	if c.column == asRevoked || c.column == asDeleted {
		return map[string]string{"id": c.agent.id}
	}
	return map[string]string{"id": m.own.id}
}

func rowsOfMatrix() []cells {
	return slices.Concat(openRows, peopleRows, targetRows, taskRows, artifactRows, rolloutRows, agentRows, protocolRows, caRows)
}

var openRows = []cells{
	{id: "server.health", who: ofEverybody, in: 200},
	{id: "server.ready", who: ofEverybody, in: 200},
	{id: "server.root-certificate", who: ofEverybody, in: 200},
	{id: "server.crl", who: ofEverybody, in: 200},
	{id: "server.signing-key", who: ofEverybody, in: 200},
	{id: "installer.linux", who: ofEverybody, in: 200},
	{id: "installer.windows", who: ofEverybody, in: 200},
	{id: "agent-program.checksums", who: ofEverybody, in: 200},
	{id: "agent-program.signature", who: ofEverybody, in: 200},
	{id: "agent-program.get", who: ofEverybody, in: 200, make: func(m *matrix, _ *caller) attempt {
		agentProgram(m, m.cp, "arm64")
		return attempt{params: map[string]string{"os": "linux", "arch": "arm64", "file": "stella-agent"}}
	}},
	{id: "document.openapi", who: ofEverybody, in: 200},
	{id: "document.page", who: ofEverybody, in: 200},
	{id: "nothing", who: ofEverybody, in: 404},
}

var peopleRows = []cells{
	{id: "whoami", who: ofViewers, in: 200},
	{id: "server.metrics", who: ofTheInstallationsViewers, in: 200},
	{id: "event.list", who: ofViewers, in: 200},
	{id: "audit.list", who: ofAdmins, in: 200},
	{id: "audit.verify", who: ofAdmins, in: 200},
	{id: "api-token.list", who: ofAdmins, in: 200},
	{id: "api-token.create", who: ofAdmins, in: 201, make: with(func(*matrix) any { return api.APITokenRequest{Name: "a token", Role: api.RoleAdmin} })},
	{id: "api-token.revoke", who: ofAdmins, in: 200, absent: "token_not_found", make: func(m *matrix, _ *caller) attempt {
		tok, err := m.admin.CreateAPIToken(m.Context(), api.APITokenRequest{Name: m.name(), Role: api.RoleViewer})
		m.ok(err)
		return attempt{params: map[string]string{"id": tok.ID}}
	}},
	{id: "registration-token.list", who: ofAdmins, in: 200},
	{id: "registration-token.create", who: ofAdmins, in: 201, make: with(func(*matrix) any { return api.RegistrationTokenRequest{} })},
	{id: "agent.bootstrap", who: ofAdmins, in: 201, make: with(func(*matrix) any { return api.BootstrapRequest{} })},
	{id: "registration-token.revoke", who: ofAdmins, in: 200, absent: "token_not_found", make: func(m *matrix, _ *caller) attempt {
		tok, err := m.admin.CreateRegistrationToken(m.Context(), api.RegistrationTokenRequest{Name: m.name()})
		m.ok(err)
		return attempt{params: map[string]string{"id": tok.ID}}
	}},
	{id: "secret.list", who: ofViewers, in: 200},
	{id: "secret.get", who: ofViewers, in: 200, absent: "secret_not_found", make: at("name", "ours-secret")},
	{id: "secret.set", who: ofOperators, in: 200, make: func(*matrix, *caller) attempt {
		return attempt{params: map[string]string{"name": "a-secret"}, body: api.SecretRequest{Value: "hunter23"}}
	}},
	{id: "secret.delete", who: ofOperators, in: 200, absent: "secret_not_found", make: func(m *matrix, _ *caller) attempt {
		name := m.name()
		_, err := m.admin.SetSecret(m.Context(), name, "hunter22")
		m.ok(err)
		return attempt{params: map[string]string{"name": name}}
	}},
}

// newTarget makes a target of ours.
func newTarget(m *matrix) string {
	name := m.name()
	_, err := m.admin.CreateTarget(m.Context(), api.TargetRequest{Name: name, Kind: "host", Agent: m.own.id, Config: api.TargetConfig{Directory: "/opt/" + name}})
	m.ok(err)
	return name
}

// anyTarget is a target that whoever may make targets may make.
func anyTarget(m *matrix) api.TargetRequest {
	m.n++
	return api.TargetRequest{
		Name: "box-" + strings.Repeat("x", m.n%50) + m.name()[5:], Kind: "host", Config: api.TargetConfig{Directory: "/opt/any"},
		AgentSelector: &api.AgentSelector{Labels: map[string]string{"a": "b"}},
	}
}

var targetRows = []cells{
	{id: "target.list", who: ofViewers, in: 200},
	{id: "target.get", who: ofViewers, in: 200, absent: "target_not_found", make: at("id", "ours-box")},
	{id: "inventory.list", who: ofViewers, in: 200},
	{id: "target.create", who: ofOperators, in: 201, make: with(func(m *matrix) any { return anyTarget(m) })},
	{id: "target.update", who: ofOperators, in: 200, absent: "target_not_found", make: func(m *matrix, _ *caller) attempt {
		name := newTarget(m)
		body := anyTarget(m)
		body.Name = name
		return attempt{params: map[string]string{"id": name}, body: body}
	}},
	{id: "target.delete", who: ofOperators, in: 200, absent: "target_not_found", make: func(m *matrix, _ *caller) attempt {
		return attempt{params: map[string]string{"id": newTarget(m)}}
	}},
}

func inspection(target string) api.TaskRequest {
	return api.TaskRequest{Type: api.TaskInspect, Target: target}
}

var taskRows = []cells{
	{id: "task.list", who: ofViewers, in: 200},
	{id: "task.get", who: ofViewers, in: 200, absent: "task_not_found", make: func(m *matrix, _ *caller) attempt {
		return attempt{params: map[string]string{"id": m.task.ID}}
	}},
	{id: "task.logs", who: ofViewers, in: 200, absent: "task_not_found", make: func(m *matrix, _ *caller) attempt {
		return attempt{params: map[string]string{"id": m.task.ID}}
	}},
	{id: "task.create", who: ofOperators, in: 201, absent: "target_not_found", make: with(func(*matrix) any { return inspection("ours-box") })},
	{id: "task.create-many", who: ofOperators, in: 201, absent: "target_not_found", make: with(func(*matrix) any {
		return api.TasksRequest{Selector: api.TargetSelector{Environment: "ours-env"}, Type: api.TaskInspect}
	})},
	{id: "task.cancel", who: ofOperators, in: 200, absent: "task_not_found", make: func(m *matrix, _ *caller) attempt {
		task, err := m.admin.SubmitTask(m.Context(), inspection("ours-box"))
		m.ok(err)
		return attempt{params: map[string]string{"id": task.ID}}
	}},
}

var octetStream = map[string]string{"Content-Type": "application/octet-stream", api.HeaderUploadOffset: "0"}

var artifactRows = []cells{
	{id: "artifact.list", who: ofViewers, in: 200},
	{id: "artifact.get", who: ofViewers, in: 200, absent: "artifact_not_found", make: func(m *matrix, _ *caller) attempt {
		return attempt{params: map[string]string{"digest": m.digest}}
	}},
	{id: "artifact.content", who: ofViewers, in: 200, absent: "artifact_not_found", make: func(m *matrix, _ *caller) attempt {
		return attempt{params: map[string]string{"digest": m.digest}}
	}},
	{id: "artifact.begin", who: ofOperators, in: 200, make: with(func(m *matrix) any {
		return api.ArtifactRequest{Digest: digestOf([]byte(m.name())), Size: 6, Name: "a file"}
	})},
	{id: "artifact.append", who: ofOperators, in: 200, absent: "artifact_not_found", make: func(m *matrix, _ *caller) attempt {
		data := []byte(m.name())
		_, err := m.admin.BeginArtifact(m.Context(), api.ArtifactRequest{Digest: digestOf(data), Size: int64(len(data)), Name: "ours"})
		m.ok(err)
		return attempt{params: map[string]string{"digest": digestOf(data)}, header: octetStream, body: data}
	}},
	{id: "artifact.delete", who: ofOperators, in: 200, absent: "artifact_not_found", make: func(m *matrix, _ *caller) attempt {
		return attempt{params: map[string]string{"digest": m.artifact("ours")}}
	}},
}

func (m *matrix) rolloutOf(target string) api.RolloutRequest {
	return api.RolloutRequest{Filter: "name=" + target, Payload: marshal(m, api.DeployPayload{
		Config:    api.DeployConfig{ReleaseID: "ours-r1"},
		Artifacts: []api.ArtifactReference{{Name: "ours", URL: api.ArtifactScheme + m.digest}},
	})}
}

// newRollout makes a rollout of ours that has begun, and waits for its agent: it
// does nothing by itself any more.
func newRollout(m *matrix) *api.Rollout {
	r, err := m.admin.CreateRollout(m.Context(), m.rolloutOf(newTarget(m)))
	m.ok(err)
	testkit.Eventually(m.T, 20*time.Second, "the rollout to have its task", func() (bool, string) {
		r, err = m.admin.Rollout(m.Context(), r.ID)
		m.ok(err)
		return len(r.Targets) == 1 && r.Targets[0].TaskID != "", fmt.Sprintf("%+v", r.Targets)
	})
	return r
}

func oneRollout(m *matrix, _ *caller) attempt {
	return attempt{params: map[string]string{"id": newRollout(m).ID}}
}

var rolloutRows = []cells{
	{id: "rollout.list", who: ofViewers, in: 200},
	{id: "rollout.get", who: ofViewers, in: 200, absent: "rollout_not_found", make: oneRollout},
	{id: "rollout.preview", who: ofOperators, in: 200, absent: "target_not_found", make: with(func(m *matrix) any { return m.rolloutOf("ours-box") })},
	{id: "rollout.create", who: ofOperators, in: 201, absent: "target_not_found", make: with(func(m *matrix) any { return m.rolloutOf(newTarget(m)) })},
	{id: "rollout.pause", who: ofOperators, in: 200, absent: "rollout_not_found", make: oneRollout},
	{id: "rollout.resume", who: ofOperators, in: 200, absent: "rollout_not_found", make: func(m *matrix, _ *caller) attempt {
		r := newRollout(m)
		_, err := m.admin.PauseRollout(m.Context(), r.ID)
		m.ok(err)
		return attempt{params: map[string]string{"id": r.ID}}
	}},
	{id: "rollout.cancel", who: ofOperators, in: 200, absent: "rollout_not_found", make: oneRollout},
	// Nobody has deployed anything that could be taken back.
	{id: "rollout.rollback", who: ofOperators, in: 409, absent: "rollout_not_found", make: oneRollout},
}

// newAgentOfOurs makes an agent that is to be done away with.
func newAgentOfOurs(m *matrix, _ *caller) attempt {
	return attempt{params: map[string]string{"id": newHandmade(m, m.cp, m.name()).id}}
}

// lasting is a command that does not expire while the matrix is tried.
func lasting() api.CommandRequest { return api.CommandRequest{Type: "doctor", ExpiresIn: 3600} }

func doctor(*matrix) any { return lasting() }

var agentRows = []cells{
	{id: "agent.list", who: ofViewers, in: 200},
	{id: "agent.get", who: ofViewers, in: 200, absent: "agent_not_found", make: at("id", "ours-own")},
	{id: "agent.update", who: ofOperators, in: 200, absent: "agent_not_found", make: func(m *matrix, _ *caller) attempt {
		return attempt{params: map[string]string{"id": "ours-own"}, body: api.AgentUpdate{Labels: &map[string]string{"n": m.name()}}}
	}},
	{id: "agent.activate", who: ofAdmins, in: 200, absent: "agent_not_found", make: func(m *matrix, c *caller) attempt {
		a := newAgentOfOurs(m, c)
		_, err := m.admin.DeactivateAgent(m.Context(), a.params["id"])
		m.ok(err)
		return a
	}},
	{id: "agent.deactivate", who: ofAdmins, in: 200, absent: "agent_not_found", make: newAgentOfOurs},
	{id: "agent.revoke", who: ofAdmins, in: 200, absent: "agent_not_found", make: newAgentOfOurs},
	{id: "agent.delete", who: ofAdmins, in: 200, absent: "agent_not_found", make: newAgentOfOurs},
	{id: "command.list", who: ofViewers, in: 200},
	{id: "command.get", who: ofViewers, in: 200, absent: "command_not_found", make: func(m *matrix, _ *caller) attempt {
		return attempt{params: map[string]string{"id": m.command()}}
	}},
	{id: "command.send", who: ofOperators, in: 202, absent: "agent_not_found", make: func(m *matrix, _ *caller) attempt {
		return attempt{params: map[string]string{"id": "ours-own"}, body: doctor(m)}
	}},
	{id: "command.send-group", who: ofOperators, in: 202, make: func(m *matrix, c *caller) attempt {
		// The same name is another group elsewhere.
		return attempt{params: map[string]string{"group": "a-group"}, body: lasting()}
	}},
	{id: "command.send-all", who: ofOperators, in: 202, make: with(doctor)},
	{id: "command.list-agent", who: ofAgentOrViewer, in: 200, absent: "agent_not_found", make: func(m *matrix, c *caller) attempt { return attempt{params: m.path(c)} }},
}

func (m *matrix) command() string {
	sent, err := m.admin.SendCommand(m.Context(), "ours-own", lasting())
	m.ok(err)
	return sent.ID
}

// ofTask is a request about the task, with the agent's own token; a bad token
// comes over the connection of the very agent that has the task.
func ofTask(m *matrix, c *caller, body any, more map[string]string) attempt {
	a := attempt{params: m.path(c), header: map[string]string{}, body: body}
	a.params["taskId"] = m.task.ID
	maps.Copy(a.params, more)
	if c.jwt != "" {
		a.header["Authorization"] = "Bearer " + c.jwt
	}
	if c.column == asBadToken {
		a.client = m.callers[asOwn].http
	}
	return a
}

// caRows come last: from the activation on, nobody has followed.
var caRows = []cells{
	{id: "ca.status", who: ofTheInstallation, in: 200},
	{id: "ca.rotate-signing-key", who: ofTheInstallation, in: 200},
	{id: "ca.prepare", who: ofTheInstallation, in: 200},
	{id: "ca.activate", who: ofTheInstallation, in: 200},
	// The agents here have not followed, and would be lost.
	{id: "ca.retire", who: ofTheInstallation, in: 409, make: with(func(*matrix) any { return api.CARetireRequest{LoseDead: true} })},
}

var protocolRows = []cells{
	{id: "agent.renew", who: ofTheAgent, in: 200, make: func(m *matrix, c *caller) attempt {
		return attempt{params: m.path(c), body: api.CertificateRequest{CSR: csr(m, newKey(m))}}
	}},
	{id: "agent.server-keys", who: ofTheAgent, in: 200, make: func(m *matrix, c *caller) attempt { return attempt{params: m.path(c)} }},
	{id: "agent.heartbeat", who: ofTheAgent, in: 200, make: func(m *matrix, c *caller) attempt {
		return attempt{params: m.path(c), body: api.HeartbeatRequest{Status: "online", NotAccepting: "no task for now"}}
	}},
	{id: "agent.events", who: ofTheAgent, in: 200, make: func(m *matrix, c *caller) attempt { return attempt{params: m.path(c)} }},
	{id: "agent.task-stream", who: ofTheAgent, in: 101, make: func(m *matrix, c *caller) attempt {
		cfg := tlsConfig(m.cp)
		if c.agent != nil {
			cfg = tlsConfig(m.cp, c.agent.cert)
		}
		return attempt{
			params: m.path(c), client: &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: false}},
			header: map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
		}
	}},
	{id: "link.grpc", who: ofAnyAgent, in: 200, knock: byGRPC},
	{id: "agent.token", who: ofAnyAgent, in: 200},
	{id: "agent.credentials", who: ofTheAgent, in: 200, make: func(m *matrix, c *caller) attempt {
		a := ofTask(m, c, api.CredentialsRequest{Attempt: m.task.Attempt}, nil)
		a.client = nil
		return a
	}},
	{id: "agent.artifact", who: ofTheTask, in: 200, make: func(m *matrix, c *caller) attempt {
		return ofTask(m, c, nil, map[string]string{"digest": m.digest})
	}},
	{id: "agent.logs", who: ofTheTask, in: 200, make: func(m *matrix, c *caller) attempt {
		return ofTask(m, c, api.LogRequest{Attempt: m.task.Attempt, FirstSeq: 1, Entries: []api.LogEntry{{At: time.Now(), Stream: "stdout", Text: "ours"}}}, nil)
	}},
	{id: "agent.complete", who: ofTheTask, in: 200, make: func(m *matrix, c *caller) attempt {
		return ofTask(m, c, api.CompleteRequest{Success: true, Attempt: m.task.Attempt}, nil)
	}},
	{id: "command.ack", who: ofTheAgent, in: 200, make: func(m *matrix, c *caller) attempt {
		a := attempt{params: m.path(c), body: api.CommandAck{}}
		a.params["commandId"] = m.command()
		return a
	}},
	{id: "agent.register", who: ofRegistrants, in: 200, make: func(m *matrix, c *caller) attempt {
		a := attempt{header: map[string]string{}, body: api.RegisterRequest{CSR: csr(m, newKey(m)), Capabilities: []string{"docker"}}}
		switch c.column { //nolint:exhaustive // the others show what they are
		case asBadToken:
			a.header[api.HeaderRegistrationToken] = "reg_" + strings.Repeat("a", 32) + "_" + strings.Repeat("a", 52)
		case asOwn, asAnother:
			// Not the column's own, which would have another key afterwards.
			fresh := newHandmade(m, m.cp, m.name())
			a.client = httpClient(tlsConfig(m.cp, fresh.cert))
		}
		return a
	}},
}
