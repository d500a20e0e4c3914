package rest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"stella-ops.org/stella/api"
)

// about is what the API's document says of an operation beside what its types
// say: the handlers stay free of prose, and the document's tests find an
// operation of which nothing is said here.
type about struct {
	tag string
	// text says what it does, whether it may be repeated, and whether it waits.
	text string
	// request and answer are examples: values of the body's very type.
	request, answer any
	// answers says what the answer is.
	answers string
	// refuses are the refusals beside those that follow from who may call it
	// and what it takes; each is a key of refusals.
	refuses []string
}

// tags are the document's chapters, in order.
var tags = []*huma.Tag{
	{Name: "agents", Description: "Agents, as people and scripts see them: which there are, how they are, and whether they may work."},
	{Name: "targets", Description: "What can be deployed to, and which agent reaches it."},
	{Name: "tasks", Description: "Deployments and other work on targets: queued here, carried to an agent, and told about until they are over."},
	{Name: "artifacts", Description: "Files for deployments in Stella's own store, named by the digest of their content."},
	{Name: "commands", Description: "Commands to agents themselves: one, a group, or all. Who the recipients are is fixed when a command is sent."},
	{Name: "rollouts", Description: "One deployment to many targets: some at a time, with a limit to its failures."},
	{Name: "secrets", Description: "Named values that targets and tasks refer to. They are kept encrypted, and go to agents alone."},
	{Name: "events", Description: "What happens, as it happens."},
	{Name: "tokens", Description: "Registration tokens, with which agents get their identity, and API tokens of people and scripts. For admins."},
	{Name: "install", Description: "What hosts fetch that are to become agents. It is for everybody, and none of it is secret."},
	{Name: "audit", Description: "Who changed what, and who tried to. The log cannot be changed unnoticed: each line has the hash of the one before it."},
	{Name: "ca", Description: "The installation's certificate authority, and how the next one takes its place. For admins."},
	{Name: "server", Description: "The server itself."},
	{Name: "agent-protocol", Description: "What agents call, with their client certificate. People do not need it: an agent of Stella's speaks it, and others may be written."},
}

const intro = `The control plane of Stella: agents, targets and deployments.

People and scripts show an API token (` + "`Authorization: Bearer stl_…`" + `), agents the client certificate that registration gave them, both over TLS 1.3. ` +
	`A token has a role: a viewer reads, an operator also deploys, an admin also decides who may do what.

Times are RFC 3339 in UTC. A field that is empty and optional is left out. Every error is a problem document (RFC 9457) with a stable ` + "`code`" + `; ` +
	`what each operation may answer is listed with it. Listings have pages: give ` + "`next`" + ` back as ` + "`cursor`" + `.`

// callers says in words who may call an operation.
var callers = map[need]string{
	anybody:       "anybody",
	registrant:    "whoever has a registration token, and any agent, by its client certificate",
	viewer:        "API tokens of every role",
	operator:      "API tokens with the role operator or admin",
	admin:         "API tokens with the role admin",
	agentSelf:     "the agent that the path names, by its client certificate",
	agentRenewing: "the agent that the path names, by its client certificate, also when that has ended lately",
	agentAny:      "any agent, by its client certificate",
	agentTask:     "the agent that the path names, by its client certificate and a token for the task",
	agentOrViewer: "API tokens of every role, and the agent that the path names by its client certificate",
}

// Extensions of the document.
const (
	extCaller = "x-caller"      // who may call the operation, in words
	extCodes  = "x-codes"       // of an error response: the codes that it may have
	extItem   = "x-item-schema" // of a stream: the schema of each item's JSON
)

