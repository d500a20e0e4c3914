// Package fleet knows the agents: what they are, what people decided about
// them (life cycle), and what their heartbeats say (liveness).
//
// It knows no SQL, no HTTP and no carrier: the link and the REST API call its
// Service, and a store keeps what it decides.
package fleet

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// Agent is one agent.
type Agent struct {
	ID       string
	TenantID string
	Name     string
	Version  string

	Lifecycle api.Lifecycle
	// Liveness is as it was last recorded; each change of it is one event.
	Liveness api.Liveness

	Group        string
	Environment  string
	Platform     string
	Cluster      string
	Labels       map[string]string
	Capabilities []string // what the agent says works
	// AllowedCapabilities are what of them counts: its token or people have
	// said so. Empty is all; short names stand for all of theirs.
	AllowedCapabilities []string
	Routes              []string
	// Bound is what the agent's token said of it; it cannot say otherwise.
	Bound Bound

	// EncryptionKey is the agent's public key for sealed payloads, in base64.
	EncryptionKey string
	// PublicKeyHash is the SHA-256 of the public key's DER, in hex.
	PublicKeyHash          string
	CertificateFingerprint string
	CertificateNotAfter    time.Time
	// CertificateLife is how long the agent's certificates are good, as its
	// token said; 0 leaves it to the server.
	CertificateLife time.Duration
	// Trust is under which trust the certificate was issued that it uses.
	Trust string

	// SignsHeartbeats: the agent is heard only by what it has signed.
	SignsHeartbeats bool
	// Signed is the number of the last that it signed and that is stored.
	Signed Number

	// What the last heartbeat said.
	LastHeartbeat  time.Time
	ReportedStatus string
	NotAccepting   string
	Transport      string // the carrier that brought it, as in "grpc"
	ResourceUsage  *api.ResourceUsage

	// Instance is the start of the agent that was heard last; empty when it did not
	// say.
	Instance string
	// Clone is set where it was asked for ([Service.WithClones]) and a second host
	// uses this identity.
	Clone *Clone

	CreatedAt time.Time
	UpdatedAt time.Time
}

// Bound is what a registration token binds beside name, environment, cluster
// and capabilities; what is empty is the agent's own to say.
type Bound struct {
	Group    string            `json:"group,omitempty"`
	Platform string            `json:"platform,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
}

// Credential is a client certificate as the server knows it.
type Credential struct {
	Agent *Agent
	// EndsAt is when it was, or will be, ended before its time, by a
	// revocation or by a newer one; zero when it is not.
	EndsAt time.Time
	// Pending says that it was issued as a renewal and has not been used yet.
	Pending bool
	// Trust is under which trust it was issued.
	Trust string
}

// Ended reports whether the certificate was ended before its time.
func (c *Credential) Ended(now time.Time) bool { return !c.EndsAt.IsZero() && !now.Before(c.EndsAt) }

// key names the agent among those of all tenants.
func (a *Agent) key() string { return a.TenantID + "\x00" + a.ID }

// Status is the one word that a list shows. Online is an agent that people
// want, that is heard, and that says it is well.
func (a *Agent) Status() api.AgentStatus {
	switch {
	case a.Lifecycle != api.LifecycleActive:
		return api.StatusOffline
	case a.Liveness == api.Live && a.ReportedStatus != string(api.StatusDegraded):
		return api.StatusOnline
	case a.Liveness == api.Live, a.Liveness == api.Stale:
		return api.StatusDegraded
	default:
		return api.StatusOffline
	}
}

// Can reports whether the agent has a capability and may use it. A short name
// stands for all capabilities of its kind: docker covers docker.deploy, and
// health_check covers health checks of every kind.
func (a *Agent) Can(capability string) bool {
	covers := func(have string) bool { return Covers(have, capability) }
	return slices.ContainsFunc(a.Capabilities, covers) &&
		(len(a.AllowedCapabilities) == 0 || slices.ContainsFunc(a.AllowedCapabilities, covers))
}

// Offers returns the capabilities that the agent says it has and may use.
func (a *Agent) Offers() []string {
	offers := []string{}
	for _, c := range a.Capabilities {
		if a.Can(c) {
			offers = append(offers, c)
		}
	}
	return offers
}

// Covers reports whether having one capability means having another.
func Covers(have, want string) bool { return slices.Contains(Covering(want), have) }

// Covering lists the capabilities that each mean having another: itself, the
// short names of its kind, and health_check for health checks.
func Covering(want string) []string {
	names := []string{want}
	for i, r := range want {
		if r == '.' {
			names = append(names, want[:i])
		}
	}
	if strings.HasSuffix(want, ".health-check") {
		names = append(names, "health_check")
	}
	return names
}

var (
	idPattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ._@:/-]{0,254}$`)
)

// Reserved are the words that the API's paths have where an agent's id or name
// stands in others: no agent can be called by one.
func Reserved() []string { return []string{"commands", "groups", "register", "token"} }

func notReserved(location, word string) error {
	if slices.Contains(Reserved(), word) {
		return fault.InvalidField(location, "%q cannot be an agent's id or name: it is a word of the API's own paths, as are all of %s; choose another", word, strings.Join(Reserved(), ", "))
	}
	return nil
}

// ValidateID checks an agent's own persistent id.
func ValidateID(id string) error {
	if err := notReserved("body.id", id); err != nil {
		return err
	}
	if !idPattern.MatchString(id) {
		return fault.InvalidField("body.id", "%q is no usable id: give 1 to 128 letters, digits, dots, underscores or hyphens, beginning with a letter or digit", clip(id))
	}
	return nil
}

// ValidateName checks an agent's name.
func ValidateName(name string) error {
	if err := notReserved("body.name", name); err != nil {
		return err
	}
	if !namePattern.MatchString(name) {
		return fault.InvalidField("body.name", "%q is no usable name: give 1 to 255 letters, digits, spaces or . _ @ : / -, beginning with a letter or digit", clip(name))
	}
	return nil
}

// ValidateLabels checks labels; location says where they stand in a request.
func ValidateLabels(location string, labels map[string]string) error {
	if len(labels) > 64 {
		return fault.InvalidField(location, "%d labels are more than the 64 that fit", len(labels))
	}
	for k, v := range labels {
		if !idPattern.MatchString(strings.ReplaceAll(k, "/", ".")) {
			return fault.InvalidField(location, "%q is no usable label key: give letters, digits and . _ / -", clip(k))
		}
		if ValidateWord("", v) != nil {
			return fault.InvalidField(location+"."+clip(k), "a label's value has at most 255 characters and no control characters")
		}
	}
	return nil
}

// ValidateWord checks what an agent says of itself beside its name, such as its
// version or its group: any text, but none with which it could break a line of a
// log or play with a terminal.
func ValidateWord(location, text string) error {
	if len(text) > 255 || !utf8.ValidString(text) || strings.ContainsFunc(text, unprintable) {
		return fault.InvalidField(location, "%q is not usable: give at most 255 bytes of printable text on one line", clip(text))
	}
	return nil
}

// unprintable is what strconv.Quote would escape: control characters, line
// separators, and what turns the direction of a text.
func unprintable(r rune) bool { return !unicode.IsPrint(r) }

var capabilityPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,127}$`)

// ValidateCapabilities checks the names of capabilities.
func ValidateCapabilities(location string, names []string) error {
	for _, n := range names {
		if !capabilityPattern.MatchString(n) {
			return fault.InvalidField(location, "%q is no usable capability: give lower-case letters, digits and . _ -", clip(n))
		}
	}
	return nil
}

// clip keeps an error readable whatever was sent.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
