package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

// What commands print, word for word. Times are told from the time of the
// test, and there is no colour where there is no terminal.
func TestRendering(t *testing.T) {
	t.Parallel()
	agents := api.AgentList{Items: []api.Agent{
		{
			ID: "id-1", Name: "prod-01", Version: "1.2.3", Status: api.StatusOnline, Lifecycle: api.LifecycleActive, Liveness: api.Live,
			Environment: "production", Group: "web", Platform: "linux", Labels: map[string]string{"zone": "a"},
			Capabilities: []string{"docker.deploy", "docker.inspect", "host.deploy"}, LastHeartbeat: ago(3 * time.Second),
			CreatedAt: at.Add(-49 * time.Hour), UpdatedAt: at, Transport: "grpc",
			ResourceUsage: &api.ResourceUsage{CPUPercent: 12.4, MemoryPercent: 50, MemoryTotalBytes: 8 << 30, DiskPercent: 20, DiskFreeBytes: 3 << 29},
		},
		{Name: "prod-02", Status: api.StatusDegraded, Lifecycle: api.LifecycleActive, Liveness: api.Stale, LastHeartbeat: ago(2 * time.Minute), CreatedAt: at, UpdatedAt: at},
		{Name: "old", Status: api.StatusOffline, Lifecycle: api.LifecycleRevoked, Liveness: api.Dead, CreatedAt: at, UpdatedAt: at},
		{Name: "full", Status: api.StatusOnline, Lifecycle: api.LifecycleActive, Liveness: api.Live, NotAccepting: "disk at 97%", LastHeartbeat: ago(0), CreatedAt: at, UpdatedAt: at},
	}}
	copied := agents.Items[0]
	copied.Clone = &api.AgentClone{SeenAt: at.Add(-20 * time.Second), Held: "web-copy (10.0.0.9)", Kept: "web (10.0.0.5)"}
	done := deployTask(api.TaskSucceeded, &api.TaskResult{Success: true, Phases: []api.PhaseTime{{Name: "pull", State: "done", DurationMs: 1200}}})
	for args, tc := range map[string]struct {
		path   string
		answer any
		want   string
	}{
		"agent list": {"/api/v1/agents", agents, `
NAME     STATUS                              HEARTBEAT  ENVIRONMENT  GROUP  PLATFORM  VERSION  CAPABILITIES
prod-01  online                              3s ago     production   web    linux     1.2.3    docker.*,host.deploy
prod-02  degraded (stale)                    2m ago
old      offline (revoked)                   never
full     online (no new tasks: disk at 97%)  now
`},
		"agent list --name prod-01": {"/api/v1/agents", api.AgentList{Items: []api.Agent{copied}}, `
NAME     STATUS                                                       HEARTBEAT  ENVIRONMENT  GROUP  PLATFORM  VERSION  CAPABILITIES
prod-01  online (cloned: web-copy (10.0.0.9) uses its identity, too)  3s ago     production   web    linux     1.2.3    docker.*,host.deploy
`},
		"agent status": {"/api/v1/agents", agents, `
4 agents: 2 online, 1 degraded, 1 offline

NAME     STATUS                              HEARTBEAT  ENVIRONMENT  GROUP  PLATFORM  VERSION  CAPABILITIES
prod-02  degraded (stale)                    2m ago
old      offline (revoked)                   never
full     online (no new tasks: disk at 97%)  now
`},
		"agent status -o yaml": {"/api/v1/agents", agents, `
total: 4
online: 2
degraded: 1
offline: 1
notAccepting: 1
`},
		"agent show prod-01": {"/api/v1/agents/prod-01", agents.Items[0], `
Name          prod-01
Id            id-1
Status        online
Life cycle    active
Liveness      live
Heartbeat     3s ago
Connection    grpc
Version       1.2.3
Platform      linux
Environment   production
Group         web
Labels        zone=a
Capabilities  docker.deploy, docker.inspect, host.deploy
Load          CPU 12%, memory 50% of 8.0 GiB, disk 20% (1.5 GiB free)
Registered    2d ago
`},
		"agent show old -o yaml": {"/api/v1/agents/old", agents.Items[2], `
id: ''
name: old
version: ''
status: offline
lifecycle: revoked
liveness: dead
labels: null
capabilities: null
signsHeartbeats: false
createdAt: '2026-05-04T12:00:00Z'
updatedAt: '2026-05-04T12:00:00Z'
`},
		"target list": {"/api/v1/targets", api.TargetList{Items: []api.Target{
			{Name: "web", Kind: "host", AgentID: "id-1", AgentName: "prod-01", Config: api.TargetConfig{Directory: "/opt/web"}},
			{Name: "edge", Kind: "ssh", AgentID: "id-1", AgentName: "prod-01", Config: api.TargetConfig{
				Directory: "/opt/edge", SSH: &api.SSHConfig{SSHHop: api.SSHHop{Host: "app-1", Port: 2222, Username: "deploy"}},
			}},
			{Name: "db", Kind: "docker", AgentSelector: &api.AgentSelector{Group: "g", Labels: map[string]string{"zone": "a", "rack": "1"}}, Labels: map[string]string{"tier": "db"}},
		}}, `
NAME  KIND    REACHED BY                                        ENVIRONMENT  LABELS   WHERE
web   host    agent prod-01                                                           /opt/web
edge  ssh     agent prod-01                                                           deploy@app-1:2222 /opt/edge
db    docker  any agent with group=g,label.rack=1,label.zone=a               tier=db
`},
		"task list": {"/api/v1/tasks", api.TaskList{Items: []api.Task{
			done, {ID: "t2", Type: api.TaskExecuteCommand, TargetName: "web", State: api.TaskRunning, CancelRequested: true, Payload: []byte(`{"command":["sh","-c","x"]}`), CreatedAt: at.Add(-time.Hour)},
		}}, `
ID  TYPE             TARGET  STATE                     WHAT   AGENT  CREATED  TOOK   BY
t1  deploy           web     succeeded                 1.4.2  a1     now      12.3s
t2  execute-command  web     running, being cancelled  sh …          1h ago
`},
		"task show t1": {"/api/v1/tasks/t1", done, `
Task      t1
What      deployment to web
State     succeeded
Agent     a1
Created   2026-05-04T12:00:00Z (now)
Started   2026-05-04T12:00:00Z (now)
Finished  2026-05-04T12:00:12Z (in 13s)

PHASE  STATE  TOOK
pull   done   1.2s

✓ web runs nginx@sha256:e3b0c44298fc…, release 1.4.2 (12.3s)
`},
		"task logs t1": {"/api/v1/tasks/t1/logs", api.TaskLogs{Entries: []api.LogEntry{
			{At: at, Stream: "system", Phase: "pull", PhaseState: "started"}, {At: at, Stream: "stdout", Text: "layer\x07", Lost: 2},
		}}, `
12:00:00.000 system pull started
… 2 lines lost here
12:00:00.000 stdout layer�
`},
		"token list": {"/api/v1/admin/agent-tokens", api.RegistrationTokenList{Items: []api.RegistrationToken{
			{ID: "r1", State: "usable", Uses: 0, MaxUses: 1, Name: "prod-01", CreatedBy: "joe", ExpiresAt: at.Add(14 * time.Minute), CreatedAt: at.Add(-time.Minute)},
		}}, `
ID  STATE   USES  EXPIRES  NAME     ENVIRONMENT  GROUP  CREATED BY  CREATED
r1  usable  0/1   in 14m   prod-01                      joe         1m ago
`},
		"token list --api": {"/api/v1/admin/api-tokens", api.APITokenList{Items: []api.APIToken{
			{ID: "k1", State: "expired", Name: "ci", Role: api.RoleOperator, ExpiresAt: ago(time.Hour), LastUsedAt: ago(2 * time.Hour), CreatedBy: "joe", CreatedAt: at.Add(-25 * time.Hour)},
		}}, `
ID  STATE    NAME  ROLE      EXPIRES  LAST USED  CREATED BY  CREATED
k1  expired  ci    operator  1h ago   2h ago     joe         1d ago
`},
		"audit": {"/api/v1/audit", api.AuditList{Items: []api.AuditEvent{
			{Seq: 1, At: at.Add(-time.Minute), Actor: "token:k1 (joe)", Action: "agent.revoke", Object: "a1", Remote: "10.0.0.1:5", Outcome: "denied"},
		}}, `
WHEN    WHO             ACTION        OBJECT  OUTCOME  FROM        DETAIL
1m ago  token:k1 (joe)  agent.revoke  a1      denied   10.0.0.1:5
`},
		"version": {"", nil, "\nstella 1.2.3 (PLATFORM)\n"},
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			f := newFakeAPI(t)
			f.answer("GET "+tc.path, tc.answer)
			term := newTerminal(t, f)
			term.must(t, strings.Fields(args)...)
			have := term.stdout
			if args == "version" {
				have = have[:strings.Index(have, "(")] + "(PLATFORM)\n"
			}
			if diff := cmp.Diff(tc.want, "\n"+have); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBootstrapPrints(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.answer("POST /api/v1/admin/agents/bootstrap", api.Bootstrap{
		ID: "r1", Token: "reg_abc_def", MaxUses: 1, TokenExpires: at.Add(15 * time.Minute), ServerURL: "https://localhost:8443", Platform: "linux",
		InstallCommand: "curl it", Alternatives: []api.BootstrapCommand{{When: "with wget", Command: "wget it"}}, InstallScript: "#!/bin/sh", Warning: "this server has no agent for linux",
	})
	term := newTerminal(t, f)
	term.must(t, "agent", "bootstrap", "--name", "prod-01")
	want := `Token for agent prod-01; it can be used once within 15 minutes, until 2026-05-04T12:15:00Z:

  reg_abc_def

On the agent's machine, run:

  curl it

Or, with wget:

  wget it

Or take the installer there as a file, with the token in it:

  stella agent install-script --token reg_abc_def --output install.sh

stella agent list shows the agent once it is there.
`
	if diff := cmp.Diff(want, term.stdout); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{"this server has no agent for linux", "own address on its own machine"} {
		if !strings.Contains(term.stderr, want) {
			t.Errorf("stderr: %s", term.stderr)
		}
	}
}

func TestEmptyListsSayWhatToDo(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.answer("GET /api/v1/agents", api.AgentList{})
	f.answer("GET /api/v1/targets", api.TargetList{})
	term := newTerminal(t, f)
	for args, want := range map[string]string{
		"agent list":                  "stella agent bootstrap",
		"agent list --status offline": "No agent matches",
		"target list":                 "stella target add",
	} {
		term.must(t, strings.Fields(args)...)
		if term.stdout != "" || !strings.Contains(term.stderr, want) {
			t.Errorf("%s: %q, %q", args, term.stdout, term.stderr)
		}
	}
	term.must(t, "agent", "list", "-o", "json")
	if want := "{\n  \"items\": []\n}\n"; term.stdout != want {
		t.Errorf("json: %s", term.stdout)
	}
}
