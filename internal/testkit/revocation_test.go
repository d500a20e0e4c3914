package testkit_test

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/sqlite"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/peers"
)

// byTimer is how long a revocation may take that the bus does not tell of.
const byTimer = 5 * time.Second

// ways are how an agent's certificate ends, each as seen by who revokes.
func ways(t *testing.T, cp *testkit.ControlPlane) map[string]func(h *handmade) {
	return map[string]func(h *handmade){
		"revoked": func(h *handmade) {
			if _, err := cp.Client.RevokeAgent(t.Context(), h.id); err != nil {
				t.Error(err)
			}
		},
		"deleted": func(h *handmade) {
			if err := cp.Client.DeleteAgent(t.Context(), h.id); err != nil {
				t.Error(err)
			}
		},
		// The host has registered again, by a token for its id.
		"replaced": func(h *handmade) {
			token := cp.Token(func(r *api.RegistrationTokenRequest) { r.AgentID = h.id })
			if status, body := register(t, cp, token, api.RegisterRequest{Name: "replaced", CSR: csr(t, newKey(t))}); status != http.StatusOK {
				t.Errorf("%d %s", status, body)
			}
		},
	}
}

// Two servers that do not hear each other: what one revokes is out at the other
// within seconds all the same, and nobody else is.
func TestRevocationThatTheBusLoses(t *testing.T) {
	t.Parallel()
	database := peers.Database(t)
	// Each has a bus of its own, so that every message between them is lost.
	a := testkit.StartServer(t, func(c *server.Config) { c.Database = database })
	b := testkit.StartServer(t, second(t, a))
	others := newHandmade(t, a, "bystander")
	others.cp = b
	bystander, bystanderEnded := openStream(t, b, httpClient(tlsConfig(b, others.cert)))
	defer func() { _ = bystander.CloseRequest() }()
	listening := others.listen(t, nil)

	for name, end := range ways(t, a) {
		linked, streaming := newHandmade(t, a, name), newHandmade(t, a, name+"-events")
		link, ended := openStream(t, b, httpClient(tlsConfig(b, linked.cert)))
		streaming.cp = b
		events := streaming.listen(t, nil)
		began := time.Now()
		end(linked)
		if name != "replaced" {
			end(streaming)
		}
		select {
		case err := <-ended:
			if connect.CodeOf(err) != connect.CodePermissionDenied {
				t.Errorf("%s: the link ended with %v", name, err)
			}
		case <-time.After(2 * byTimer):
			t.Fatalf("%s: the link stands", name)
		}
		if name != "replaced" {
			events.wantEnd()
		}
		if took := time.Since(began); took > byTimer {
			t.Errorf("%s: it took %s", name, took)
		}
		_ = link.CloseRequest()
	}
	select {
	case err := <-bystanderEnded:
		t.Errorf("somebody else's link has ended: %v", err)
	case err := <-listening.ended:
		t.Errorf("somebody else's stream has ended: %v", err)
	default:
	}
}

// second is the configuration of another server on the first one's database.
func second(t *testing.T, first *testkit.ControlPlane) func(c *server.Config) {
	return func(c *server.Config) {
		c.Database, c.MasterKeyFile = first.Config().Database, filepath.Join(first.Data, "master.key")
		writeFile(t, filepath.Join(c.Data, "admin.token"), first.AdminToken)
	}
}

// The same with one server, whose bus says nothing: another process writes to its
// database.
func TestRevocationInTheDatabaseAlone(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	st, err := sqlite.Open(t.Context(), filepath.Join(cp.Data, "stella.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for name, end := range map[string]func(ctx context.Context, st *store.Store, id string) error{
		"revoked": func(ctx context.Context, st *store.Store, id string) error {
			_, err := st.SetLifecycle(ctx, "default", id, []api.Lifecycle{api.LifecycleActive}, api.LifecycleRevoked, time.Now())
			return err
		},
		"deleted": func(ctx context.Context, st *store.Store, id string) error { return st.DeleteAgent(ctx, "default", id) },
	} {
		h := newHandmade(t, cp, name)
		link, ended := openStream(t, cp, httpClient(tlsConfig(cp, h.cert)))
		began := time.Now()
		if err := end(t.Context(), st, h.id); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if took := time.Since(began); took > byTimer || connect.CodeOf(err) != connect.CodePermissionDenied {
				t.Errorf("%s: the link ended after %s with %v", name, took, err)
			}
		case <-time.After(2 * byTimer):
			t.Fatalf("%s: the link stands", name)
		}
		_ = link.CloseRequest()
	}
}
