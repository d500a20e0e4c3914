package testkit_test

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/agent/link"
	"stella-ops.org/stella/internal/testkit"
)

// linkPatience is how long a frame may take; polling asks every few moments.
const linkPatience = 10 * time.Second

// carrier is one way in which frames travel, from the agent's own code to a
// real server over real TLS.
type carrier struct {
	name string
	dial func(t *testing.T, h *handmade) link.Carrier
	// connected: the carrier holds a connection, which can be replaced, and
	// through which frames of the agent's own making come as they are.
	connected bool
}

var carriers = []carrier{
	{"websocket", func(t *testing.T, h *handmade) link.Carrier {
		t.Helper()
		c, err := link.NewWebSocket(h.agent())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}, true},
	{"grpc", func(_ *testing.T, h *handmade) link.Carrier { return link.NewGRPC(h.agent()) }, true},
	{"poll", func(t *testing.T, h *handmade) link.Carrier {
		t.Helper()
		c, err := link.NewPoll(h.agent(), 20*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}, false},
}

// agent is the agent as its carriers know it.
func (h *handmade) agent() link.Agent {
	plain, upgrading := h.http2(), h.http1()
	signs := h.cert
	if signs.Certificate == nil {
		signs = tls.Certificate{Certificate: [][]byte{nil}, PrivateKey: h.key} // a stranger, who signs all the same
	}
	return link.Agent{
		ServerURL: h.cp.URL, ID: h.id, Number: h.number,
		Plain:     func() (*http.Client, *tls.Certificate) { return plain, &signs },
		Upgrading: func() (*http.Client, *tls.Certificate) { return upgrading, &signs },
	}
}

// number is that of what it signs next.
func (h *handmade) number() (boot, number int64) { return max(h.boot, 1), h.signed.Add(1) }

// http2 and http1 are clients that present the agent's certificate.
func (h *handmade) http2() *http.Client {
	c := httpClient(tlsConfig(h.cp, h.cert))
	c.Timeout = 0
	return c
}

func (h *handmade) http1() *http.Client {
	cfg := tlsConfig(h.cp, h.cert)
	cfg.NextProtos = []string{"http/1.1"}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
}

// onEachCarrier runs a test over each carrier, with a server and an agent of its
// own.
func onEachCarrier(t *testing.T, test func(t *testing.T, l *linked)) {
	t.Helper()
	for _, c := range carriers {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cp := testkit.StartServer(t)
			h := newHandmade(t, cp, "web", "docker")
			_, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "box", Kind: "docker", Agent: h.id})
			if err != nil {
				t.Fatal(err)
			}
			test(t, &linked{t: t, carrier: c, cp: cp, handmade: h})
		})
	}
}

// linked is an agent's end of a link.
type linked struct {
	*handmade
	carrier carrier
	t       *testing.T
	cp      *testkit.ControlPlane
	conn    link.Conn
	frames  chan *stellav1.ConnectResponse
	ended   chan error
}

// connect dials and takes the welcome.
func (l *linked) connect(held ...*stellav1.TaskRef) *stellav1.Welcome {
	l.t.Helper()
	conn, err := l.carrier.dial(l.t, l.handmade).Dial(l.t.Context(), &stellav1.Hello{
		ProtocolVersion: api.ProtocolVersion, Capabilities: []string{"docker"}, MaxConcurrentTasks: 5, Held: held, Commands: true,
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(conn.Close)
	l.conn, l.frames, l.ended = conn, make(chan *stellav1.ConnectResponse, 1000), make(chan error, 1)
	frames, ended := l.frames, l.ended
	go func() {
		for {
			f, err := conn.Recv()
			if err != nil {
				ended <- err
				return
			}
			frames <- f
		}
	}()
	w := l.next(func(f *stellav1.ConnectResponse) bool { return f.GetWelcome() != nil })
	return w.GetWelcome()
}

// next takes frames until one is wanted; what else comes is passed over.
func (l *linked) next(want func(*stellav1.ConnectResponse) bool) *stellav1.ConnectResponse {
	l.t.Helper()
	patience := time.NewTimer(linkPatience)
	defer patience.Stop()
	for {
		select {
		case f := <-l.frames:
			if want(f) {
				return f
			}
		case err := <-l.ended:
			l.t.Fatalf("the link has ended: %v", err)
		case <-patience.C:
			l.t.Fatal("the frame does not come")
		}
	}
}

// none passes when no frame of a kind comes before the server has answered what
// is sent now.
func (l *linked) none(what string, bad func(*stellav1.ConnectResponse) bool) {
	l.t.Helper()
	l.send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Heartbeat{Heartbeat: &stellav1.Heartbeat{}}})
	l.next(func(f *stellav1.ConnectResponse) bool {
		if bad(f) {
			l.t.Fatalf("%s: %v", what, f)
		}
		return f.GetHeartbeatAck() != nil
	})
}

