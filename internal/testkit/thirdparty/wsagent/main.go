// Command wsagent is an agent of another maker: it knows docs/streams.md, a
// WebSocket library, and nothing else. It pretends to run commands: "wait" runs
// until it is cancelled, and any other succeeds at once.
//
// It prints a line for each thing that happens to it, for the test that runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"stella-ops.org/stella/internal/testkit/thirdparty/setup"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "wsagent:", err)
		os.Exit(1)
	}
}

func run() error {
	id, err := setup.FromFlags()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dialer := websocket.Dialer{TLSClientConfig: id.TLS, HandshakeTimeout: 10 * time.Second, Proxy: http.ProxyFromEnvironment}
	url := "wss" + strings.TrimPrefix(id.Server, "https") + "/api/v1/agents/" + id.Agent + "/task-stream"
	conn, answer, err := dialer.DialContext(ctx, url, nil)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	_ = answer.Body.Close() // gorilla has read what there is
	defer conn.Close()
	a := &agent{conn: conn, running: map[string]bool{}}
	if err := a.work(ctx); err != nil {
		var closed *websocket.CloseError
		if !errors.As(err, &closed) {
			return err
		}
		say("closed", closed.Code, closed.Text)
	}
	return nil
}

func say(what ...any) { fmt.Fprintln(os.Stdout, what...) }

// agent is this end of the stream. One goroutine reads, and this one writes.
type agent struct {
	conn    *websocket.Conn
	running map[string]bool
}

func (a *agent) work(ctx context.Context) error {
	messages, ended := make(chan *down), make(chan error, 1)
	go func() {
		for {
			m := new(down)
			if err := a.conn.ReadJSON(m); err != nil {
				ended <- err
				return
			}
			messages <- m
		}
	}()
	// It takes commands here, too; an agent that does not need not say hello.
	if err := a.send(&up{Type: "hello", Commands: true}); err != nil {
		return err
	}
	beat := time.NewTicker(time.Hour)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "the agent stops")
			return a.conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second))
		case err = <-ended:
		case <-beat.C:
			err = a.heartbeat()
		case m := <-messages:
			if m.Type == "welcome" {
				beat.Reset(time.Duration(m.HeartbeatIntervalMs) * time.Millisecond)
			}
			err = a.take(m)
		}
		if err != nil {
			return err
		}
	}
}

func (a *agent) send(m *up) error { return a.conn.WriteJSON(m) }

func (a *agent) heartbeat() error {
	m := &up{Type: "heartbeat", Status: "online"}
	for id := range a.running {
		m.RunningTasks = append(m.RunningTasks, running{TaskID: id})
	}
	return a.send(m)
}

// take does what a message says; one of a type that it does not know is passed
// over.
func (a *agent) take(m *down) error {
	switch m.Type {
	case "welcome":
		say("welcome")
	case "heartbeat_ack":
		say("heartbeat_ack")
	case "task_assigned":
		if a.running[m.Task.ID] {
			return nil // it came again: once is enough
		}
		say("task_assigned", m.Task.ID)
		return a.begin(m.Task)
	case "task_cancelled":
		say("task_cancelled", m.TaskID)
		if !a.running[m.TaskID] {
			return nil
		}
		delete(a.running, m.TaskID)
		return a.send(&up{Type: "task_result", TaskID: m.TaskID, Result: &result{Error: "stopped, as it was asked to", ErrorType: "cancelled"}})
	case "log_ack":
		say("log_ack", m.TaskID, m.LastSeq)
	case "result_ack":
		say("result_ack", m.TaskID, m.Accepted)
	case "command":
		say("command", m.Command.ID, m.Command.Type, string(m.Command.Payload))
		return a.send(&up{Type: "command_ack", CommandID: m.Command.ID, Status: "acknowledged", Result: map[string]string{"by": "wsagent"}})
	case "command_receipt":
		say("command_receipt", m.CommandID, m.Accepted)
	}
	return nil
}

func (a *agent) begin(t *task) error {
	now := time.Now().UTC()
	a.running[t.ID] = true
	messages := []*up{
		{Type: "task_accepted", TaskID: t.ID},
		{Type: "task_log", TaskID: t.ID, FirstSeq: 1, Entries: []entry{
			{At: now, Stream: "stdout", Text: "wsagent runs " + strings.Join(t.Payload.Command, " ")}, {At: now, Stream: "stderr", Text: "or so it says"},
		}},
	}
	if len(t.Payload.Command) == 0 || t.Payload.Command[0] != "wait" {
		delete(a.running, t.ID)
		messages = append(messages, &up{Type: "task_result", TaskID: t.ID, Success: true, Result: &result{Outputs: map[string]any{"exitCode": 0}}})
	}
	for _, m := range messages {
		if err := a.send(m); err != nil {
			return err
		}
	}
	return nil
}
