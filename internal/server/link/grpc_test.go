package link

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/api/stella/v1/stellav1connect"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

// Each kind of fault has its status, and what is no fault says nothing of
// itself.
func TestRPCErrors(t *testing.T) {
	t.Parallel()
	want := map[fault.Kind]connect.Code{
		fault.Invalid: connect.CodeInvalidArgument, fault.Unauthenticated: connect.CodeUnauthenticated, fault.Forbidden: connect.CodePermissionDenied,
		fault.NotFound: connect.CodeNotFound, fault.Conflict: connect.CodeAborted, fault.TooLarge: connect.CodeResourceExhausted,
		fault.RateLimited: connect.CodeResourceExhausted, fault.Timeout: connect.CodeDeadlineExceeded, fault.Unavailable: connect.CodeUnavailable, fault.UnsupportedVersion: connect.CodeFailedPrecondition,
	}
	for kind := fault.Invalid; kind <= fault.UnsupportedVersion; kind++ {
		err := rpcError(fmt.Errorf("while at it: %w", fault.Wrap(errors.New("disk /dev/sda1"), kind, "some_code", "the message")))
		var ce *connect.Error
		if !errors.As(err, &ce) || ce.Code() != want[kind] || ce.Message() != "the message" || ce.Meta().Get("Stella-Code") != "some_code" {
			t.Errorf("kind %d: %v, want %s", kind, err, want[kind])
		}
		if strings.Contains(err.Error(), "sda1") || strings.Contains(err.Error(), "while at it") {
			t.Errorf("kind %d tells its cause: %v", kind, err)
		}
	}
	for _, cause := range []error{errors.New("secret text"), fault.New(fault.Internal, "internal", "secret text")} {
		err := rpcError(cause)
		if connect.CodeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
	}
}

// Who is not let in hears no more than he should, and the log says why: loudly
// when it is the server's own fault.
func TestRefusedStreamIsLogged(t *testing.T) {
	t.Parallel()
	for level, why := range map[slog.Level]error{
		slog.LevelDebug: fault.New(fault.Forbidden, "agent_revoked", "agent a is revoked"),
		slog.LevelError: errors.New("the database is locked"),
	} {
		var log bytes.Buffer
		b := newBench(t)
		b.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		path, h := b.GRPC(func(*http.Request) (*fleet.Agent, error) { return nil, why })
		req := httptest.NewRequest(http.MethodPost, path+"Connect", http.NoBody)
		req.Header.Set("Content-Type", "application/grpc")
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, req)
		if line := log.String(); !strings.Contains(line, "level="+level.String()) || !strings.Contains(line, why.Error()) || strings.Count(line, "\n") != 1 {
			t.Errorf("%v is logged as %s", why, line)
		}
		if said := fmt.Sprint(answer.Result().Header, answer.Result().Trailer, answer.Body); strings.Contains(said, "locked") {
			t.Errorf("it was said: %s", said)
		}
	}
}

// Over a real stream, whose window is full because the agent reads nothing
// more: it is cut all the same, and nothing on the server waits for it.
func TestStuckStreamIsCut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	srv := httptest.NewUnstartedServer(nil)
	mux := http.NewServeMux()
	mux.Handle(b.GRPC(func(*http.Request) (*fleet.Agent, error) { return a, nil }))
	returned := make(chan struct{})
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r)
		close(returned)
	})
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	stream := stellav1connect.NewLinkServiceClient(srv.Client(), srv.URL, connect.WithGRPC()).Connect(t.Context())
	first := hello()
	first.GetHello().MaxConcurrentTasks = 10
	b.must(stream.Send(first))
	if f, err := stream.Receive(); err != nil || f.GetWelcome() == nil {
		t.Fatalf("%v, %v", f, err)
	}
	// More than the stream's window takes, and it does not pack.
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise) // never fails
	payload := []byte(`{"command":["x","` + base64.StdEncoding.EncodeToString(noise) + `"]}`)
	var last *task.Task
	for range 6 {
		var err error
		last, _, err = b.tasks.Submit(t.Context(), "default", "tester", api.TaskRequest{Type: api.TaskExecuteCommand, Target: "target-of-a", Payload: payload})
		b.must(err)
	}
	for deadline := time.Now().Add(patience); b.state(last.ID).State == api.TaskQueued; {
		if time.Now().After(deadline) {
			t.Fatal("the tasks are not handed out")
		}
		<-time.After(time.Millisecond)
	}
	if _, err := b.agents.Revoke(t.Context(), "default", a.ID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-returned:
	case <-time.After(patience):
		t.Fatal("the agent is not cut")
	}
	if b.Connected(a.ID) {
		t.Error("it still counts as connected")
	}
}
