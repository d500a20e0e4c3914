package testkit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/obs/metrics"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/contract"
)

// trip is the world in which every operation of the API's document is driven
// once with success and at least once in vain, while all that goes over the
// wire is checked by the document.
type trip struct {
	*testing.T
	cp        *testkit.ControlPlane
	transport *contract.Transport // of people
	agents    *contract.Transport // of the agent, with its certificate
	sockets   *contract.Transport // of the agent, for its WebSocket: HTTP/1.1 only
	// admin, viewer and nobody call as who they are.
	admin, viewer, nobody *client.Client
	agent                 *handmade
	bearer                string // the agent's own token

	target  string
	rollout string
	task    *api.AgentTask
	command string
}

// TestRoundTripOfEveryOperation fails for an operation of the document that
// has no row in trips.
func TestRoundTripOfEveryOperation(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := contract.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	cp := testkit.StartServer(t)
	w := &trip{T: t, cp: cp}
	over := func(c *http.Client) *contract.Transport {
		t.Cleanup(c.CloseIdleConnections)
		return &contract.Transport{Document: doc, Base: c.Transport, Report: t.Errorf}
	}
	w.transport = over(httpClient(tlsConfig(cp)))
	w.admin, w.nobody = w.as(cp.AdminToken), w.as("stl_wrong")
	w.agent = newHandmade(t, cp, "hand", "docker", "host")
	w.agents = over(httpClient(tlsConfig(cp, w.agent.cert)))
	w.sockets = over(&http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig(cp, w.agent.cert)}})

	rows := slices.Concat(tripsOfServer, tripsOfTokens, tripsOfAgents, tripsOfTargets, tripsOfTasks, tripsOfArtifacts, tripsOfCommands, tripsOfRollouts, tripsOfStreams, tripsOfEnds, tripsOfAudit, tripsOfCA)
	known := map[string]*contract.Operation{}
	for _, op := range doc.Operations {
		known[op.ID] = op
	}
	for _, row := range rows {
		if known[row.id] == nil {
			t.Errorf("the document has no operation %s any more", row.id)
		}
		delete(known, row.id)
		row.run(w)
		if t.Failed() {
			t.Fatalf("in the row of %s", row.id)
		}
		w.saw(row.id, w.driven(row.id), row.never)
	}
	for id := range known {
		t.Errorf("nobody drives %s: give it a row in trips", id)
	}
}

// saw wants a success and a failure among an operation's answers.
func (w *trip) saw(id string, statuses []int, never string) {
	w.Helper()
	if !slices.ContainsFunc(statuses, func(s int) bool { return s < 400 }) {
		w.Errorf("%s never succeeded: %v", id, statuses)
	}
	if never == "" && !slices.ContainsFunc(statuses, func(s int) bool { return s >= 400 }) {
		w.Errorf("%s never failed: %v", id, statuses)
	}
}

func (w *trip) driven(id string) []int {
	return slices.Concat(w.transport.Driven()[id], w.agents.Driven()[id], w.sockets.Driven()[id])
}

