// Package apidocs makes the page for people out of the document that describes
// the API: one file, without anything from elsewhere, for a server may be
// offline. It knows OpenAPI and HTML, and nothing of what the operations do.
package apidocs

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
)

// Policy is the Content-Security-Policy of the page: its own style and script
// by their hashes, so that the page can be cached, and nothing else at all.
func Policy() string {
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; style-src " + hash(pageCSS) + "; script-src " + hash(pageJS) +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// Page makes the page of a document in JSON.
func Page(document []byte) ([]byte, error) {
	var d document31
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, fmt.Errorf("read the document: %w", err)
	}
	t, err := template.New("page").Funcs(template.FuncMap{
		"prose": prose,
		"lower": strings.ToLower,
		// They are part of the program, and hashed as they are.
		"style":  func() template.CSS { return template.CSS(pageCSS) }, //nolint:gosec // see above
		"script": func() template.JS { return template.JS(pageJS) },    //nolint:gosec // see above
	}).Parse(pageHTML)
	if err != nil {
		return nil, fmt.Errorf("parse the template: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, view(&d)); err != nil {
		return nil, fmt.Errorf("fill in the template: %w", err)
	}
	return out.Bytes(), nil
}

// block is a paragraph or a list of lines; its texts are alternately plain and
// code.
type block struct {
	Lines [][]text
	List  bool
}

type text struct {
	Text string
	Code bool
}

// prose reads the little Markdown that descriptions have: paragraphs, lists,
// and `code`. Whatever else is in them stays as it is.
func prose(s string) []block {
	var out []block
	for part := range strings.SplitSeq(strings.TrimSpace(s), "\n\n") {
		b := block{List: strings.HasPrefix(part, "- ")}
		for line := range strings.SplitSeq(part, "\n") {
			b.Lines = append(b.Lines, inline(strings.TrimPrefix(line, "- ")))
		}
		if part != "" {
			out = append(out, b)
		}
	}
	return out
}

func inline(line string) []text {
	parts := strings.Split(line, "`")
	if len(parts)%2 == 0 {
		return []text{{Text: line}} // one that is not closed is a backquote
	}
	var out []text
	for i, p := range parts {
		if p != "" {
			out = append(out, text{Text: p, Code: i%2 == 1})
		}
	}
	return out
}

// page is what the template is filled with.
type page struct {
	Title, Version, Server, Intro string
	Chapters                      []chapter
	Types                         []typeView
}

type chapter struct {
	Name, Description string
	Operations        []operationView
}

func view(d *document31) *page {
	p := &page{Title: d.Info.Title, Version: d.Info.Version, Intro: d.Info.Description}
	if len(d.Servers) > 0 {
		p.Server = d.Servers[0].URL
	}
	for _, tag := range d.Tags {
		c := chapter{Name: tag.Name, Description: tag.Description}
		for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
			item := d.Paths[path]
			for _, method := range []string{"get", "post", "put", "patch", "delete"} {
				if op := item[method]; op != nil && slices.Contains(op.Tags, tag.Name) {
					c.Operations = append(c.Operations, d.operation(p.Server, strings.ToUpper(method), path, op))
				}
			}
		}
		p.Chapters = append(p.Chapters, c)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		s := d.Components.Schemas[name]
		p.Types = append(p.Types, typeView{Name: name, Description: s.Description, Fields: s.fields()})
	}
	return p
}
