package command_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// inBubble runs a test over a real store in a bubble, whose clock is instant.
func inBubble(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newBench(t)) })
}

func TestAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		a, other := b.agent("a"), b.agent("other", func(a *fleet.Agent) { a.Group = "db" })
		s := b.serve(b.store)
		c := b.send(s, toWeb, api.CommandRequest{Type: "doctor"})
		large := slices.Concat([]byte(`"`), bytes.Repeat([]byte("x"), command.MaxResultBytes), []byte(`"`))
		for what, r := range map[string]struct {
			agent *fleet.Agent
			id    string
			ack   api.CommandAck
			kind  fault.Kind
			code  string
		}{
			"an unknown command":   {a, "nothing", api.CommandAck{}, fault.NotFound, "command_not_found"},
			"somebody else's":      {other, c.ID, api.CommandAck{}, fault.Forbidden, "not_a_recipient"},
			"another tenant's":     {&fleet.Agent{ID: a.ID, TenantID: "elsewhere"}, c.ID, api.CommandAck{}, fault.NotFound, "command_not_found"},
			"no JSON":              {a, c.ID, api.CommandAck{Result: []byte("fine")}, fault.Invalid, "invalid"},
			"a large result":       {a, c.ID, api.CommandAck{Result: large}, fault.TooLarge, "result_too_large"},
			"what is no answer":    {a, c.ID, api.CommandAck{Status: api.CommandExpired}, fault.Invalid, "invalid"},
			"a mark as an answer":  {a, c.ID, api.CommandAck{Status: api.CommandDelivered}, fault.Invalid, "invalid"},
			"what nobody heard of": {a, c.ID, api.CommandAck{Status: "fine"}, fault.Invalid, "invalid"},
		} {
			_, err := s.Acknowledge(b.ctx, r.agent, r.id, r.ack)
			if fault.KindOf(err) != r.kind || fault.CodeOf(err) != r.code {
				t.Errorf("%s: %v (kind %d, code %s), want kind %d, code %s", what, err, fault.KindOf(err), fault.CodeOf(err), r.kind, r.code)
			}
		}
		long := strings.Repeat("ä", 3000)
		for i, ack := range []api.CommandAck{
			{Status: api.CommandFailed, Result: []byte(`{"n":1}`), Error: long}, {Status: api.CommandFailed}, {},
		} {
			got, err := s.Acknowledge(b.ctx, a, c.ID, ack)
			must(t, err)
			if got != (api.CommandAckResponse{Acknowledged: true, State: api.CommandFailed}) {
				t.Errorf("answer %d was told %+v", i, got)
			}
		}
		d := b.deliveries(c.ID)[a.ID]
		if string(d.Result) != `{"n":1}` || len(d.Error) > 4096 || len(d.Error) < 4000 || strings.Trim(d.Error, "ä") != "…" {
			t.Errorf("what stands: %s, %d bytes of error", d.Result, len(d.Error))
		}

		late := b.send(s, toAgent("a"), api.CommandRequest{Type: "doctor", ExpiresIn: 1})
		time.Sleep(4200 * time.Millisecond) //nolint:forbidigo // the bubble's clock
		got, err := s.Acknowledge(b.ctx, a, late.ID, api.CommandAck{})
		must(t, err)
		if want := (api.CommandAckResponse{State: api.CommandExpired, Reason: "the answer came 3.2 s after the command had expired"}); got != want {
			t.Errorf("a late answer was told %+v, want %+v", got, want)
		}
	})
}

// A crowd of answers makes few batches, and nobody is told before his own.
func TestAnswersShareBatches(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		const n = 200
		agents := make([]*fleet.Agent, n)
		for i := range agents {
			agents[i] = b.agent(fmt.Sprintf("a%03d", i))
		}
		hold := make(chan struct{})
		store := &flaky{Store: b.store, hold: hold}
		s := b.serve(store)
		c := b.send(s, toAll, api.CommandRequest{Type: "doctor"})
		told := make(chan error, n)
		for i, a := range agents {
			go func() {
				got, err := s.Acknowledge(b.ctx, a, c.ID, api.CommandAck{Result: fmt.Appendf(nil, "%d", i)})
				if err == nil && !got.Acknowledged {
					err = fmt.Errorf("told %+v", got)
				}
				told <- err
			}()
			synctest.Wait()
		}
		if len(told) != 0 {
			t.Errorf("%d were told before the store was", len(told))
		}
		// The first went alone, at once; all others wait for it.
		if sizes := store.sizes(); !slices.Equal(sizes, []int{1}) {
			t.Errorf("batches %v, want one of one", sizes)
		}
		close(hold)
		for range n {
			must(t, <-told)
		}
		if sizes := store.sizes(); !slices.Equal(sizes, []int{1, n - 1}) {
			t.Errorf("batches %v, want 1 and the rest", sizes)
		}
		for i, a := range agents {
			if d := b.deliveries(c.ID)[a.ID]; string(d.Result) != fmt.Sprint(i) {
				t.Fatalf("the answer of %s is %s", a.ID, d.Result)
			}
		}
	})
}

