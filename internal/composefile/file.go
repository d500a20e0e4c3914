// Package composefile reads compose files as text that somebody wrote: which
// services they have, which images these name, and where. It pins images in
// place and leaves the rest of a file as it was.
//
// It knows no engine and no registry, and it does not make a model of a file:
// what a file means in the end is for docker compose to say.
package composefile

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// LockName is the name that a lock file has on a target.
const LockName = "compose.stella.lock.yml"

// ErrNoServices says that a file is no compose file, or one that only takes in
// others.
var ErrNoServices = errors.New("it has no services: at its top, or none in it")

// maxDepth bounds how many aliases of aliases are followed.
const maxDepth = 20

// File is a compose file. It is for one goroutine.
type File struct {
	text string
	root *yaml.Node
}

// Service is one service of a file.
type Service struct {
	Name string
	// Image is what the file says, variables and all; empty when it says
	// nothing.
	Image string
	// Builds says that the service has a build section.
	Builds bool
	// Extends is the service that it extends, and ExtendsFile the file of that
	// one, empty for the same file.
	Extends, ExtendsFile string

	image *yaml.Node
}

// Parse reads a file. An error names the line.
func Parse(data []byte) (*File, error) {
	doc := &yaml.Node{}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	if err := dec.Decode(doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it is empty")
		}
		return nil, fmt.Errorf("it is no YAML: %w", err)
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("it holds more than one document; keep one")
	}
	f := &File{text: string(data), root: doc}
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		f.root = follow(doc.Content[0])
	}
	if f.root.Kind != yaml.MappingNode {
		return nil, ErrNoServices
	}
	return f, nil
}

// Text is the file as it is now.
func (f *File) Text() string { return f.text }

// Services are the file's services in the order of the file.
func (f *File) Services() ([]Service, error) {
	node := lookUp(f.root, "services")
	if node == nil {
		return nil, ErrNoServices
	}
	if node.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: services: is no mapping", node.Line)
	}
	var all []Service
	for name, body := range entries(node) {
		body = follow(body)
		s := Service{Name: name}
		if body.Kind == yaml.MappingNode {
			s.Builds = lookUp(body, "build") != nil
			s.image = find(body, "image")
			if image := follow(s.image); image != nil {
				if image.Kind != yaml.ScalarNode {
					return nil, fmt.Errorf("line %d: the image of the service %s is no text", image.Line, name)
				}
				s.Image = image.Value
			}
			switch extends := lookUp(body, "extends"); {
			case extends == nil:
			case extends.Kind == yaml.ScalarNode:
				s.Extends = extends.Value
			default:
				s.Extends, s.ExtendsFile = text(lookUp(extends, "service")), text(lookUp(extends, "file"))
			}
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, ErrNoServices
	}
	return all, nil
}

// Others are the other files that the file takes in, by include and extends,
// as it names them.
func (f *File) Others() ([]string, error) {
	var all []string
	add := func(node *yaml.Node) error {
		switch node = follow(node); {
		case node == nil:
		case node.Kind == yaml.ScalarNode:
			all = append(all, node.Value)
		case node.Kind == yaml.SequenceNode:
			for _, n := range node.Content {
				if n = follow(n); n.Kind != yaml.ScalarNode {
					return fmt.Errorf("line %d: this is no file's name", n.Line)
				}
				all = append(all, follow(n).Value)
			}
		default:
			return fmt.Errorf("line %d: this is no file's name", node.Line)
		}
		return nil
	}
	if include := lookUp(f.root, "include"); include != nil {
		for _, node := range include.Content {
			if node = follow(node); node.Kind == yaml.MappingNode {
				if lookUp(node, "project_directory") != nil || lookUp(node, "env_file") != nil {
					return nil, fmt.Errorf("line %d: an include with a project_directory or an env_file of its own cannot be verified; make one file of both (docker compose config)", node.Line)
				}
				node = find(node, "path")
			}
			if err := add(node); err != nil {
				return nil, err
			}
		}
	}
	services, err := f.Services()
	if errors.Is(err, ErrNoServices) {
		return all, nil // it is made of others alone
	}
	if err != nil {
		return nil, err
	}
	for i := range services {
		if file := services[i].ExtendsFile; file != "" && !slices.Contains(all, file) {
			all = append(all, file)
		}
	}
	return all, nil
}

var pinned = regexp.MustCompile(`^([^@$\s]+)@(sha256:[a-f0-9]{64})$`)

// Pinned takes a pinned image apart: repository[:tag]@sha256:….
func Pinned(image string) (repository, digest string, ok bool) {
	m := pinned.FindStringSubmatch(image)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// follow returns what an alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode && i < maxDepth; i++ {
		n = n.Alias
	}
	return n
}

func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// lookUp returns the value of a key, with aliases followed; nil when it is not
// there.
func lookUp(m *yaml.Node, key string) *yaml.Node { return follow(find(m, key)) }

// find returns the node that stands behind a key, in the mapping itself or in
// what is merged into it.
func find(m *yaml.Node, key string) *yaml.Node {
	for name, value := range entries(m) {
		if name == key {
			return value
		}
	}
	return nil
}

// entries are a mapping's keys and values in order, aliases and all, and after
// its own those of its merges. Each mapping is looked at once, however often
// it is merged.
func entries(m *yaml.Node) iter.Seq2[string, *yaml.Node] {
	return func(yield func(string, *yaml.Node) bool) {
		keys, seen := map[string]bool{}, map[*yaml.Node]bool{}
		var walk func(m *yaml.Node) bool
		walk = func(m *yaml.Node) bool {
			if m = follow(m); m == nil || seen[m] {
				return true
			}
			seen[m] = true
			if m.Kind == yaml.SequenceNode {
				for _, one := range m.Content {
					if !walk(one) {
						return false
					}
				}
				return true
			}
			if m.Kind != yaml.MappingNode {
				return true
			}
			var merges []*yaml.Node
			for i := 0; i+1 < len(m.Content); i += 2 {
				k, v := m.Content[i], m.Content[i+1]
				if k.Tag == "!!merge" || k.Value == "<<" {
					merges = append(merges, v)
					continue
				}
				if keys[k.Value] {
					continue
				}
				keys[k.Value] = true
				if !yield(k.Value, v) {
					return false
				}
			}
			for _, merged := range merges {
				if !walk(merged) {
					return false
				}
			}
			return true
		}
		walk(m)
	}
}
