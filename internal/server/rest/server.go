package rest

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/artifact"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/event"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/rollout"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/server/install"
	"stella-ops.org/stella/internal/server/limit"
	"stella-ops.org/stella/internal/server/live"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

// Links tells how agents are connected.
type Links interface {
	Transport(agentID string) string
	Connected(agentID string) bool
	// Sole returns nil when nobody else works with an agent's identity, and
	// otherwise a fault of kind Conflict.
	Sole(ctx context.Context, a *fleet.Agent, c fleet.Caller) error
	// Polled is Sole for an agent that asks for its tasks.
	Polled(ctx context.Context, a *fleet.Agent, c fleet.Caller) error
	// Streaming reports whether an agent holds a stream of events here.
	Streaming(agentID string) bool
	// OpenStream opens an agent's stream of events, which leave ends.
	OpenStream(ctx context.Context, a *fleet.Agent) (events *live.Stream, leave func(slow bool), err error)
	// ReconnectWindow is over how long agents that poll spread when they have
	// lost the server.
	ReconnectWindow() time.Duration
	// TrustSpread is over how long agents spread that are to renew because the
	// authority has changed.
	TrustSpread() time.Duration
}

// Followers wakes those who follow a task.
type Followers interface {
	Follow(taskID string) (changed <-chan struct{}, stop func())
}

// Deps are what the API calls.
type Deps struct {
	Access    *access.Service
	Audit     Audit
	Names     Names
	Enroll    *enroll.Service
	Fleet     *fleet.Service
	Monitor   *fleet.Monitor
	Targets   *target.Service
	Tasks     *task.Service
	Commands  *command.Service
	Secrets   *secret.Service
	Rollouts  *rollout.Service
	Artifacts *artifact.Service
	Tokens    *seal.TokenSigner
	Links     Links
	Followers Followers
	// Listen hears a tenant's events until the listener is closed.
	Listen func(tenant string, f event.Filter) Listener
	// Ready returns nil when the server can do its work.
	Ready func(ctx context.Context) error
	// CA is what agents are to trust, as it is now.
	CA interface {
		RootsPEM() string
		Trust() string
	}
	Rotation *enroll.Rotation
	// Installers are what hosts fetch that are to become agents.
	Installers *install.Installers
	// CRL is the list of revoked certificates, in DER, signed by an authority;
	// by the one that issues when none is named.
	CRL func(ctx context.Context, authority string) ([]byte, error)
	// Signing are the keys that sign what the server sends.
	Signing           *seal.SigningKeys
	HeartbeatInterval time.Duration
	// SignedOnly: no heartbeat is heard that is not signed.
	SignedOnly bool
	// BaseURL is how agents and people reach the server.
	BaseURL func() string
	Version string
	// Metrics answers with the server's metrics.
	Metrics http.Handler
	// RenewalRefused counts a certificate that was not renewed, by the code of the
	// refusal; nil counts nothing.
	RenewalRefused func(code string)
	// Strangers limits who is not known; nil limits nobody.
	Strangers *limit.Strangers
	// BodyTimeout is how long a body may take, and a part of an upload; 0 is half
	// a minute.
	BodyTimeout time.Duration
	// Stopping is closed when the server is to stop: streams end then.
	Stopping <-chan struct{}
	Now      func() time.Time
	Log      *slog.Logger
}

// Server is the API. It is an http.Handler.
type Server struct {
	Deps
	access *access.Service
	names  Names
	tokens *seal.TokenSigner
	now    func() time.Time
	log    *slog.Logger
	mux    *http.ServeMux
	huma   huma.API
	// bodyTimeout is how long a body may take; an answer may take four times as
	// long.
	bodyTimeout time.Duration
	ids         eventIDs
	// document is the API's, complete and not to be changed any more.
	document func() *huma.OpenAPI
}

// Body limits, in bytes.
const (
	maxBody     = 1 << 20
	maxTaskBody = 16 << 20
)

// hookErrors makes huma's own refusals look like ours. Its one hook for this is
// a variable of its own, which several servers in one process must not write
// while another reads it.
var hookErrors = sync.OnceFunc(func() { huma.NewError = humaError })

