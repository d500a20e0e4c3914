package cli

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
)

const (
	hashA = "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"
	hashB = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
)

func TestAuditVerify(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args, asks string
		answer     api.AuditVerification
		code       int
		stdout     string
		stderr     string // is in it
	}{
		"holds": {
			args: "audit verify", asks: "GET /api/v1/audit/verify",
			answer: api.AuditVerification{
				Holds: true, From: 501, To: 1042, Lines: 542, Head: &api.AuditMark{Seq: 1042, Hash: hashA},
				Floor: &api.AuditFloor{Seq: 500, Hash: hashB, At: at},
			},
			stdout: `
Audit log  holds
Checked    501 to 1042 (542 lines)
Begins     behind line 500, which the retention removed at 2026-05-04T12:00:00Z
Head       1042:` + hashA + `
`,
		},
		"with lines from before, and a head": {
			args: "audit verify --head 9:" + hashB, asks: "GET /api/v1/audit/verify?head=9%3A" + hashB,
			answer: api.AuditVerification{
				Holds: true, From: 8, To: 9, Lines: 2, Head: &api.AuditMark{Seq: 9, Hash: hashB}, Unprotected: &api.AuditRange{From: 1, To: 7}, Contains: "yes",
			},
			stdout: `
Audit log      holds
Checked        8 to 9 (2 lines)
Not protected  1 to 7: from before the log was a chain
Head           9:` + hashB + `
Given head     contained, as it was written down (line 9)
`,
		},
		"a head that retention took": {
			args: "audit verify --head 9:" + hashB, asks: "GET /api/v1/audit/verify?head=9%3A" + hashB,
			answer: api.AuditVerification{Holds: true, Contains: "removed"},
			stdout: `
Audit log   holds
Checked     none
Given head  from before what is here (line 9): nobody can tell any more
`,
		},
		"behind a line": {
			args: "audit verify --after 9:" + hashB, asks: "GET /api/v1/audit/verify?after=9%3A" + hashB,
			answer: api.AuditVerification{Holds: true, Head: &api.AuditMark{Seq: 9, Hash: hashB}},
			stdout: "\nAudit log  holds\nChecked    none\nHead       9:" + hashB + "\n",
		},
		"a line was changed": {
			args: "audit verify", asks: "GET /api/v1/audit/verify", code: exitFailed,
			answer: api.AuditVerification{From: 1, To: 3, Lines: 3, Problem: &api.AuditProblem{Seq: 4, What: "line 4 was changed"}, Head: &api.AuditMark{Seq: 9, Hash: hashB}},
			stdout: `
Audit log  does not hold
Checked    1 to 3 (3 lines)
Head       9:` + hashB + `
`,
			stderr: "error: the audit log does not hold: line 4 was changed\nnext: keep a copy of the database",
		},
		"a head that is gone": {
			args: "audit verify -o json --head 9:" + hashB, asks: "GET /api/v1/audit/verify?head=9%3A" + hashB, code: exitFailed,
			answer: api.AuditVerification{Problem: &api.AuditProblem{Seq: 9, What: "gone"}, Contains: "no"},
			stdout: `
{
  "holds": false,
  "problem": {
    "seq": 9,
    "what": "gone"
  },
  "lines": 0,
  "contains": "no"
}
`,
			stderr: "does not hold: gone",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeAPI(t)
			f.answer("GET /api/v1/audit/verify", tc.answer)
			term := newTerminal(t, f)
			code := term.run(t.Context(), strings.Fields(tc.args)...)
			if code != tc.code || !strings.Contains(term.stderr, tc.stderr) {
				t.Errorf("%d, %s", code, term.stderr)
			}
			if diff := cmp.Diff(tc.stdout, "\n"+term.stdout); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{tc.asks}, f.asked()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A long log is verified in several requests.
func TestAuditVerifyGoesOn(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.answer("GET /api/v1/audit/verify", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := api.AuditVerification{Holds: true, From: 1, To: 10, Lines: 10, Next: "10:" + hashA}
		if r.URL.Query().Get("after") == v.Next {
			v = api.AuditVerification{Holds: true, From: 11, To: 12, Lines: 2, Contains: "yes"}
		}
		_ = json.NewEncoder(w).Encode(v)
	}))
	term := newTerminal(t, f)
	term.must(t, "audit", "verify")
	if !strings.Contains(term.stdout, "1 to 12 (12 lines)") {
		t.Error(term.stdout)
	}
	f.answer("GET /api/v1/audit/verify", api.AuditVerification{Holds: true, From: 1, To: 10, Lines: 10, Next: "10:" + hashA})
	if code := term.run(t.Context(), "audit", "verify"); code != exitFailed || !strings.Contains(term.stderr, "does not get on") {
		t.Errorf("a server that goes round in circles: %d, %s", code, term.stderr)
	}
}