func (l *linked) send(f *stellav1.ConnectRequest) {
	l.t.Helper()
	if err := l.conn.Send(f); err != nil {
		l.t.Fatal(err)
	}
}

func (l *linked) task() (*api.AgentTask, *stellav1.TaskRef) {
	l.t.Helper()
	f := l.next(func(f *stellav1.ConnectResponse) bool { return f.GetTask() != nil })
	var k api.AgentTask
	if err := json.Unmarshal(f.GetTask().GetTaskJson(), &k); err != nil {
		l.t.Fatal(err)
	}
	return &k, &stellav1.TaskRef{TaskId: k.ID, Attempt: k.Attempt}
}

func (l *linked) command() *api.AgentCommand {
	l.t.Helper()
	f := l.next(func(f *stellav1.ConnectResponse) bool { return f.GetCommand() != nil })
	var c api.AgentCommand
	if err := json.Unmarshal(f.GetCommand().GetCommandJson(), &c); err != nil {
		l.t.Fatal(err)
	}
	return &c
}

func (l *linked) receipt() *stellav1.CommandReceipt {
	l.t.Helper()
	return l.next(func(f *stellav1.ConnectResponse) bool { return f.GetCommandReceipt() != nil }).GetCommandReceipt()
}

func (l *linked) submit() *api.Task {
	l.t.Helper()
	k, err := l.cp.Client.SubmitTask(l.t.Context(), api.TaskRequest{Type: api.TaskInspect, Target: "box"})
	if err != nil {
		l.t.Fatal(err)
	}
	return k
}

func (l *linked) state(id string) api.TaskState {
	l.t.Helper()
	k, err := l.cp.Client.Task(l.t.Context(), id)
	if err != nil {
		l.t.Fatal(err)
	}
	return k.State
}

// wantEnd waits for the end of the link and returns how it was said.
func (l *linked) wantEnd(within time.Duration) error {
	l.t.Helper()
	patience := time.After(within)
	for {
		select {
		case err := <-l.ended:
			return err
		case <-l.frames:
		case <-patience:
			l.t.Fatalf("the link has not ended within %s", within)
		}
	}
}

func isTask(f *stellav1.ConnectResponse) bool    { return f.GetTask() != nil }
func isCommand(f *stellav1.ConnectResponse) bool { return f.GetCommand() != nil }

func accepted(ref *stellav1.TaskRef) *stellav1.ConnectRequest {
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskAccepted{TaskAccepted: &stellav1.TaskAccepted{Ref: ref, At: timestamppb.Now()}}}
}

func resultOf(ref *stellav1.TaskRef, data string) *stellav1.ConnectRequest {
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskResult{TaskResult: &stellav1.TaskResult{Ref: ref, ResultJson: []byte(data)}}}
}

func ackOf(id, result, failure string) *stellav1.ConnectRequest {
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_CommandAck{CommandAck: &stellav1.CommandAck{
		CommandId: id, Failed: failure != "", ResultJson: []byte(result), Error: failure,
	}}}
}

