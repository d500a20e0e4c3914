package link

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/httpsig"
)

// Poll is the carrier that makes plain requests: a heartbeat every few
// seconds, whose answer brings tasks.
type Poll struct {
	agent    Agent
	base     *url.URL
	interval time.Duration

	// beating is held while a heartbeat is under way: one that came after the
	// next one would be refused, for its number.
	beating sync.Mutex
}

var _ Carrier = (*Poll)(nil)

// NewPoll returns the carrier for an agent. Each connection keeps the certificate
// that the agent has when it is made: the token for tasks is bound to it (RFC 8705).
func NewPoll(agent Agent, interval time.Duration) (*Poll, error) {
	base, err := url.Parse(agent.ServerURL)
	if err != nil {
		return nil, fmt.Errorf("server URL: %w", err)
	}
	return &Poll{agent: agent, base: base.JoinPath("/api/v1/agents"), interval: interval}, nil
}

// Name is "poll".
func (*Poll) Name() string { return "poll" }

// Dial makes the first request, and so proves that the server answers.
func (p *Poll) Dial(ctx context.Context, hello *stellav1.Hello) (Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &pollConn{
		poll: p, ctx: ctx, cancel: cancel, down: make(chan *stellav1.ConnectResponse, 256),
		beat: api.HeartbeatRequest{Capabilities: hello.GetCapabilities(), MaxTasks: int(hello.GetMaxConcurrentTasks()), NotAccepting: hello.GetNotAccepting(), Instance: hello.GetInstance(), Host: hello.GetHost()},
	}
	c.client, c.cert = p.agent.Plain()
	c.setRunning(hello.GetHeld())
	res, err := c.heartbeat()
	if err != nil {
		cancel()
		return nil, err
	}
	c.down <- &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Welcome{Welcome: &stellav1.Welcome{
		HeartbeatIntervalMs: res.IntervalMs, ServerTime: timestamppb.New(res.ServerTime), Server: p.base.Host,
		ReconnectWindowMs: res.ReconnectWindowMs, Trust: res.Trust, TrustSpreadMs: res.TrustSpreadMs,
	}}}
	if err := c.deliver(res); err != nil {
		cancel()
		return nil, err
	}
	go c.loop()
	return c, nil
}

type pollConn struct {
	poll   *Poll
	client *http.Client
	cert   *tls.Certificate // that the client shows
	ctx    context.Context
	cancel context.CancelFunc
	down   chan *stellav1.ConnectResponse

	mu    sync.Mutex
	beat  api.HeartbeatRequest // as the next request will say it
	err   error                // why the connection ended
	token api.AgentToken       // for task endpoints
	until time.Time            // when to get another
}

func (c *pollConn) Close() { c.cancel() }

func (c *pollConn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.cancel()
}

func (c *pollConn) loop() {
	tick := time.NewTicker(c.poll.interval)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		res, err := c.heartbeat()
		if err == nil {
			err = c.deliver(res)
		}
		if err == nil && (res.ReconnectWindowMs > 0 || res.Trust != "") {
			ack := &stellav1.HeartbeatAck{
				ServerTime: timestamppb.New(res.ServerTime), ReconnectWindowMs: res.ReconnectWindowMs, Trust: res.Trust, TrustSpreadMs: res.TrustSpreadMs,
			}
			err = c.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_HeartbeatAck{HeartbeatAck: ack}})
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// Recv returns the next frame that the polling has brought.
func (c *pollConn) Recv() (*stellav1.ConnectResponse, error) {
	select {
	case f := <-c.down:
		return f, nil
	case <-c.ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		return nil, errors.Join(c.err, c.ctx.Err())
	}
}

func (c *pollConn) push(f *stellav1.ConnectResponse) error {
	select {
	case c.down <- f:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// Send makes the request that a frame stands for, and queues its answer.
func (c *pollConn) Send(f *stellav1.ConnectRequest) error {
	switch f := f.GetFrame().(type) {
	case *stellav1.ConnectRequest_Heartbeat:
		b := f.Heartbeat
		c.mu.Lock()
		c.beat.Status, c.beat.NotAccepting = b.GetStatus(), b.GetNotAccepting()
		if len(b.GetCapabilities()) > 0 {
			c.beat.Capabilities = b.GetCapabilities()
		}
		if raw := b.GetResourceUsageJson(); len(raw) > 0 {
			var u api.ResourceUsage
			if json.Unmarshal(raw, &u) == nil {
				c.beat.ResourceUsage = &u
			}
		}
		c.mu.Unlock()
		c.setRunning(b.GetRunning())
		return c.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_HeartbeatAck{HeartbeatAck: &stellav1.HeartbeatAck{}}})
	case *stellav1.ConnectRequest_TaskAccepted:
		c.mu.Lock()
		c.beat.RunningTasks = append(c.beat.RunningTasks, api.TaskRef{TaskID: f.TaskAccepted.GetRef().GetTaskId(), Attempt: f.TaskAccepted.GetRef().GetAttempt()})
		c.mu.Unlock()
		return nil
	case *stellav1.ConnectRequest_LogChunk:
		return c.sendLog(f.LogChunk)
	case *stellav1.ConnectRequest_TaskResult:
		return c.sendResult(f.TaskResult)
	case *stellav1.ConnectRequest_CommandAck:
		return c.sendCommandAck(f.CommandAck)
	}
	return nil
}

