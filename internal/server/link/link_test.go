package link

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/sqlite"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

const patience = 10 * time.Second

// bench is a hub over real services and a real store; it is its own bus.
type bench struct {
	*Hub
	t      testing.TB
	store  *store.Store
	signer *seal.Signer
	tgts   *target.Service
	ahead  atomic.Int64 // of the clock, in nanoseconds
	// beforeClaim, when set, holds up claims that have begun.
	beforeClaim atomic.Pointer[func()]
}

// heldUp is the store, in which a claim takes as long as a test likes.
type heldUp struct {
	*store.Store
	b *bench
}

// ClaimTask implements task.Store. A write that has begun is not stopped by the
// end of the link that it is for.
func (h heldUp) ClaimTask(ctx context.Context, c task.Claim) (*task.Task, error) {
	if wait := h.b.beforeClaim.Load(); wait != nil {
		(*wait)()
		ctx = context.WithoutCancel(ctx)
	}
	return h.Store.ClaimTask(ctx, c)
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t}
	var err error
	b.store, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
	b.must(err)
	t.Cleanup(func() { _ = b.store.Close() })
	box, err := seal.NewBox(make([]byte, seal.KeySize))
	b.must(err)
	now := func() time.Time { return time.Now().UTC().Add(time.Duration(b.ahead.Load())) }
	tokens, err := seal.NewTokenSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), "stella.test", now)
	b.must(err)
	b.signer = seal.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	log := slog.New(slog.DiscardHandler)
	agents := fleet.NewService(b.store, b, now)
	monitor := fleet.NewMonitor(b.store, fleet.DefaultThresholds, now, log, func(fleet.Transition) {})
	tasks := task.NewService(heldUp{b.store, b}, b, box, secret.NewService(b.store, box, nil, now), tokens, b.signer, b, task.Options{}, now, log)
	b.tgts = target.NewService(b.store, agents, now)
	b.Hub = NewHub(agents, monitor, tasks, command.NewService(b.store, b, b, b.signer, command.Options{}, now, log), b, Options{HeartbeatInterval: 30 * time.Second, ServerName: "test"}, now, log)
	return b
}

// late waits until a frame is under way and sets the clock forward.
func (b *bench) late(d time.Duration) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		b.mu.Lock()
		for _, s := range b.sessions {
			if s.sending.Load() != 0 {
				b.mu.Unlock()
				b.ahead.Add(int64(d))
				return
			}
		}
		b.mu.Unlock()
		if time.Now().After(deadline) {
			b.t.Fatal("nothing is sent")
		}
	}
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// TaskQueued implements task.Waker.
func (b *bench) TaskQueued(tenant, agentID string) { b.Handlers().TaskQueued(tenant, agentID) }

// TaskCancel implements task.Waker.
func (b *bench) TaskCancel(agentID string, ref task.Ref, reason string) {
	b.Handlers().TaskCancel(agentID, ref, reason)
}

// TaskChanged implements task.Waker.
func (*bench) TaskChanged(string, string) {}

// AgentChanged implements fleet.Notifier.
func (b *bench) AgentChanged(tenant, agentID string) { b.Handlers().AgentChanged(tenant, agentID) }

// CommandSent implements command.Waker.
func (b *bench) CommandSent(tenant, id string) { b.Handlers().CommandSent(tenant, id) }

// Opened implements Opener.
func (b *bench) Rival(context.Context, string, fleet.Caller) string { return "" }

func (b *bench) Opened(kind, agentID, id string) { b.Handlers().Opened(kind, agentID, id) }

// Publish implements event.Publisher.
func (*bench) Publish(string, ...api.Event) {}

// Audit implements access.Auditor.
func (*bench) Audit(context.Context, access.Event) {}

