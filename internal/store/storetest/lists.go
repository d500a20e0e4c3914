package storetest

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

// behind returns the query for the page after a row.
func behind(t testing.TB, s *filter.Schema, q filter.Query, last filter.Row) filter.Query {
	t.Helper()
	next, err := s.Query(filter.Request{Sort: q.Order.String(), Cursor: s.Next(q, last)}, q.Now)
	must(t, err)
	q.Order, q.After = next.Order, next.After
	return q
}

// pick goes round a list.
func pick[T any](i int, of ...T) T { return of[i%len(of)] }

func testAgentList(t *testing.T, b *bench) {
	for i := range 40 {
		a := b.agent(numbered("a", i))
		a.Name = pick(i, "web", "Web", "db", "ä", "a_b", "100") + numbered("-", i)
		a.Lifecycle = pick(i, api.LifecycleActive, api.LifecycleActive, api.LifecycleActive, api.LifecycleInactive, api.LifecycleRevoked)
		a.Liveness = pick(i/2, api.Live, api.Stale, api.Dead)
		a.ReportedStatus = pick(i/3, "", "online", "degraded")
		a.Environment = pick(i/4, "prod", "Prod", "dev", "%", "ähre", "")
		a.Group, a.Version = pick(i/5, "web", "db"), pick(i/2, "1.2.3", "1.10.0", "2.0.0-rc1")
		a.Platform = pick(i/7, "linux/amd64", "windows/amd64")
		a.Labels = pick(i, nil, map[string]string{"zone": "a"}, map[string]string{"zone": "B*", "a.b/c": "x"}, map[string]string{"name": "", "7": "seven"})
		a.Capabilities = pick(i, nil, []string{"docker"}, []string{"docker.deploy", "health_check"}, []string{"host", "docker.inspect"})
		a.AllowedCapabilities = pick(i/2, nil, []string{"docker"}, []string{"health_check", "host.health-check"})
		a.NotAccepting = pick(i/6, "", "draining")
		a.LastHeartbeat = pick(i, b.now, time.Time{}, b.now.Add(-2*time.Hour), b.now.Add(-2*time.Hour-time.Microsecond))
		a.CreatedAt = b.now.Add(-time.Duration(i/4) * time.Minute)
		a.CertificateNotAfter = b.now.Add(time.Duration(i) * time.Hour)
		b.enrol(t, a)
	}
	all, err := b.Agents(b.ctx, tenant, fleet.Filter{})
	must(t, err)
	agree(t, fleet.Schema, b.now, all, func(q filter.Query, limit int) ([]*fleet.Agent, error) {
		return b.Agents(b.ctx, tenant, fleet.Filter{Query: q, Limit: limit})
	})
}

func testTargetList(t *testing.T, b *bench) {
	for i := range 20 {
		tgt := b.target(t, pick(i, "web", "Web", "db")+numbered("-", i), pick(i, "id-a", "id-b", ""))
		tgt.Kind, tgt.Environment = pick(i/2, "docker", "host"), pick(i/3, "prod", "dev", "")
		tgt.Labels = pick(i, nil, map[string]string{"zone": "a"}, map[string]string{"name": "b"})
		must(t, b.UpdateTarget(b.ctx, tgt))
	}
	all, err := b.Targets(b.ctx, tenant, target.Filter{})
	must(t, err)
	agree(t, target.Schema, b.now, all, func(q filter.Query, limit int) ([]*target.Target, error) {
		return b.Targets(b.ctx, tenant, target.Filter{Query: q, Limit: limit})
	})
}

func testTaskList(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"), b.agent("b"))
	for i := range 30 {
		tgt := "target-" + pick(i, "web", "db")
		if i < 2 {
			tgt = b.target(t, tgt[len("target-"):], "id-a").ID
		}
		k := b.insert(t, tgt, unchanging, func(k *task.Task) {
			k.Type, k.Priority = pick(i/2, api.TaskInspect, api.TaskDeploy), pick(i, -1, 0, 1, 2)
			k.CreatedBy, k.CreatedAt = pick(i, "me", "You", "%"), b.now.Add(-time.Duration(i/3)*time.Hour)
		})
		if i%3 == 0 {
			continue
		}
		c := b.claim(k, pick(i, "id-a", "id-b"))
		c.MaxActive = 100
		held, err := b.ClaimTask(b.ctx, c)
		must(t, err)
		ref := task.Ref{ID: k.ID, Attempt: held.Attempt}
		switch i % 4 {
		case 0:
			_, err = b.StartTask(b.ctx, held.AgentID, ref, b.now)
		case 1:
			_, err = b.FinishTask(b.ctx, task.Finish{Ref: ref, AgentID: held.AgentID, State: api.TaskFailed, Reason: "no", At: b.now.Add(time.Duration(i/8) * time.Minute)})
		case 2:
			_, err = b.RequestCancel(b.ctx, tenant, k.ID, b.now)
		}
		must(t, err)
	}
	// Lists show the names of today, and the last ones of what is gone.
	renamed, err := b.Target(b.ctx, tenant, "web")
	must(t, err)
	renamed.Name = "renamed"
	must(t, b.UpdateTarget(b.ctx, renamed))
	must(t, b.DeleteAgent(b.ctx, tenant, "id-b"))
	all, err := b.Tasks(b.ctx, tenant, task.Filter{})
	must(t, err)
	agree(t, task.Schema, b.now, all, func(q filter.Query, limit int) ([]*task.Task, error) {
		return b.Tasks(b.ctx, tenant, task.Filter{Query: q, Limit: limit})
	})
}

