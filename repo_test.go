package stella_test

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// These tests hold the rules of the repository that no linter holds. Each says
// why in its message.

// goFiles calls fn for every Go file of the repository.
func goFiles(t *testing.T, fn func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "bin" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, ".go") {
			fn(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	goFiles(t, func(path string) {
		dir := filepath.Dir(path)
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		documented[dir] = documented[dir] || f.Doc != nil
	})
	for dir, ok := range documented {
		generated := strings.HasSuffix(dir, "connect") || strings.HasSuffix(dir, "internal/db")
		if !ok && !generated {
			t.Errorf("%s has no package comment: say what it owns and what it must not know", dir)
		}
	}
}

// linked returns the packages that a program is made of.
func linked(t *testing.T, program string) map[string]bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		deps[strings.TrimSpace(line)] = true
	}
	return deps
}

func TestProgramsLinkOnlyWhatTheyNeed(t *testing.T) {
	t.Parallel()
	const self = "stella-ops.org/stella/"
	for program, forbidden := range map[string]map[string]string{
		"./cmd/stella-agent": {
			"modernc.org/sqlite":                     "an agent has no database",
			"github.com/jackc/pgx":                   "an agent has no database",
			"github.com/nats-io":                     "the bus is between servers",
			"github.com/danielgtaylor/huma":          "an agent serves no API",
			self + "internal/server":                 "agent and server know each other by the contract in api/ alone",
			self + "internal/store":                  "an agent has no database",
			self + "internal/cli":                    "the agent is not the operator's tool",
			"testing":                                "test code is not part of a program",
			"github.com/google/go-containerregistry": "the engine pulls, not the agent",
		},
		"./cmd/stella-load": {
			self + "internal/agent":  "simulated agents know the contract alone: a mistake shared with the agent would not be seen",
			self + "internal/server": "what is measured is measured from outside",
			"modernc.org/sqlite":     "a load has no database",
			"testing":                "test code is not part of a program",
		},
		"./cmd/stella": {
			self + "internal/agent":       "agent and server know each other by the contract in api/ alone",
			self + "internal/executor":    "only an agent touches targets",
			"github.com/moby/moby/client": "only an agent touches targets",
			"go.etcd.io/bbolt":            "the journal is the agent's",
			"testing":                     "test code is not part of a program",
		},
	} {
		for dep := range linked(t, program) {
			for prefix, why := range forbidden {
				if dep == prefix || strings.HasPrefix(dep, prefix+"/") {
					t.Errorf("%s links %s: %s", program, dep, why)
				}
			}
		}
	}
}

func TestModuleIsPlain(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"go.mod", "tools/go.mod", "tools/nfpm/go.mod", "internal/testkit/thirdparty/go.mod"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^\s*replace\b`).Match(data) {
			t.Errorf("%s has a replace: who installs the programs by `go install` would get something else", path)
		}
	}
}

func TestRequirementIDsStayOut(t *testing.T) {
	t.Parallel()
	id := regexp.MustCompile(`\b(REG|AUTH|LIVE|CMD|LINK|TASK|EXEC|BOOT|CONF|CERT|DOC|UPD|CLUS|OBS|DIST)-[0-9]+\b`)
	goFiles(t, func(path string) {
		if path == "repo_test.go" {
			return
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if m := id.Find(data); m != nil {
			t.Errorf("%s names %s: code speaks for itself", path, m)
		}
	})
}

func TestOnePlaceDecidesAboutPeers(t *testing.T) {
	t.Parallel()
	variable := []byte(`Getenv("STELLA_TEST_`)
	goFiles(t, func(path string) {
		if path == "repo_test.go" || path == filepath.Join("internal", "testkit", "peers", "peers.go") {
			return
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			if bytes.Contains(line, variable) {
				t.Errorf("%s looks for a peer by itself: testkit/peers decides whether a missing one is a skip or a failure", path)
			}
		}
	})
}

// A fuzz test that nobody runs finds nothing, and one without seeds finds little.
func TestEveryFuzzTestIsRun(t *testing.T) {
	t.Parallel()
	list, err := exec.CommandContext(t.Context(), "scripts/fuzz", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	run := map[string]bool{}
	for line := range strings.Lines(string(list)) {
		run[strings.TrimSpace(line)] = true
	}
	goFiles(t, func(path string) {
		if !strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Fuzz") {
				continue
			}
			dir, name := filepath.Dir(path), fn.Name.Name
			key := "./" + dir + " " + name
			if !run[key] {
				t.Errorf("%s has %s, which scripts/fuzz does not run", path, name)
			}
			delete(run, key)
			seeds, err := os.ReadDir(filepath.Join(dir, "testdata", "fuzz", name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if len(seeds) == 0 && !adds(fn) {
				t.Errorf("%s: %s has no seeds: show it by f.Add what it is about", path, name)
			}
		}
	})
	for key := range run {
		t.Errorf("scripts/fuzz would run %s, which is not there", key)
	}
	ci, err := os.ReadFile(".ci/run")
	if err != nil || !bytes.Contains(ci, []byte("\nphase fuzz make fuzz\n")) {
		t.Errorf("CI does not fuzz: %v", err)
	}
}

// adds reports whether a fuzz test adds seeds.
func adds(fn *ast.FuncDecl) (found bool) {
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Add" {
				found = true
			}
		}
		return !found
	})
	return found
}