// describe completes the document of what the handlers have declared.
func (s *Server) describe() {
	doc := s.huma.OpenAPI()
	doc.Tags = tags
	doc.Components.Responses = map[string]*huma.Response{}
	s.describePlain(doc)
	s.describeInstall(doc)
	abouts := map[string]about{}
	for _, part := range []map[string]about{aboutAgents(), aboutProtocol(), aboutWork(), aboutCommands(), aboutArtifacts(), aboutRollouts(), aboutSecrets(), aboutAdmin(), aboutServer(), aboutInstall(), aboutCA()} {
		maps.Copy(abouts, part)
	}
	for path, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete, item.Patch} {
			if op != nil {
				if a, ok := abouts[op.OperationID]; ok {
					a.describe(doc, path, op)
				}
			}
		}
	}
	describeTypes(doc)
}

func (a *about) describe(doc *huma.OpenAPI, path string, op *huma.Operation) {
	who, _ := op.Metadata[needKey].(need)
	op.Tags, op.Description = []string{a.tag}, a.text
	op.Extensions = map[string]any{extCaller: callers[who]}
	for _, p := range op.Parameters {
		// Huma says it twice, and readers would, too.
		if p.Schema != nil {
			p.Schema.Description = ""
		}
		if example := paramExample(path, p); example != nil {
			p.Example = example
		}
	}
	if op.RequestBody != nil {
		for _, m := range op.RequestBody.Content {
			m.Example = a.request
		}
	}
	// Two operations have two answers.
	switch op.OperationID {
	case "task.create":
		secondAnswer(op, "task", &huma.MediaType{Schema: schemaOf[api.Task](doc), Example: exampleTask()})
	case "rollout.create":
		secondAnswer(op, "rollout", &huma.MediaType{Schema: schemaOf[api.Rollout](doc), Example: exampleRollout()})
	}
	if a.answer != nil {
		op.Responses[strconv.Itoa(op.DefaultStatus)].Content["application/json"].Example = a.answer
	}
	if a.answers != "" {
		op.Responses[strconv.Itoa(op.DefaultStatus)].Description = a.answers
	}
	delete(op.Responses, "default")
	problems(doc, op, slices.Concat(usualRefusals(who, op), a.refuses))
}

// problems adds an operation's error responses, one for each status. Those
// that say the same are one component.
func problems(doc *huma.OpenAPI, op *huma.Operation, keys []string) {
	slices.Sort(keys)
	codes := map[string][]string{}
	for _, key := range slices.Compact(keys) {
		status, code, _ := strings.Cut(key, " ")
		codes[status] = append(codes[status], code)
	}
	for status, of := range codes {
		name := status + "-" + strings.Join(of, "-")
		if doc.Components.Responses[name] == nil {
			doc.Components.Responses[name] = refusal(doc, status, of)
		}
		op.Responses[status] = &huma.Response{Ref: "#/components/responses/" + name}
	}
}

// refusal is an error response with the codes that it may have.
func refusal(doc *huma.OpenAPI, status string, codes []string) *huma.Response {
	number, err := strconv.Atoi(status)
	if err != nil {
		panic(fmt.Sprintf("%q is no status", status))
	}
	media := &huma.MediaType{Schema: schemaOf[problem](doc), Examples: map[string]*huma.Example{}}
	r := &huma.Response{
		Content:    map[string]*huma.MediaType{"application/problem+json": media},
		Extensions: map[string]any{extCodes: codes},
	}
	for _, code := range codes {
		text, ok := refusals[status+" "+code]
		if !ok {
			panic(fmt.Sprintf("an operation refuses with %s %s, of which nothing is known", status, code))
		}
		r.Description = strings.TrimPrefix(r.Description+"\n- `"+code+"`: "+text, "\n")
		media.Examples[code] = &huma.Example{Summary: text, Value: newProblem(number, code, text).Problem}
	}
	if slices.Contains(codes, "wrong_offset") {
		r.Headers = map[string]*huma.Param{api.HeaderUploadOffset: {Description: "With `wrong_offset`: where the upload goes on.", Schema: &huma.Schema{Type: huma.TypeInteger, Format: "int64"}}}
	}
	if number == http.StatusTooManyRequests {
		r.Headers = map[string]*huma.Param{"Retry-After": {Description: "In how many seconds to try again.", Schema: &huma.Schema{Type: huma.TypeInteger}}}
	}
	if number == http.StatusUnauthorized {
		r.Headers = map[string]*huma.Param{"WWW-Authenticate": {Description: "How to say who calls.", Schema: &huma.Schema{Type: huma.TypeString}}}
	}
	return r
}

