package fleet_test

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lifecycle api.Lifecycle
		liveness  api.Liveness
		reported  string
		want      api.AgentStatus
	}{
		{api.LifecycleActive, api.Live, "online", api.StatusOnline},
		{api.LifecycleActive, api.Live, "", api.StatusOnline},
		{api.LifecycleActive, api.Live, "degraded", api.StatusDegraded},
		{api.LifecycleActive, api.Stale, "online", api.StatusDegraded},
		{api.LifecycleActive, api.Stale, "degraded", api.StatusDegraded},
		{api.LifecycleActive, api.Dead, "online", api.StatusOffline},
		{api.LifecycleInactive, api.Live, "online", api.StatusOffline},
		{api.LifecycleInactive, api.Stale, "", api.StatusOffline},
		{api.LifecycleRevoked, api.Live, "online", api.StatusOffline},
	} {
		a := fleet.Agent{Lifecycle: c.lifecycle, Liveness: c.liveness, ReportedStatus: c.reported}
		if got := a.Status(); got != c.want {
			t.Errorf("%s, %s, says %q: %s, want %s", c.lifecycle, c.liveness, c.reported, got, c.want)
		}
	}
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		have, want string
		ok         bool
	}{
		{"docker.deploy", "docker.deploy", true},
		{"docker", "docker.deploy", true},
		{"docker", "docker.health-check", true},
		{"docker.deploy", "docker", false},
		{"docker.deploy", "docker.rollback", false},
		{"docker", "dockerx.deploy", false},
		{"dock", "docker.deploy", false},
		{"health_check", "docker.health-check", true},
		{"health_check", "host.health-check", true},
		{"health_check", "docker.deploy", false},
		{"", "docker.deploy", false},
	} {
		a := fleet.Agent{Capabilities: []string{"other.thing", c.have}}
		if got := a.Can(c.want); got != c.ok {
			t.Errorf("with %q an agent can %s: %v, want %v", c.have, c.want, got, c.ok)
		}
	}
}

// Covering lists exactly the names that cover a capability.
func TestCovering(t *testing.T) {
	t.Parallel()
	name := rapid.StringMatching(`(health_check|(docker|host|x)(\.(docker|health-check|x)){0,3})`)
	rapid.Check(t, func(t *rapid.T) {
		have, want := name.Draw(t, "have"), name.Draw(t, "want")
		if got := slices.Contains(fleet.Covering(want), have); got != fleet.Covers(have, want) {
			t.Fatalf("%s is among the names of %s: %v", have, want, got)
		}
	})
}

