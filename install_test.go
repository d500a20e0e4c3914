package stella_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
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

// The installer for Windows parses: by PowerShell itself, or else by the npm packages
// web-tree-sitter and tree-sitter-powershell where NODE_PATH has them.
func TestWindowsInstallerParses(t *testing.T) {
	t.Parallel()
	const byPowerShell = `$errors = $null
[void][Management.Automation.Language.Parser]::ParseFile((Resolve-Path $args[0]).ProviderPath, [ref]$null, [ref]$errors)
$errors | ForEach-Object { "$($_.Extent.StartLineNumber): $($_.Message)" }
if ($errors.Count) { exit 3 }`
	for _, shell := range []string{"pwsh", "powershell.exe"} {
		if path, err := exec.LookPath(shell); err == nil {
			parse(t, exec.CommandContext(t.Context(), path, "-NoProfile", "-Command", "& {"+byPowerShell+"} "+windowsInstaller))
			return
		}
	}
	const byGrammar = `
let sitter, grammar
try {
  sitter = require('web-tree-sitter')
  grammar = require('path').join(require('path').dirname(require.resolve('tree-sitter-powershell/package.json')), 'tree-sitter-powershell.wasm')
} catch (e) { console.log(e.message); process.exit(4) }
(async () => {
  await sitter.Parser.init()
  const parser = new sitter.Parser()
  parser.setLanguage(await sitter.Language.load(grammar))
  let wrong = 0
  const look = (n) => {
    if (n.isError || n.isMissing) { wrong++; console.log((n.startPosition.row + 1) + ': ' + n.text.slice(0, 80)) }
    n.children.forEach(look)
  }
  const root = parser.parse(require('fs').readFileSync(process.argv[1], 'utf8')).rootNode
  if (root.hasError) look(root)
  process.exit(wrong ? 3 : 0)
})()`
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is neither PowerShell nor node with a grammar of it")
	}
	parse(t, exec.CommandContext(t.Context(), node, "-e", byGrammar, windowsInstaller))
}

// parse runs what parses the installer: exit code 3 is that it found mistakes, and 4
// that it is not whole itself.
func parse(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	exit, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case failed && exit.ExitCode() == 4:
		t.Skipf("there is neither PowerShell nor a grammar of it: %s", bytes.TrimSpace(out))
	case err != nil:
		t.Errorf("%s does not parse: %v\n%s", windowsInstaller, err, out)
	}
}
