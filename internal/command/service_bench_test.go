package command_test

import (
	"fmt"
	"sync"
	"testing"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fleet"
)

// BenchmarkAnswers5k is the moment in which a whole large fleet answers: 5,000
// calls at once, each of which returns when its answer is durable.
func BenchmarkAnswers5k(b *testing.B) {
	const n = 5000
	w := newBench(b)
	s := w.serve(w.store)
	agents := make([]*fleet.Agent, n)
	var wg sync.WaitGroup
	for i := range agents {
		wg.Go(func() { agents[i] = w.agent(fmt.Sprintf("a%05d", i)) })
	}
	wg.Wait()
	for b.Loop() {
		b.StopTimer()
		c := w.send(s, toAll, api.CommandRequest{Type: "doctor", ExpiresIn: 3600})
		for _, a := range agents {
			s.Delivered(tenant, c.ID, a.ID)
		}
		b.StartTimer()
		for _, a := range agents {
			wg.Go(func() {
				if _, err := s.Acknowledge(w.ctx, a, c.ID, api.CommandAck{Result: []byte(`{"ok": true}`)}); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "answers/s")
}

// BenchmarkAnswerAlone is one answer when nothing else happens.
func BenchmarkAnswerAlone(b *testing.B) {
	w := newBench(b)
	s := w.serve(w.store)
	a := w.agent("a")
	for b.Loop() {
		b.StopTimer()
		c := w.send(s, toAll, api.CommandRequest{Type: "doctor", ExpiresIn: 3600})
		b.StartTimer()
		if _, err := s.Acknowledge(w.ctx, a, c.ID, api.CommandAck{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSend5k is a command to a whole large fleet.
func BenchmarkSend5k(b *testing.B) {
	w := newBench(b)
	s := w.serve(w.store)
	var wg sync.WaitGroup
	for i := range 5000 {
		wg.Go(func() { w.agent(fmt.Sprintf("a%05d", i)) })
	}
	wg.Wait()
	for b.Loop() {
		w.send(s, toAll, api.CommandRequest{Type: "doctor", ExpiresIn: 3600})
	}
}
