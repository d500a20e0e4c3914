package contract

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

type compiler func(at ...string) (*jsonschema.Schema, error)

func (d *Document) readOperation(op *Operation, compile compiler, at ...string) (err error) {
	params, _ := op.Raw["parameters"].([]any)
	for i, raw := range params {
		p := object(raw)
		one := &param{required: p["required"] == true}
		if one.schema, err = compile(slices.Concat(at, []string{"parameters", strconv.Itoa(i), "schema"})...); err != nil {
			return err
		}
		op.params[fmt.Sprintf("%s %s", p["in"], p["name"])] = one
	}
	if rb := object(op.Raw, "requestBody"); rb != nil {
		op.body = &body{required: rb["required"] == true}
		for kind := range object(rb, "content") { // there is one
			op.body.kind = kind
		}
		if op.body.schema, err = compile(slices.Concat(at, []string{"requestBody", "content", op.body.kind, "schema"})...); err != nil {
			return err
		}
	}
	responses := object(op.Raw, "responses")
	for _, status := range slices.Sorted(maps.Keys(responses)) {
		n, err := strconv.Atoi(status)
		if err != nil {
			return fmt.Errorf("the response %q is for no status", status)
		}
		place, raw := d.resolve(slices.Concat(at, []string{"responses", status}), object(responses, status))
		a := &answer{media: map[string]*media{}}
		codes, _ := raw["x-codes"].([]any)
		for _, c := range codes {
			a.codes = append(a.codes, fmt.Sprint(c))
		}
		for kind, content := range object(raw, "content") {
			m := &media{}
			here := slices.Concat(place, []string{"content", kind})
			if m.schema, err = compile(append(slices.Clone(here), "schema")...); err != nil {
				return err
			}
			if object(content, "x-item-schema") != nil {
				if m.item, err = compile(append(slices.Clone(here), "x-item-schema")...); err != nil {
					return err
				}
			}
			a.media[kind] = m
		}
		op.answers[n] = a
	}
	return nil
}

// resolve follows a reference to a component.
func (d *Document) resolve(at []string, raw map[string]any) ([]string, map[string]any) {
	ref, ok := raw["$ref"].(string)
	if !ok {
		return at, raw
	}
	at = strings.Split(strings.TrimPrefix(ref, "#/"), "/")
	return at, object(d.root, at...)
}

// Examples calls fn for every example of requests, answers and messages, with
// the check that it has to pass.
func (d *Document) Examples(fn func(where string, err error)) {
	for _, op := range d.Operations {
		if op.body != nil {
			example := object(op.Raw, "requestBody", "content", op.body.kind)["example"]
			fn(op.ID+" request", op.body.schema.Validate(example))
		}
		for status, a := range op.answers {
			_, raw := d.resolve(nil, object(op.Raw, "responses", strconv.Itoa(status)))
			for kind, m := range a.media {
				where := fmt.Sprintf("%s %d %s", op.ID, status, kind)
				content := object(raw, "content", kind)
				if many := object(content, "examples"); many != nil {
					for name, e := range many {
						fn(where+" "+name, m.schema.Validate(object(e)["value"]))
					}
					continue
				}
				text, stream := content["example"].(string)
				if m.item == nil || !stream {
					fn(where, m.schema.Validate(content["example"]))
					continue
				}
				n := 0
				for line := range strings.Lines(text) {
					if item, ok := streamItem(kind, line); ok {
						n++
						fn(where, check(m.item, []byte(item)))
					}
				}
				if n == 0 {
					fn(where, fmt.Errorf("the example has no item"))
				}
			}
			for from, list := range object(raw, "x-messages") {
				all, _ := list.([]any)
				for _, one := range all {
					m := object(one)
					name, _ := object(m, "schema")["$ref"].(string)
					fn(fmt.Sprintf("%s message %s from %s", op.ID, m["type"], from), d.compiled[name[strings.LastIndexByte(name, '/')+1:]].Validate(m["example"]))
				}
			}
		}
	}
}

// streamItem returns the JSON of a line of a stream; false for a line that is
// only its frame.
func streamItem(kind, line string) (string, bool) {
	line = strings.TrimRight(line, "\r\n")
	if kind == "text/event-stream" {
		data, ok := strings.CutPrefix(line, "data:")
		return strings.TrimSpace(data), ok
	}
	return line, line != ""
}
