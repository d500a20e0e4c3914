// Package contract reads the document that describes the API and checks by it:
// the document itself, values, and what goes over the wire between a client
// and a server. It is for tests, and knows nothing of the server's code: what
// it believes is what the document says.
package contract

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// metaSchema is the official schema of OpenAPI 3.1 documents (spec.openapis.org,
// version 2022-10-07; Apache-2.0), whatever is in their schemas: those are
// checked by being compiled.
//
//go:embed openapi-3.1-schema.json
var metaSchema string

// Document is a document that is read. It is safe for concurrent use.
type Document struct {
	Operations []*Operation

	root     map[string]any
	compiled map[string]*jsonschema.Schema
}

// Operation is one operation of a document.
type Operation struct {
	ID, Method, Path string
	// Raw is what the document says of it.
	Raw map[string]any

	segments []string
	params   map[string]*param // by place and name, as in query label
	body     *body
	answers  map[int]*answer
}

type param struct {
	required bool
	schema   *jsonschema.Schema
}

type body struct {
	required bool
	kind     string
	schema   *jsonschema.Schema
}

type answer struct {
	media map[string]*media
	codes []string
}

// media is one form of an answer. item is set for a stream of JSON values.
type media struct{ schema, item *jsonschema.Schema }

const base = "https://contract.test/"

// Load reads a document in YAML or JSON and fails when it is no proper OpenAPI
// 3.1 document, or one of its schemas no proper schema.
func Load(text []byte) (*Document, error) {
	var parsed any
	if err := yaml.Unmarshal(text, &parsed); err != nil {
		return nil, err
	}
	// Once through JSON, for maps and numbers as the validator wants them.
	data, err := json.Marshal(parsed)
	if err != nil {
		return nil, err
	}
	value, err := decode(data)
	if err != nil {
		return nil, err
	}
	root, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("the document is no object")
	}
	if err := checkMeta(root); err != nil {
		return nil, err
	}
	d := &Document{root: root, compiled: map[string]*jsonschema.Schema{}}
	return d, d.read()
}

func decode(data []byte) (any, error) {
	return jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
}

func checkMeta(root any) error {
	meta, err := decode([]byte(metaSchema))
	if err != nil {
		return err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(base+"meta.json", meta); err != nil {
		return err
	}
	s, err := c.Compile(base + "meta.json")
	if err != nil {
		return err
	}
	if err := s.Validate(root); err != nil {
		return fmt.Errorf("the document is not OpenAPI 3.1: %w", err)
	}
	return nil
}

// read finds the operations and compiles every schema.
func (d *Document) read() error {
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(base+"api.json", closed(d.root)); err != nil {
		return err
	}
	compile := func(at ...string) (*jsonschema.Schema, error) {
		escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", " ", "%20", "+", "%2B")
		pointer := "/" + escape.Replace(strings.Join(at, "\x00"))
		pointer = strings.ReplaceAll(pointer, "\x00", "/")
		s, err := c.Compile(base + "api.json#" + pointer)
		if err != nil {
			return nil, fmt.Errorf("the schema at %s: %w", pointer, err)
		}
		return s, nil
	}
	for _, name := range slices.Sorted(maps.Keys(object(d.root, "components", "schemas"))) {
		s, err := compile("components", "schemas", name)
		if err != nil {
			return err
		}
		d.compiled[name] = s
	}
	paths := object(d.root, "paths")
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := object(paths, path)
		for _, method := range slices.Sorted(maps.Keys(item)) {
			op := &Operation{
				Method: strings.ToUpper(method), Path: path, Raw: object(item, method), segments: strings.Split(path, "/"),
				params: map[string]*param{}, answers: map[int]*answer{},
			}
			op.ID, _ = op.Raw["operationId"].(string)
			if err := d.readOperation(op, compile, "paths", path, method); err != nil {
				return fmt.Errorf("%s: %w", op.ID, err)
			}
			d.Operations = append(d.Operations, op)
		}
	}
	return nil
}

// Check checks a value against a schema of the document, by the schema's name.
func (d *Document) Check(schema string, value []byte) error {
	s := d.compiled[schema]
	if s == nil {
		return fmt.Errorf("there is no schema %q", schema)
	}
	return check(s, value)
}

func check(s *jsonschema.Schema, value []byte) error {
	v, err := decode(value)
	if err != nil {
		return fmt.Errorf("it is no JSON: %w", err)
	}
	return s.Validate(v)
}

// Find returns the operation of a request, or nil. What a path spells out goes
// before what it leaves open.
func (d *Document) Find(method, path string) *Operation {
	var found *Operation
	most := -1
	for _, op := range d.Operations {
		if fixed, ok := op.match(strings.Split(path, "/")); ok && op.Method == method && fixed > most {
			found, most = op, fixed
		}
	}
	return found
}

func (op *Operation) match(segments []string) (fixed int, ok bool) {
	if len(segments) != len(op.segments) {
		return 0, false
	}
	for i, want := range op.segments {
		switch {
		case want == segments[i]:
			fixed++
		case !strings.HasPrefix(want, "{") || segments[i] == "":
			return 0, false
		}
	}
	return fixed, true
}

// closed returns a copy of a document in which no object may have fields that
// are not described: where the API lets them pass, for the sake of newer
// agents, a test must not.
func closed(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = closed(e)
		}
		if _, ok := out["properties"].(map[string]any); ok && out["type"] == "object" {
			out["additionalProperties"] = false
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = closed(e)
		}
		return out
	}
	return v
}

// object follows keys into nested objects; nil when there is none.
func object(v any, keys ...string) map[string]any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	m, _ := v.(map[string]any)
	return m
}
