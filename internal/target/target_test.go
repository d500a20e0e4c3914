package target_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/target"
)

func TestServedBy(t *testing.T) {
	t.Parallel()
	a := &fleet.Agent{ID: "a", Group: "web", Environment: "prod", Labels: map[string]string{"zone": "1", "rack": "7"}}
	for _, c := range []struct {
		name string
		tgt  target.Target
		want bool
	}{
		{"its agent", target.Target{AgentID: "a"}, true},
		{"another's", target.Target{AgentID: "b"}, false},
		{"group", target.Target{Selector: &api.AgentSelector{Group: "web"}}, true},
		{"another group", target.Target{Selector: &api.AgentSelector{Group: "db"}}, false},
		{"another environment", target.Target{Selector: &api.AgentSelector{Group: "web", Environment: "dev"}}, false},
		{"labels", target.Target{Selector: &api.AgentSelector{Environment: "prod", Labels: map[string]string{"zone": "1"}}}, true},
		{"another label", target.Target{Selector: &api.AgentSelector{Labels: map[string]string{"zone": "1", "rack": "8"}}}, false},
		{"a label that it lacks", target.Target{Selector: &api.AgentSelector{Labels: map[string]string{"disk": "ssd"}}}, false},
		{"by selector alone", target.Target{AgentID: "a", Selector: &api.AgentSelector{Group: "db"}}, false},
	} {
		if got := c.tgt.ServedBy(a); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// kept takes what the service stores.
type kept struct {
	target.Store
	n int
}

// InsertTarget implements target.Store.
func (k *kept) InsertTarget(context.Context, *target.Target) error { k.n++; return nil }

// Target implements target.Store.
func (*kept) Target(context.Context, string, string) (*target.Target, error) {
	return &target.Target{ID: "t", Name: "web", Kind: "docker", AgentID: "id-a"}, nil
}

// Get implements target.Agents: there is one agent, which is called a.
func (*kept) Get(_ context.Context, _, name string) (*fleet.Agent, error) {
	if name == "a" {
		return &fleet.Agent{ID: "id-a"}, nil
	}
	return nil, fault.New(fault.NotFound, "agent_not_found", "no")
}

func TestCreateChecks(t *testing.T) {
	t.Parallel()
	k := &kept{}
	s := target.NewService(k, k, time.Now)
	for _, c := range []struct {
		name   string
		change func(*api.TargetRequest)
		field  string // empty: it is good
	}{
		{"as it is", func(*api.TargetRequest) {}, ""},
		{"a host", func(r *api.TargetRequest) { r.Kind, r.Config.Directory = "host", "/srv/app" }, ""},
		{"a host on Windows", func(r *api.TargetRequest) { r.Kind, r.Config.Directory = "host", `C:\srv` }, ""},
		{"by selector", func(r *api.TargetRequest) { r.Agent, r.AgentSelector = "", &api.AgentSelector{Group: "g"} }, ""},
		{"no name", func(r *api.TargetRequest) { r.Name = "" }, "body.name"},
		{"a name that is a path", func(r *api.TargetRequest) { r.Name = "a/b" }, "body.name"},
		{"no kind", func(r *api.TargetRequest) { r.Kind = "mainframe" }, "body.kind"},
		{"bad label", func(r *api.TargetRequest) { r.Labels = map[string]string{" ": ""} }, "body.labels"},
		{"no agent", func(r *api.TargetRequest) { r.Agent = "" }, "body.agent"},
		{"unknown agent", func(r *api.TargetRequest) { r.Agent = "b" }, "body.agent"},
		{"agent and selector", func(r *api.TargetRequest) { r.AgentSelector = &api.AgentSelector{Group: "g"} }, "body.agent"},
		{"selector for all", func(r *api.TargetRequest) { r.Agent, r.AgentSelector = "", &api.AgentSelector{} }, "body.agentSelector"},
		{"a host without a folder", func(r *api.TargetRequest) { r.Kind = "host" }, "body.config.directory"},
		{"a host with a relative folder", func(r *api.TargetRequest) { r.Kind, r.Config.Directory = "host", "srv" }, "body.config.directory"},
		{"a host in the root folder", func(r *api.TargetRequest) { r.Kind, r.Config.Directory = "host", "/srv/.." }, "body.config.directory"},
		{"a relative sticker", func(r *api.TargetRequest) { r.Config.StickerPath = "sticker.json" }, "body.config.stickerPath"},
		{"a volume without a name", func(r *api.TargetRequest) { r.Config.StickerLocation = "volume" }, "body.config.stickerVolume"},
	} {
		req := api.TargetRequest{Name: "web", Kind: "docker", Agent: "a"}
		c.change(&req)
		before := k.n
		tgt, err := s.Create(t.Context(), "default", req)
		if c.field == "" {
			if err != nil || k.n != before+1 || tgt.ID == "" || (req.Agent == "a") != (tgt.AgentID == "id-a") {
				t.Errorf("%s: %+v, %v", c.name, tgt, err)
			}
			continue
		}
		f := fault.As(err)
		if f == nil || f.Kind != fault.Invalid || len(f.Fields) != 1 || !strings.HasPrefix(f.Fields[0].Location, c.field) || k.n != before {
			t.Errorf("%s: %v, want a fault of %s", c.name, err, c.field)
		}
	}
	if _, err := s.Replace(t.Context(), "default", "web", api.TargetRequest{Name: "web", Kind: "host", Agent: "a"}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("it becomes another kind: %v", err)
	}
}
