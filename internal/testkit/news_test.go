package testkit_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// follow opens the stream of events for people.
func follow(t *testing.T, cp *testkit.ControlPlane, query url.Values) *sse {
	t.Helper()
	return listen(t, httpClient(tlsConfig(cp)), cp.URL+"/api/v1/events?"+query.Encode(), map[string]string{"Authorization": "Bearer " + cp.AdminToken})
}

// news takes as many events as there are kinds and checks that they are of
// these, in this order.
func (s *sse) news(kinds ...string) []api.Event {
	s.t.Helper()
	var all []api.Event
	for i, kind := range kinds {
		e := s.next()
		var n api.Event
		if err := json.Unmarshal(e.data, &n); err != nil {
			s.t.Fatal(err)
		}
		if n.Kind != kind || e.kind != kind || n.ID != e.id || n.At.IsZero() || time.Since(n.At).Abs() > time.Minute {
			s.t.Fatalf("event %d: %s %s, want %s", i, e.kind, e.data, kind)
		}
		if i > 0 && n.ID <= all[i-1].ID {
			s.t.Fatalf("id %d after %d", n.ID, all[i-1].ID)
		}
		all = append(all, n)
	}
	return all
}

// What happens to agents, tasks and commands is told, in the order in which it
// happened, to those who asked for it.
func TestNews(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	web := newHandmade(t, cp, "web", "docker")
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "box", Kind: "docker", Agent: web.id}); err != nil {
		t.Fatal(err)
	}
	agents := follow(t, cp, url.Values{"kind": {"agent.registered", "agent.connected", "agent.disconnected", "agent.revoked"}})
	tasks := follow(t, cp, url.Values{"kind": {"task"}})
	commands := follow(t, cp, url.Values{"kind": {"command"}, "agent": {"web"}})
	ends := follow(t, cp, url.Values{"kind": {"task.succeeded", "command.acknowledged"}})
	others := follow(t, cp, url.Values{"agent": {web.id}, "kind": {"agent"}})

	other := newHandmade(t, cp, "other")
	send(t, cp, "other", "replay", "1")
	l := &linked{t: t, carrier: carriers[0], cp: cp, handmade: web}
	l.connect()
	k := l.submit()
	_, ref := l.task()
	l.send(accepted(ref))
	l.send(resultOf(ref, `{"success":true}`))
	cp.WaitTask(k.ID, linkPatience)
	c := send(t, cp, "web", "deep-trace", "1")
	l.command()
	testkit.Eventually(t, linkPatience, "the delivery to be noted", func() (bool, string) { // or the answer overtakes it
		p, err := cp.Client.Command(t.Context(), c.ID, client.DeliveryFilter{})
		return err == nil && p.Counts.Delivered == 1, fmt.Sprint(p, err)
	})
	l.send(ackOf(c.ID, "", ""))
	l.receipt()
	if _, err := cp.Client.RevokeAgent(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	_ = l.wantEnd(linkPatience) // however it is told

	got := agents.news("agent.registered", "agent.connected", "agent.revoked", "agent.disconnected")
	if got[0].AgentID != other.id || got[0].AgentName != "other" || got[1].AgentID != web.id || got[3].AgentID != web.id {
		t.Errorf("agents: %+v", got)
	}
	got = tasks.news("task.queued", "task.assigned", "task.running", "task.succeeded")
	for i, n := range got {
		if n.TaskID != k.ID || n.Target != "box" || n.Type != "inspect" || i > 0 && n.AgentID != web.id {
			t.Errorf("tasks: %+v", n)
		}
	}
	got = commands.news("command.sent", "command.delivered", "command.acknowledged")
	for _, n := range got {
		if n.CommandID != c.ID || n.AgentID != web.id || n.Type != "deep-trace" {
			t.Errorf("commands: %+v", n)
		}
	}
	ends.news("task.succeeded", "command.acknowledged")
	for _, want := range []string{"agent.connected", "agent.revoked", "agent.disconnected"} {
		e := others.next()
		for e.kind == "agent.live" { // it may have been said already
			e = others.next()
		}
		if e.kind != want {
			t.Errorf("of one agent: %s %s, want %s", e.kind, e.data, want)
		}
	}
	for name, s := range map[string]*sse{"agents": agents, "tasks": tasks, "commands": commands, "ends": ends} {
		if len(s.events) > 0 {
			e := <-s.events
			t.Errorf("%s: one more: %s %s", name, e.kind, e.data)
		}
	}
}