// as returns a client of people whose requests are checked.
func (w *trip) as(token string) *client.Client {
	w.Helper()
	c, err := client.New(client.Options{URL: w.cp.URL, Token: token, HTTPClient: &http.Client{Transport: w.transport}})
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// ok fails for an error.
func (w *trip) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// refused wants a problem with a code.
func (w *trip) refused(err error, status int, code string) {
	w.Helper()
	p, ok := errors.AsType[*api.Problem](err)
	if !ok || p.Status != status || p.Code != code {
		w.Fatalf("%v, want %d %s", err, status, code)
	}
}

// call is a request of an agent; path is what comes behind its own.
func (w *trip) call(ctx context.Context, t *contract.Transport, method, path string, header map[string]string, body, into any) error {
	w.Helper()
	var r io.Reader = http.NoBody
	if body != nil {
		data, err := json.Marshal(body)
		w.ok(err)
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, w.cp.URL+path, r)
	w.ok(err)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := (&http.Client{Transport: t, Timeout: 30 * time.Second}).Do(req)
	w.ok(err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	w.ok(err)
	if res.StatusCode >= 400 {
		p := new(api.Problem)
		w.ok(json.Unmarshal(data, p))
		return p
	}
	if into != nil {
		w.ok(json.Unmarshal(data, into))
	}
	return nil
}

// me is a path below the agent's own.
func (w *trip) me(path string) string { return "/api/v1/agents/" + w.agent.id + path }

func (w *trip) withToken() map[string]string {
	return map[string]string{"Authorization": "Bearer " + w.bearer}
}

// row drives one operation; never says why it cannot be made to fail here.
type row struct {
	id    string
	run   func(w *trip)
	never string
}

var tripsOfServer = []row{
	{"server.health", func(w *trip) { w.ok(w.admin.Health(w.Context())) }, "it does nothing that could fail"},
	{"server.ready", func(w *trip) { w.ok(w.admin.Ready(w.Context())) }, "it takes a broken database; package rest has a test for it"},
	{"server.crl", func(w *trip) {
		get := func(query string) (int, []byte) {
			req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, w.cp.URL+"/pki/crl"+query, http.NoBody)
			w.ok(err)
			res, err := w.transport.RoundTrip(req)
			w.ok(err)
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			w.ok(err)
			return res.StatusCode, body
		}
		if status, body := get(""); status != http.StatusOK || len(body) == 0 {
			w.Errorf("%d %s", status, body)
		}
		if status, body := get("?authority=nobody"); status != http.StatusNotFound || !bytes.Contains(body, []byte("authority_not_found")) {
			w.Errorf("%d %s", status, body)
		}
	}, ""},
	{"server.signing-key", func(w *trip) {
		key, err := w.admin.SigningKey(w.Context())
		w.ok(err)
		if block, _ := pem.Decode(key); block == nil || block.Type != "PUBLIC KEY" {
			w.Errorf("%s", key)
		}
	}, "it does nothing that could fail"},
	{"installer.linux", func(w *trip) {
		text, err := w.admin.LinuxInstaller(w.Context())
		w.ok(err)
		if !bytes.Contains(text, []byte("\nserver='"+w.cp.URL+"'")) {
			w.Errorf("%.500s", text)
		}
	}, "it does nothing that could fail"},
	{"installer.windows", func(w *trip) {
		text, err := w.admin.WindowsInstaller(w.Context())
		w.ok(err)
		if !bytes.Contains(text, []byte("\n$Server = '"+w.cp.URL+"'")) {
			w.Errorf("%.500s", text)
		}
	}, "it does nothing that could fail"},
	{"agent-program.checksums", func(w *trip) {
		agentProgram(w, w.cp, "riscv64")
		text, err := w.admin.AgentChecksums(w.Context())
		w.ok(err)
		if !bytes.Contains(text, []byte("  stella-agent_linux_riscv64\n")) {
			w.Errorf("%s", text)
		}
	}, "it takes a disk that breaks"},
	{"agent-program.signature", func(w *trip) {
		signature, err := w.admin.AgentChecksumsSignature(w.Context())
		w.ok(err)
		if len(signature) != 64 {
			w.Errorf("%x", signature)
		}
	}, "it takes a disk that breaks"},
	{"agent-program.get", func(w *trip) {
		program := agentProgram(w, w.cp, "riscv64")
		body, err := w.admin.AgentProgram(w.Context(), "linux", "riscv64")
		w.ok(err)
		defer body.Close()
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, program) {
			w.Errorf("%d bytes, %v", len(got), err)
		}
		_, err = w.admin.AgentProgram(w.Context(), "plan9", "amd64")
		w.refused(err, 404, "agent_program_not_found")
	}, ""},
	{"server.metrics", func(w *trip) {
		text, err := w.admin.Metrics(w.Context())
		w.ok(err)
		if !bytes.Contains(text, []byte("\n# TYPE "+metrics.CertificatesIssued+" counter\n")) {
			w.Errorf("%s", text)
		}
		_, err = w.nobody.Metrics(w.Context())
		w.refused(err, 401, "unauthenticated")
	}, ""},
	{"server.root-certificate", func(w *trip) {
		req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, w.cp.URL+"/pki/ca.pem", http.NoBody)
		w.ok(err)
		res, err := w.transport.RoundTrip(req)
		w.ok(err)
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		w.ok(err)
		root, err := client.FetchRoot(w.Context(), w.cp.URL) // makes a connection of its own
		w.ok(err)
		if !bytes.Equal(bytes.TrimSpace(root.PEM), bytes.TrimSpace(got)) {
			w.Errorf("%s is not %s", root.PEM, got)
		}
	}, "it does nothing that could fail"},
	{"whoami", func(w *trip) {
		me, err := w.admin.WhoAmI(w.Context())
		w.ok(err)
		if me.Role != api.RoleAdmin {
			w.Errorf("%+v", me)
		}
		_, err = w.nobody.WhoAmI(w.Context())
		w.refused(err, 401, "unauthenticated")
	}, ""},
	{"audit.list", func(w *trip) {
		_, err := w.admin.AuditPage(w.Context(), client.AuditFilter{Filter: `action ~ "agent*"`, Limit: 5})
		w.ok(err)
		_, err = w.admin.AuditPage(w.Context(), client.AuditFilter{Cursor: "garbage"})
		w.refused(err, 422, "invalid")
	}, ""},
}

