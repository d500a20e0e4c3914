package cli

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/access"
)

func (a *app) auditVerifyCommand() *cobra.Command {
	var f client.AuditVerification
	var file string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Say whether the audit log is as it was written",
		Long: `Say whether the audit log is as it was written: no line changed, swapped, taken
away or put in, from where the log begins to its end. The exit code is 1 when it
does not hold.

Write the head that this prints down somewhere else. Given back by --head, it
also shows that nobody has put an older state of the whole database back, or
written everything anew with the server's own keys. Given by --after, it is
where the next verification begins.

With --file, an export is checked without any server. It says nothing about
lines before its first and behind its last one, unless --head does.`,
		Example: `  stella audit verify
  stella audit verify --head 1042:5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9
  stella audit list --limit 0 -o json > export.json && stella audit verify --file export.json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var mark access.Mark
			for flag, text := range map[string]string{"--head": f.Head, "--after": f.After} {
				if text == "" {
					continue
				}
				m, err := access.ParseMark(flag, text)
				if err != nil {
					return wrongUse("write it as in "+flag+" 1042:5fec…, with all 64 digits", "%v", err)
				}
				if flag == "--head" {
					mark = m
				}
			}
			if file != "" {
				if f.After != "" {
					return wrongUse("leave --after out: an export is checked from its first line on", "--after is for a server's log, and --file for an export")
				}
				v, err := a.verifyExport(file, mark)
				if err != nil {
					return err
				}
				return a.tellVerification(v, mark, "the export")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			v, err := c.VerifyAudit(cmd.Context(), f)
			if err != nil {
				return err
			}
			return a.tellVerification(v, mark, "the audit log")
		},
	}
	cmd.Flags().StringVar(&f.After, "after", "", "verify only what is behind this `line`, as number:hash, which was found good before")
	cmd.Flags().StringVar(&f.Head, "head", "", "a `line` that was written down earlier, as number:hash: whether the log still contains it")
	cmd.Flags().StringVar(&file, "file", "", "check this export (`file` of `stella audit list --limit 0 -o json`) instead of a server's log; - reads stdin")
	return cmd
}

// verifyExport checks lines in a file, by the rule that the server has, too.
func (a *app) verifyExport(file string, head access.Mark) (*api.AuditVerification, error) {
	var list api.AuditList
	if err := a.readExport(file, &list); err != nil {
		return nil, wrongUse("make one with `stella audit list --limit 0 -o json`", "%s is no export of the audit log: %v", file, err)
	}
	if len(list.Items) == 0 {
		return nil, wrongUse("make one with `stella audit list --limit 0 -o json`", "%s has no lines of the audit log in it", file)
	}
	lines := make([]*access.Event, len(list.Items))
	for i := range list.Items {
		lines[i] = auditLine(&list.Items[i])
	}
	v := access.VerifyLines(lines, head)
	found := &api.AuditVerification{Holds: v.Problem == nil, From: v.From, To: v.To, Lines: v.Lines, Contains: v.Contained}
	if v.Problem != nil {
		found.Problem = &api.AuditProblem{Seq: v.Problem.Seq, What: v.Problem.What}
	}
	if v.Head.Seq > 0 {
		found.Head = &api.AuditMark{Seq: v.Head.Seq, Hash: hex.EncodeToString(v.Head.Hash)}
	}
	if v.UnprotectedTo > 0 {
		found.Unprotected = &api.AuditRange{From: v.UnprotectedFrom, To: v.UnprotectedTo}
	}
	return found, nil
}

func (a *app) readExport(file string, into *api.AuditList) error {
	in := a.io.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	d := json.NewDecoder(in)
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind the list")
	}
	return nil
}

// auditLine reads a line as it was exported. A hash that is none is kept as it
// stands: it will not be the right one.
func auditLine(e *api.AuditEvent) *access.Event {
	hash := func(text string) []byte {
		b, err := hex.DecodeString(text)
		if err != nil {
			return []byte(text)
		}
		return b
	}
	return &access.Event{
		Seq: e.Seq, TenantID: e.Tenant, At: e.At, Actor: e.Actor, Action: e.Action, Object: e.Object, Remote: e.Remote,
		Outcome: e.Outcome, Detail: e.Detail, Previous: hash(e.PreviousHash), Hash: hash(e.Hash),
	}
}

// tellVerification prints what was found, and fails when it does not hold.
func (a *app) tellVerification(v *api.AuditVerification, head access.Mark, what string) error {
	if err := a.io.Write(a.format, v, func() { a.showVerification(v, head) }); err != nil {
		return err
	}
	if v.Holds {
		return nil
	}
	problem := "it was not said why"
	if v.Problem != nil {
		problem = v.Problem.What
	}
	return failed("keep a copy of the database and of the servers' logs as they are now, before anything else; docs/audit.md says what each finding means",
		"%s does not hold: %s", what, problem)
}

func (a *app) showVerification(v *api.AuditVerification, head access.Mark) {
	result := a.io.OutStyle.Good("holds")
	if !v.Holds {
		result = a.io.OutStyle.Bad("does not hold")
	}
	checked, begins, unprotected, ends, contained := "none", "", "", "", ""
	if v.Lines > 0 {
		checked = fmt.Sprintf("%d to %d (%s)", v.From, v.To, plural(int(v.Lines), "line"))
	}
	if v.Floor != nil {
		begins = fmt.Sprintf("behind line %d, which the retention removed at %s", v.Floor.Seq, v.Floor.At.UTC().Format(time.RFC3339))
	}
	if v.Unprotected != nil {
		unprotected = fmt.Sprintf("%d to %d: from before the log was a chain", v.Unprotected.From, v.Unprotected.To)
	}
	if v.Head != nil {
		ends = fmt.Sprintf("%d:%s", v.Head.Seq, v.Head.Hash)
	}
	switch v.Contains {
	case access.ContainedYes:
		contained = fmt.Sprintf("contained, as it was written down (line %d)", head.Seq)
	case access.ContainedNo:
		contained = a.io.OutStyle.Bad(fmt.Sprintf("not contained (line %d)", head.Seq))
	case access.ContainedRemoved:
		contained = fmt.Sprintf("from before what is here (line %d): nobody can tell any more", head.Seq)
	}
	a.io.Pairs(
		[2]string{"Audit log", result},
		[2]string{"Checked", checked},
		[2]string{"Begins", begins},
		[2]string{"Not protected", unprotected},
		[2]string{"Head", ends},
		[2]string{"Given head", contained},
	)
}