func (b *bench) agent(name string) *fleet.Agent {
	b.t.Helper()
	now := time.Now().UTC()
	a := &fleet.Agent{
		ID: "id-" + name, TenantID: "default", Name: name, Lifecycle: api.LifecycleActive, Liveness: api.Live, Capabilities: []string{"docker"},
		PublicKeyHash: name, CertificateFingerprint: fingerprint(name), LastHeartbeat: now, CreatedAt: now, UpdatedAt: now,
	}
	b.must(b.store.Enrol(b.t.Context(), &enroll.Enrolment{Agent: a, At: now, Cert: enroll.Issued{
		Fingerprint: fingerprint(name), Serial: "1", NotBefore: now, NotAfter: now.Add(time.Hour),
	}}))
	_, err := b.tgts.Create(b.t.Context(), "default", api.TargetRequest{Name: "target-of-" + name, Kind: "docker", Agent: a.ID})
	b.must(err)
	return a
}

func fingerprint(name string) string { return pki.Fingerprint([]byte(name)) }

// submit queues a look at an agent's target.
func (b *bench) submit(a *fleet.Agent) *task.Task {
	b.t.Helper()
	k, _, err := b.tasks.Submit(b.t.Context(), "default", "tester", api.TaskRequest{Type: api.TaskInspect, Target: "target-of-" + a.Name})
	b.must(err)
	return k
}

func (b *bench) state(id string) *task.Task {
	b.t.Helper()
	k, err := b.tasks.Get(b.t.Context(), "default", id)
	b.must(err)
	return k
}

// wire is an agent's end of a connection.
type wire struct {
	t    testing.TB
	up   chan *stellav1.ConnectRequest
	down chan *stellav1.ConnectResponse
	// stuck has an agent that reads nothing.
	stuck bool
	ended chan error

	once, stopOnce  sync.Once
	closed, stopped chan struct{}
}

var _ Conn = (*wire)(nil)

// Send implements Conn.
func (w *wire) Send(f *stellav1.ConnectResponse) error {
	if w.stuck {
		<-w.closed
		return io.ErrClosedPipe
	}
	select {
	case w.down <- f:
		return nil
	case <-w.closed:
		return io.ErrClosedPipe
	}
}

// Recv implements Conn.
func (w *wire) Recv(take func(*stellav1.ConnectRequest) error) error {
	select {
	case f := <-w.up:
		return take(f)
	case <-w.stopped:
		return io.EOF
	case <-w.closed:
		return io.EOF
	}
}

// Transport implements Conn.
func (*wire) Transport() string { return "wire" }

// Stop implements Conn.
func (w *wire) Stop() { w.stopOnce.Do(func() { close(w.stopped) }) }

// Cut implements Conn.
func (w *wire) Cut() { w.once.Do(func() { close(w.closed) }) }

func newWire(t testing.TB) *wire {
	w := &wire{
		t: t, up: make(chan *stellav1.ConnectRequest, 200), down: make(chan *stellav1.ConnectResponse, 1000),
		ended: make(chan error, 1), closed: make(chan struct{}), stopped: make(chan struct{}),
	}
	t.Cleanup(w.Cut)
	return w
}

// serve has the hub serve a connection, as a carrier does.
func (b *bench) serve(a *fleet.Agent, w *wire) {
	go func() {
		err := b.Serve(b.t.Context(), a, w, nil)
		w.Cut()
		w.ended <- err
	}()
}

// connect says hello and takes the welcome.
func (b *bench) connect(a *fleet.Agent, held ...*stellav1.TaskRef) *wire {
	b.t.Helper()
	w := newWire(b.t)
	w.up <- hello(held...)
	b.serve(a, w)
	if w.next().GetWelcome() == nil {
		b.t.Fatal("the first frame is no welcome")
	}
	return w
}

func hello(held ...*stellav1.TaskRef) *stellav1.ConnectRequest {
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Hello{Hello: &stellav1.Hello{
		ProtocolVersion: api.ProtocolVersion, Capabilities: []string{"docker"}, MaxConcurrentTasks: 5, Held: held,
	}}}
}

func beat(h *stellav1.Heartbeat) *stellav1.ConnectRequest {
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Heartbeat{Heartbeat: h}}
}

func result(ref *stellav1.TaskRef, data string) *stellav1.ConnectRequest {
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskResult{TaskResult: &stellav1.TaskResult{Ref: ref, ResultJson: []byte(data)}}}
}