func TestCarriersWelcome(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		w := l.connect()
		if w.GetHeartbeatIntervalMs() != 2000 || time.Since(w.GetServerTime().AsTime()).Abs() > time.Minute {
			t.Errorf("welcome: %v", w)
		}
		l.none("unasked", func(f *stellav1.ConnectResponse) bool { return isTask(f) || isCommand(f) })
		testkit.Eventually(t, linkPatience, "the transport to be shown", func() (bool, string) {
			a, err := l.cp.Client.Agent(t.Context(), l.id)
			if err != nil {
				return false, err.Error()
			}
			return a.Transport == l.carrier.name && a.Status == api.StatusOnline, a.Transport + " " + string(a.Status)
		})
	})
}

func TestCarriersBringATask(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		l.connect()
		k := l.submit()
		got, ref := l.task()
		if got.ID != k.ID || got.Attempt != 1 || got.Token == "" || got.Target.Name != "box" {
			t.Fatalf("%+v", got)
		}
		l.send(accepted(ref))
		testkit.Eventually(t, linkPatience, "the task to run", func() (bool, string) { s := l.state(k.ID); return s == api.TaskRunning, string(s) })
		l.send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_LogChunk{LogChunk: &stellav1.LogChunk{Ref: ref, FirstSeq: 1, Entries: []*stellav1.LogEntry{
			{At: timestamppb.Now(), Stream: "stdout", Text: "one"}, {At: timestamppb.Now(), Stream: "stderr", Text: "two"},
		}}}})
		if ack := l.next(func(f *stellav1.ConnectResponse) bool { return f.GetLogAck() != nil }).GetLogAck(); ack.GetLastSeq() != 2 {
			t.Errorf("log: %v", ack)
		}
		isResult := func(f *stellav1.ConnectResponse) bool { return f.GetResultAck() != nil }
		for range 2 { // the acknowledgement of the first may be lost
			l.send(resultOf(ref, `{"success":true}`))
			if ack := l.next(isResult).GetResultAck(); !ack.GetAccepted() || ack.GetRef().GetTaskId() != k.ID {
				t.Errorf("result: %v", ack)
			}
		}
		if s := l.state(k.ID); s != api.TaskSucceeded {
			t.Errorf("the task is %s", s)
		}
		l.send(resultOf(ref, `{"success":false,"errorType":"internal"}`))
		if ack := l.next(isResult).GetResultAck(); ack.GetAccepted() || ack.GetReason() == "" {
			t.Errorf("another result: %v", ack)
		}
		logs, err := l.cp.Client.TaskLogs(t.Context(), k.ID)
		if err != nil || len(logs.Entries) != 2 || logs.Entries[1].Text != "two" {
			t.Errorf("log: %+v, %v", logs, err)
		}
	})
}

func TestCarriersBringACancellation(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		l.connect()
		k := l.submit()
		_, ref := l.task()
		l.send(accepted(ref))
		if _, err := l.cp.Client.CancelTask(t.Context(), k.ID); err != nil {
			t.Fatal(err)
		}
		c := l.next(func(f *stellav1.ConnectResponse) bool { return f.GetCancelTask() != nil }).GetCancelTask()
		if c.GetRef().GetTaskId() != k.ID || c.GetRef().GetAttempt() != 1 {
			t.Errorf("%v", c)
		}
	})
}

// A task whose assignment was lost comes again; one that is held does not.
func TestCarriersBringAgainWhatWasLost(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		l.connect()
		k := l.submit()
		_, ref := l.task()
		l.conn.Close()
		l.connect()
		if again, _ := l.task(); again.ID != k.ID || again.Attempt != 1 {
			t.Errorf("%+v", again)
		}
		l.send(accepted(ref))
		l.conn.Close()
		l.connect(ref)
		l.none("what it holds", isTask)
		l.send(resultOf(ref, `{"success":true}`))
		l.next(func(f *stellav1.ConnectResponse) bool { return f.GetResultAck().GetAccepted() })
	})
}

