package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"stella-ops.org/stella/internal/enroll"
)

// When the time is over while an attempt is under way, the attempt before is what
// says why: that there was no time is no cause.
func TestRegisterTellsTheLastCause(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	at := listen(t, func(c net.Conn) {
		defer c.Close()
		if tries.Add(1) > 1 {
			_, _ = io.Copy(io.Discard, c) // it says nothing until the agent has left
		}
	})
	token := "reg_" + strings.Repeat("a", 32) + "_" + strings.Repeat("a", 52)
	if _, ok := enroll.Pin(token); !ok {
		t.Fatal("the token is none")
	}
	a := &Agent{
		Config: Config{Data: t.TempDir(), Server: "https://" + at, MaxConcurrentTasks: 1, Transport: "auto", ReconnectBackoff: time.Millisecond, PollInterval: time.Second, Capabilities: []string{"host"}},
		Log:    slog.New(slog.DiscardHandler), Token: token,
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := a.Register(ctx)
	if err == nil || !strings.Contains(err.Error(), "was closed by the other end") || tries.Load() < 2 {
		t.Errorf("after %d tries: %v", tries.Load(), err)
	}
}
