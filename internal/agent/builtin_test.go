package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/agent/command"
)

// ordered runs a builtin of an agent.
func ordered(t *testing.T, a *Agent, kind, payload string) (map[string]any, error) {
	t.Helper()
	changed := 0
	all := a.builtins(newRunner(nil, nil, a.Config.Data, 1, a.Log), func() { changed++ }, nil)
	v, err := all[kind](t.Context(), json.RawMessage(payload))
	if err != nil {
		return nil, err
	}
	if wanted := kind != "collect-logs"; (changed == 1) != wanted {
		t.Errorf("%s: the server is told %d times", kind, changed)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(data, &answer); err != nil {
		t.Fatal(err)
	}
	return answer, nil
}

func testAgent(t *testing.T) *Agent {
	t.Helper()
	return &Agent{Config: Config{Data: t.TempDir()}, Log: slog.New(slog.DiscardHandler), capabilities: &capabilities{}}
}

func TestDrainAndResume(t *testing.T) {
	t.Parallel()
	a := testAgent(t)
	if why := a.drained(); why != "" {
		t.Errorf("before anything: %q", why)
	}
	for payload, want := range map[string]string{
		"": "drained by a command", "null": "drained by a command", "{}": "drained by a command", `{"reason":" \n\u0000 "}`: "drained by a command",
		`{"reason":"kernel\n\tupdate \u0007\u0000now","more":1}`: "kernel update now",
	} {
		answer, err := ordered(t, a, "drain", payload)
		if err != nil || answer["accepting"] != false || answer["running"] != 0.0 {
			t.Errorf("%s: %v, %v", payload, answer, err)
		}
		// The agent's next start finds it.
		again := &Agent{Config: a.Config}
		if why := again.drained(); why != want {
			t.Errorf("%s: %q, want %q", payload, why, want)
		}
	}
	for payload, want := range map[string]string{
		`5`: "is an object with an optional reason", `{"reason":5}`: "is an object with an optional reason",
		`{"reason":"` + strings.Repeat("x", 201) + `"}`: "the reason of 201 bytes is longer than the 200",
	} {
		if _, err := ordered(t, a, "drain", payload); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30s: %v", payload, err)
		}
	}
	for range 2 {
		if answer, err := ordered(t, a, "resume", ""); err != nil || answer["accepting"] != true {
			t.Errorf("resume: %v, %v", answer, err)
		}
		if why := a.drained(); why != "" {
			t.Errorf("after the resume: %q", why)
		}
	}
}

// What cannot be read is no reason to take tasks.
func TestDrainedWhenInDoubt(t *testing.T) {
	t.Parallel()
	a := testAgent(t)
	if err := os.Mkdir(filepath.Join(a.Config.Data, drainedFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if why := a.drained(); why != drainedWords {
		t.Errorf("%q", why)
	}
	if _, err := ordered(t, a, "drain", ""); err == nil {
		t.Error("it says that it is drained, and could not write that down")
	}
}

func TestCollectLogs(t *testing.T) {
	t.Parallel()
	a := testAgent(t)
	a.Log = a.tail.Keep(a.Log)
	for i := range 300 {
		a.Log.InfoContext(t.Context(), "a line", "number", i)
	}
	for payload, want := range map[string]int{"": 200, "null": 200, `{"lines":1}`: 1, `{"lines":10000}`: 300} {
		answer, err := ordered(t, a, "collect-logs", payload)
		lines, _ := answer["lines"].([]any)
		if err != nil || len(lines) != want || answer["lost"] != 0.0 || answer["at"] == nil {
			t.Errorf("%s: %d lines, %v, %v", payload, len(lines), answer["lost"], err)
			continue
		}
		if last, _ := lines[len(lines)-1].(string); !strings.HasSuffix(last, "number=299") {
			t.Errorf("%s: the last is %q", payload, last)
		}
	}
	for payload, want := range map[string]string{
		`{"lines":0}`: "0 lines are out of range: ask for 1 to 10000", `{"lines":-1}`: "out of range", `{"lines":10001}`: "out of range",
		`{"lines":"many"}`: "an optional number of lines", `[]`: "an optional number of lines",
	} {
		if _, err := ordered(t, a, "collect-logs", payload); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", payload, err)
		}
	}
}

// Whatever the lines hold, the answer fits: JSON may make six bytes of one.
func TestCollectLogsFits(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"quotes": `"`, "angles": "<", "control": "\x01", "binary": "\xff", "wide": "\u2028", "plain": "x"} {
		a := testAgent(t)
		a.Log = a.tail.Keep(a.Log)
		for range 100 {
			a.Log.InfoContext(t.Context(), "a line", "text", strings.Repeat(text, 2000))
		}
		a.Log.InfoContext(t.Context(), "the last")
		r := command.NewRunner("", a.builtins(newRunner(nil, nil, a.Config.Data, 1, a.Log), func() {}, nil), anew, slog.New(slog.DiscardHandler))
		r.Take(commandOf("collect-logs", `{"lines":10000}`))
		<-r.Dirty()
		var ack *stellav1.CommandAck
		if err := r.Flush(func(f *stellav1.ConnectRequest) error { ack = f.GetCommandAck(); return nil }); err != nil {
			t.Fatal(err)
		}
		var answer struct {
			Lines []string `json:"lines"`
			Lost  int      `json:"lost"`
		}
		if err := json.Unmarshal(ack.GetResultJson(), &answer); err != nil || ack.GetFailed() {
			t.Errorf("%s: %.200v, %v", name, ack, err)
			continue
		}
		if n := len(answer.Lines); n < 5 || n+answer.Lost != 101 || !strings.HasSuffix(answer.Lines[n-1], `msg="the last"`) {
			t.Errorf("%s: %d lines and %d lost in %d bytes", name, n, answer.Lost, len(ack.GetResultJson()))
		}
	}
}

