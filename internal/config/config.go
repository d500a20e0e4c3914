// Package config fills a program's one configuration struct from flags, the
// environment and a file, in this order of precedence, over the defaults. Each
// field says all about itself in its tags:
//
//	HeartbeatInterval time.Duration `name:"heartbeat-interval" default:"30s" help:"how often agents report"`
//
// is the flag --heartbeat-interval, the variable STELLA_HEARTBEAT_INTERVAL and
// the key heartbeat_interval. Fields are of type string, bool, int,
// time.Duration, []string or map[string]string; the last two are flags that may
// be repeated, and lists with commas elsewhere. A duration is as time.ParseDuration
// takes it, with days in front if need be: 30s, 12h, 7d, 1d12h.
//
// A tag key:"report.every" adds a second key for the file, which stands in a
// section, or in sections of sections:
//
//	report:
//	  every: 30s
//
// A file may mix the two forms, but not say one setting in both.
package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// field is one field of a configuration struct.
type field struct {
	name, path, def, help string // path is the second key, with its sections; or empty
	value                 reflect.Value
}

func fields(cfg any) []field {
	v := reflect.ValueOf(cfg).Elem()
	var out []field
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		if name := tag.Get("name"); name != "" {
			out = append(out, field{name: name, path: tag.Get("key"), def: tag.Get("default"), help: tag.Get("help"), value: v.Field(i)})
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
		d, err := duration(text)
		if err != nil {
			return err
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

// duration reads a duration that may begin with days, which are of 24 hours.
func duration(text string) (time.Duration, error) {
	const day = 24 * time.Hour
	rest, days := text, int64(0)
	var err error
	if before, after, ok := strings.Cut(text, "d"); ok {
		rest = after
		if days, err = strconv.ParseInt(before, 10, 64); rest == "" {
			rest = "0"
		}
	}
	d, restErr := time.ParseDuration(rest)
	if err != nil || restErr != nil || d < 0 || days < 0 || days > int64((math.MaxInt64-d)/day) {
		return 0, fmt.Errorf("%q is no duration: write it as in 30s, 5m, 12h or 7d", text)
	}
	return time.Duration(days)*day + d, nil
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
