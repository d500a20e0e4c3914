package out

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"go.yaml.in/yaml/v4"
)

// Format is how data is written. It is a flag's value.
type Format string

// The formats.
const (
	FormatTable Format = "table"
	FormatJSON  Format = "json"
	FormatYAML  Format = "yaml"
)

// String returns the format's name.
func (f *Format) String() string { return string(*f) }

// Type is how help names the value.
func (f *Format) Type() string { return "table|json|yaml" }

// Set takes one of the three names.
func (f *Format) Set(text string) error {
	switch Format(text) {
	case FormatTable, FormatJSON, FormatYAML:
		*f = Format(text)
		return nil
	}
	return fmt.Errorf("use table, json or yaml")
}

// Write writes data as it is, or calls table for people.
func (s *IO) Write(f Format, data any, table func()) error {
	switch f {
	case FormatJSON:
		enc := json.NewEncoder(s.Out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(data)
	case FormatYAML:
		return writeYAML(s.Out, data)
	case FormatTable:
	}
	table()
	return nil
}

// writeYAML writes the same names in the same order as JSON has: it reads the
// JSON, which is YAML too, and writes it in YAML's own style.
func writeYAML(w io.Writer, data any) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(data); err != nil {
		return err
	}
	var node yaml.Node
	if err := yaml.Load(text.Bytes(), &node); err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	block(&node)
	written, err := yaml.Dump(&node, yaml.WithIndent(2))
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	_, err = w.Write(written)
	return err
}

// block takes JSON's brackets and quotes away. An empty list or object keeps
// its brackets: without them it would be null.
func block(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		block(c)
	}
}
