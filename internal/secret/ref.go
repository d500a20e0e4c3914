package secret

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"stella-ops.org/stella/api"
)

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// CheckName refuses what is no secret's name.
func CheckName(name string) error {
	if namePattern.MatchString(name) {
		return nil
	}
	if len(name) > 40 {
		name = name[:40] + "…"
	}
	return fmt.Errorf("%q is no secret's name: it is 1 to 128 letters, digits, dots, hyphens or underscores, as in prod-db-password", name)
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