// Large results do not make one batch of any size.
func TestBatchesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		const n = 80
		hold := make(chan struct{})
		store := &flaky{Store: b.store, hold: hold}
		s := b.serve(store)
		result := slices.Concat([]byte(`"`), bytes.Repeat([]byte("x"), command.MaxResultBytes-2), []byte(`"`))
		var wg sync.WaitGroup
		for i := range n {
			a := b.agent(fmt.Sprintf("a%03d", i))
			c := b.send(s, toAgent(a.ID), api.CommandRequest{Type: "doctor"})
			wg.Go(func() {
				if _, err := s.Acknowledge(b.ctx, a, c.ID, api.CommandAck{Result: result}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(hold)
		wg.Wait()
		if sizes := store.sizes(); slices.Max(sizes) > 8<<20/command.MaxResultBytes {
			t.Errorf("batches %v", sizes)
		}
	})
}

// A mark waits a moment, for an answer or for others; what waits in memory is
// not to be sent again.
func TestMarks(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		a, other := b.agent("a"), b.agent("b")
		store := &flaky{Store: b.store}
		s := b.serve(store)
		c := b.send(s, toAll, api.CommandRequest{Type: "doctor"})
		s.Delivered(tenant, c.ID, a.ID)
		s.Delivered(tenant, c.ID, a.ID)
		s.Delivered(tenant, c.ID, "id-nobody")
		synctest.Wait()
		if sizes := store.sizes(); len(sizes) != 0 {
			t.Errorf("marks were written at once: %v", sizes)
		}
		if _, ids, err := s.ForServer(b.ctx, tenant, c.ID); err != nil || !slices.Equal(ids, []string{other.ID}) {
			t.Errorf("to be sent to %v, error %v", ids, err)
		}
		if list, err := s.PendingOf(b.ctx, tenant, a.ID); err != nil || len(list) != 0 {
			t.Errorf("%d are to be sent to who has it, error %v", len(list), err)
		}
		if refs, _, more, err := s.Unsent(b.ctx, 0, command.Ref{}); err != nil || more || !slices.Equal(refs, []command.Ref{{TenantID: tenant, CommandID: c.ID, AgentID: other.ID}}) {
			t.Errorf("unsent %v, more %v, error %v", refs, more, err)
		}
		if refs, _, _, err := s.Unsent(b.ctx, time.Second, command.Ref{}); err != nil || len(refs) != 0 {
			t.Errorf("unsent after a second: %v, error %v", refs, err)
		}
		_, err := s.Acknowledge(b.ctx, a, c.ID, api.CommandAck{})
		must(t, err)
		if sizes := store.sizes(); !slices.Equal(sizes, []int{2}) {
			t.Errorf("batches %v, want one of the answer and its mark", sizes)
		}
		s.Delivered(tenant, c.ID, other.ID)
		time.Sleep(250 * time.Millisecond) //nolint:forbidigo // the bubble's clock
		if d := b.deliveries(c.ID)[other.ID]; d.State != api.CommandDelivered {
			t.Errorf("after a moment it is %s", d.State)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		if sizes := store.sizes(); !slices.Equal(sizes, []int{2, 2}) {
			t.Errorf("batches %v: marks were written again", sizes)
		}
	})
}