func (c *pollConn) sendCommandAck(ack *stellav1.CommandAck) error {
	req := api.CommandAck{Status: api.CommandAcknowledged, Result: ack.GetResultJson(), Error: ack.GetError()}
	if ack.GetFailed() {
		req.Status = api.CommandFailed
	}
	receipt := &stellav1.CommandReceipt{CommandId: ack.GetCommandId()}
	var res api.CommandAckResponse
	err := c.post(c.ctx, c.poll.base.JoinPath(c.poll.agent.ID, "commands", ack.GetCommandId(), "ack"), "", req, &res)
	var p *api.Problem
	switch {
	case err == nil:
		receipt.Accepted, receipt.Reason = res.Acknowledged, res.Reason
	case errors.As(err, &p) && p.Status >= 400 && p.Status < 500 && p.Status != http.StatusTooManyRequests:
		receipt.Reason = p.Detail // to say it again would not help
	default:
		return err
	}
	return c.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_CommandReceipt{CommandReceipt: receipt}})
}

func (c *pollConn) sendLog(chunk *stellav1.LogChunk) error {
	req := api.LogRequest{Attempt: chunk.GetRef().GetAttempt(), FirstSeq: chunk.GetFirstSeq()}
	for _, e := range chunk.GetEntries() {
		req.Entries = append(req.Entries, api.LogEntry{
			At: e.GetAt().AsTime(), Stream: e.GetStream(), Text: e.GetText(), Phase: e.GetPhase(), PhaseState: e.GetPhaseState(), Lost: e.GetLost(),
		})
	}
	var res api.LogResponse
	err := c.task(chunk.GetRef(), "logs", req, &res)
	var p *api.Problem
	if errors.As(err, &p) && p.Status == http.StatusNotFound {
		res.LastSeq, err = chunk.GetFirstSeq()+int64(len(chunk.GetEntries()))-1, nil
	}
	if err != nil {
		return err
	}
	return c.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_LogAck{LogAck: &stellav1.LogAck{Ref: chunk.GetRef(), LastSeq: res.LastSeq}}})
}

func (c *pollConn) sendResult(r *stellav1.TaskResult) error {
	var result api.TaskResult
	if err := json.Unmarshal(r.GetResultJson(), &result); err != nil {
		return fmt.Errorf("decode own result: %w", err)
	}
	req := api.CompleteRequest{Success: result.Success, Attempt: r.GetRef().GetAttempt(), Result: &result, Logs: result.Logs}
	var res api.CompleteResponse
	err := c.task(r.GetRef(), "complete", req, &res)
	var p *api.Problem
	if errors.As(err, &p) && p.Status == http.StatusNotFound {
		res, err = api.CompleteResponse{Reason: p.Detail}, nil
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	running := c.beat.RunningTasks[:0:0]
	for _, t := range c.beat.RunningTasks {
		if t.TaskID != r.GetRef().GetTaskId() {
			running = append(running, t)
		}
	}
	c.beat.RunningTasks = running
	c.mu.Unlock()
	return c.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_ResultAck{ResultAck: &stellav1.ResultAck{Ref: r.GetRef(), Accepted: res.Acknowledged, Reason: res.Reason}}})
}

func (c *pollConn) setRunning(held []*stellav1.TaskRef) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beat.RunningTasks = nil
	for _, r := range held {
		c.beat.RunningTasks = append(c.beat.RunningTasks, api.TaskRef{TaskID: r.GetTaskId(), Attempt: r.GetAttempt()})
	}
}

// beatAnswer is an api.HeartbeatResponse with its tasks and commands as they are
// written: their signatures are on that.
type beatAnswer struct {
	api.HeartbeatResponse
	Tasks    []json.RawMessage `json:"tasks"`
	Commands []json.RawMessage `json:"commands"`
}

