package composefile

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Pin puts an image in the place where the service's image is written, which
// may be in a block that other services merge in too. Nothing else of the
// file's text is changed. It fails where the image is not written on one line.
func (f *File) Pin(service, image string) error {
	services, err := f.Services()
	if err != nil {
		return err
	}
	for i := range services {
		if services[i].Name == service && services[i].image != nil {
			return f.splice(services[i].image, image)
		}
	}
	return fmt.Errorf("the service %s names no image to pin", service)
}

// splice writes a value where a scalar or an alias stands in the text, and
// reads the file again.
func (f *File) splice(node *yaml.Node, value string) error {
	hard := func() error {
		return fmt.Errorf("line %d: the image cannot be replaced where it stands; write it on one line, as in image: nginx:1.27", node.Line)
	}
	from := f.offset(node.Line, node.Column)
	if from < 0 {
		return hard()
	}
	rest := f.text[from:]
	// The place of a node begins with its anchor and its tag.
	for strings.HasPrefix(rest, "&") || strings.HasPrefix(rest, "!") {
		_, after, ok := strings.Cut(rest, " ")
		if !ok {
			return hard()
		}
		rest = strings.TrimLeft(after, " ")
	}
	if rest == "" || node.Kind == yaml.ScalarNode && node.Value == "" {
		return hard()
	}
	from = len(f.text) - len(rest)
	length := 0
	switch {
	case node.Kind == yaml.AliasNode:
		length = len("*" + node.Value)
	case node.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		quote := rest[:1]
		length = len(quote)
		end := strings.Index(rest[1:], quote)
		if end < 0 || quote != "'" && quote != `"` {
			return hard()
		}
		length += end + 1
	case strings.HasPrefix(rest, node.Value):
		length = len(node.Value)
	default:
		return hard()
	}
	if strings.Contains(rest[:length], "\n") || node.Kind == yaml.AliasNode && !strings.HasPrefix(rest, "*"+node.Value) {
		return hard()
	}
	quoted := value
	if strings.ContainsAny(rest[:1], `'"`) {
		quoted = rest[:1] + value + rest[:1]
	}
	again, err := Parse([]byte(f.text[:from] + quoted + rest[length:]))
	if err != nil {
		return hard()
	}
	*f = *again
	return nil
}

// offset is where a line's column is in the text; columns count characters.
func (f *File) offset(line, column int) int {
	at := 0
	for ; line > 1; line-- {
		next := strings.IndexByte(f.text[at:], '\n')
		if next < 0 {
			return -1
		}
		at += next + 1
	}
	for i := range f.text[at:] {
		if column--; column == 0 {
			return at + i
		}
	}
	return -1
}
