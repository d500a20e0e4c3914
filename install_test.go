package stella_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"stella-ops.org/stella/internal/testkit/peers"
)

const windowsInstaller = "packaging/install.ps1"

// What whoever serves the installer for Windows builds on, and what would break it
// on a machine that nobody here has.
func TestWindowsInstaller(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(windowsInstaller)
	if err != nil {
		t.Fatal(err)
	}
	// The server puts what it knows in place of these.
	for _, line := range []string{
		"$Server = ''      # the server's URL\n",
		"$Sums = @{}       # SHA-256 of it, by architecture\n",
	} {
		if n := bytes.Count(text, []byte("\n"+line)); n != 1 {
			t.Errorf("the line %q is in it %d times: it is replaced when the script is served", line, n)
		}
	}
	for i, line := range strings.Split(string(text), "\n") {
		if strings.ContainsFunc(line, func(r rune) bool { return r > '~' || r < ' ' }) {
			t.Errorf("line %d is not plain ASCII: Windows PowerShell reads a script without a mark in the machine's own encoding", i+1)
		}
		if strings.Contains(line, "$Program register") && strings.Contains(strings.ToLower(line), "token") {
			t.Errorf("line %d puts the token onto a command line, which others can see", i+1)
		}
	}
}

// The installer for Windows parses, by a grammar of PowerShell, and that would find
// a mistake in it.
func TestWindowsInstallerParses(t *testing.T) {
	t.Parallel()
	const parse = `
const sitter = require('web-tree-sitter'), path = require('path')
const grammar = path.join(path.dirname(require.resolve('tree-sitter-powershell/package.json')), 'tree-sitter-powershell.wasm')
;(async () => {
  await sitter.Parser.init()
  const parser = new sitter.Parser()
  parser.setLanguage(await sitter.Language.load(grammar))
  let wrong = 0
  const look = (n) => {
    if (n.isError || n.isMissing) { wrong++; console.log((n.startPosition.row + 1) + ': ' + n.text.slice(0, 80)) }
    n.children.forEach(look)
  }
  look(parser.parse(require('fs').readFileSync(0, 'utf8')).rootNode)
  process.exit(wrong ? 3 : 0)
})()`
	modules := peers.PowerShell(t)
	run := func(script string) (string, int) {
		cmd := exec.CommandContext(t.Context(), "node", "-e", parse)
		cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
		cmd.Stdin = strings.NewReader(script)
		out, err := cmd.CombinedOutput()
		if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	text, err := os.ReadFile(windowsInstaller)
	if err != nil {
		t.Fatal(err)
	}
	if out, code := run(string(text)); code != 0 {
		t.Errorf("%s does not parse (%d): %s", windowsInstaller, code, out)
	}
	if out, code := run(string(text) + "\nif ($true { }\n"); code != 3 {
		t.Errorf("a mistake in it is not found (%d): %s", code, out)
	}
}