// An agent that falls silent is stale, then dead, and live when it comes back.
func TestNewsOfSilence(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, func(c *server.Config) {
		c.HeartbeatInterval, c.StaleAfter, c.DeadAfter, c.TaskLease = 100*time.Millisecond, time.Second, time.Second, time.Second
	})
	s := follow(t, cp, url.Values{"kind": {"agent.stale", "agent.dead", "agent.live"}})
	h := newHandmade(t, cp, "web")
	c := httpClient(tlsConfig(cp, h.cert))
	h.beat(t, c)
	s.news("agent.stale", "agent.dead")
	h.beat(t, c)
	if got := s.news("agent.live", "agent.stale"); got[0].AgentID != h.id || got[0].AgentName != "web" {
		t.Errorf("%+v", got)
	}
}

func TestNewsThatNobodyCanHave(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	newHandmade(t, cp, "web")
	auth := map[string]string{"Authorization": "Bearer " + cp.AdminToken}
	c := httpClient(tlsConfig(cp))
	for query, want := range map[string]struct {
		status int
		says   string
	}{
		"kind=task.done":           {http.StatusUnprocessableEntity, "task.failed"}, // it names those that there are
		"kind=task&kind=tasks":     {http.StatusUnprocessableEntity, `"tasks"`},
		"agent=nobody":             {http.StatusNotFound, "nobody"},
		"kind=task.f&agent=nobody": {http.StatusUnprocessableEntity, "no kind"},
	} {
		status, body := call(t, c, http.MethodGet, cp.URL+"/api/v1/events?"+query, auth, nil)
		if p := problem(t, body); status != want.status || !strings.Contains(fmt.Sprint(p.Detail, p.Errors), want.says) {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
	if status, body := call(t, c, http.MethodGet, cp.URL+"/api/v1/events", nil, nil); status != http.StatusUnauthorized {
		t.Errorf("without a token: %d %s", status, body)
	}
	// A server that stops ends the streams, and whole.
	s := follow(t, cp, nil)
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	s.wantEnd()
}

// Who has lost their token hears no more, within seconds and although nobody tells
// the servers of it, and is told why; others go on.
func TestStreamsEndWithTheToken(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := newHandmade(t, cp, "web", "docker")
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "box", Kind: "docker", Agent: h.id}); err != nil {
		t.Fatal(err)
	}
	k, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: api.TaskInspect, Target: "box"})
	if err != nil {
		t.Fatal(err)
	}
	bystander := follow(t, cp, nil)
	for name, end := range map[string]struct {
		ttl  int
		how  func(id string) error
		says string
	}{
		"revoked": {0, func(id string) error { return cp.Client.RevokeAPIToken(t.Context(), id) }, `"revoked" was revoked`},
		"expired": {4, func(string) error { return nil }, `"expired" has expired`},
	} {
		tok, err := cp.Client.CreateAPIToken(t.Context(), api.APITokenRequest{Name: name, Role: api.RoleViewer, TTLSeconds: end.ttl})
		if err != nil {
			t.Fatal(err)
		}
		auth := map[string]string{"Authorization": "Bearer " + tok.Token}
		events := listen(t, httpClient(tlsConfig(cp)), cp.URL+"/api/v1/events", auth)
		logs := followLog(t, cp, k.ID, tok.Token)
		if err := end.how(tok.ID); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if tok.ExpiresAt != nil {
			began = *tok.ExpiresAt
		}
		last := ""
		for ended := false; !ended; {
			select {
			case last = <-events.alive:
			case err := <-events.ended:
				ended = errors.Is(err, io.EOF)
			case <-events.events:
			case <-time.After(linkPatience):
				t.Fatalf("%s: the stream stands", name)
			}
		}
		for len(events.alive) > 0 {
			last = <-events.alive
		}
		if took := time.Since(began); took > 5*time.Second || !strings.Contains(last, end.says) {
			t.Errorf("%s: after %s, and the last word was %q", name, took, last)
		}
		select {
		case body := <-logs:
			if took := time.Since(began); took > 5*time.Second || !strings.Contains(body, strings.ReplaceAll(end.says, `"`, `\"`)) {
				t.Errorf("%s: the log ended after %s with %s", name, took, body)
			}
		case <-time.After(linkPatience):
			t.Fatalf("%s: the log is followed still", name)
		}
	}
	newHandmade(t, cp, "another")
	for e := bystander.next(); e.kind != api.EventAgentRegistered; e = bystander.next() {
		continue
	}
}

// followLog follows a task's log, and gives all of it when it has ended.
func followLog(t *testing.T, cp *testkit.ControlPlane, task, token string) <-chan string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, cp.URL+"/api/v1/tasks/"+task+"/logs?follow=true", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := httpClient(tlsConfig(cp)).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	whole := make(chan string, 1)
	go func() {
		body, err := io.ReadAll(res.Body)
		whole <- fmt.Sprintf("%s %v", body, err)
	}()
	return whole
}
