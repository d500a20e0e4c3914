package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
)

// environment reads --env and --env-file. A name without a value takes the
// caller's own, so that a secret needs not be an argument. What is on the
// command line goes before what is in files, and a later file before an
// earlier one.
func (a *app) environment(values, files []string) (map[string]string, error) {
	env := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, wrongUse("", "the environment file: %v", err)
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		lines.Buffer(nil, 1<<20)
		for n := 1; lines.Scan(); n++ {
			line := strings.TrimSpace(lines.Text())
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if err := a.setVariable(env, line); err != nil {
				return nil, wrongUse("write one NAME=value in each line", "%s:%d: %v", file, n, err)
			}
		}
		if err := lines.Err(); err != nil {
			return nil, wrongUse("", "%s: %v", file, err)
		}
	}
	for _, v := range values {
		if err := a.setVariable(env, v); err != nil {
			return nil, wrongUse("write it as in --env NAME=value; --env NAME takes your own value", "--env: %v", err)
		}
	}
	if len(env) == 0 {
		return nil, nil
	}
	return env, nil
}

func (a *app) setVariable(env map[string]string, text string) error {
	name, value, given := strings.Cut(text, "=")
	if name == "" || strings.ContainsAny(name, " \t") {
		return fmt.Errorf("%q is no variable", text)
	}
	if !given {
		if value = a.getenv(name); value == "" {
			return fmt.Errorf("%s has no value here", name)
		}
	}
	env[name] = value
	return nil
}
