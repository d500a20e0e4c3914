package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// metrics adds what the server tells of itself in numbers. They count all tenants
// together, and so are told to people of the first one only.
func (s *Server) metrics() {
	op := s.operation(http.MethodGet, "/metrics", "server.metrics", "Get the server's metrics", viewer)
	text := func(description, example string) *huma.MediaType {
		return &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Description: description}, Example: example}
	}
	op.Responses = map[string]*huma.Response{"200": {
		Description: "The metrics.",
		Content: map[string]*huma.MediaType{
			"text/plain":                   text("Prometheus' text format, version 0.0.4.", exampleMetrics),
			"application/openmetrics-text": text("OpenMetrics 1.0, for who asks for it by the header Accept.", exampleMetrics+"# EOF\n"),
		},
	}}
	huma.Register(s.huma, op, func(ctx context.Context, _ *none) (*huma.StreamResponse, error) {
		if err := ownersOnly(ctx, "metrics are the whole installation's: an API token"); err != nil {
			return nil, s.fail(ctx, op.OperationID, err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			s.Metrics.ServeHTTP(w, r)
		}}, nil
	})
}

const exampleMetrics = `# HELP stella_server_agents_certificate_ended Agents whose certificate has ended, by liveness.
# TYPE stella_server_agents_certificate_ended gauge
stella_server_agents_certificate_ended{liveness="dead"} 1
stella_server_agents_certificate_ended{liveness="live"} 0
stella_server_agents_certificate_ended{liveness="stale"} 0
`
