package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// reader reads one file into the fields.
type reader struct {
	path     string
	byKey    map[string]field // by both forms
	sections map[string]bool  // in which keys stand, as in report and report.mail
	said     map[string]place // by the field's name: where the file has said it
	seen     map[string]int   // the line of each key and of each section
}

// place is where a file says something.
type place struct {
	key  string
	line int
}

func newReader(path string, all []field) *reader {
	r := &reader{path: path, byKey: map[string]field{}, sections: map[string]bool{}, said: map[string]place{}, seen: map[string]int{}}
	for _, f := range all {
		r.byKey[f.key()] = f
		if f.path == "" {
			continue
		}
		r.byKey[f.path] = f
		for i, c := range f.path {
			if c == '.' {
				r.sections[f.path[:i]] = true
			}
		}
	}
	return r
}

func readFile(path string, all []field) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	defer file.Close()
	var doc yaml.Node
	if err := yaml.NewDecoder(file).Decode(&doc); errors.Is(err, io.EOF) {
		return nil // an empty file says nothing
	} else if err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return newReader(path, all).section("", doc.Content[0])
}

// section reads a mapping, the keys of which stand in the given section; the
// file itself is the section without a name.
func (r *reader) section(name string, node *yaml.Node) error {
	if name != "" && node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return nil // all that stood there is commented out
	}
	if node.Kind != yaml.MappingNode {
		what := "it"
		if name != "" {
			what = name
		}
		return r.fail(node, "%s must be a mapping of keys to values", what)
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		k, v := node.Content[i], node.Content[i+1]
		key := k.Value
		if name != "" {
			key = name + "." + key
		}
		if line, twice := r.seen[key]; twice {
			return r.fail(k, "the key %q is in line %d already", key, line)
		}
		r.seen[key] = k.Line
		if err := r.entry(key, k, v); err != nil {
			return err
		}
	}
	return nil
}

// entry reads what stands under a key, which is given with its sections.
func (r *reader) entry(key string, k, v *yaml.Node) error {
	if r.sections[key] {
		return r.section(key, v)
	}
	f, ok := r.byKey[key]
	if !ok {
		return r.fail(k, "there is no key %q%s", key, r.nearest(key))
	}
	if at, twice := r.said[f.name]; twice {
		return r.fail(k, "%s is the same setting as %s in line %d: keep one of them", key, at.key, at.line)
	}
	r.said[f.name] = place{key, k.Line}
	text, err := scalar(f, v)
	if err == nil {
		err = f.set(text)
	}
	if err != nil {
		return r.fail(v, "%s: %w", key, err)
	}
	return nil
}

// fail says where in the file something is wrong.
func (r *reader) fail(at *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("configuration %s:%d: "+format, append([]any{r.path, at.Line}, args...)...)
}

// scalar returns a value as one text: a list or a mapping, where the field
// takes one, as it would be in the environment.
func scalar(f field, v *yaml.Node) (string, error) {
	plain := !slices.ContainsFunc(v.Content, func(n *yaml.Node) bool { return n.Kind != yaml.ScalarNode })
	switch {
	case !plain: // a list of lists
	case v.Kind == yaml.ScalarNode:
		return v.Value, nil
	case v.Kind == yaml.SequenceNode && f.value.Kind() == reflect.Slice:
		var items []string
		for _, n := range v.Content {
			items = append(items, n.Value)
		}
		return strings.Join(items, ","), nil
	case v.Kind == yaml.MappingNode && f.value.Kind() == reflect.Map:
		var items []string
		for i := 0; i+1 < len(v.Content); i += 2 {
			items = append(items, v.Content[i].Value+"="+v.Content[i+1].Value)
		}
		return strings.Join(items, ","), nil
	}
	return "", errors.New("this kind of value does not fit")
}

// nearest suggests the key that was probably meant: one that stands in another
// section, or one that reads almost the same.
func (r *reader) nearest(key string) string {
	best, at := "", 4 // farther away is no typing mistake
	for k := range r.byKey {
		d := distance(key, k)
		if base(k) == base(key) {
			d = min(d, 1)
		}
		if d < at || d == at && best != "" && k < best {
			best, at = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// base is a key without its sections.
func base(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