func (w *wire) next() *stellav1.ConnectResponse {
	w.t.Helper()
	select {
	case f := <-w.down:
		return f
	case err := <-w.ended:
		w.t.Fatalf("the link has ended: %v", err)
	case <-time.After(patience):
		w.t.Fatal("nothing comes")
	}
	return nil
}

// task takes a task that the server sends.
func (w *wire) task() (*api.AgentTask, *stellav1.TaskRef) {
	w.t.Helper()
	return w.taskIn(w.next())
}

func (w *wire) taskIn(f *stellav1.ConnectResponse) (*api.AgentTask, *stellav1.TaskRef) {
	w.t.Helper()
	var k api.AgentTask
	if err := json.Unmarshal(f.GetTask().GetTaskJson(), &k); err != nil {
		w.t.Fatalf("%v is no task: %v", f, err)
	}
	return &k, &stellav1.TaskRef{TaskId: k.ID, Attempt: k.Attempt}
}

// settle waits until the server has taken all that was sent before.
func (w *wire) settle() {
	w.t.Helper()
	w.up <- beat(&stellav1.Heartbeat{})
	for f := w.next(); f.GetHeartbeatAck() == nil; f = w.next() {
		w.t.Fatalf("instead of an acknowledgement: %v", f)
	}
}

func (w *wire) wantEnd(kind fault.Kind, code string) {
	w.t.Helper()
	select {
	case err := <-w.ended:
		if fault.KindOf(err) != kind || fault.CodeOf(err) != code {
			w.t.Fatalf("the link ended with %v, want code %s", err, code)
		}
	case <-time.After(patience):
		w.t.Fatalf("the link does not end, want code %s", code)
	}
}

// leave breaks the connection off and waits until the server has seen it.
func (w *wire) leave() {
	w.t.Helper()
	w.Cut()
	if err := <-w.ended; err != nil {
		w.t.Fatalf("an agent has left: %v", err)
	}
}

func TestLinkBeginsWithHello(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	version := func(v int32) *stellav1.ConnectRequest {
		h := hello()
		h.GetHello().ProtocolVersion = v
		return h
	}
	bad := hello()
	bad.GetHello().Capabilities = []string{"Not A Capability"}
	for _, c := range []struct {
		name  string
		first *stellav1.ConnectRequest
		kind  fault.Kind
		code  string
	}{
		{"a heartbeat", beat(&stellav1.Heartbeat{}), fault.Invalid, "hello_expected"},
		{"nothing in it", &stellav1.ConnectRequest{}, fault.Invalid, "hello_expected"},
		{"no version", version(0), fault.UnsupportedVersion, "protocol_version"},
		{"a later version", version(api.ProtocolVersion + 1), fault.UnsupportedVersion, "protocol_version"},
		{"capabilities that are none", bad, fault.Invalid, "invalid"},
	} {
		w := newWire(t)
		w.up <- c.first
		b.serve(a, w)
		w.wantEnd(c.kind, c.code)
		if b.Connected(a.ID) || len(w.down) != 0 {
			t.Errorf("%s: it was welcomed", c.name)
		}
	}
	w := newWire(t)
	w.Cut() // leaves before it says anything
	b.serve(a, w)
	if err := <-w.ended; err != nil {
		t.Errorf("%v", err)
	}
}