// describeTypes has the types say what their sources do, and adds what the
// shape of a task's payload may be.
func describeTypes(doc *huma.OpenAPI) {
	payloads := []*huma.Schema{
		schemaOf[api.DeployPayload](doc), schemaOf[api.RollbackPayload](doc), schemaOf[api.HealthCheckPayload](doc), schemaOf[api.InspectPayload](doc),
		schemaOf[api.CommandPayload](doc), schemaOf[api.UploadPayload](doc), schemaOf[api.StickerPayload](doc),
	}
	schemas := doc.Components.Schemas.Map()
	for _, name := range []string{"TaskRequest", "TasksRequest", "Task", "AgentTask"} {
		// An extension, because huma must not check by it: the payload is checked
		// against its type and its target, where the refusal can name the field.
		schemas[name].Properties["payload"].Extensions = map[string]any{"anyOf": payloads}
	}
	for name, s := range schemas {
		s.Description = typeDocs[name]
	}
}

// schemaOf returns a reference to a type's schema, which it adds when it is
// not there.
func schemaOf[T any](doc *huma.OpenAPI) *huma.Schema {
	return doc.Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
}

// paramExample is an example for a parameter that has to be given.
func paramExample(path string, p *huma.Param) any {
	switch {
	case p.In == "header" && p.Name == api.HeaderRegistrationToken:
		return exampleRegistrationTokenMade().Token
	case p.In == "header" && p.Name == api.HeaderUploadOffset:
		return 0
	case p.In == "query" && p.Name == "label":
		return []string{"zone=eu-1"}
	case p.In != "path":
		return nil
	case p.Name == "group":
		return "web"
	case p.Name == "digest":
		return exampleArtifactDigest
	case p.Name == "taskId":
		return exampleTaskID
	case p.Name == "commandId":
		return exampleCommandID
	}
	for prefix, id := range map[string]string{ //nolint:gosec // paths and names
		"/api/v1/agents/": exampleAgentID, "/api/v1/targets/": "shop", "/api/v1/tasks/": exampleTaskID,
		"/api/v1/commands/": exampleCommandID, "/api/v1/admin/": exampleTokenID, "/api/v1/secrets/": "web-ssh-key",
		"/api/v1/rollouts/": exampleRolloutID,
	} {
		if strings.HasPrefix(path, prefix) {
			return id
		}
	}
	return nil
}

// secondAnswer is that to an idempotency key that was seen.
func secondAnswer(op *huma.Operation, what string, content *huma.MediaType) {
	again := *op.Responses["201"]
	again.Description = "The " + what + " that was made with the idempotency key, as it stands now."
	again.Content = map[string]*huma.MediaType{"application/json": content}
	op.Responses["200"] = &again
}

// items describes an answer that is a stream of JSON values.
func items(item *huma.Schema, text, example string) *huma.MediaType {
	return &huma.MediaType{
		Schema:     &huma.Schema{Type: huma.TypeString, Description: text},
		Example:    example,
		Extensions: map[string]any{extItem: item},
	}
}

// lines is a stream of JSON values, one on each line.
func lines[T any](values []T) string {
	var b strings.Builder
	for _, v := range values {
		b.Write(raw(v))
		b.WriteByte('\n')
	}
	return b.String()
}

// sseText is a stream of one event, as it goes over the wire.
func sseText(id uint64, kind string, data json.RawMessage) string {
	return fmt.Sprintf(": ok\n\nid: %d\nevent: %s\ndata: %s\n\n", id, kind, data)
}