// export is a file with lines that are as they should be, the newest first.
func export(t *testing.T, change func(*api.AuditList)) string {
	t.Helper()
	var list api.AuditList
	previous := make([]byte, 32)
	for i := range 5 {
		e := &access.Event{
			Seq: int64(i + 1), TenantID: "default", At: at.Add(time.Duration(i) * time.Microsecond), Actor: "agent:a <ä>", Action: "agent.register",
			Object: "a", Remote: "10.0.0.1:1", Outcome: "ok", Previous: previous,
		}
		e.Hash = e.Sum()
		previous = e.Hash
		list.Items = append([]api.AuditEvent{{
			Seq: e.Seq, Tenant: e.TenantID, At: e.At, Actor: e.Actor, Action: e.Action, Object: e.Object, Remote: e.Remote, Outcome: e.Outcome,
			PreviousHash: access.Mark{Hash: e.Previous}.String()[2:], Hash: access.Mark{Hash: e.Hash}.String()[2:],
		}}, list.Items...)
	}
	if change != nil {
		change(&list)
	}
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "export.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// An export is checked without any server.
func TestAuditVerifyFile(t *testing.T) {
	t.Parallel()
	term := newTerminal(t, nil)
	good := export(t, nil)
	term.must(t, "audit", "verify", "--file", good)
	if !strings.Contains(term.stdout, "holds") || !strings.Contains(term.stdout, "1 to 5 (5 lines)") {
		t.Error(term.stdout)
	}
	_, head, _ := strings.Cut(term.stdout, "Head")
	head = strings.TrimSpace(head)
	term.must(t, "audit", "verify", "--file", good, "--head", head)
	if !strings.Contains(term.stdout, "contained, as it was written down (line 5)") {
		t.Error(term.stdout)
	}
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	term.stdin = string(data)
	term.must(t, "audit", "verify", "--file", "-", "-o", "json")
	if !strings.Contains(term.stdout, `"holds": true`) {
		t.Error(term.stdout)
	}
	for what, tc := range map[string]struct {
		change func(*api.AuditList)
		head   string
		says   string
	}{
		"another object":  {func(l *api.AuditList) { l.Items[2].Object = "b" }, "", "line 3 does not have the hash"},
		"another time":    {func(l *api.AuditList) { l.Items[2].At = l.Items[2].At.Add(time.Microsecond) }, "", "line 3 does not have the hash"},
		"another tenant":  {func(l *api.AuditList) { l.Items[2].Tenant = "b" }, "", "line 3 is of the tenant"},
		"no hash":         {func(l *api.AuditList) { l.Items[2].Hash = "" }, "", "line 3 has no hash"},
		"a broken hash":   {func(l *api.AuditList) { l.Items[2].Hash = "zz" }, "", "line 3 does not have the hash"},
		"a line gone":     {func(l *api.AuditList) { l.Items = append(l.Items[:2], l.Items[3:]...) }, "", "line 3 is missing"},
		"the end cut off": {func(l *api.AuditList) { l.Items = l.Items[1:] }, head, "does not contain line 5"},
	} {
		args := []string{"audit", "verify", "--file", export(t, tc.change)}
		if tc.head != "" {
			args = append(args, "--head", tc.head)
		}
		if code := term.run(t.Context(), args...); code != exitFailed || !strings.Contains(term.stderr, "the export does not hold: ") || !strings.Contains(term.stderr, tc.says) {
			t.Errorf("%s: %d, %s", what, code, term.stderr)
		}
	}
	empty := export(t, func(l *api.AuditList) { l.Items = nil })
	for what, args := range map[string][]string{
		"has no lines":                    {"--file", empty},
		"no such file":                    {"--file", filepath.Join(term.home, "nothing")},
		"is no export of the audit log":   {"--file", term.env["STELLA_CLI_CONFIG"]},
		"is no line of the audit log":     {"--head", "1042"},
		"does not take 1 argument":        {"export.json"},
		"there is more behind the list":   {"--file", "-"},
		"leave --after out":               {"--file", good, "--after", head},
		"write it as in --after":          {"--after", "x"},
		"unknown flag: --limit":           {"--limit", "3"},
		"write it as in --head 1042:5fec": {"--file", good, "--head", "1042:" + hashA[:63]},
	} {
		term.stdin = "{} {}"
		if err := os.WriteFile(term.env["STELLA_CLI_CONFIG"], []byte("contexts: []\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if code := term.run(t.Context(), append([]string{"audit", "verify"}, args...)...); code != exitUsage || !strings.Contains(term.stderr, what) {
			t.Errorf("%v: %d, %s", args, code, term.stderr)
		}
	}
}

// FuzzAuditExport: whatever is in a file, it is either refused or checked.
func FuzzAuditExport(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `null`, `[]`, `{"items":null}`, `{"items":[{}]}`, `{"items":[{"seq":-1,"hash":"00"},{"seq":9223372036854775807,"hash":"zz"}]}`,
		`{"items":[{"seq":1,"at":"2026-05-04T12:00:00Z","previousHash":"` + hashA + `","hash":"` + hashB + `"},{"seq":1}]}`,
	} {
		f.Add(s)
	}
	home := f.TempDir()
	f.Fuzz(func(t *testing.T, s string) {
		term := &terminal{home: home, env: map[string]string{"STELLA_CLI_CONFIG": filepath.Join(home, "config.yaml")}, stdin: s}
		code := term.run(t.Context(), "audit", "verify", "--file", "-")
		if code != exitUsage && code != exitFailed && code != exitOK {
			t.Errorf("%q: exit code %d, %s", s, code, term.stderr)
		}
	})
}
