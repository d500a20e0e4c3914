package storetest

import (
	"context"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/artifact"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

// testPlans: the lists that people ask for most are read from an index, in its
// order, from the place where the page begins. A plan that reads the whole
// table, or sorts it, is found here and not in a fleet.
func testPlans(t *testing.T, b *bench) {
	const many = 2000
	b.fleet(t, many)
	tgt := b.target(t, "web", "id-"+numbered("a", 1))
	log := b.auditLog(t, b.Store)
	parallel(t, many, func(i int) error {
		x := *tgt
		x.ID, x.Name, x.AgentID, x.Kind = numbered("t", i), numbered("t", i), "id-"+numbered("a", i), pick(i/1000, "docker", "host")
		if err := b.InsertTarget(b.ctx, &x); err != nil {
			return err
		}
		k := b.queued(x.ID)
		k.Type, k.CreatedAt = pick(i/1900, api.TaskDeploy, api.TaskInspect), b.now.Add(time.Duration(i)*time.Second)
		if _, err := b.InsertTask(b.ctx, k); err != nil {
			return err
		}
		at := b.now.Add(time.Duration(i) * time.Second)
		if _, err := b.BeginArtifact(b.ctx, &artifact.Artifact{
			TenantID: tenant, Digest: numbered("d", i), UploadID: numbered("u", i), Name: numbered("n", i), Size: int64(i), CreatedAt: at, UpdatedAt: at, LastUsedAt: at,
		}); err != nil {
			return err
		}
		log.Audit(b.ctx, access.Event{TenantID: tenant, At: b.now.Add(time.Duration(i) * time.Second), Actor: numbered("a", i%100), Action: numbered("x", i%100)})
		return nil
	})
	for _, statement := range []string{
		`UPDATE agents SET environment = 'e' || substr(id, 7), group_name = 'g' || substr(id, 7), version = substr(id, 7), platform = substr(id, 7), labels = '{"zone": "a"}'`,
		`UPDATE agents SET liveness = 'dead', labels = '{"zone": "b"}' WHERE id > 'id-a-01990'`,
		`UPDATE agents SET lifecycle = 'revoked' WHERE id < 'id-a-00010'`,
		`UPDATE tasks SET state = 'cancelled' WHERE target_id > 't-00050'`,
		`ANALYZE`,
	} {
		must(t, b.db.Exec(b.ctx, statement))
	}
	s := b.open(t) // what was counted is read when a database is opened
	ask := func(schema *filter.Schema, text, order string, last filter.Row) filter.Query {
		q, err := schema.Query(filter.Request{Filter: text, Sort: order}, b.now)
		must(t, err)
		return behind(t, schema, q, last)
	}
	agents := func(text, order string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			a := b.agent(numbered("a", 1000))
			_, err := s.Agents(ctx, tenant, fleet.Filter{Query: ask(fleet.Schema, text, order, a), Limit: 100})
			return err
		}
	}
	first := *tgt
	first.ID, first.Name = numbered("t", 0), numbered("t", many)
	targets := func(text, order string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.Targets(ctx, tenant, target.Filter{Query: ask(target.Schema, text, order, &first), Limit: 100})
			return err
		}
	}
	tasks := func(text, order string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.Tasks(ctx, tenant, task.Filter{Query: ask(task.Schema, text, order, b.queued("t")), Limit: 100})
			return err
		}
	}
	audit := func(text, order string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.AuditEvents(ctx, tenant, access.Filter{Query: ask(access.AuditSchema, text, order, &access.Event{Seq: 1000, At: b.now}), Limit: 100})
			return err
		}
	}
	artifacts := func(text, order string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			last := &artifact.Artifact{Digest: numbered("d", 1000), Name: numbered("n", 1000), Size: 1000, CreatedAt: b.now.Add(1000 * time.Second)}
			_, err := s.Artifacts(ctx, tenant, artifact.Filter{Query: ask(artifact.Schema, text, order, last), Limit: 100})
			return err
		}
	}
	// SQLite gives constraints' indexes names of its own.
	own := strings.NewReplacer("sqlite_autoindex_agents_2", "agents_name", "sqlite_autoindex_targets_2", "targets_name")
	const labels = "postgres only" // the one engine that can have such an index
	for _, c := range []struct {
		what  string
		list  func(ctx context.Context) error
		index string // empty: any
		only  string
	}{
		{"agents", agents("", ""), "", ""},
		{"agents by name", agents("", "name"), "agents_name", ""},
		{"agents by status", agents("", "-status"), "agents_status", ""},
		{"agents by environment", agents("", "environment"), "agents_environment", ""},
		{"agents by group", agents("", "-group"), "agents_group", ""},
		{"agents by version", agents("", "version"), "agents_version", ""},
		{"agents by platform", agents("", "platform"), "agents_platform", ""},
		{"agents by age", agents("", "-createdAt"), "agents_created", ""},
		{"agents of a name", agents("name="+numbered("a", 7), ""), "agents_name", ""},
		{"agents of an environment", agents("env=e0007", ""), "agents_environment", ""},
		{"agents of a group", agents("group=g0007", ""), "agents_group", ""},
		{"dead agents", agents("status=dead", ""), "agents_silent", ""},
		{"dead agents by liveness", agents("liveness=dead", ""), "agents_silent", ""},
		{"agents of a label", agents("label.zone=b and label.name=x", ""), "agents_labels", labels},
		{"agents that can", agents("capability=ecs.deploy", ""), "agents_capabilities", labels},
		{"targets", targets("", ""), "", ""},
		{"targets by name", targets("", "-name"), "targets_name", ""},
		{"targets by environment", targets("", "environment"), "targets_environment", ""},
		{"targets by kind", targets("", "kind"), "targets_kind", ""},
		{"targets by age", targets("", "-createdAt"), "targets_created", ""},
		{"targets of an agent", targets("agent=id-"+numbered("a", 9), ""), "targets_agent", ""},
		{"tasks", tasks("", ""), "", ""},
		{"tasks by age", tasks("", "-createdAt"), "tasks_created", ""},
		{"tasks by end", tasks("", "-finishedAt"), "tasks_finished", ""},
		{"tasks by state", tasks("", "state"), "tasks_state", ""},
		{"tasks by type", tasks("", "-type"), "tasks_type", ""},
		{"tasks of a state", tasks("state=queued", ""), "tasks_", ""},
		{"tasks of a target", tasks("target=t-00007", ""), "tasks_", ""},
		{"artifacts", artifacts("", ""), "artifacts_created", ""},
		{"artifacts by digest", artifacts("", "digest"), "", ""},
		{"artifacts by name", artifacts("", "name"), "artifacts_name", ""},
		{"artifacts by size", artifacts("", "-size"), "artifacts_size", ""},
		{"artifacts of a name", artifacts("name=n-00007", ""), "artifacts_name", ""},
		{"audit", audit("", ""), "", ""},
		{"audit by time", audit("", "at"), "audit_at", ""},
		{"audit by actor", audit("", "actor"), "audit_actor", ""},
		{"audit by action", audit("", "-action"), "audit_action", ""},
		{"audit of an actor", audit("actor="+numbered("a", 7), ""), "audit_actor", ""},
	} {
		if c.only == labels && s.Engine() != "postgres" {
			continue
		}
		var plan string
		must(t, c.list(store.WithPlan(b.ctx, &plan)))
		plan = own.Replace(plan)
		for _, slow := range []string{
			"Seq Scan on " + strings.Fields(c.what)[0], "Seq Scan on agents", // PostgreSQL
			"SCAN agents\n", "SCAN t\n", "SCAN targets\n", "SCAN audit\n", "SCAN artifacts\n", // SQLite
		} {
			if strings.Contains(plan, slow) {
				t.Errorf("%s: a whole table is read:\n%s", c.what, plan)
			}
		}
		// A few rows that a filter has left may well be sorted.
		if !strings.Contains(c.what, " of ") && c.only == "" && (strings.Contains(plan, "Sort") || strings.Contains(plan, "TEMP B-TREE")) {
			t.Errorf("%s: the list is sorted, and not read in order:\n%s", c.what, plan)
		}
		if !strings.Contains(plan, c.index) {
			t.Errorf("%s: the index %s is not used:\n%s", c.what, c.index, plan)
		}
	}
}
