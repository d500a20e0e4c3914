// Package config fills a program's one configuration struct from flags, the
// environment and a file, in this order of precedence, over the defaults. Each
// field says all about itself in its tags:
//
//	HeartbeatInterval time.Duration `name:"heartbeat-interval" default:"30s" help:"how often agents report"`
//
// is the flag --heartbeat-interval, the variable STELLA_HEARTBEAT_INTERVAL and
// the key heartbeat_interval. Fields are of type string, bool, int,
// time.Duration, []string or map[string]string; the last two are flags that may
// be repeated, and lists with commas elsewhere.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"
)

// field is one field of a configuration struct.
type field struct {
	name, def, help string
	value           reflect.Value
}

func fields(cfg any) []field {
	v := reflect.ValueOf(cfg).Elem()
	var out []field
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		if name := tag.Get("name"); name != "" {
			out = append(out, field{name: name, def: tag.Get("default"), help: tag.Get("help"), value: v.Field(i)})
		}
	}
	return out
}

func (f field) env() string { return "STELLA_" + strings.ToUpper(strings.ReplaceAll(f.name, "-", "_")) }
func (f field) key() string { return strings.ReplaceAll(f.name, "-", "_") }

func (f field) set(text string) error {
	switch f.value.Interface().(type) {
	case string:
		f.value.SetString(text)
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		f.value.SetBool(b)
	case int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is no whole number", text)
		}
		f.value.SetInt(int64(n))
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return fmt.Errorf("%q is no duration: write it as in 30s, 5m or 12h", text)
		}
		f.value.SetInt(int64(d))
	case []string:
		f.value.Set(reflect.ValueOf(list(text)))
	case map[string]string:
		m := map[string]string{}
		for _, item := range list(text) {
			k, v, ok := strings.Cut(item, "=")
			if !ok || k == "" {
				return fmt.Errorf("%q is not key=value", item)
			}
			m[k] = v
		}
		f.value.Set(reflect.ValueOf(m))
	default:
		return fmt.Errorf("a field of type %s cannot be configured", f.value.Type())
	}
	return nil
}

// list splits at commas and drops empty items.
func list(text string) []string {
	var out []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// Flags adds a flag for every field of the struct that cfg points to, and
// --config for the file.
func Flags(fs *pflag.FlagSet, cfg any) {
	for _, f := range fields(cfg) {
		help := f.help + " ($" + f.env() + ")"
		switch f.value.Kind() {
		case reflect.Bool:
			fs.Bool(f.name, f.def == "true", help)
		case reflect.Slice, reflect.Map:
			fs.StringArray(f.name, nil, help)
		default:
			fs.String(f.name, f.def, help)
		}
	}
	fs.String("config", "", "a YAML file with the same settings, as in heartbeat_interval: 30s ($STELLA_CONFIG)")
}

// Load fills the struct that cfg points to. The file, when one is named, is
// read strictly: an unknown key is an error that names its line.
func Load(fs *pflag.FlagSet, cfg any, getenv func(string) string) error {
	all := fields(cfg)
	for _, f := range all {
		if f.def != "" {
			if err := f.set(f.def); err != nil {
				return fmt.Errorf("default of %s: %w", f.name, err)
			}
		}
	}
	path, err := fs.GetString("config")
	if err != nil {
		return err
	}
	if path == "" {
		path = getenv("STELLA_CONFIG")
	}
	if path != "" {
		if err := readFile(path, all); err != nil {
			return err
		}
	}
	for _, f := range all {
		if v := getenv(f.env()); v != "" {
			if err := f.set(v); err != nil {
				return fmt.Errorf("environment variable %s: %w", f.env(), err)
			}
		}
		if flag := fs.Lookup(f.name); flag != nil && flag.Changed {
			text := flag.Value.String()
			if many, ok := flag.Value.(pflag.SliceValue); ok {
				text = strings.Join(many.GetSlice(), ",")
			}
			if err := f.set(text); err != nil {
				return fmt.Errorf("flag --%s: %w", f.name, err)
			}
		}
	}
	return nil
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
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("configuration %s:%d: it must be a mapping of keys to values", path, root.Line)
	}
	byKey := map[string]field{}
	for _, f := range all {
		byKey[f.key()] = f
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		k, v := root.Content[i], root.Content[i+1]
		if line, twice := lines[k.Value]; twice {
			return fmt.Errorf("configuration %s:%d: the key %q is in line %d already", path, k.Line, k.Value, line)
		}
		lines[k.Value] = k.Line
		f, ok := byKey[k.Value]
		if !ok {
			return fmt.Errorf("configuration %s:%d: there is no key %q%s", path, k.Line, k.Value, nearest(k.Value, byKey))
		}
		text, err := scalar(f, v)
		if err == nil {
			err = f.set(text)
		}
		if err != nil {
			return fmt.Errorf("configuration %s:%d: %s: %w", path, v.Line, k.Value, err)
		}
	}
	return nil
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

// nearest suggests the key that was probably meant.
func nearest(key string, known map[string]field) string {
	best, at := "", 4 // farther away is no typing mistake
	for k := range known {
		if d := distance(key, k); d < at || d == at && best != "" && k < best {
			best, at = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

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