// What an operator or a token allows cuts down what the agent says it can do.
func TestAllowedCapabilities(t *testing.T) {
	t.Parallel()
	a := fleet.Agent{Capabilities: []string{"docker.deploy", "docker.inspect", "host.deploy"}, AllowedCapabilities: []string{"docker", "host.inspect"}}
	for capability, want := range map[string]bool{"docker.deploy": true, "docker.inspect": true, "host.deploy": false, "host.inspect": false, "docker.rollback": false} {
		if got := a.Can(capability); got != want {
			t.Errorf("%s: %v, want %v", capability, got, want)
		}
	}
	if got := a.Offers(); !slices.Equal(got, []string{"docker.deploy", "docker.inspect"}) {
		t.Errorf("it offers %v", got)
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	a := &fleet.Agent{
		Name: "n", Group: "g", Environment: "e", Lifecycle: api.LifecycleActive, Liveness: api.Stale,
		Labels: map[string]string{"zone": "a", "empty": ""}, Capabilities: []string{"docker"},
	}
	for _, c := range []struct {
		f    fleet.Filter
		want bool
	}{
		{fleet.Filter{}, true},
		{fleet.Filter{Name: "n", Group: "g", Environment: "e"}, true},
		{fleet.Filter{Name: "N"}, false},
		{fleet.Filter{Group: "h"}, false},
		{fleet.Filter{Environment: "f"}, false},
		{fleet.Filter{Capability: "docker.deploy"}, true},
		{fleet.Filter{Capability: "host.deploy"}, false},
		{fleet.Filter{Labels: map[string]string{"zone": "a"}}, true},
		{fleet.Filter{Labels: map[string]string{"zone": "a", "rack": "1"}}, false},
		{fleet.Filter{Labels: map[string]string{"zone": "b"}}, false},
		// One word of each of the three vocabularies, in any case.
		{fleet.Filter{Status: "active"}, true},
		{fleet.Filter{Status: "STALE"}, true},
		{fleet.Filter{Status: "Degraded"}, true},
		{fleet.Filter{Status: "online"}, false},
		{fleet.Filter{Status: "live"}, false},
		{fleet.Filter{Status: "revoked"}, false},
	} {
		if got := c.f.Matches(a); got != c.want {
			t.Errorf("%+v: %v, want %v", c.f, got, c.want)
		}
	}
}

func TestValidation(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		what  string
		err   error
		field string // empty: it is good
	}{
		{"id", fleet.ValidateID("host-1.example_A"), ""},
		{"longest id", fleet.ValidateID(long[:128]), ""},
		{"empty id", fleet.ValidateID(""), "body.id"},
		{"long id", fleet.ValidateID(long[:129]), "body.id"},
		{"id that is a path", fleet.ValidateID("a/b"), "body.id"},
		{"id that goes up", fleet.ValidateID(".."), "body.id"},
		{"id that is an address of the API", fleet.ValidateID("register"), "body.id"},
		{"the other one", fleet.ValidateID("token"), "body.id"},
		{"id with a line break", fleet.ValidateID("a\n"), "body.id"},
		{"name", fleet.ValidateName("Web server 1 (eu)"[:12]), ""},
		{"empty name", fleet.ValidateName(""), "body.name"},
		{"name with a tab", fleet.ValidateName("a\tb"), "body.name"},
		{"long name", fleet.ValidateName(long), "body.name"},
		{"label", fleet.ValidateLabels("l", map[string]string{"stella.io/zone": "any text, äöü"}), ""},
		{"no labels", fleet.ValidateLabels("l", nil), ""},
		{"empty key", fleet.ValidateLabels("l", map[string]string{"": "v"}), "l"},
		{"key with a space", fleet.ValidateLabels("l", map[string]string{"a b": "v"}), "l"},
		{"value with a line break", fleet.ValidateLabels("l", map[string]string{"k": "a\nb"}), "l.k"},
		{"long value", fleet.ValidateLabels("l", map[string]string{"k": long}), "l.k"},
		{"capability", fleet.ValidateCapabilities("c", []string{"docker", "host.health-check", "health_check"}), ""},
		{"capability in capitals", fleet.ValidateCapabilities("c", []string{"docker", "Docker"}), "c"},
		{"empty capability", fleet.ValidateCapabilities("c", []string{""}), "c"},
	} {
		if c.field == "" {
			if c.err != nil {
				t.Errorf("%s: %v", c.what, c.err)
			}
			continue
		}
		f := fault.As(c.err)
		if f == nil || f.Kind != fault.Invalid || len(f.Fields) != 1 || f.Fields[0].Location != c.field {
			t.Errorf("%s: %v names %+v, want %s", c.what, c.err, f, c.field)
		} else if len(f.Message) > 300 {
			t.Errorf("%s: the message repeats all that was sent: %s", c.what, f.Message)
		}
	}
	many := map[string]string{}
	for i := range 65 {
		many[strings.Repeat("k", i+1)] = ""
	}
	if err := fleet.ValidateLabels("l", many); fault.KindOf(err) != fault.Invalid {
		t.Errorf("65 labels: %v", err)
	}
}

func FuzzValidateLabels(f *testing.F) {
	f.Add("zone", "a")
	f.Add("stella.io/x", "ä")
	f.Add("a b", "\x00")
	f.Add(strings.Repeat("ä", 100), "")
	f.Fuzz(func(t *testing.T, k, v string) {
		err := fleet.ValidateLabels("body.labels", map[string]string{k: v})
		if err != nil {
			if utf8.ValidString(k) && !utf8.ValidString(err.Error()) {
				t.Fatalf("the fault is no text: %q", err)
			}
			return
		}
		if k == "" || len(k) > 128 || len(v) > 255 || strings.ContainsAny(k, " =,\n\x00\"'") || strings.ContainsAny(v, "\n\x00\r\t") {
			t.Fatalf("taken: %q=%q", k, v)
		}
	})
}
