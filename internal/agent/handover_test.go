package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/agent/link"
)

// lookingCarrier does not get through, and notes whether tasks were taken over
// the present link still when the hello was made.
type lookingCarrier struct {
	c       *connector
	handing bool
}

func (*lookingCarrier) Name() string { return "looking" }

// Dial implements link.Carrier.
func (l *lookingCarrier) Dial(context.Context, *stellav1.Hello) (link.Conn, error) {
	l.c.taking.Lock()
	defer l.c.taking.Unlock()
	l.handing = l.c.handing
	return nil, errors.New("nothing gets through")
}

// From before the next link's hello on, a task that comes over the present one
// is left for the next: the hello would not name it, and the server would take
// it for lost. When the next one does not come about, the present one ends if
// there was such a task, and goes on otherwise.
func TestTasksAreLeftForTheNextLink(t *testing.T) {
	t.Parallel()
	for _, comes := range []bool{true, false} {
		log := slog.New(slog.DiscardHandler)
		a := &Agent{Config: Config{Data: t.TempDir()}, Log: log, capabilities: &capabilities{log: log}, boot: &boot{}}
		c := &connector{agent: a, id: &identity{}, run: newRunner(nil, nil, a.Config.Data, 1, log), log: log, anew: make(chan struct{}, 1)}
		way := &lookingCarrier{c: c}
		h := &handover{connector: c, parent: t.Context(), carrier: way}
		h.begin()
		<-h.done
		if !way.handing {
			t.Error("the hello was made while tasks were taken")
		}
		if comes {
			// Whoever takes it would look at its signature, for which there is nothing here.
			if err := c.take(t.Context(), &stellav1.Task{TaskJson: []byte(`{"id":"t"}`)}); err != nil || len(c.run.held()) != 0 {
				t.Errorf("the task was taken: %v, %v", err, c.run.held())
			}
		}
		over, err := h.over(t.Context())
		if over != comes || errors.Is(err, errMissed) != comes {
			t.Errorf("a task came: %t; the present link is over: %t, %v", comes, over, err)
		}
		if c.handing || c.missed {
			t.Error("the present link takes no tasks any more")
		}
	}
}

// countingConn counts what is sent over it.
type countingConn struct {
	link.Conn
	sent int
}

func (c *countingConn) Send(*stellav1.ConnectRequest) error {
	c.sent++
	return nil
}

// However much waits to be sent over the present link, the next one is dialled
// in between, and nothing more goes over the present one when that stands; it
// goes on when the dial came to nothing.
func TestSendingIsHandedOver(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	a := &Agent{Config: Config{Data: t.TempDir()}, Log: log, capabilities: &capabilities{log: log}}
	c := &connector{agent: a, id: &identity{}, run: newRunner(nil, nil, a.Config.Data, 1, log), log: log, anew: make(chan struct{}, 1)}
	h := &handover{connector: c, parent: t.Context(), carrier: &lookingCarrier{c: c}}
	present := &countingConn{}
	send := h.send(present)
	if err := send(nil); err != nil || present.sent != 1 || h.done != nil {
		t.Errorf("without a renewal: %v, %d sent, dialling %t", err, present.sent, h.done != nil)
	}
	c.renewed()
	if err := send(nil); err != nil || present.sent != 2 || h.done == nil {
		t.Fatalf("renewed: %v, %d sent, dialling %t", err, present.sent, h.done != nil)
	}
	<-h.done
	if err := send(nil); err != nil || present.sent != 3 {
		t.Errorf("the dial came to nothing: %v, %d sent", err, present.sent)
	}
	h.next = &standing{}
	if err := send(nil); !errors.Is(err, errStands) || present.sent != 3 {
		t.Errorf("the next link stands: %v, %d sent", err, present.sent)
	}
}