// Whoever reads that the agent is drained may rely on it: the server hears of
// it before it has the answer.
func TestServerHearsOfTheDrainFirst(t *testing.T) {
	t.Parallel()
	for round := range 20 { // chance decides which of the two is looked at first
		a := testAgent(t)
		run := newRunner(nil, nil, a.Config.Data, 1, a.Log)
		var c *connector
		commands := command.NewRunner("", a.builtins(run, func() { c.beatNow() }, nil), anew, a.Log)
		c = &connector{agent: a, run: run, commands: commands, log: a.Log, beat: make(chan struct{}, 1)}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		conn := &recorder{ctx: ctx, ended: make(chan error, 1)}
		conn.beats = func() {
			c.commands.Take(commandOf("drain", "")) //nolint:contextcheck // a command outlives its link
			// The link is busy until both wait to be sent.
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for len(c.beat) == 0 || len(c.commands.Dirty()) == 0 {
				select {
				case <-tick.C:
				case <-ctx.Done():
					t.Error("the command is not answered")
					return
				}
			}
		}
		err := c.send(ctx, conn, time.Hour, conn.ended, &handover{connector: c})
		cancel()
		if got := fmt.Sprint(conn.said); got != "[heartbeat heartbeat:drained answer]" {
			t.Fatalf("round %d: it said %s, %v", round, got, err)
		}
	}
}

// recorder notes what is sent, and ends with the first answer.
type recorder struct {
	ctx   context.Context //nolint:containedctx // of the one test
	said  []string
	ended chan error
	beats func() // called once, with the first heartbeat
}

func (r *recorder) Close() {}

func (r *recorder) Recv() (*stellav1.ConnectResponse, error) {
	<-r.ctx.Done()
	return nil, r.ctx.Err()
}

func (r *recorder) Send(f *stellav1.ConnectRequest) error {
	switch {
	case f.GetCommandAck() != nil:
		r.said = append(r.said, "answer")
		r.ended <- context.Canceled
		return context.Canceled
	case f.GetHeartbeat().GetNotAccepting() != "":
		r.said = append(r.said, "heartbeat:drained")
	case f.GetHeartbeat() != nil:
		r.said = append(r.said, "heartbeat")
		r.beats()
	}
	return nil
}

func commandOf(kind, payload string) *api.AgentCommand {
	now := time.Now()
	return &api.AgentCommand{ID: kind, Type: kind, Payload: json.RawMessage(payload), CreatedAt: now, ExpiresAt: now.Add(time.Minute)}
}
