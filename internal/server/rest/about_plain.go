package rest

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"stella-ops.org/stella/api"
)

// extMessages lists the messages of a WebSocket.
const extMessages = "x-messages"

// describePlain adds what is answered outside huma's operations: it is part of
// the API all the same.
func (s *Server) describePlain(doc *huma.OpenAPI) {
	status := func() map[string]*huma.MediaType {
		return map[string]*huma.MediaType{"application/json": {Schema: schemaOf[api.ServerStatus](doc)}}
	}
	health := s.plainOperation("/healthz", "server.health", "Say that the server runs", anybody)
	health.Responses["200"] = &huma.Response{Content: status()}
	doc.AddOperation(&health)
	ready := s.plainOperation("/readyz", "server.ready", "Say whether the server can do its work", anybody)
	ready.Responses["200"] = &huma.Response{Content: status()}
	doc.AddOperation(&ready)

	root := s.plainOperation("/pki/ca.pem", "server.root-certificate", "Get the root certificate", anybody)
	root.Responses["200"] = &huma.Response{Description: "The certificate.", Content: map[string]*huma.MediaType{
		"application/x-pem-file": {Schema: &huma.Schema{Type: huma.TypeString, Description: "One certificate in PEM."}, Example: exampleRegisterResponse().CACertificate},
	}}
	doc.AddOperation(&root)

	list := s.plainOperation("/pki/crl", "server.crl", "Get the list of revoked certificates", anybody)
	list.Parameters = []*huma.Param{{
		Name: "authority", In: "query", Description: "The id of the authority whose intermediate signs it; the one that issues when left out.",
		Schema: &huma.Schema{Type: huma.TypeString}, Example: "0f1e2d3c4b5a6978",
	}}
	list.Responses["200"] = &huma.Response{Description: "The list.", Content: map[string]*huma.MediaType{
		"application/pkix-crl": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary", Description: "A certificate revocation list (RFC 5280) in DER."}, Example: "MIIBLjCB1QIBATAKBggqhkjOPQQDAjAt…"},
	}}
	doc.AddOperation(&list)

	stream := s.plainOperation("/api/v1/agents/{id}/task-stream", "agent.task-stream", "Open the agent's task stream (WebSocket)", agentSelf)
	text := &huma.Schema{Type: huma.TypeString}
	stream.Parameters = []*huma.Param{
		{Name: "id", In: "path", Required: true, Description: "The agent's id.", Schema: text},
		{Name: "Upgrade", In: "header", Required: true, Description: "websocket", Schema: text},
		{Name: "Sec-WebSocket-Protocol", In: "header", Description: "Left out for JSON, or " + api.SubprotocolProto + ".", Schema: text},
		{Name: api.HeaderProtocolVersion, In: "header", Description: "The agent's protocol version; 1 when left out.", Schema: text},
	}
	stream.DefaultStatus = http.StatusSwitchingProtocols
	stream.Responses["101"] = &huma.Response{
		Description: "The stream is open.",
		Extensions:  map[string]any{extMessages: streamMessages(schemaOf[api.StreamMessage](doc))},
	}
	doc.AddOperation(&stream)
}

// plainKey marks an operation that is not huma's.
const plainKey = "stella.plain"

func (s *Server) plainOperation(path, id, summary string, who need) huma.Operation {
	op := s.operation(http.MethodGet, path, id, summary, who)
	op.Metadata[plainKey] = true
	op.DefaultStatus = http.StatusOK
	op.Responses = map[string]*huma.Response{}
	return op
}

// message is one kind of message of the task stream.
type message struct {
	Type        string            `json:"type"`
	Description string            `json:"description"`
	Schema      *huma.Schema      `json:"schema"`
	Example     api.StreamMessage `json:"example"`
}

// messages are those of the task stream, by who sends them.
type messages struct {
	Server []message `json:"server"`
	Agent  []message `json:"agent"`
}

func streamMessages(schema *huma.Schema) messages {
	m := func(text string, example api.StreamMessage) message {
		return message{Type: example.Type, Description: text, Schema: schema, Example: example}
	}
	task, command, yes := exampleAgentTask(), exampleAgentCommand(), true
	about := func(typ string) api.StreamMessage {
		return api.StreamMessage{Type: typ, TaskID: exampleTaskID, Attempt: 1}
	}
	cancelled, logAck, resultAck, accepted, log, result := about(api.StreamTaskCancelled), about(api.StreamLogAck), about(api.StreamResultAck),
		about(api.StreamTaskAccepted), about(api.StreamTaskLog), about(api.StreamTaskResult)
	cancelled.Reason, logAck.LastSeq, resultAck.Accepted = "cancelled by ci", 3, &yes
	log.FirstSeq, log.Entries = 1, exampleLogEntries()
	result.Success, result.Result = true, raw(exampleResult())
	return messages{
		Server: []message{
			m("The first message: what the server wants of the agent.", api.StreamMessage{
				Type: api.StreamWelcome, Server: exampleServer, ServerTime: atp(30, 2), HeartbeatIntervalMs: 30000, ReconnectWindowMs: 1000,
			}),
			m("A task to run. It comes again on the next connection if the agent has not said that it accepted it: run it once.", api.StreamMessage{Type: api.StreamTaskAssigned, Task: &task, Signature: exampleCredentials().Signature}),
			m("Stop a running task, undo what it did, and report its result.", cancelled),
			m("The log is stored up to there.", logAck),
			m("A result was taken, or, with accepted false, was of an attempt that is over. Either way it need not be sent again.", resultAck),
			m("A heartbeat was heard.", api.StreamMessage{Type: api.StreamHeartbeatAck, ServerTime: atp(30, 2), ReconnectWindowMs: 1000}),
			m("A command to run and to acknowledge. It comes once.", api.StreamMessage{Type: api.StreamCommand, Command: &command}),
			m("An answer to a command was stored.", api.StreamMessage{Type: api.StreamCommandReceipt, CommandID: exampleCommandID, Accepted: &yes}),
		},
		Agent: []message{
			m("What the agent is and has; it may be left out.", api.StreamMessage{
				Type: api.StreamHello, Capabilities: []string{"docker", "host"}, MaxTasks: 5, Commands: true,
			}),
			m("The agent is alive.", api.StreamMessage{Type: api.StreamHeartbeat, Status: "online", ResourceUsage: exampleUsage()}),
			m("The agent has taken the task, and will report its result.", accepted),
			m("A part of a task's log.", log),
			m("How a task ended.", result),
			m("How a command ended.", api.StreamMessage{
				Type: api.StreamCommandAck, CommandID: exampleCommandID, Status: string(api.CommandAcknowledged), Result: exampleAck().Result,
			}),
		},
	}
}