func TestCarriersBringNoTaskToWhoTakesNone(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		l.connect()
		busy := &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Heartbeat{Heartbeat: &stellav1.Heartbeat{NotAccepting: "cpu use is above the limit"}}}
		l.send(busy)
		testkit.Eventually(t, linkPatience, "the server to hear it", func() (bool, string) {
			a, err := l.cp.Client.Agent(t.Context(), l.id)
			if err != nil {
				return false, err.Error()
			}
			return a.NotAccepting != "", a.NotAccepting
		})
		k := l.submit()
		l.send(busy)
		l.next(func(f *stellav1.ConnectResponse) bool {
			if isTask(f) {
				t.Fatalf("it gets %v", f)
			}
			return f.GetHeartbeatAck() != nil
		})
		l.send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Heartbeat{Heartbeat: &stellav1.Heartbeat{}}})
		if got, _ := l.task(); got.ID != k.ID {
			t.Errorf("%+v", got)
		}
	})
}

func TestCarriersBringCommands(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		l.connect()
		send := func(payload string) *api.Command {
			t.Helper()
			c, err := l.cp.Client.SendCommand(t.Context(), l.id, api.CommandRequest{Type: "deep-trace", Payload: json.RawMessage(payload)})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		delivery := func(id string) api.CommandDelivery {
			t.Helper()
			p, err := l.cp.Client.Command(t.Context(), id, client.DeliveryFilter{})
			if err != nil || len(p.Deliveries) != 1 {
				t.Fatalf("%+v, %v", p, err)
			}
			return p.Deliveries[0]
		}
		sent := send(`{"route": 7}`)
		got := l.command()
		if got.ID != sent.ID || got.Type != "deep-trace" || string(got.Payload) != `{"route":7}` && string(got.Payload) != `{"route": 7}` || got.ExpiresAt.Sub(got.CreatedAt) != time.Minute {
			t.Fatalf("%+v", got)
		}
		testkit.Eventually(t, linkPatience, "the delivery to be noted", func() (bool, string) {
			d := delivery(sent.ID)
			return d.State == api.CommandDelivered && d.DeliveredAt != nil, string(d.State)
		})
		for range 2 { // the receipt of the first may be lost
			l.send(ackOf(got.ID, `{"spans":3}`, ""))
			if r := l.receipt(); !r.GetAccepted() || r.GetCommandId() != got.ID {
				t.Errorf("receipt: %v", r)
			}
		}
		if d := delivery(sent.ID); d.State != api.CommandAcknowledged || !strings.Contains(string(d.Result), "3") {
			t.Errorf("%+v", d)
		}
		// One that fails, and what is not the agent's.
		failing := send(`null`)
		l.send(ackOf(l.command().ID, "", "the disk is full"))
		if r := l.receipt(); !r.GetAccepted() {
			t.Errorf("receipt: %v", r)
		}
		if d := delivery(failing.ID); d.State != api.CommandFailed || d.Error != "the disk is full" {
			t.Errorf("%+v", d)
		}
		other := newHandmade(t, l.cp, "other")
		foreign, err := l.cp.Client.SendCommand(t.Context(), other.id, api.CommandRequest{Type: "replay"})
		if err != nil {
			t.Fatal(err)
		}
		l.send(ackOf(foreign.ID, "", ""))
		if r := l.receipt(); r.GetAccepted() || r.GetReason() == "" {
			t.Errorf("receipt for another's command: %v", r)
		}
		// What was sent while the agent was away, and can still be run.
		l.conn.Close()
		testkit.Eventually(t, linkPatience, "the server to see it leave", func() (bool, string) {
			a, err := l.cp.Client.Agent(t.Context(), l.id)
			if err != nil {
				return false, err.Error()
			}
			return !l.carrier.connected || a.Transport == "", a.Transport
		})
		late := send(`1`)
		l.connect()
		if c := l.command(); c.ID != late.ID {
			t.Errorf("after it came back: %+v", c)
		}
		l.none("the same again", isCommand)
	})
}

// An agent that is revoked is cut within a second; by polling, at its next
// question.
func TestCarriersEndForARevokedAgent(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		l.connect()
		if _, err := l.cp.Client.RevokeAgent(t.Context(), l.id); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err := l.wantEnd(5 * time.Second)
		if took := time.Since(began); took > 2*time.Second { // twice the promise, for a busy machine
			t.Errorf("cut after %s", took)
		}
		if !strings.Contains(err.Error(), "revoked") {
			t.Errorf("it is told: %v", err)
		}
		if _, err := l.carrier.dial(t, l.handmade).Dial(t.Context(), &stellav1.Hello{ProtocolVersion: api.ProtocolVersion}); err == nil && !l.carrier.connected {
			t.Error("it gets in again")
		}
	})
}