var tripsOfAudit = []row{
	{"audit.verify", func(w *trip) {
		v, err := w.admin.VerifyAudit(w.Context(), client.AuditVerification{})
		w.ok(err)
		if !v.Holds || v.From != 1 || v.Head == nil {
			w.Fatalf("%+v", v)
		}
		again, err := w.admin.VerifyAudit(w.Context(), client.AuditVerification{Head: fmt.Sprintf("%d:%s", v.Head.Seq, v.Head.Hash)})
		w.ok(err)
		if !again.Holds || again.Contains != "yes" {
			w.Errorf("%+v", again)
		}
		_, err = w.admin.VerifyAudit(w.Context(), client.AuditVerification{After: "1042"})
		w.refused(err, 422, "invalid")
		_, err = w.viewer.VerifyAudit(w.Context(), client.AuditVerification{})
		w.refused(err, 403, "role_missing")
	}, ""},
}

var tripsOfTokens = []row{
	{"api-token.create", func(w *trip) {
		tok, err := w.admin.CreateAPIToken(w.Context(), api.APITokenRequest{Name: "reader", Role: api.RoleViewer, TTLSeconds: 600})
		w.ok(err)
		w.viewer = w.as(tok.Token)
		_, err = w.viewer.CreateAPIToken(w.Context(), api.APITokenRequest{Name: "more", Role: api.RoleAdmin})
		w.refused(err, 403, "role_missing")
	}, ""},
	{"api-token.list", func(w *trip) {
		list, err := w.admin.APITokenPage(w.Context(), client.TokenFilter{Sort: "-createdAt"})
		w.ok(err)
		if len(list.Items) != 2 {
			w.Errorf("%+v", list)
		}
		_, err = w.viewer.APITokenPage(w.Context(), client.TokenFilter{})
		w.refused(err, 403, "role_missing")
	}, ""},
	{"api-token.revoke", func(w *trip) {
		tok, err := w.admin.CreateAPIToken(w.Context(), api.APITokenRequest{Name: "gone", Role: api.RoleOperator})
		w.ok(err)
		w.ok(w.admin.RevokeAPIToken(w.Context(), tok.ID))
		w.refused(w.admin.RevokeAPIToken(w.Context(), "nobody"), 404, "token_not_found")
	}, ""},
	{"secret.set", func(w *trip) {
		s, err := w.admin.SetSecret(w.Context(), "web-key", "hunter22")
		w.ok(err)
		if s.Version != 1 {
			w.Errorf("%+v", s)
		}
		_, err = w.admin.SetSecret(w.Context(), "web key", "hunter22")
		w.refused(err, 422, "invalid")
		_, err = w.viewer.SetSecret(w.Context(), "web-key", "mine")
		w.refused(err, 403, "role_missing")
	}, ""},
	{"secret.list", func(w *trip) {
		list, err := w.viewer.SecretPage(w.Context(), client.SecretFilter{Filter: "name=web-key", Limit: 1})
		w.ok(err)
		if len(list.Items) != 1 {
			w.Errorf("%+v", list)
		}
		_, err = w.viewer.SecretPage(w.Context(), client.SecretFilter{Sort: "value"})
		w.refused(err, 422, "invalid")
	}, ""},
	{"secret.get", func(w *trip) {
		_, err := w.viewer.Secret(w.Context(), "web-key")
		w.ok(err)
		_, err = w.viewer.Secret(w.Context(), "nothing")
		w.refused(err, 404, "secret_not_found")
	}, ""},
	{"secret.delete", func(w *trip) {
		w.ok(w.admin.DeleteSecret(w.Context(), "web-key", false))
		w.refused(w.admin.DeleteSecret(w.Context(), "web-key", true), 404, "secret_not_found")
	}, ""},
	{"agent.bootstrap", func(w *trip) {
		for _, platform := range []string{"linux", "windows", "docker"} {
			made, err := w.admin.Bootstrap(w.Context(), api.BootstrapRequest{RegistrationTokenRequest: api.RegistrationTokenRequest{Group: "web", Platform: platform}})
			w.ok(err)
			if !strings.Contains(made.InstallCommand, made.Token) || made.ServerURL != w.cp.URL {
				w.Errorf("%+v", made)
			}
		}
		_, err := w.admin.Bootstrap(w.Context(), api.BootstrapRequest{RegistrationTokenRequest: api.RegistrationTokenRequest{Platform: "amiga"}})
		w.refused(err, 422, "invalid")
		_, err = w.admin.Bootstrap(w.Context(), api.BootstrapRequest{ServerURL: "https://elsewhere.example.com:8443"})
		w.refused(err, 422, "invalid")
	}, ""},
	{"registration-token.create", func(w *trip) {
		_, err := w.admin.CreateRegistrationToken(w.Context(), api.RegistrationTokenRequest{Group: "web", Labels: map[string]string{"zone": "eu"}, MaxUses: 3})
		w.ok(err)
		_, err = w.admin.CreateRegistrationToken(w.Context(), api.RegistrationTokenRequest{Name: "one", MaxUses: 2})
		w.refused(err, 422, "invalid")
	}, ""},
	{"registration-token.list", func(w *trip) {
		_, err := w.admin.RegistrationTokenPage(w.Context(), client.TokenFilter{Limit: 1})
		w.ok(err)
		_, err = w.admin.RegistrationTokenPage(w.Context(), client.TokenFilter{Filter: "nonsense ~"})
		w.refused(err, 422, "invalid")
	}, ""},
	{"registration-token.revoke", func(w *trip) {
		list, err := w.admin.RegistrationTokenPage(w.Context(), client.TokenFilter{Filter: `group = web`})
		w.ok(err)
		w.ok(w.admin.RevokeRegistrationToken(w.Context(), list.Items[0].ID))
		w.refused(w.admin.RevokeRegistrationToken(w.Context(), "nobody"), 404, "token_not_found")
	}, ""},
}

