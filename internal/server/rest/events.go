package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/event"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/server/live"
)

// Listener hears what happens.
type Listener interface {
	Events() <-chan *api.Event
	// Missed is closed when the listener was too slow and is not told any more.
	Missed() <-chan struct{}
	Close()
}

// eventIDs numbers the events of all streams: an id is greater than all that
// were given before, by this process and by those before it.
type eventIDs struct{ last atomic.Uint64 }

func (e *eventIDs) next(now time.Time) uint64 {
	for {
		last := e.last.Load()
		id := max(last+1, uint64(now.UnixMicro()))
		if e.last.CompareAndSwap(last, id) {
			return id
		}
	}
}

// events adds the streams of server-sent events.
func (s *Server) events() {
	type agentQuery struct {
		IDPath
		LastEventID string `header:"Last-Event-ID" maxLength:"64" doc:"Accepted and not acted upon: what was missed does not come again. Ask for GET …/commands?state=pending."`
	}
	op := s.operation(http.MethodGet, "/api/v1/agents/{id}/events", "agent.events", "Stream an agent's commands (SSE)", agentSelf)
	command := exampleAgentCommand()
	s.sse(&op, schemaOf[api.AgentCommand](s.huma.OpenAPI()), sseText(exampleEvent().ID, command.Type, raw(command)))
	huma.Register(s.huma, op, func(ctx context.Context, _ *agentQuery) (*huma.StreamResponse, error) {
		stream, leave, err := s.Links.OpenStream(ctx, agent(ctx))
		if err != nil {
			return nil, s.fail(ctx, op.OperationID, err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			err := s.agentEvents(hc, stream)
			leave(errors.Is(err, os.ErrDeadlineExceeded))
		}}, nil
	})

	type peopleQuery struct {
		Kind        []string `query:"kind,explode" maxItems:"32" doc:"Only events of this kind, as in task.failed, or of all kinds that begin with it, as in agent; may come several times."`
		Agent       string   `query:"agent" maxLength:"255" doc:"Only what happened to this agent (id or name), and to what it works on."`
		LastEventID string   `header:"Last-Event-ID" maxLength:"64" doc:"Accepted and not acted upon: what was missed does not come again."`
	}
	op = s.operation(http.MethodGet, "/api/v1/events", "event.list", "Stream what happens (SSE)", viewer)
	s.sse(&op, schemaOf[api.Event](s.huma.OpenAPI()), sseText(exampleEvent().ID, exampleEvent().Kind, raw(exampleEvent())))
	huma.Register(s.huma, op, func(ctx context.Context, in *peopleQuery) (*huma.StreamResponse, error) {
		tenant := principal(ctx).TenantID
		f := event.Filter{Kinds: in.Kind}
		err := f.Validate()
		if err == nil {
			f.AgentID, err = s.agentID(ctx, tenant, in.Agent)
		}
		if err != nil {
			return nil, s.fail(ctx, op.OperationID, err)
		}
		l := s.Listen(tenant, f)
		return &huma.StreamResponse{Body: func(hc huma.Context) { //nolint:contextcheck // it carries the request's context
			defer l.Close()
			s.peopleEvents(hc, l)
		}}, nil
	})
}

// sse describes the answer of a stream whose events' data are of a schema.
func (s *Server) sse(op *huma.Operation, data *huma.Schema, example string) {
	op.Responses = map[string]*huma.Response{"200": {
		Description: "The stream.",
		Content:     map[string]*huma.MediaType{"text/event-stream": items(data, "Server-sent events. The data of each is JSON.", example)},
	}}
}

// agentEvents writes an agent's stream until it ends; an error says that it
// could not be written.
func (s *Server) agentEvents(hc huma.Context, stream *live.Stream) error {
	_, w := humago.Unwrap(hc)
	out, err := live.New(w)
	tick := time.NewTicker(live.KeepAlive)
	defer tick.Stop()
	for err == nil {
		select {
		case <-hc.Context().Done():
			return nil
		case <-s.Stopping:
			return nil
		case <-stream.Done():
			return nil
		case e := <-stream.Events():
			if err = out.Event(s.ids.next(s.now()), e.Type, e.Data); err == nil {
				e.Sent()
			}
		case <-tick.C:
			err = out.Comment("still here")
		}
	}
	return err
}

// tokenEvery is how often a stream looks whether the token is good still that it
// was opened with.
const tokenEvery = 2 * time.Second

// tokenEnded says why a stream of somebody's must end, because their API token is
// not good any more; nil when it is, and while the store does not say.
func (s *Server) tokenEnded(ctx context.Context) *fault.Error {
	err := s.access.Standing(ctx, principal(ctx))
	if fault.KindOf(err) != fault.Unauthenticated {
		return nil
	}
	return fault.As(err)
}

func (s *Server) peopleEvents(hc huma.Context, l Listener) {
	_, w := humago.Unwrap(hc)
	out, err := live.New(w)
	tick := time.NewTicker(live.KeepAlive)
	defer tick.Stop()
	token := time.NewTicker(tokenEvery)
	defer token.Stop()
	for err == nil {
		select {
		case <-hc.Context().Done():
			return
		case <-s.Stopping:
			return
		case <-l.Missed():
			s.log.WarnContext(hc.Context(), "a follower of events reads too slowly: its stream was ended, it can connect again", "remote", hc.RemoteAddr())
			return
		case e := <-l.Events():
			numbered := *e
			numbered.ID = s.ids.next(s.now())
			var data []byte
			if data, err = json.Marshal(&numbered); err == nil {
				err = out.Event(numbered.ID, e.Kind, data)
			}
		case <-token.C:
			if why := s.tokenEnded(hc.Context()); why != nil {
				_ = out.Comment(why.Message) // the reader is gone otherwise
				return
			}
		case <-tick.C:
			err = out.Comment("still here")
		}
	}
}