func TestCarriersSurviveAServerRestart(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		l.connect()
		k := l.submit()
		_, ref := l.task()
		l.send(accepted(ref))
		testkit.Eventually(t, linkPatience, "the task to run", func() (bool, string) { s := l.state(k.ID); return s == api.TaskRunning, string(s) })
		if err := l.cp.Stop(); err != nil {
			t.Fatal(err)
		}
		_ = l.wantEnd(linkPatience) // however it is told
		l.cp.Start()
		l.connect(ref)
		l.send(resultOf(ref, `{"success":true}`))
		l.next(func(f *stellav1.ConnectResponse) bool { return f.GetResultAck().GetAccepted() })
	})
}

// A frame as large as a log may be gets through; a larger one ends that link,
// and nothing else.
func TestCarriersBoundFrames(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		l.connect()
		k := l.submit()
		_, ref := l.task()
		l.send(accepted(ref))
		chunk := func(bytes int) *stellav1.ConnectRequest {
			return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_LogChunk{LogChunk: &stellav1.LogChunk{
				Ref: ref, FirstSeq: 1, Entries: []*stellav1.LogEntry{{At: timestamppb.Now(), Stream: "stdout", Text: strings.Repeat("x", bytes)}},
			}}}
		}
		l.send(chunk(500 << 10))
		l.next(func(f *stellav1.ConnectResponse) bool { return f.GetLogAck().GetLastSeq() == 1 })
		bystander := &linked{t: t, carrier: l.carrier, cp: l.cp, handmade: newHandmade(t, l.cp, "bystander")}
		bystander.connect()
		_ = l.conn.Send(chunk(5 << 20)) // may fail as the server ends the link, or not
		if l.carrier.connected {
			_ = l.wantEnd(linkPatience) // however it is told
		}
		l.conn.Close() // two that poll would overtake each other with their numbers
		bystander.none("disturbance", isTask)
		l.connect(ref)
		l.send(resultOf(ref, `{"success":true}`))
		l.next(func(f *stellav1.ConnectResponse) bool { return f.GetResultAck().GetAccepted() })
		if s := l.state(k.ID); s != api.TaskSucceeded {
			t.Errorf("the task is %s", s)
		}
	})
}

// Only where there is a connection can one replace another, and can a frame be
// what no agent of ours would send.
func TestCarriersThatConnect(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		if !l.carrier.connected {
			return
		}
		first := *l
		first.connect()
		l.connect()
		if err := first.wantEnd(linkPatience); !strings.Contains(err.Error(), "newer connection") {
			t.Errorf("the older one is told: %v", err)
		}
		l.none("disturbance", isTask)
		// A frame of a newer agent is passed over.
		l.send(&stellav1.ConnectRequest{})
		l.none("for nothing", isTask)
		// One that is malformed ends the link, with the reason.
		l.send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Heartbeat{Heartbeat: &stellav1.Heartbeat{ResourceUsageJson: []byte(`[]`)}}})
		if err := l.wantEnd(linkPatience); !strings.Contains(err.Error(), "does not parse") {
			t.Errorf("it is told: %v", err)
		}
		// A version that is not spoken is refused with those that are.
		conn, err := l.carrier.dial(t, l.handmade).Dial(t.Context(), &stellav1.Hello{ProtocolVersion: 99})
		if err == nil {
			_, err = conn.Recv()
			conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "1 to 1") {
			t.Errorf("version 99: %v", err)
		}
		// And nobody gets in without a certificate, or as another.
		stranger := *l.handmade
		stranger.cert = tls.Certificate{}
		conn, err = l.carrier.dial(t, &stranger).Dial(t.Context(), &stellav1.Hello{ProtocolVersion: api.ProtocolVersion})
		if err == nil {
			_, err = conn.Recv()
			conn.Close()
		}
		if err == nil {
			t.Error("without a certificate it gets in")
		}
	})
}