func testTokenLists(t *testing.T, b *bench) {
	for i := range 16 {
		tok := &enroll.Token{
			ID: numbered("t", i), TenantID: tenant, Hash: hash(numbered("t", i)), Name: pick(i, "ci", "CI", "x%"), AgentID: pick(i, "", "id-a"),
			Environment: pick(i/2, "prod", ""), Group: pick(i/3, "web", ""), Labels: pick(i, nil, map[string]string{"zone": "a"}),
			MaxUses: pick(i, 0, 5), CreatedBy: "me", CreatedAt: b.now.Add(time.Duration(i/3) * time.Second),
			ExpiresAt: b.now.Add(pick(i/2, -time.Hour, 0, time.Hour)),
		}
		must(t, b.InsertToken(b.ctx, tok))
		person := &access.APIToken{
			ID: numbered("p", i), TenantID: tenant, Hash: numbered("h", i), Name: pick(i, "joe", "Ann"), Role: pick(i, api.RoleAdmin, api.RoleViewer, api.RoleOperator),
			CreatedBy: pick(i, "me", "system"), CreatedAt: tok.CreatedAt, ExpiresAt: pick(i, time.Time{}, b.now, b.now.Add(time.Hour)),
			LastUsedAt: pick(i/2, time.Time{}, b.now.Add(-time.Minute)),
		}
		must(t, b.InsertAPIToken(b.ctx, person))
		if i%5 == 0 {
			must(t, b.RevokeToken(b.ctx, tenant, tok.ID, b.now))
			must(t, b.RevokeAPIToken(b.ctx, tenant, person.ID, b.now))
		}
	}
	tokens, err := b.Tokens(b.ctx, tenant, enroll.Filter{})
	must(t, err)
	agree(t, enroll.Schema, b.now, tokens, func(q filter.Query, limit int) ([]*enroll.Token, error) {
		return b.Tokens(b.ctx, tenant, enroll.Filter{Query: q, Limit: limit})
	})
	people, err := b.APITokens(b.ctx, tenant, access.Filter{})
	must(t, err)
	agree(t, access.TokenSchema, b.now, people, func(q filter.Query, limit int) ([]*access.APIToken, error) {
		return b.APITokens(b.ctx, tenant, access.Filter{Query: q, Limit: limit})
	})
}

func testAuditList(t *testing.T, b *bench) {
	log := b.auditLog(t, b.Store)
	for i := range 20 {
		log.Audit(b.ctx, access.Event{
			TenantID: tenant, At: b.now.Add(time.Duration(i/2) * time.Second), Actor: pick(i, "token:1 (me)", "agent:a", "system"),
			Action: pick(i/2, "agent.revoke", "task.create"), Object: numbered("o", i/3), Remote: "10.0.0.1",
			Outcome: pick(i, "ok", "ok", "denied", "failed"), Detail: pick(i, "", "because", `50% \ "x"`),
		})
	}
	all, err := b.AuditEvents(b.ctx, tenant, access.Filter{})
	must(t, err)
	agree(t, access.AuditSchema, b.now, all, func(q filter.Query, limit int) ([]*access.Event, error) {
		return b.AuditEvents(b.ctx, tenant, access.Filter{Query: q, Limit: limit})
	})
}

// testPagesWhileRowsMove: agents that are there all the time are in the pages
// exactly once and in order, whatever comes and goes meanwhile.
func testPagesWhileRowsMove(t *testing.T, b *bench) {
	const stay = 60
	for i := range stay {
		a := b.agent(numbered("stay", i))
		a.Environment = pick(i, "a", "b", "c")
		b.enrol(t, a)
	}
	for _, order := range []string{"environment", "-environment", "-environment,name", "lastHeartbeat"} {
		var stop atomic.Bool
		moved := make(chan error, 1)
		go func() {
			for i := 0; ; i++ {
				a := b.agent(numbered("guest", i%10))
				a.Environment = pick(i, "a", "b", "c", "bb")
				err := b.Enrol(b.ctx, b.enrolment(a))
				if err == nil {
					err = b.DeleteAgent(b.ctx, tenant, a.ID)
				}
				if err != nil || stop.Load() {
					moved <- err
					return
				}
			}
		}()
		q, err := fleet.Schema.Query(filter.Request{Sort: order}, b.now)
		must(t, err)
		seen := map[string]int{}
		var walked []*fleet.Agent
		for n := 0; ; n++ {
			// One that is exactly where the next page begins goes as well.
			guest := b.agent(numbered("between", n))
			guest.Environment = pick(n, "a", "b", "c")
			b.enrol(t, guest)
			page, err := b.Agents(b.ctx, tenant, fleet.Filter{Query: q, Limit: 7})
			must(t, err)
			for _, a := range page {
				seen[a.Name]++
				walked = append(walked, a)
			}
			if len(page) < 7 {
				break
			}
			last := page[len(page)-1]
			q = behind(t, fleet.Schema, q, last)
			if strings.HasPrefix(last.Name, "between") {
				must(t, b.DeleteAgent(b.ctx, tenant, last.ID))
			}
		}
		stop.Store(true)
		must(t, <-moved)
		for i := range stay {
			if n := seen[numbered("stay", i)]; n != 1 {
				t.Errorf("sorted by %s, agent %d is in the pages %d times", order, i, n)
			}
		}
		same(t, "the order of "+order, names(walked), names(sorted(walked, q.Order, b.now)))
		all, err := b.Agents(b.ctx, tenant, fleet.Filter{})
		must(t, err)
		for _, a := range all {
			if strings.HasPrefix(a.Name, "between") {
				must(t, b.DeleteAgent(b.ctx, tenant, a.ID))
			}
		}
	}
}
