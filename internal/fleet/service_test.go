package fleet_test

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store/sqlite"
)

// told keeps which agents the servers were told of.
type told struct{ agents, kinds []string }

// AgentChanged implements fleet.Notifier.
func (n *told) AgentChanged(_, agentID string) { n.agents = append(n.agents, agentID) }

// Publish implements event.Publisher.
func (n *told) Publish(_ string, events ...api.Event) {
	for _, e := range events {
		n.kinds = append(n.kinds, e.Kind)
	}
}

func newService(t *testing.T) (*fleet.Service, *told) {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, name := range []string{"a", "b"} {
		a := &fleet.Agent{
			ID: "id-" + name, TenantID: "default", Name: name, Lifecycle: api.LifecycleActive, Liveness: api.Live,
			PublicKeyHash: name, CertificateFingerprint: "cert-" + name, LastHeartbeat: now, CreatedAt: now, UpdatedAt: now,
		}
		cert := enroll.Issued{Fingerprint: "cert-" + name, Serial: "1", NotBefore: now, NotAfter: now.Add(time.Hour)}
		if err := st.Enrol(t.Context(), &enroll.Enrolment{Agent: a, At: now, Cert: cert}); err != nil {
			t.Fatal(err)
		}
	}
	n := &told{}
	return fleet.NewService(st, n, func() time.Time { return now }), n
}

// Each change of the life cycle is told once, and a repetition is none. What
// is revoked stays so.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	s, n := newService(t)
	for _, step := range []struct {
		to   api.Lifecycle
		code string
		told int
	}{
		{api.LifecycleActive, "", 0},
		{api.LifecycleInactive, "", 1},
		{api.LifecycleInactive, "", 1},
		{api.LifecycleActive, "", 2},
		{api.LifecycleInactive, "", 3},
		{api.LifecycleRevoked, "", 4},
		{api.LifecycleRevoked, "", 4},
		{api.LifecycleActive, "agent_revoked", 4},
		{api.LifecycleInactive, "agent_revoked", 4},
	} {
		do := map[api.Lifecycle]func() (*fleet.Agent, error){
			api.LifecycleActive:   func() (*fleet.Agent, error) { return s.Activate(t.Context(), "default", "a") },
			api.LifecycleInactive: func() (*fleet.Agent, error) { return s.Deactivate(t.Context(), "default", "a") },
			api.LifecycleRevoked:  func() (*fleet.Agent, error) { return s.Revoke(t.Context(), "default", "a") },
		}[step.to]
		a, err := do()
		if step.code != "" && fault.CodeOf(err) != step.code || step.code == "" && (err != nil || a.Lifecycle != step.to) {
			t.Fatalf("to %s: %+v, %v", step.to, a, err)
		}
		if len(n.agents) != step.told {
			t.Fatalf("after %s the servers were told %d times, want %d", step.to, len(n.agents), step.told)
		}
	}
	if _, err := s.Delete(t.Context(), "default", "a"); err != nil {
		t.Fatal(err)
	}
	if len(n.agents) != 5 || slices.ContainsFunc(n.agents, func(id string) bool { return id != "id-a" }) {
		t.Errorf("told of %v", n.agents)
	}
	for what, err := range map[string]error{
		"get":    second(s.Get(t.Context(), "default", "a")),
		"revoke": second(s.Revoke(t.Context(), "default", "a")),
		"delete": second(s.Delete(t.Context(), "default", "a")),
		"update": second(s.Update(t.Context(), "default", "a", nil, nil)),
	} {
		if fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s of a deleted agent: %v", what, err)
		}
	}
	if len(n.agents) != 5 {
		t.Error("the servers were told of what did not happen")
	}
}

func second(_ *fleet.Agent, err error) error { return err }

func TestUpdateChangesWhatIsSaid(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	labels, capabilities := map[string]string{"zone": "a"}, []string{"docker"}
	if _, err := s.Update(t.Context(), "default", "a", &labels, nil); err != nil {
		t.Fatal(err)
	}
	a, err := s.Update(t.Context(), "default", "id-a", nil, &capabilities)
	if err != nil || a.Labels["zone"] != "a" || !slices.Equal(a.Capabilities, capabilities) {
		t.Fatalf("%+v, %v", a, err)
	}
	bad, worse := map[string]string{"a b": ""}, []string{"?"}
	for location, err := range map[string]error{
		"body.labels":       second(s.Update(t.Context(), "default", "a", &bad, &capabilities)),
		"body.capabilities": second(s.Update(t.Context(), "default", "a", &labels, &worse)),
	} {
		if f := fault.As(err); f == nil || len(f.Fields) != 1 || f.Fields[0].Location != location {
			t.Errorf("%v names no %s", err, location)
		}
	}
}

func TestListRefusesAnUnknownStatus(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	if _, err := s.List(t.Context(), "default", fleet.Filter{Status: "onlin"}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("%v", err)
	}
	if all, err := s.List(t.Context(), "default", fleet.Filter{Status: "ONLINE"}); err != nil || len(all) != 2 {
		t.Errorf("%d agents, %v", len(all), err)
	}
}
