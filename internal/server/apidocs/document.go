package apidocs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// document31 is the part of an OpenAPI 3.1 document that the page shows.
type document31 struct {
	Info struct {
		Title, Version, Description string
	}
	Servers []struct{ URL string }
	Tags    []struct {
		Name, Description string
	}
	Paths      map[string]map[string]*operation
	Components struct {
		Schemas   map[string]*schema
		Responses map[string]*response
	}
}

type operation struct {
	OperationID, Summary, Description string
	Tags                              []string
	Caller                            string `json:"x-caller"`
	Security                          []map[string][]string
	Parameters                        []parameter
	RequestBody                       *struct {
		Required bool
		Content  map[string]media
	}
	Responses map[string]*response
}

type parameter struct {
	Name, In, Description string
	Required              bool
	Schema                *schema
	Example               any
}

type response struct {
	Ref         string `json:"$ref"`
	Description string
	Content     map[string]media
	Messages    map[string][]messageView `json:"x-messages"`
}

type media struct {
	Schema  *schema
	Item    *schema `json:"x-item-schema"`
	Example json.RawMessage
}

type schema struct {
	Ref                  string `json:"$ref"`
	Type                 any
	Format, Description  string
	Encoding             string `json:"contentEncoding"`
	Enum                 []any
	Default              any
	Items                *schema
	Properties           map[string]*schema
	Required             []string
	AdditionalProperties json.RawMessage
	AnyOf                []*schema
	Minimum, Maximum     *float64
	MinLength, MaxLength *int
	MinItems, MaxItems   *int
}

// typeView is a type with its fields.
type typeView struct {
	Name, Description string
	Fields            []fieldView
}

// fieldView is a field of a type, or a parameter.
type fieldView struct {
	Name, In, Description string
	Required              bool
	Type                  []piece
	Limits                string
}

// piece is a part of a type's name; one that has a page's type in it links to
// it.
type piece struct{ Text, Type string }

// fields lists what must be given first.
func (s *schema) fields() []fieldView {
	var out []fieldView
	for _, required := range []bool{true, false} {
		for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
			p := s.Properties[name]
			if slices.Contains(s.Required, name) == required {
				out = append(out, fieldView{Name: name, Description: p.Description, Required: required, Type: p.name(), Limits: p.limits()})
			}
		}
	}
	return out
}

// name says which type a schema is of.
func (s *schema) name() []piece {
	if s == nil {
		return nil
	}
	if s.Ref != "" {
		name := s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
		return []piece{{Text: name, Type: name}}
	}
	if len(s.AnyOf) > 0 {
		var out []piece
		for i, one := range s.AnyOf {
			if i > 0 {
				out = append(out, piece{Text: " or "})
			}
			out = append(out, one.name()...)
		}
		return out
	}
	switch kind := s.kind(); {
	case kind == "array":
		return append([]piece{{Text: "list of "}}, s.Items.name()...)
	case kind == "object" && len(s.AdditionalProperties) > 0 && s.AdditionalProperties[0] == '{':
		var values schema
		if json.Unmarshal(s.AdditionalProperties, &values) == nil {
			return append([]piece{{Text: "map of "}}, values.name()...)
		}
		return []piece{{Text: "map"}}
	case s.Format == "date-time":
		return []piece{{Text: "time"}}
	case s.Encoding == "base64":
		return []piece{{Text: "base64"}}
	case kind == "":
		return []piece{{Text: "any JSON"}}
	default:
		return []piece{{Text: kind}}
	}
}

// kind is the type's name in JSON, without null.
func (s *schema) kind() string {
	switch t := s.Type.(type) {
	case string:
		return t
	case []any:
		for _, one := range t {
			if one != "null" {
				return fmt.Sprint(one)
			}
		}
	}
	return ""
}

// limits says what a value must keep to.
func (s *schema) limits() string {
	if s == nil {
		return ""
	}
	var out []string
	if len(s.Enum) > 0 {
		words := make([]string, len(s.Enum))
		for i, e := range s.Enum {
			words[i] = fmt.Sprint(e)
		}
		out = append(out, "one of "+strings.Join(words, ", "))
	}
	if s.Default != nil {
		out = append(out, fmt.Sprint("default ", s.Default))
	}
	span := func(low, high *float64, unit string) {
		show := func(f *float64) string { return strings.TrimSuffix(fmt.Sprintf("%.0f", *f), ".0") }
		switch {
		case low != nil && high != nil:
			out = append(out, show(low)+" to "+show(high)+unit)
		case low != nil:
			out = append(out, "at least "+show(low)+unit)
		case high != nil:
			out = append(out, "at most "+show(high)+unit)
		}
	}
	span(s.Minimum, s.Maximum, "")
	span(number(s.MinLength), number(s.MaxLength), " characters")
	span(number(s.MinItems), number(s.MaxItems), " items")
	return strings.Join(out, "; ")
}

func number(n *int) *float64 {
	if n == nil {
		return nil
	}
	f := float64(*n)
	return &f
}