func TestTaskOverTheLink(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	w := b.connect(a)
	k := b.submit(a)
	got, ref := w.task()
	if got.ID != k.ID || got.Attempt != 1 || got.Token == "" {
		t.Fatalf("%+v", got)
	}
	w.up <- &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskAccepted{TaskAccepted: &stellav1.TaskAccepted{Ref: ref}}}
	w.settle()
	if s := b.state(k.ID); s.State != api.TaskRunning || time.Since(s.StartedAt) > time.Minute {
		t.Errorf("the task is %s since %s", s.State, s.StartedAt)
	}
	w.up <- &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_LogChunk{LogChunk: &stellav1.LogChunk{
		Ref: ref, FirstSeq: 1, Entries: []*stellav1.LogEntry{{At: timestamppb.Now(), Stream: "stdout", Text: "one"}, {At: timestamppb.Now(), Text: "two"}},
	}}}
	if ack := w.next().GetLogAck(); ack.GetLastSeq() != 2 {
		t.Errorf("log: %v", ack)
	}
	for range 2 { // the acknowledgement of the first may be lost
		w.up <- result(ref, `{"success":true}`)
		if ack := w.next().GetResultAck(); !ack.GetAccepted() || ack.GetRef().GetTaskId() != k.ID {
			t.Errorf("result: %v", ack)
		}
	}
	if s := b.state(k.ID); s.State != api.TaskSucceeded {
		t.Errorf("the task is %s", s.State)
	}
	w.up <- result(ref, `{"success":false,"errorType":"internal"}`)
	if ack := w.next().GetResultAck(); ack.GetAccepted() || ack.GetReason() == "" {
		t.Errorf("another result: %v", ack)
	}
	// Of a task that is gone: let the agent forget it.
	gone := &stellav1.TaskRef{TaskId: "gone", Attempt: 1}
	w.up <- result(gone, `{"success":true}`)
	if ack := w.next().GetResultAck(); ack.GetAccepted() || ack.GetReason() == "" || ack.GetRef().GetTaskId() != "gone" {
		t.Errorf("result of no task: %v", ack)
	}
	w.up <- &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_LogChunk{LogChunk: &stellav1.LogChunk{Ref: gone, FirstSeq: 5, Entries: make([]*stellav1.LogEntry, 3)}}}
	if ack := w.next().GetLogAck(); ack.GetLastSeq() != 7 {
		t.Errorf("log of no task: %v", ack)
	}
}

// A frame of a newer agent is passed over.
func TestUnknownFrameIsIgnored(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	w := b.connect(b.agent("a"))
	w.up <- &stellav1.ConnectRequest{}
	w.up <- hello()
	w.settle()
}

func TestMalformedFramesEndTheLink(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	for code, f := range map[string]*stellav1.ConnectRequest{
		"result_malformed":    result(&stellav1.TaskRef{TaskId: "t"}, `{"success":`),
		"heartbeat_malformed": beat(&stellav1.Heartbeat{ResourceUsageJson: []byte(`[]`)}),
		"invalid":             beat(&stellav1.Heartbeat{Capabilities: []string{"rm -rf"}}),
	} {
		w := b.connect(a)
		w.up <- f
		w.wantEnd(fault.Invalid, code)
	}
}

func TestNewerLinkReplacesTheOlder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	old := b.connect(a)
	anew := b.connect(a)
	old.wantEnd(fault.Conflict, "link_replaced")
	anew.settle()
	if b.Transport(a.ID) != "wire" {
		t.Error("the end of the old link took the new one along")
	}
	anew.Cut()
	if err := <-anew.ended; err != nil || b.Connected(a.ID) {
		t.Errorf("%v, connected %v", err, b.Connected(a.ID))
	}
}

// An agent that does not read is cut when too much waits for it, although a
// frame to it is under way.
func TestSlowReaderIsCut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	w := newWire(t)
	w.stuck = true
	w.up <- hello()
	b.serve(a, w)
	for !b.Connected(a.ID) {
		<-time.After(time.Millisecond)
	}
	for range 2*maxQueue + 1 {
		b.cancel(a.ID, task.Ref{ID: "t", Attempt: 1}, "")
	}
	w.wantEnd(fault.Unavailable, "slow_reader")
	if b.Connected(a.ID) {
		t.Error("it still counts as connected")
	}
}

// And also when it goes on talking, but takes no frame for too long.
func TestStuckReaderIsCut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	w := newWire(t)
	w.stuck = true
	w.up <- hello()
	b.serve(a, w)
	for range 10 {
		w.up <- beat(&stellav1.Heartbeat{})
	}
	b.late(sendTimeout + time.Second)
	b.checkLinks()
	w.wantEnd(fault.Unavailable, "slow_reader")
}