// When the store fails, who answers is told to do so again, and marks are kept.
func TestStoreFails(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		a, other := b.agent("a"), b.agent("b")
		store := &flaky{Store: b.store, err: errors.New("disk on fire")}
		s := b.serve(store)
		c := b.send(s, toAll, api.CommandRequest{Type: "doctor"})
		s.Delivered(tenant, c.ID, other.ID)
		_, err := s.Acknowledge(b.ctx, a, c.ID, api.CommandAck{})
		wantFault(t, err, fault.Unavailable, "store_unavailable")
		time.Sleep(10 * time.Second) //nolint:forbidigo // the bubble's clock
		if n := len(store.sizes()); n < 9 || n > 12 {
			t.Errorf("%d tries in 10 s", n)
		}
		store.set(nil, nil)
		time.Sleep(time.Second) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if d := b.deliveries(c.ID)[other.ID]; d.State != api.CommandDelivered {
			t.Errorf("the mark was lost: %s", d.State)
		}
		got, err := s.Acknowledge(b.ctx, a, c.ID, api.CommandAck{})
		if err != nil || !got.Acknowledged {
			t.Errorf("the second try: %+v, %v", got, err)
		}
	})
}

// The end of Run writes what waits, and refuses what comes behind it.
func TestShutdown(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		a, other := b.agent("a"), b.agent("b")
		hold := make(chan struct{})
		store := &flaky{Store: b.store, hold: hold}
		s := b.serve(store)
		c := b.send(s, toAll, api.CommandRequest{Type: "doctor"})
		answers := make(chan error, 2)
		for _, as := range []*fleet.Agent{a, other} {
			go func() {
				_, err := s.Acknowledge(b.ctx, as, c.ID, api.CommandAck{})
				answers <- err
			}()
			synctest.Wait()
		}
		go s.stop()
		synctest.Wait()
		close(hold)
		s.stop()
		for range 2 {
			must(t, <-answers)
		}
		if d := b.deliveries(c.ID); d[a.ID].State != api.CommandAcknowledged || d[other.ID].State != api.CommandAcknowledged {
			t.Errorf("after the end they are %s and %s", d[a.ID].State, d[other.ID].State)
		}
		_, err := s.Acknowledge(b.ctx, a, c.ID, api.CommandAck{})
		wantFault(t, err, fault.Unavailable, "shutting_down")

		// Who answers before Run has begun waits; who gives up is told so.
		again := b.idle()
		ctx, cancel := context.WithTimeout(b.ctx, time.Second)
		defer cancel()
		if _, err := again.Acknowledge(ctx, a, c.ID, api.CommandAck{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without Run: %v", err)
		}
	})
}

// When the store is gone at the end, nobody is left waiting.
func TestShutdownWithoutStore(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		a := b.agent("a")
		gone, hold := errors.New("disk on fire"), make(chan struct{})
		s := b.service(&flaky{Store: b.store, err: gone, hold: hold}, command.Options{})
		c := b.send(&server{Service: s}, toAll, api.CommandRequest{Type: "doctor"})
		ctx, cancel := context.WithCancel(b.ctx)
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		// More than is tried: one batch at work, one because more came, one at the end.
		const n = 15_010
		answers := make(chan error, n)
		for range n {
			go func() {
				_, err := s.Acknowledge(b.ctx, a, c.ID, api.CommandAck{})
				answers <- err
			}()
		}
		synctest.Wait()
		cancel()
		close(hold)
		for range n {
			wantFault(t, <-answers, fault.Unavailable, "store_unavailable")
		}
		if err := <-ended; !errors.Is(err, gone) {
			t.Errorf("Run ended with %v", err)
		}
	})
}

// What ended long ago goes, with its recipients.
func TestRetention(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.agent("a")
		s := b.run(b.service(b.store, command.Options{Keep: time.Hour}))
		c := b.send(s, toAll, api.CommandRequest{Type: "doctor", ExpiresIn: 60})
		time.Sleep(time.Hour + 59*time.Second) //nolint:forbidigo // the bubble's clock
		if got, err := s.Get(b.ctx, tenant, c.ID); err != nil || got.Counts.Expired != 1 {
			t.Fatalf("after an hour: %+v, %v", got, err)
		}
		time.Sleep(3 * time.Second) //nolint:forbidigo // the bubble's clock
		_, err := s.Get(b.ctx, tenant, c.ID)
		wantFault(t, err, fault.NotFound, "command_not_found")
		if d := b.told.of(c.ID); len(d) != 2 || d[1].Kind != api.EventCommandExpired || d[1].Reason != command.NotConnected {
			t.Errorf("events %+v", d)
		}
	})
}
