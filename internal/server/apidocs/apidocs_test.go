package apidocs

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

func checkedIn(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../../../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func render(t *testing.T, document []byte) string {
	t.Helper()
	page, err := Page(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

var embedded = regexp.MustCompile(`(?s)(<style>|<script>).*?(</style>|</script>)`)

// element is a start tag with the attributes that matter.
type element struct{ name, id, href string }

// elements reads the page as XML, which is stricter than HTML, and fails when
// it is not well-formed.
func elements(t *testing.T, page string) []element {
	t.Helper()
	// What is hashed as it is need not be XML.
	d := xml.NewDecoder(strings.NewReader(embedded.ReplaceAllString(page, "$1$2")))
	var out []element
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("the page is not well-formed: %v", err)
		}
		if s, ok := tok.(xml.StartElement); ok {
			e := element{name: s.Name.Local}
			for _, a := range s.Attr {
				switch a.Name.Local {
				case "id":
					e.id = a.Value
				case "href":
					e.href = a.Value
				case "src", "style", "onclick", "onload", "srcset":
					t.Errorf("<%s> has %s: the policy forbids it", e.name, a.Name.Local)
				}
			}
			out = append(out, e)
		}
	}
}

func TestEveryOperationIsOnThePage(t *testing.T) {
	t.Parallel()
	document := checkedIn(t)
	all := elements(t, render(t, document))
	ids := map[string]int{}
	for _, e := range all {
		if e.id != "" {
			ids[e.id]++
		}
	}
	for id, n := range ids {
		if n > 1 {
			t.Errorf("%d elements have the id %s", n, id)
		}
	}
	for _, e := range all {
		if target, ok := strings.CutPrefix(e.href, "#"); ok && ids[target] == 0 {
			t.Errorf("a link leads to %s, which is not there", e.href)
		} else if strings.Contains(e.href, "//") {
			t.Errorf("a link leads elsewhere: %s", e.href)
		}
	}
	var d struct {
		Paths      map[string]map[string]struct{ OperationID string }
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(document, &d); err != nil {
		t.Fatal(err)
	}
	n := 0
	for path, item := range d.Paths {
		for method, op := range item {
			if n++; ids[op.OperationID] != 1 {
				t.Errorf("%s %s is not on the page", method, path)
			}
		}
	}
	for name := range d.Components.Schemas {
		if ids["type-"+name] != 1 {
			t.Errorf("the type %s is not on the page", name)
		}
	}
	if n < 40 {
		t.Errorf("only %d operations were seen", n)
	}
}

// A screen reader walks the page by headings and landmarks.
func TestPageIsAccessible(t *testing.T) {
	t.Parallel()
	page := render(t, checkedIn(t))
	level, seen := 0, map[string]int{}
	for _, e := range elements(t, page) {
		seen[e.name]++
		if len(e.name) == 2 && e.name[0] == 'h' && e.name[1] >= '1' && e.name[1] <= '6' {
			if next := int(e.name[1] - '0'); next > level+1 {
				t.Fatalf("a heading of level %d follows one of level %d", next, level)
			} else {
				level = next
			}
		}
	}
	for name, want := range map[string]int{"h1": 1, "main": 1, "nav": 1, "header": 1, "title": 1, "label": 1, "input": 1, "style": 1, "script": 1} {
		if seen[name] != want {
			t.Errorf("%d <%s>, want %d", seen[name], name, want)
		}
	}
	for _, want := range []string{`<html lang="en">`, `name="viewport"`, `<label for="search">`, `class="skip"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
}

// Texts can be read on what is behind them, in light and in dark (WCAG AA).
func TestContrast(t *testing.T) {
	t.Parallel()
	light, dark, ok := strings.Cut(pageCSS, "@media (prefers-color-scheme: dark)")
	if !ok {
		t.Fatal("there is no dark style")
	}
	for name, css := range map[string]string{"light": light, "dark": dark} {
		colour := map[string]float64{}
		for _, m := range regexp.MustCompile(`--(\w+): (#[0-9a-f]{3,6});`).FindAllStringSubmatch(css, -1) {
			if _, again := colour[m[1]]; !again {
				colour[m[1]] = luminance(t, m[2])
			}
		}
		for _, front := range []string{"text", "dim", "link", "get", "post", "put", "delete"} {
			for _, back := range []string{"back", "card", "mark"} {
				a, b := colour[front], colour[back]
				if ratio := (math.Max(a, b) + .05) / (math.Min(a, b) + .05); ratio < 4.5 {
					t.Errorf("%s: %s on %s has a contrast of %.1f", name, front, back, ratio)
				}
			}
		}
	}
}

func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	hex = hex[1:]
	if len(hex) == 3 {
		hex = fmt.Sprintf("%c%c%c%c%c%c", hex[0], hex[0], hex[1], hex[1], hex[2], hex[2])
	}
	out := 0.0
	for i, weight := range []float64{.2126, .7152, .0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= .04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+.055)/1.055, 2.4)
		}
		out += weight * c
	}
	return out
}

// Whatever a text says, it is a text.
func TestTextsAreEscaped(t *testing.T) {
	t.Parallel()
	const evil = `<script>alert(1)</script><img src=x onerror=alert(2)>" onload="alert(3)' & </style></script>`
	quoted, err := json.Marshal(evil + "\n\n- `" + evil + "`\n\n`open " + evil)
	if err != nil {
		t.Fatal(err)
	}
	q := string(quoted)
	field := `{"type":"string","description":` + q + `,"enum":[` + q + `],"default":` + q + `}`
	document := `{"info":{"title":` + q + `,"version":` + q + `,"description":` + q + `},"servers":[{"url":` + q + `}],
		"tags":[{"name":"t","description":` + q + `}],
		"paths":{"/x":{"post":{"operationId":"op","tags":["t"],"summary":` + q + `,"description":` + q + `,"x-caller":` + q + `,"security":[{"apiToken":[]}],
			"parameters":[{"name":` + q + `,"in":"query","description":` + q + `,"schema":` + field + `}],
			"requestBody":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/T"},"example":{"a":` + q + `}}}},
			"responses":{"101":{"description":` + q + `,"x-messages":{"agent":[{"type":` + q + `,"description":` + q + `,"schema":{"$ref":"#/components/schemas/T"},"example":` + q + `}]}},
				"200":{"description":` + q + `,"content":{` + q + `:{"schema":` + field + `,"example":` + q + `}}},"404":{"description":` + q + `}}}}},
		"components":{"schemas":{"T":{"type":"object","description":` + q + `,"properties":{` + q + `:` + field + `}}}}}`
	page := render(t, []byte(document))
	n := 0
	for _, e := range elements(t, page) {
		if e.name == "script" {
			n++
		}
		if e.name == "img" {
			t.Error("a text became an image")
		}
	}
	if n != 1 || strings.Contains(page, "<script>alert") {
		t.Errorf("a text became a script")
	}
	if strings.Count(page, "alert(1)") < 20 {
		t.Errorf("only %d of the texts are on the page", strings.Count(page, "alert(1)"))
	}
}

// A description's code is code, and a lone backquote a backquote.
func TestProse(t *testing.T) {
	t.Parallel()
	got := fmt.Sprint(prose("One `two`.\n\n- `a`: b\n- c ` d\n\n"))
	if want := "[{[[{One  false} {two true} {. false}]] false} {[[{a true} {: b false}] [{c ` d false}]] true}]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestPageRefusesWhatIsNoDocument(t *testing.T) {
	t.Parallel()
	if _, err := Page([]byte("{")); err == nil {
		t.Error("half a document made a page")
	}
}