// Whoever is revoked or deleted is cut, also when he reads nothing.
func TestUnwelcomeAgentIsCut(t *testing.T) {
	t.Parallel()
	for _, stuck := range []bool{false, true} {
		b := newBench(t)
		for name, do := range map[string]func(*fleet.Agent) error{
			"agent_revoked": func(a *fleet.Agent) error { _, err := b.agents.Revoke(t.Context(), "default", a.ID); return err },
			"agent_deleted": func(a *fleet.Agent) error { _, err := b.agents.Delete(t.Context(), "default", a.ID); return err },
		} {
			a := b.agent(name)
			w := newWire(t)
			w.stuck = stuck
			w.up <- hello()
			b.serve(a, w)
			for !b.Connected(a.ID) {
				select {
				case err := <-w.ended:
					t.Fatal(err)
				case <-time.After(time.Millisecond):
				}
			}
			began := time.Now()
			b.must(do(a))
			w.wantEnd(fault.Forbidden, name)
			if d := time.Since(began); d > 2*time.Second { // twice the promise, for a busy machine
				t.Errorf("%s, reads nothing %v: cut after %s", name, stuck, d)
			}
		}
	}
}

func TestNoTasksForWhoTakesNone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	w := b.connect(a)
	w.up <- beat(&stellav1.Heartbeat{NotAccepting: "cpu use is above the limit"})
	if w.next().GetHeartbeatAck() == nil {
		t.Fatal("no acknowledgement")
	}
	k := b.submit(a)
	// Long enough for it to have come, if it came.
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
		w.up <- beat(&stellav1.Heartbeat{NotAccepting: "cpu use is above the limit"})
		if f := w.next(); f.GetHeartbeatAck() == nil {
			t.Fatalf("it gets %v", f)
		}
	}
	w.up <- beat(&stellav1.Heartbeat{})
	got, _ := func() (*api.AgentTask, *stellav1.TaskRef) {
		if f := w.next(); f.GetHeartbeatAck() == nil { // either may come first
			var k api.AgentTask
			b.must(json.Unmarshal(f.GetTask().GetTaskJson(), &k))
			return &k, nil
		}
		return w.task()
	}()
	if got.ID != k.ID {
		t.Errorf("it gets %s", got.ID)
	}
}

// What was lost with the last link comes again with the next one.
func TestNextLinkBringsWhatWasLost(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	k := b.submit(a)
	w := b.connect(a)
	_, ref := w.task()
	w.leave()
	w = b.connect(a)
	if again, _ := w.task(); again.ID != k.ID || again.Attempt != 1 {
		t.Errorf("%+v", again)
	}
	w.leave()
	if _, err := b.tasks.Cancel(t.Context(), "default", k.ID, "tester"); err != nil {
		t.Fatal(err)
	}
	w = b.connect(a, ref)
	if c := w.next().GetCancelTask(); c.GetRef().GetTaskId() != k.ID || c.GetReason() == "" {
		t.Errorf("%v", c)
	}
}

func TestCancelReachesTheAgent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	w := b.connect(a)
	k := b.submit(a)
	w.task()
	if _, err := b.tasks.Cancel(t.Context(), "default", k.ID, "tester"); err != nil {
		t.Fatal(err)
	}
	if c := w.next().GetCancelTask(); c.GetRef().GetTaskId() != k.ID || c.GetRef().GetAttempt() != 1 || c.GetReason() != "cancelled by tester" {
		t.Errorf("%v", c)
	}
}

func TestHubThatStops(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	w := b.connect(a)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stop()
	b.must(<-done)
	w.wantEnd(fault.Unavailable, "server_stopping")
	w = newWire(t)
	w.up <- hello()
	b.serve(a, w)
	w.wantEnd(fault.Unavailable, "server_stopping")
}

// What goes through all links, and what an agent says meanwhile, do not wait
// for each other.
func TestHubAndLinksDoNotBlockEachOther(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.opts.ReconnectRate = 1
	var wires []*wire
	for i := range 8 {
		wires = append(wires, b.connect(b.agent(fmt.Sprint("a", i))))
	}
	var beating sync.WaitGroup
	for _, w := range wires {
		beating.Go(func() {
			for range 5000 {
				w.up <- beat(&stellav1.Heartbeat{})
				select {
				case <-w.down:
				case <-w.closed:
					return
				}
			}
		})
	}
	done, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		beating.Wait()
	}()
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				b.wakeShared("default")
				b.checkLinks()
			}
		}
	}()
	defer close(stop)
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("nothing goes on")
	}
}
