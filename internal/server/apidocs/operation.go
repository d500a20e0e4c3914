package apidocs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// operationView is an operation as the page shows it.
type operationView struct {
	ID, Method, Path, Summary, Description, Caller string
	Parameters                                     []fieldView
	Request                                        *bodyView
	Answers, Refusals                              []answerView
	Curl                                           string
}

// bodyView is a body with an example.
type bodyView struct {
	Kind     string
	Type     []piece
	Fields   []fieldView
	Required bool
	Example  string
}

// answerView is what an operation answers with one status.
type answerView struct {
	Status, Description string
	Bodies              []bodyView
	Messages            []messageList
}

// messageList is what one side of a WebSocket says.
type messageList struct {
	From     string
	Messages []messageView
}

type messageView struct {
	Type, Description string
	Schema            *schema
	Example           json.RawMessage
}

// Pretty is the example, indented.
func (m messageView) Pretty() string { return pretty(m.Example) }

// Link is the name of the message's type.
func (m messageView) Link() []piece { return m.Schema.name() }

func (d *document31) operation(server, method, path string, op *operation) operationView {
	v := operationView{ID: op.OperationID, Method: method, Path: path, Summary: op.Summary, Description: op.Description, Caller: op.Caller}
	for _, p := range op.Parameters {
		v.Parameters = append(v.Parameters, fieldView{
			Name: p.Name, In: p.In, Description: p.Description, Required: p.Required, Type: p.Schema.name(), Limits: p.Schema.limits(),
		})
	}
	if op.RequestBody != nil {
		for kind, m := range op.RequestBody.Content {
			b := d.body(kind, m)
			b.Required = op.RequestBody.Required
			v.Request = &b
		}
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		r := op.Responses[status]
		if r.Ref != "" {
			r = d.Components.Responses[r.Ref[strings.LastIndexByte(r.Ref, '/')+1:]]
		}
		a := answerView{Status: status, Description: r.Description}
		if status >= "400" {
			v.Refusals = append(v.Refusals, a)
			continue
		}
		for _, kind := range slices.Sorted(maps.Keys(r.Content)) {
			a.Bodies = append(a.Bodies, d.body(kind, r.Content[kind]))
		}
		for _, from := range slices.Sorted(maps.Keys(r.Messages)) {
			a.Messages = append(a.Messages, messageList{From: from, Messages: r.Messages[from]})
		}
		v.Answers = append(v.Answers, a)
	}
	if _, stream := op.Responses["101"]; !stream {
		v.Curl = curl(server, method, path, op)
	}
	return v
}

func (d *document31) body(kind string, m media) bodyView {
	b := bodyView{Kind: kind, Example: pretty(m.Example), Type: m.Schema.name()}
	shown := m.Schema
	if m.Item != nil {
		b.Type = append([]piece{{Text: "stream of "}}, m.Item.name()...)
		shown = m.Item
	}
	if shown != nil && shown.Ref != "" {
		if s := d.Components.Schemas[shown.Ref[strings.LastIndexByte(shown.Ref, '/')+1:]]; s != nil {
			b.Fields = s.fields()
		}
	}
	return b
}

// pretty shows an example: a text as it goes over the wire, everything else as
// indented JSON.
func pretty(example json.RawMessage) string {
	var s string
	if json.Unmarshal(example, &s) == nil {
		return strings.TrimRight(s, "\n")
	}
	var out bytes.Buffer
	if json.Indent(&out, example, "", "  ") != nil {
		return string(example)
	}
	// JSON hides these from HTML; here the template does.
	return strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(out.String())
}

// curl is the operation as a command; what is secret or one's own stands as a
// variable of the shell.
func curl(server, method, path string, op *operation) string {
	line := []string{"curl --cacert ca.pem"}
	if method != "GET" {
		line[0] += " -X " + method
	}
	if len(op.Security) > 0 {
		ways := slices.Collect(maps.Keys(op.Security[0]))
		if slices.Contains(ways, "agentCert") {
			line = append(line, "--cert cert.pem --key key.pem")
		}
		if slices.Contains(ways, "apiToken") {
			line = append(line, `-H "Authorization: Bearer $TOKEN"`)
		}
		if slices.Contains(ways, "taskToken") {
			line = append(line, `-H "Authorization: Bearer $TASK_TOKEN"`)
		}
	}
	for _, p := range op.Parameters {
		switch {
		case p.In == "path":
			path = strings.ReplaceAll(path, "{"+p.Name+"}", url.PathEscape(fmt.Sprint(p.Example)))
		case p.In == "header" && p.Example != nil:
			line = append(line, `-H "`+p.Name+`: $`+strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(p.Name, "X-"), "-", "_"))+`"`)
		}
	}
	if op.RequestBody != nil {
		if m, ok := op.RequestBody.Content["application/json"]; ok {
			line = append(line, "-H 'Content-Type: application/json'", "-d '"+strings.ReplaceAll(pretty(m.Example), "'", `'\''`)+"'")
		} else {
			line = append(line, "-H 'Content-Type: application/octet-stream'", "--data-binary @FILE")
		}
	}
	for _, r := range op.Responses {
		if _, stream := r.Content["text/event-stream"]; stream {
			line[0] += " --no-buffer"
		}
	}
	return strings.Join(append(line, server+path), " \\\n  ")
}
