// Package secret keeps secrets under names, so that targets and tasks refer to
// them (secret://name) and hold none themselves.
//
// A reference is resolved when an agent gets a task, never before; the agent
// puts the values in. The package knows no SQL, no HTTP and no executor.
package secret

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$`)

// maxName is the length of a secret's name in bytes.
const maxName = 128

// CheckName refuses what is no secret's name: a fault of kind Invalid.
func CheckName(name string) error {
	if len(name) > maxName || !namePattern.MatchString(name) {
		if len(name) > 40 {
			name = name[:40] + "…"
		}
		return fault.InvalidField("name", "%q is no secret's name: give up to %d letters, digits, dots, hyphens and underscores, with slashes between, as in prod/db-password", name, maxName)
	}
	return nil
}

// Names returns the names that references (secret://name) mean, each once and
// in order; what is no reference is passed over.
func Names(refs ...string) []string {
	var names []string
	for _, ref := range refs {
		if name, ok := strings.CutPrefix(ref, api.SecretScheme); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// InPayload returns the names of the secrets that a task's payload refers to:
// by values of environment variables, wherever it has any.
func InPayload(payload json.RawMessage) ([]string, error) {
	var refs []string
	_, err := walk(payload, func(value string) (string, error) {
		refs = append(refs, value)
		return value, nil
	})
	return Names(refs...), err
}

// Resolve returns a payload with the values of its secrets put in. A secret
// that is not among the values is an error that names it.
func Resolve(payload json.RawMessage, values map[string]string) (json.RawMessage, error) {
	return walk(payload, func(ref string) (string, error) {
		name, ok := strings.CutPrefix(ref, api.SecretScheme)
		if !ok {
			return ref, nil
		}
		value, ok := values[name]
		if !ok {
			return "", fmt.Errorf("the secret %q did not come with the task", name)
		}
		return value, nil
	})
}

// walk calls change for each value of each object that is called environment.
// A payload without a reference comes back as it is, byte for byte.
func walk(payload json.RawMessage, change func(string) (string, error)) (json.RawMessage, error) {
	if !strings.Contains(string(payload), "secret:") {
		return payload, nil
	}
	var tree any
	dec := json.NewDecoder(strings.NewReader(string(payload)))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("decode payload: %w", err)
	}
	if err := walkValue(tree, change); err != nil {
		return nil, err
	}
	return json.Marshal(tree)
}

func walkValue(v any, change func(string) (string, error)) error {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if err := walkValue(e, change); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			env, ok := v[key].(map[string]any)
			if !ok || key != "environment" {
				if err := walkValue(v[key], change); err != nil {
					return err
				}
				continue
			}
			for name, value := range env {
				s, ok := value.(string)
				if !ok {
					continue
				}
				changed, err := change(s)
				if err != nil {
					return fmt.Errorf("variable %s: %w", name, err)
				}
				env[name] = changed
			}
		}
	}
	return nil
}
