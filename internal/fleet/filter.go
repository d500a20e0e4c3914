package fleet

import (
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
)

// The vocabularies of an agent's state.
var (
	lifecycles = []string{string(api.LifecycleActive), string(api.LifecycleInactive), string(api.LifecycleRevoked)}
	livenesses = []string{string(api.Live), string(api.Stale), string(api.Dead)}
	// words are those that a status is asked by: the one word that a list
	// shows, or one of the two that it is made of.
	words = slices.Concat([]string{string(api.StatusOnline), string(api.StatusDegraded), string(api.StatusOffline)}, livenesses, lifecycles)
)

// Schema is what agents can be asked by.
var Schema = &filter.Schema{
	Of: "agents", ID: "id", Order: "id",
	Fields: []filter.Field{
		{Name: "id", Sortable: true},
		{Name: "name", Sortable: true, Unique: true},
		{Name: "status", Kind: filter.Set, Words: words, Sortable: true},
		{Name: "lifecycle", Kind: filter.Word, Words: lifecycles},
		{Name: "liveness", Kind: filter.Word, Words: livenesses},
		{Name: "environment", Aliases: []string{"env"}, Sortable: true},
		{Name: "group", Sortable: true},
		{Name: "version", Sortable: true},
		{Name: "platform", Sortable: true},
		{Name: "capability", Aliases: []string{"capabilities"}, Kind: filter.Set},
		{Name: "label", Kind: filter.Labels},
		{Name: "notAccepting"},
		{Name: "lastHeartbeat", Aliases: []string{"heartbeat"}, Kind: filter.Time, Sortable: true},
		{Name: "certificateNotAfter", Kind: filter.Time},
		{Name: "createdAt", Aliases: []string{"created"}, Kind: filter.Time, Sortable: true},
		{Name: "updatedAt", Aliases: []string{"updated"}, Kind: filter.Time},
	},
}

var _ filter.Row = (*Agent)(nil)

// Field implements filter.Row.
func (a *Agent) Field(name string, _ time.Time) any {
	switch name {
	case "id":
		return a.ID
	case "name":
		return a.Name
	case "status":
		return []string{string(a.Status()), string(a.Lifecycle), string(a.Liveness)}
	case "lifecycle":
		return string(a.Lifecycle)
	case "liveness":
		return string(a.Liveness)
	case "environment":
		return a.Environment
	case "group":
		return a.Group
	case "version":
		return a.Version
	case "platform":
		return a.Platform
	case "capability":
		return able{a}
	case "label":
		return a.Labels
	case "notAccepting":
		return a.NotAccepting
	case "lastHeartbeat":
		return a.LastHeartbeat
	case "certificateNotAfter":
		return a.CertificateNotAfter
	case "createdAt":
		return a.CreatedAt
	case "updatedAt":
		return a.UpdatedAt
	}
	return nil
}

// able is an agent as the set of its capabilities.
type able struct{ *Agent }

// Holds implements filter.Holder.
func (a able) Holds(capability string) bool { return a.Can(capability) }

// Filter picks agents. Status takes any word of the three vocabularies
// (life cycle, liveness, status), in any case.
type Filter struct {
	Status      string
	Capability  string
	Name        string
	Group       string
	Environment string
	Labels      map[string]string
	// Query is what else must match, the order, and where the page begins.
	Query filter.Query
	Limit int // 1 to 1000
}

// Where is all that an agent must match, as one expression.
func (f *Filter) Where() filter.Expr {
	return filter.All(
		filter.Is("status", strings.ToLower(f.Status)), filter.Is("capability", f.Capability), filter.Is("name", f.Name),
		filter.Is("group", f.Group), filter.Is("environment", f.Environment), filter.HasLabels("label", f.Labels), f.Query.Where)
}

// Matches reports whether an agent passes the filter; paging aside.
func (f *Filter) Matches(a *Agent) bool { return filter.Match(f.Where(), a, f.Query.Now) }

func (f *Filter) validate() error {
	if f.Status == "" || slices.Contains(words, strings.ToLower(f.Status)) {
		return nil
	}
	return fault.InvalidField("query.status", "%q is no status: use online, degraded, offline, live, stale, dead, active, inactive or revoked", clip(f.Status))
}