var tripsOfAgents = []row{
	{"agent.register", func(w *trip) {
		req := api.RegisterRequest{Name: "other", CSR: csr(w, newKey(w)), Capabilities: []string{"docker"}, Group: "web"}
		var got api.RegisterResponse
		w.ok(w.call(w.Context(), w.transport, http.MethodPost, "/api/v1/agents/register", map[string]string{api.HeaderRegistrationToken: w.cp.Token()}, req, &got))
		err := w.call(w.Context(), w.transport, http.MethodPost, "/api/v1/agents/register", map[string]string{api.HeaderRegistrationToken: "reg_no_good"}, req, nil)
		w.refused(err, 401, "token_refused")
		err = w.call(w.Context(), w.transport, http.MethodPost, "/api/v1/agents/register", map[string]string{api.HeaderRegistrationToken: w.cp.Token()}, req, nil)
		w.refused(err, 409, "name_taken")
		err = w.call(w.Context(), w.transport, http.MethodPost, "/api/v1/agents/register", map[string]string{api.HeaderProtocolVersion: "99", api.HeaderRegistrationToken: w.cp.Token()}, req, nil)
		w.refused(err, 400, "protocol_version")
	}, ""},
	{"agent.renew", func(w *trip) {
		req := api.CertificateRequest{CSR: csr(w, newKey(w)), CertificateLifeSeconds: 3600}
		var got api.CertificateResponse
		w.ok(w.call(w.Context(), w.agents, http.MethodPost, w.me("/certificate"), nil, req, &got))
		if left := time.Until(got.NotAfter); left < 50*time.Minute || left > time.Hour {
			w.Errorf("it lives for %s", left)
		}
		w.refused(w.call(w.Context(), w.agents, http.MethodPost, w.me("/certificate"), nil, api.CertificateRequest{CSR: csr(w, w.agent.key)}, nil), 422, "invalid")
		w.refused(w.call(w.Context(), w.agents, http.MethodPost, "/api/v1/agents/another/certificate", nil, req, nil), 403, "not_your_identity")
		w.refused(w.call(w.Context(), w.transport, http.MethodPost, w.me("/certificate"), nil, req, nil), 401, "certificate_missing")
	}, ""},
	{"agent.server-keys", func(w *trip) {
		var got api.ServerKeys
		w.ok(w.call(w.Context(), w.agents, http.MethodGet, w.me("/server-keys"), nil, nil, &got))
		if len(got.Keys) != 1 || len(got.Keys[0].Signature) != 0 {
			w.Errorf("%+v", got)
		}
		w.refused(w.call(w.Context(), w.agents, http.MethodGet, "/api/v1/agents/another/server-keys", nil, nil, nil), 403, "not_your_identity")
		w.refused(w.call(w.Context(), w.transport, http.MethodGet, w.me("/server-keys"), nil, nil, nil), 401, "certificate_missing")
	}, ""},
	{"agent.token", func(w *trip) {
		var got api.AgentToken
		w.ok(w.call(w.Context(), w.agents, http.MethodPost, "/api/v1/agents/token", nil, nil, &got))
		w.bearer = got.Token
		w.refused(w.call(w.Context(), w.transport, http.MethodPost, "/api/v1/agents/token", nil, nil, nil), 401, "certificate_missing")
	}, ""},
	{"agent.heartbeat", func(w *trip) {
		usage := &api.ResourceUsage{CPUPercent: 1, MemoryTotalBytes: 1 << 33}
		now := time.Now().UTC()
		w.ok(w.call(w.Context(), w.agents, http.MethodPost, w.me("/heartbeat"), nil, api.HeartbeatRequest{Status: "online", ResourceUsage: usage, SentAt: &now}, nil))
		w.refused(w.call(w.Context(), w.agents, http.MethodPost, "/api/v1/agents/another/heartbeat", nil, api.HeartbeatRequest{}, nil), 403, "not_your_identity")
		w.refused(w.call(contract.Careless(w.Context()), w.agents, http.MethodPost, w.me("/heartbeat"), nil, "no heartbeat", nil), 422, "invalid")
		w.refused(w.call(contract.Careless(w.Context()), w.agents, http.MethodPost, w.me("/heartbeat"), nil, nil, nil), 400, "malformed")
	}, ""},
	{"agent.list", func(w *trip) {
		list, err := w.viewer.AgentPage(w.Context(), client.AgentFilter{Status: "active", Filter: `name ~ "h*"`, Labels: map[string]string{}, Sort: "name", Limit: 10})
		w.ok(err)
		if len(list.Items) != 1 || list.Items[0].ID != w.agent.id {
			w.Errorf("%+v", list)
		}
		_, err = w.viewer.AgentPage(w.Context(), client.AgentFilter{Status: "happy"})
		w.refused(err, 422, "invalid")
	}, ""},
	{"agent.get", func(w *trip) {
		_, err := w.viewer.Agent(w.Context(), "hand")
		w.ok(err)
		_, err = w.viewer.Agent(w.Context(), "nobody")
		w.refused(err, 404, "agent_not_found")
	}, ""},
	{"agent.update", func(w *trip) {
		labels := map[string]string{"zone": "eu"}
		_, err := w.admin.UpdateAgent(w.Context(), "hand", api.AgentUpdate{Labels: &labels})
		w.ok(err)
		_, err = w.viewer.UpdateAgent(w.Context(), "hand", api.AgentUpdate{Labels: &labels})
		w.refused(err, 403, "role_missing")
	}, ""},
	{"agent.deactivate", func(w *trip) {
		_, err := w.admin.DeactivateAgent(w.Context(), "hand")
		w.ok(err)
		_, err = w.admin.DeactivateAgent(w.Context(), "nobody")
		w.refused(err, 404, "agent_not_found")
	}, ""},
	{"agent.activate", func(w *trip) {
		_, err := w.admin.ActivateAgent(w.Context(), "hand")
		w.ok(err)
		_, err = w.admin.ActivateAgent(w.Context(), "nobody")
		w.refused(err, 404, "agent_not_found")
	}, ""},
}