// New returns the API with all its operations.
func New(d Deps) *Server {
	s := &Server{
		Deps: d, access: d.Access, names: d.Names, tokens: d.Tokens, now: d.Now, log: d.Log,
		mux: http.NewServeMux(), bodyTimeout: cmp.Or(d.BodyTimeout, 30*time.Second),
	}
	hookErrors()
	cfg := huma.DefaultConfig("Stella", d.Version)
	cfg.Info.Description = intro
	cfg.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	// Huma's own handlers write what they share without a lock.
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = "", "", ""
	cfg.CreateHooks = nil // no $schema in answers
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"apiToken":          {Type: "http", Scheme: "bearer", Description: "An API token of a person or a script, as in stl_…"},
		"agentCert":         {Type: "mutualTLS", Description: "The client certificate that registration gave to the agent."},
		"registrationToken": {Type: "apiKey", In: "header", Name: api.HeaderRegistrationToken, Description: "A registration token, as in reg_…"},
		"taskToken":         {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "A task's own token, or the agent's, bound to its certificate."},
	}
	s.huma = humago.New(s.mux, cfg)
	s.huma.UseMiddleware(s.authorise, s.auditChanges)
	s.plain()
	s.agents()
	s.agentCalls()
	s.taskCredentials()
	s.secrets()
	s.rollouts()
	s.inventory()
	s.adminTokens()
	s.bootstrap()
	s.installers()
	s.authority()
	s.metrics()
	s.auditLog()
	s.targets()
	s.tasks()
	s.commands()
	s.artifacts()
	s.events()
	s.describe()
	s.documents()
	return s
}

// Handle adds a handler that is no operation of the API, such as a carrier.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// ServeHTTP answers a request; an unknown path gets a problem like everything
// else.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Strict-Transport-Security", "max-age=31536000")
	h.Set("X-Content-Type-Options", "nosniff")
	s.hurry(w, r)
	if _, pattern := s.mux.Handler(r); pattern == "" {
		if err := s.stranger(r); err != nil {
			s.Refuse(w, r, err)
			return
		}
		s.noSuchPath(w, r)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// hurry ends, after a time, a body that does not come and an answer that is not
// taken, also where the request is refused and nobody reads its body: otherwise
// anybody could hold a connection for as long as they like. Streams set
// deadlines of their own instead.
func (s *Server) hurry(w http.ResponseWriter, r *http.Request) {
	control, now := http.NewResponseController(w), time.Now()
	if r.ContentLength != 0 {
		_ = control.SetReadDeadline(now.Add(s.bodyTimeout)) // a connection that has none is no connection
	}
	_ = control.SetWriteDeadline(now.Add(4 * s.bodyTimeout)) // as above
}

// open adds something that everybody may have, so much at a time.
func (s *Server) open(pattern string, h http.HandlerFunc) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := s.stranger(r); err != nil {
			s.Refuse(w, r, err)
			return
		}
		h(w, r)
	})
}

func (s *Server) noSuchPath(w http.ResponseWriter, r *http.Request) {
	// The mux knows whether only the method is wrong; it says so by an Allow
	// header on its own answer.
	probe := &headerOnly{header: http.Header{}}
	s.mux.ServeHTTP(probe, r)
	if allow := probe.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
		writeProblem(w, newProblem(http.StatusMethodNotAllowed, "method_not_allowed", r.Method+" is not for "+clip(r.URL.Path)+": use "+allow))
		return
	}
	writeProblem(w, newProblem(http.StatusNotFound, "not_found", "there is nothing at "+clip(r.URL.Path)))
}

type headerOnly struct{ header http.Header }

func (h *headerOnly) Header() http.Header         { return h.header }
func (h *headerOnly) Write(b []byte) (int, error) { return len(b), nil }
func (h *headerOnly) WriteHeader(int)             {}

