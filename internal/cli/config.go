package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"stella-ops.org/stella/internal/atomicfile"
)

// configuration is the file of saved contexts. It holds tokens, and so is for
// its owner's eyes.
type configuration struct {
	Current  string         `yaml:"current,omitempty"`
	Contexts []savedContext `yaml:"contexts,omitempty"`

	path string
}

// savedContext is a server, and as whom to talk to it.
type savedContext struct {
	Name   string `yaml:"name"`
	Server string `yaml:"server"`
	Token  string `yaml:"token,omitempty"`
	// CA is the certificate to trust, in PEM; empty stands for the system's.
	CA string `yaml:"ca,omitempty"`
}

// find returns the context with that name, or nil.
func (c *configuration) find(name string) *savedContext {
	i := slices.IndexFunc(c.Contexts, func(s savedContext) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Contexts[i]
}

// put adds a context or replaces the one of its name, and makes it current.
func (c *configuration) put(s savedContext) {
	if have := c.find(s.Name); have != nil {
		*have = s
	} else {
		c.Contexts = append(c.Contexts, s)
	}
	c.Current = s.Name
}

// remove forgets a context; false when there is none.
func (c *configuration) remove(name string) bool {
	before := len(c.Contexts)
	c.Contexts = slices.DeleteFunc(c.Contexts, func(s savedContext) bool { return s.Name == name })
	if c.Current == name {
		c.Current = ""
	}
	return len(c.Contexts) < before
}

func (c *configuration) names() []string {
	names := make([]string, len(c.Contexts))
	for i, s := range c.Contexts {
		names[i] = s.Name
	}
	return names
}

// configPath is where contexts are saved. STELLA_CLI_CONFIG puts the file
// elsewhere.
func (a *app) configPath() (string, error) {
	if path := a.getenv("STELLA_CLI_CONFIG"); path != "" {
		return path, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("there is no place for the configuration: %w; name one by STELLA_CLI_CONFIG", err)
	}
	return filepath.Join(dir, "stella", "config.yaml"), nil
}

// loadConfig reads the file strictly; one that does not exist is empty. A user
// without a home has an empty one too, until something is to be saved.
func (a *app) loadConfig() (*configuration, error) {
	path, err := a.configPath()
	if err != nil {
		return &configuration{}, nil //nolint:nilerr // saving is where it matters
	}
	c := &configuration{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the saved contexts: %w", err)
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		return c, nil
	}
	if err := yaml.Load(text, c, yaml.WithKnownFields()); err != nil {
		return nil, wrongUse("mend the file, or remove it and log in again", "%s: %s", path, oneLine(err.Error()))
	}
	return c, nil
}

// save writes the file for its owner alone.
func (c *configuration) save() error {
	if c.path == "" {
		return errors.New("there is no place to save the context: set HOME, or name a file by STELLA_CLI_CONFIG")
	}
	text, err := yaml.Dump(c, yaml.WithIndent(2))
	if err != nil {
		return fmt.Errorf("write the contexts: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return fmt.Errorf("save the context: %w", err)
	}
	return atomicfile.Write(c.path, text, 0o600)
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
