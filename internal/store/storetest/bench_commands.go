package storetest

import (
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
)

// benchCommands measures a command to the whole of a large fleet: the send, the
// marks and answers of all as one batch, and the sweep when nobody answers.
func benchCommands(t *testing.B, b *bench) {
	const n = 5000
	agents := b.fleet(t, n)
	// A history, for indexes that are as large as they get.
	for range 20 {
		b.answered(t, b.sent(t, command.Pick{}), "")
	}
	t.Run("Send5k", func(t *testing.B) {
		for t.Loop() {
			b.sent(t, command.Pick{})
		}
	})
	t.Run("SendCapable5k", func(t *testing.B) {
		for t.Loop() {
			b.sent(t, command.Pick{Capabilities: []string{"docker.prune", "prune"}})
		}
	})
	for name, state := range map[string]api.CommandState{"Marks5k": api.CommandDelivered, "Answers5k": api.CommandAcknowledged} {
		t.Run(name, func(t *testing.B) {
			for t.Loop() {
				t.StopTimer()
				c := b.sent(t, command.Pick{})
				reports := make([]command.Report, n)
				for i, a := range agents {
					reports[i] = command.Report{
						Ref: command.Ref{TenantID: tenant, CommandID: c.ID, AgentID: a.ID}, State: state, At: b.now, Result: []byte(`{"ok": true, "took": "1.5 s"}`),
					}
				}
				t.StartTimer()
				_, moved, err := b.RecordReports(b.ctx, reports)
				if must(t, err); len(moved) != n {
					t.Fatalf("%d moved", len(moved))
				}
			}
		})
	}
	t.Run("Expire5k", func(t *testing.B) {
		for more := true; more; { // what the other measurements left open
			var err error
			_, more, err = b.ExpireCommands(b.ctx, b.now.Add(time.Hour), 1<<30)
			must(t, err)
		}
		for t.Loop() {
			t.StopTimer()
			b.sent(t, command.Pick{})
			t.StartTimer()
			moved, _, err := b.ExpireCommands(b.ctx, b.now.Add(time.Hour), 10_000)
			if must(t, err); len(moved) != n {
				t.Fatalf("%d moved", len(moved))
			}
		}
	})
	t.Run("SweepOfNothing", func(t *testing.B) {
		for t.Loop() {
			_, _, err := b.ExpireCommands(b.ctx, b.now.Add(time.Second), 10_000)
			must(t, err)
		}
	})
	open := b.sent(t, command.Pick{})
	t.Run("Unsent1k", func(t *testing.B) {
		for t.Loop() {
			refs, err := b.UnsentCommands(b.ctx, b.now, b.now, command.Ref{}, 1000)
			if must(t, err); len(refs) != 1000 {
				t.Fatalf("%d refs", len(refs))
			}
		}
	})
	t.Run("PendingOfOne", func(t *testing.B) {
		for t.Loop() {
			_, err := b.PendingCommands(b.ctx, tenant, agents[n/2].ID, b.now, 100)
			must(t, err)
		}
	})
	t.Run("Get", func(t *testing.B) {
		for t.Loop() {
			_, err := b.Command(b.ctx, tenant, open.ID)
			must(t, err)
		}
	})
}