// tripsOfEnds take away what the others worked with.
var tripsOfEnds = []row{
	{"target.delete", func(w *trip) {
		_, err := w.admin.CreateTarget(w.Context(), api.TargetRequest{Name: "short", Kind: "docker", Agent: "hand"})
		w.ok(err)
		w.ok(w.admin.DeleteTarget(w.Context(), "short"))
		w.refused(w.admin.DeleteTarget(w.Context(), "short"), 404, "target_not_found")
	}, ""},
	{"agent.revoke", func(w *trip) {
		a, err := w.admin.RevokeAgent(w.Context(), "hand")
		w.ok(err)
		if a.Lifecycle != api.LifecycleRevoked {
			w.Errorf("%+v", a)
		}
		_, err = w.admin.RevokeAgent(w.Context(), "nobody")
		w.refused(err, 404, "agent_not_found")
		w.refused(w.call(w.Context(), w.agents, http.MethodPost, w.me("/heartbeat"), nil, api.HeartbeatRequest{}, nil), 403, "agent_revoked")
		_, err = w.admin.ActivateAgent(w.Context(), "hand")
		w.refused(err, 409, "agent_revoked")
	}, ""},
	{"agent.delete", func(w *trip) {
		w.ok(w.admin.DeleteAgent(w.Context(), "hand"))
		w.refused(w.admin.DeleteAgent(w.Context(), "hand"), 404, "agent_not_found")
		err := w.call(w.Context(), w.agents, http.MethodPost, "/api/v1/agents/token", nil, nil, nil)
		w.refused(err, 403, "agent_unknown")
		if !strings.Contains(err.Error(), "register") {
			w.Errorf("it does not say what to do next: %v", err)
		}
	}, ""},
}