func (c *pollConn) heartbeat() (*beatAnswer, error) {
	c.mu.Lock()
	req := c.beat
	c.mu.Unlock()
	at := time.Now().UTC()
	req.SentAt = &at
	c.poll.beating.Lock()
	defer c.poll.beating.Unlock()
	var res beatAnswer
	err := c.call(c.ctx, c.poll.base.JoinPath(c.poll.agent.ID, "heartbeat"), c.poll.sign, req, &res)
	return &res, numberRefused(err)
}

// sign signs a heartbeat.
func (p *Poll) sign(hr *http.Request, body []byte, cert *tls.Certificate) error {
	key, err := keyOf(cert)
	if err != nil {
		return err
	}
	httpsig.SetDigest(hr.Header, body)
	fingerprint := sha256.Sum256(cert.Certificate[0])
	return httpsig.Sign(httpsig.Message{Method: hr.Method, Path: hr.URL.EscapedPath(), Header: hr.Header}, api.SignedComponents(), httpsig.Params{
		Created: time.Now().Unix(), KeyID: hex.EncodeToString(fingerprint[:]), Nonce: api.SignatureNonce(p.agent.Number()), Tag: api.SignatureTag,
	}, key)
}

func (c *pollConn) deliver(res *beatAnswer) error {
	for i, data := range res.Tasks {
		task := &stellav1.Task{TaskJson: data}
		if i < len(res.Signatures) {
			task.Signature = res.Signatures[i]
		}
		if err := c.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Task{Task: task}}); err != nil {
			return err
		}
	}
	for _, data := range res.Commands {
		if err := c.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Command{Command: &stellav1.Command{CommandJson: data}}}); err != nil {
			return err
		}
	}
	for _, r := range res.Cancelled {
		ref := &stellav1.TaskRef{TaskId: r.TaskID, Attempt: r.Attempt}
		if err := c.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_CancelTask{CancelTask: &stellav1.CancelTask{Ref: ref, Reason: "cancelled"}}}); err != nil {
			return err
		}
	}
	return nil
}

// task calls one of a task's endpoints with the agent's token, which is
// renewed in time.
func (c *pollConn) task(ref *stellav1.TaskRef, verb string, req, res any) error {
	c.mu.Lock()
	token, until := c.token.Token, c.until
	c.mu.Unlock()
	if time.Now().After(until) {
		var t api.AgentToken
		if err := c.post(c.ctx, c.poll.base.JoinPath("token"), "", struct{}{}, &t); err != nil {
			return err
		}
		token = t.Token
		c.mu.Lock()
		c.token, c.until = t, time.Now().Add(time.Duration(t.ExpiresIn)*time.Second*3/4)
		c.mu.Unlock()
	}
	return c.post(c.ctx, c.poll.base.JoinPath(c.poll.agent.ID, "tasks", ref.GetTaskId(), verb), token, req, res)
}

func (c *pollConn) post(ctx context.Context, to *url.URL, token string, req, res any) error {
	return c.call(ctx, to, func(hr *http.Request, _ []byte, _ *tls.Certificate) error {
		if token != "" {
			hr.Header.Set("Authorization", "Bearer "+token)
		}
		return nil
	}, req, res)
}

// call makes a request, to which prove adds what it takes beside the certificate.
func (c *pollConn) call(ctx context.Context, to *url.URL, prove func(*http.Request, []byte, *tls.Certificate) error, req, res any) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	// As it is: an escape for HTML is six times as long, and could make an
	// answer to a command longer than one may be.
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(req); err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(data.Bytes()))
	if err != nil {
		return err
	}
	hr.Header.Set("Content-Type", "application/json")
	hr.Header.Set(api.HeaderProtocolVersion, strconv.Itoa(api.ProtocolVersion))
	if err := prove(hr, data.Bytes(), c.cert); err != nil {
		return err
	}
	answer, err := c.client.Do(hr)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return Decode(answer, res)
}

// Decode reads an answer of the API into res; a problem becomes an error of
// type *api.Problem.
func Decode(answer *http.Response, res any) error {
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxFrame))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if answer.StatusCode >= 300 {
		var p api.Problem
		if json.Unmarshal(body, &p) != nil || p.Status == 0 {
			return fmt.Errorf("%s answered %s, and not as a Stella server would", answer.Request.URL.Host, answer.Status)
		}
		return &p
	}
	if err := json.Unmarshal(body, res); err != nil {
		return fmt.Errorf("decode the answer: %w", err)
	}
	return nil
}