// plain adds what is not part of the versioned API.
func (s *Server) plain() {
	s.open("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, api.ServerStatus{Status: "ok"})
	})
	s.open("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.Ready(r.Context()); err != nil {
			s.log.WarnContext(r.Context(), "not ready", "error", err)
			writeProblem(w, newProblem(http.StatusServiceUnavailable, "not_ready", "the server cannot do its work now; its log tells why"))
			return
		}
		writeJSON(w, http.StatusOK, api.ServerStatus{Status: "ready"})
	})
	s.open("GET /pki/ca.pem", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write([]byte(s.CA.RootsPEM())) // the client is gone otherwise
	})
	s.open("GET /pki/crl", func(w http.ResponseWriter, r *http.Request) {
		list, err := s.CRL(r.Context(), r.URL.Query().Get("authority"))
		if err != nil {
			s.Refuse(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/pkix-crl")
		_, _ = w.Write(list) // the client is gone otherwise
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone otherwise
}

// operation describes one operation; who says who may call it.
func (s *Server) operation(method, path, id, summary string, who need) huma.Operation {
	op := huma.Operation{
		Method: method, Path: path, OperationID: id, Summary: summary,
		Metadata: map[string]any{needKey: who}, MaxBodyBytes: maxBody, BodyReadTimeout: s.bodyTimeout,
		SkipValidateParams: false,
	}
	switch who {
	case viewer, operator, admin:
		op.Security = []map[string][]string{{"apiToken": {}}}
	case agentSelf, agentRenewing, agentAny:
		op.Security = []map[string][]string{{"agentCert": {}}}
	case agentOrViewer:
		op.Security = []map[string][]string{{"agentCert": {}}, {"apiToken": {}}}
	case agentTask:
		op.Security = []map[string][]string{{"agentCert": {}, "taskToken": {}}}
	case registrant:
		op.Security = []map[string][]string{{"registrationToken": {}}, {"agentCert": {}}}
	case nobody, anybody:
	}
	return op
}

// body is an answer with a body of the API.
type body[T any] struct {
	Status int
	Body   T
}

// handle adds an operation whose handler returns a body or an error; a fault
// becomes its problem, and everything else is logged and becomes internal.
func handle[I, T any](s *Server, op huma.Operation, fn func(ctx context.Context, in *I) (T, error)) {
	huma.Register(s.huma, op, func(ctx context.Context, in *I) (*body[T], error) {
		out, err := fn(ctx, in)
		if err != nil {
			return nil, s.fail(ctx, op.OperationID, err)
		}
		if object, ok := ctx.Value(objectKey{}).(*string); ok {
			*object = objectOf(out)
		}
		b := &body[T]{Body: out, Status: op.DefaultStatus}
		if st, ok := any(in).(interface{ status() int }); ok && st.status() != 0 {
			b.Status = st.status()
		}
		if b.Status == 0 {
			b.Status = http.StatusOK
		}
		return b, nil
	})
}

func (s *Server) fail(ctx context.Context, operation string, err error) error {
	if k := fault.KindOf(err); (k == fault.Internal || k == fault.Unavailable) && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "request failed", "operation", operation, "error", err)
	}
	return problemOf(err)
}

// auditChanges notes every change that a person makes, or that was refused or
// failed; authorise notes those that it refuses itself. What agents do is noted
// where it means something.
func (s *Server) auditChanges(ctx huma.Context, next func(huma.Context)) {
	object := ""
	ctx = huma.WithValue(ctx, objectKey{}, &object)
	// Deferred, so that a handler that panics leaves a line too.
	defer func() {
		p := principal(ctx.Context())
		if p == nil || ctx.Method() == http.MethodGet {
			return
		}
		outcome := "ok"
		switch st := ctx.Status(); {
		case st >= 500 || st == 0:
			outcome = "failed"
		case st >= 400:
			outcome = "denied"
		}
		s.note(ctx, p, cmp.Or(object, objectInPath(ctx)), outcome, "")
	}()
	next(ctx)
}

// note writes what a person has done, or tried to do, into the audit log.
func (s *Server) note(ctx huma.Context, p *access.Principal, object, outcome, detail string) {
	s.Audit.Audit(context.WithoutCancel(ctx.Context()), access.Event{
		TenantID: p.TenantID, Actor: p.Actor(), Action: ctx.Operation().OperationID, Object: object,
		Remote: ctx.RemoteAddr(), Outcome: outcome, Detail: detail,
	})
}

// objectInPath names what an operation is done to, from its path.
func objectInPath(ctx huma.Context) string {
	return clip(cmp.Or(ctx.Param("id"), ctx.Param("digest"), ctx.Param("name"), ctx.Param("group")))
}

type objectKey struct{}

// objectOf names what an operation was done to, from its answer; empty when
// that does not say.
func objectOf(answer any) string {
	switch v := answer.(type) {
	case api.Agent:
		return v.ID
	case api.Target:
		return v.ID
	case api.Task:
		return v.ID
	case api.TaskList:
		ids := make([]string, len(v.Items))
		for i, t := range v.Items {
			ids[i] = t.ID
		}
		return strings.Join(ids, " ")
	case api.Command:
		return v.ID
	case api.Rollout:
		return v.ID
	case api.Secret:
		return v.Name
	case api.ArtifactUpload:
		return v.Digest
	case api.RegistrationToken:
		return v.ID
	case api.Bootstrap:
		return v.ID
	case api.APIToken:
		return v.ID
	}
	return ""
}

// labels parses ?label=k=v, which may come several times.
func labels(in []string) (map[string]string, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(in))
	for _, l := range in {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, fault.InvalidField("query.label", "%q is no label: give key=value", clip(l))
		}
		out[k] = v
	}
	return out, nil
}

// IDPath is the id or name in a path.
type IDPath struct {
	ID string `path:"id" maxLength:"255" doc:"The id, or the name."`
}

type none struct{}

var deleted = api.Deleted{Deleted: true}
