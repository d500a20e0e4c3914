package load

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// pollCarrier makes plain requests over one connection for each agent: a
// heartbeat's answer brings tasks and commands.
type pollCarrier struct {
	dialer *dialer
	signer signer
	base   *url.URL
	beat   []byte
}

func newPollCarrier(d *dialer, s signer) (*pollCarrier, error) {
	body, err := json.Marshal(api.HeartbeatRequest{Status: string(api.StatusOnline), ResourceUsage: &usage, Capabilities: capabilities(), MaxTasks: maxTasks})
	if err != nil {
		return nil, fmt.Errorf("encode the heartbeat: %w", err)
	}
	return &pollCarrier{dialer: d, signer: s, base: d.url.JoinPath("/api/v1/agents"), beat: body}, nil
}

// dial makes the first request, whose answer is the welcome.
func (c *pollCarrier) dial(ctx context.Context, id *Identity) (conn, error) {
	cc, _, err := c.dialer.dialHTTP2(ctx, id)
	if err != nil {
		return nil, err
	}
	p := &pollConn{
		carrier: c, id: id, cc: cc, to: c.base.JoinPath(id.ID, "heartbeat").String(), agent: c.base.JoinPath(id.ID),
		wake: make(chan struct{}, 1),
	}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	res, err := p.heartbeat() //nolint:contextcheck // the connection outlives the dialling
	if err != nil {
		p.close()
		return nil, err
	}
	p.queue = append(p.queue, &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Welcome{Welcome: &stellav1.Welcome{
		HeartbeatIntervalMs: res.IntervalMs, ServerTime: timestamppb.New(res.ServerTime), Server: c.base.Host, ReconnectWindowMs: res.ReconnectWindowMs,
	}}})
	return p, p.take(res)
}

type pollConn struct {
	carrier *pollCarrier
	id      *Identity
	cc      *http.ClientConn
	to      string
	agent   *url.URL
	ctx     context.Context
	cancel  context.CancelFunc

	due  atomic.Int64 // heartbeats that are to be made
	wake chan struct{}

	// owned by the agent's goroutine
	queue  []*stellav1.ConnectResponse
	tokens map[string]string // of tasks
}

var _ conn = (*pollConn)(nil)

// beat leaves the request to the agent's goroutine.
func (p *pollConn) beat() error {
	p.due.Add(1)
	select {
	case p.wake <- struct{}{}:
	default: // it is awake already
	}
	return p.ctx.Err()
}

func (p *pollConn) recv() (*stellav1.ConnectResponse, error) {
	for {
		if len(p.queue) > 0 {
			f := p.queue[0]
			p.queue = p.queue[1:]
			return f, nil
		}
		if p.due.Load() == 0 {
			select {
			case <-p.ctx.Done():
				return nil, p.ctx.Err()
			case <-p.wake:
			}
			continue
		}
		p.due.Add(-1)
		res, err := p.heartbeat()
		if err != nil {
			return nil, err
		}
		p.queue = append(p.queue, &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_HeartbeatAck{HeartbeatAck: &stellav1.HeartbeatAck{
			ServerTime: timestamppb.New(res.ServerTime), ReconnectWindowMs: res.ReconnectWindowMs,
		}}})
		if err := p.take(res); err != nil {
			return nil, err
		}
	}
}

// take queues what an answer brought.
func (p *pollConn) take(res *api.HeartbeatResponse) error {
	for _, t := range res.Tasks {
		data, err := json.Marshal(t)
		if err != nil {
			return fmt.Errorf("encode a task: %w", err)
		}
		if p.tokens == nil {
			p.tokens = map[string]string{}
		}
		p.tokens[t.ID] = t.Token
		p.queue = append(p.queue, &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Task{Task: &stellav1.Task{TaskJson: data}}})
	}
	for _, c := range res.Commands {
		data, err := json.Marshal(c)
		if err != nil {
			return fmt.Errorf("encode a command: %w", err)
		}
		p.queue = append(p.queue, &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Command{Command: &stellav1.Command{CommandJson: data}}})
	}
	return nil
}

// send makes the request that a frame stands for, and queues its answer.
func (p *pollConn) send(f *stellav1.ConnectRequest) error {
	switch f := f.GetFrame().(type) {
	case *stellav1.ConnectRequest_TaskResult:
		return p.complete(f.TaskResult)
	case *stellav1.ConnectRequest_CommandAck:
		id := f.CommandAck.GetCommandId()
		body, err := json.Marshal(api.CommandAck{})
		if err != nil {
			return fmt.Errorf("encode an acknowledgement: %w", err)
		}
		var res api.CommandAckResponse
		if err := p.post(p.agent.JoinPath("commands", id, "ack").String(), "", body, &res); err != nil {
			return err
		}
		p.queue = append(p.queue, &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_CommandReceipt{CommandReceipt: &stellav1.CommandReceipt{
			CommandId: id, Accepted: res.Acknowledged, Reason: res.Reason,
		}}})
	}
	return nil
}

func (p *pollConn) complete(r *stellav1.TaskResult) error {
	ref := r.GetRef()
	body, err := json.Marshal(api.CompleteRequest{Success: true, Attempt: ref.GetAttempt()})
	if err != nil {
		return fmt.Errorf("encode a result: %w", err)
	}
	var res api.CompleteResponse
	if err := p.post(p.agent.JoinPath("tasks", ref.GetTaskId(), "complete").String(), p.tokens[ref.GetTaskId()], body, &res); err != nil {
		return err
	}
	delete(p.tokens, ref.GetTaskId())
	p.queue = append(p.queue, &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_ResultAck{ResultAck: &stellav1.ResultAck{Ref: ref, Accepted: res.Acknowledged, Reason: res.Reason}}})
	return nil
}

func (p *pollConn) heartbeat() (*api.HeartbeatResponse, error) {
	var res api.HeartbeatResponse
	body := p.carrier.beat
	return &res, p.call(p.to, body, &res, func(req *http.Request) error { return p.carrier.signer.request(p.id, req, body) })
}

func (p *pollConn) post(to, token string, body []byte, into any) error {
	return p.call(to, body, into, func(req *http.Request) error {
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		return nil
	})
}

// call makes a request, to which prove adds what it takes beside the certificate.
func (p *pollConn) call(to string, body []byte, into any, prove func(*http.Request) error) error {
	ctx, cancel := context.WithTimeout(p.ctx, welcomeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set(api.HeaderProtocolVersion, strconv.Itoa(api.ProtocolVersion))
	if err := prove(req); err != nil {
		return err
	}
	return roundTrip(p.cc.RoundTrip, req, into)
}

func (p *pollConn) close() {
	p.cancel()
	_ = p.cc.Close() // nothing is to be said any more
}
