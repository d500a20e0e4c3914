package testkit_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/testkit/contract"
)

// noted is the number of the last line of each tenant's audit log.
type noted map[string]int64

func (m *matrix) lastNote() noted {
	m.Helper()
	rows, err := m.db.QueryContext(m.Context(), "SELECT tenant_id, head_seq FROM audit_chains")
	m.ok(err)
	defer rows.Close()
	last := noted{}
	for rows.Next() {
		var tenant string
		var seq int64
		m.ok(rows.Scan(&tenant, &seq))
		last[tenant] = seq
	}
	m.ok(rows.Err())
	return last
}

// notes are the lines since then, as tenant, actor, action, outcome and detail.
func (m *matrix) notes(since noted) (out []access.Event) {
	m.Helper()
	rows, err := m.db.QueryContext(m.Context(), "SELECT seq, tenant_id, actor, action, object, outcome, detail FROM audit ORDER BY tenant_id, seq")
	m.ok(err)
	defer rows.Close()
	for rows.Next() {
		var e access.Event
		m.ok(rows.Scan(&e.Seq, &e.TenantID, &e.Actor, &e.Action, &e.Object, &e.Outcome, &e.Detail))
		if e.Seq > since[e.TenantID] {
			out = append(out, e)
		}
	}
	m.ok(rows.Err())
	return out
}

// wantNoted wants one line of each change that somebody known has made or was
// refused, in their own tenant's log, and none of what changes nothing. Of
// agents, whoever acts as another one is noted, and whoever registers or renews.
func (m *matrix) wantNoted(cell string, op *contract.Operation, c *caller, want verdict, row *cells, since noted) {
	m.Helper()
	got := m.notes(since)
	outcome, actor := "", ""
	switch {
	case c.tokens != nil && op.Method != http.MethodGet && want != noToken && want != noCert:
		actor, outcome = "token:"+c.tokens.ID, "ok"
		if !want.in || want.foreign && row.absent != "" || row.in >= 400 {
			outcome = "denied"
		}
	case want == notYou:
		actor, outcome = "agent:"+c.agent.id, "denied"
	case (row.id == "agent.register" || row.id == "agent.renew") && want.in:
		actor, outcome = "agent:", "ok"
	case row.id == "agent.register" && want == badToken:
		actor, outcome = "anonymous", "denied"
	}
	// The rollout itself cancels tasks and the like, under its own name.
	got = slices.DeleteFunc(got, func(e access.Event) bool { return strings.HasPrefix(e.Actor, "rollout") || e.Actor == "system" })
	if outcome == "" {
		if len(got) > 0 {
			m.Errorf("%s is in the audit log: %+v", cell, got)
		}
		return
	}
	tenant := access.DefaultTenant
	if strings.Contains(string(c.column), "another tenant") {
		tenant = otherTenant
	}
	if len(got) != 1 || got[0].TenantID != tenant || !strings.HasPrefix(got[0].Actor, actor) || got[0].Outcome != outcome ||
		(got[0].Action != row.id && got[0].Action != "agent.reregister") {
		m.Errorf("%s: the audit log has %+v, want one line %s %s %s in %s", cell, got, actor, row.id, outcome, tenant)
	}
}

// changesThatFailAreNoted breaks the database, but for its audit log, and has an
// admin try every change.
func (m *matrix) changesThatFailAreNoted() {
	m.Helper()
	byID := map[string]*cells{}
	attempts := map[string]attempt{}
	admin := m.callers[asAdmin]
	for _, row := range rowsOfMatrix() {
		if row.who[asViewer] == noRole { // it is a change, by people
			byID[row.id] = &row
			if row.make != nil {
				attempts[row.id] = row.make(m, admin)
			} else {
				attempts[row.id] = attempt{}
			}
		}
	}
	m.settle()
	for table := range m.tables {
		for _, verb := range []string{"INSERT", "UPDATE", "DELETE"} {
			_, err := m.db.ExecContext(m.Context(), fmt.Sprintf(
				"CREATE TRIGGER broken_%s_%s BEFORE %s ON %s BEGIN SELECT RAISE(ABORT, 'the disk with the secret plans is broken'); END", table, verb, verb, table))
			m.ok(err)
		}
	}
	tried := 0
	for _, op := range m.doc.Operations {
		row := byID[op.ID]
		// What reads, a rollback of what has changed nothing, and a step of a
		// rotation that is in another phase do not come so far.
		if row == nil || op.Method == http.MethodGet || op.ID == "rollout.preview" || op.ID == "rollout.rollback" || strings.HasPrefix(op.ID, "ca.") {
			continue
		}
		tried++
		since := m.lastNote()
		status, code, body := m.knock(op, row, admin, attempts[op.ID])
		if status < 500 || strings.Contains(string(body), "secret plans") {
			m.Errorf("%s with a broken database: %d %s %s", op.ID, status, code, body)
		}
		got := slices.DeleteFunc(m.notes(since), func(e access.Event) bool { return e.Action != op.ID })
		if len(got) != 1 || got[0].Outcome != "failed" || !strings.HasPrefix(got[0].Actor, "token:"+admin.tokens.ID) {
			m.Errorf("%s failed, and the audit log has %+v", op.ID, got)
		}
	}
	if tried < 20 {
		m.Errorf("only %d changes were tried", tried)
	}
	// And an agent that registers.
	since := m.lastNote()
	status, _ := register(m, m.cp, m.lastToken, api.RegisterRequest{Name: m.name(), CSR: csr(m, newKey(m))})
	got := m.notes(since)
	if status < 500 || len(got) != 1 || got[0].Outcome != "failed" || got[0].Action != "agent.register" {
		m.Errorf("a registration failed with %d, and the audit log has %+v", status, got)
	}
}
