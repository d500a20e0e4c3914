package client

import (
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// operations says by what each operation of the API's document is called.
var operations = map[string][]any{
	"agent.list":       {(*Client).AgentPage, (*Client).Agents},
	"agent.get":        {(*Client).Agent},
	"agent.update":     {(*Client).UpdateAgent},
	"agent.delete":     {(*Client).DeleteAgent},
	"agent.activate":   {(*Client).ActivateAgent},
	"agent.deactivate": {(*Client).DeactivateAgent},
	"agent.revoke":     {(*Client).RevokeAgent},

	"server.crl":     {(*Client).CRL},
	"server.metrics": {(*Client).Metrics},

	"ca.status":   {(*Client).CA},
	"ca.prepare":  {(*Client).PrepareCA},
	"ca.activate": {(*Client).ActivateCA},
	"ca.retire":   {(*Client).RetireCA},

	"ca.rotate-signing-key": {(*Client).RotateSigningKey},

	"target.list":   {(*Client).TargetPage, (*Client).Targets},
	"target.get":    {(*Client).Target},
	"target.create": {(*Client).CreateTarget},
	"target.update": {(*Client).ReplaceTarget},
	"target.delete": {(*Client).DeleteTarget},

	"inventory.list": {(*Client).InventoryPage, (*Client).Inventory},

	"task.list":        {(*Client).TaskPage, (*Client).Tasks},
	"task.get":         {(*Client).Task},
	"task.create":      {(*Client).SubmitTask},
	"task.create-many": {(*Client).SubmitTasks},
	"task.cancel":      {(*Client).CancelTask},
	"task.logs":        {(*Client).TaskLogs, (*Client).FollowTaskLogs},

	"command.send":       {(*Client).SendCommand},
	"command.send-group": {(*Client).SendCommandToGroup},
	"command.send-all":   {(*Client).SendCommandToAll},
	"command.list":       {(*Client).CommandPage, (*Client).Commands},
	"command.get":        {(*Client).Command, (*Client).CommandDeliveries},
	"command.list-agent": {(*Client).AgentCommandPage, (*Client).AgentCommands},

	"rollout.preview":  {(*Client).PreviewRollout},
	"rollout.create":   {(*Client).CreateRollout},
	"rollout.list":     {(*Client).RolloutPage, (*Client).Rollouts},
	"rollout.get":      {(*Client).Rollout},
	"rollout.pause":    {(*Client).PauseRollout},
	"rollout.resume":   {(*Client).ResumeRollout},
	"rollout.cancel":   {(*Client).CancelRollout},
	"rollout.rollback": {(*Client).RollbackRollout},

	"secret.set":    {(*Client).SetSecret},
	"secret.list":   {(*Client).SecretPage, (*Client).Secrets},
	"secret.get":    {(*Client).Secret},
	"secret.delete": {(*Client).DeleteSecret},

	"artifact.begin":   {(*Client).BeginArtifact, (*Client).PushArtifact},
	"artifact.append":  {(*Client).AppendArtifact},
	"artifact.list":    {(*Client).ArtifactPage, (*Client).Artifacts},
	"artifact.get":     {(*Client).Artifact},
	"artifact.content": {(*Client).ArtifactContent, (*Client).PullArtifact},
	"artifact.delete":  {(*Client).DeleteArtifact},

	"agent.bootstrap":         {(*Client).Bootstrap},
	"installer.linux":         {(*Client).LinuxInstaller},
	"installer.windows":       {(*Client).WindowsInstaller},
	"agent-program.get":       {(*Client).AgentProgram},
	"agent-program.checksums": {(*Client).AgentChecksums},
	"agent-program.signature": {(*Client).AgentChecksumsSignature},
	"server.signing-key":      {(*Client).SigningKey},

	"registration-token.create": {(*Client).CreateRegistrationToken},
	"registration-token.list":   {(*Client).RegistrationTokenPage, (*Client).RegistrationTokens},
	"registration-token.revoke": {(*Client).RevokeRegistrationToken},
	"api-token.create":          {(*Client).CreateAPIToken},
	"api-token.list":            {(*Client).APITokenPage, (*Client).APITokens},
	"api-token.revoke":          {(*Client).RevokeAPIToken},

	"audit.verify":            {(*Client).VerifyAudit},
	"audit.list":              {(*Client).AuditPage, (*Client).Audit},
	"event.list":              {(*Client).Events},
	"whoami":                  {(*Client).WhoAmI},
	"server.health":           {(*Client).Health},
	"server.ready":            {(*Client).Ready},
	"server.root-certificate": {FetchRoot},
}

// ofAgents are operations that this client does not have: who calls them is an
// agent, with a key, a certificate and a journal of its own, and not a person
// with an API token. internal/agent does, and docs/protocol.md shows how.
var ofAgents = map[string]bool{
	"agent.register": true, "agent.token": true, "agent.renew": true, "agent.server-keys": true, "agent.heartbeat": true, "agent.complete": true, "agent.logs": true, "agent.credentials": true,
	"agent.events": true, "agent.artifact": true, "agent.task-stream": true, "command.ack": true,
}

// noOperation are methods that call nothing.
var noOperation = map[string]bool{"Close": true, "URL": true}

func TestEveryOperationHasAMethod(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string   `yaml:"operationId"`
			Tags        []string `yaml:"tags"`
		} `yaml:"paths"`
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for path, item := range doc.Paths {
		for method, op := range item {
			seen++
			if (len(operations[op.OperationID]) > 0) == ofAgents[op.OperationID] {
				t.Errorf("%s (%s %s): give the client a method for it, and name it here; or say that it is the agents' alone", op.OperationID, method, path)
			}
			if ofAgents[op.OperationID] != (op.Tags[0] == "agent-protocol") {
				t.Errorf("%s has the tag %s", op.OperationID, op.Tags[0])
			}
		}
	}
	if seen != len(operations)+len(ofAgents) {
		t.Errorf("the document has %d operations, and %d are named here", seen, len(operations)+len(ofAgents))
	}
	named := map[string]bool{}
	for _, fns := range operations {
		for _, fn := range fns {
			name := runtime.FuncForPC(reflect.ValueOf(fn).Pointer()).Name()
			named[name[strings.LastIndexByte(name, '.')+1:]] = true
		}
	}
	for m := range reflect.TypeFor[*Client]().Methods() {
		if !named[m.Name] && !noOperation[m.Name] {
			t.Errorf("Client.%s calls which operation?", m.Name)
		}
	}
}
