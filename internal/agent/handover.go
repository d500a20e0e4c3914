package agent

import (
	"context"
	"errors"
	"time"

	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/agent/link"
)

// handover makes the next connection while the present one stands, when the
// certificate was renewed: no connection lives longer than the certificate that
// it was opened with, and the agent is not to be away for a moment.
//
// What the agent holds is said by the next connection's hello. A task that came
// over the present one after that would be unknown to the server's side of the
// next, which would take it for lost; so none is taken from then on. The server
// hands it out again over the next connection.
type handover struct {
	connector *connector
	parent    context.Context //nolint:containedctx // the next connection outlives the present one's context
	carrier   link.Carrier

	done    chan struct{} // closed when the dial has ended; nil without one
	next    *standing
	failure error
	tries   int
}

// errMissed ends a connection over which a task came that was left for the next
// one, which does not stand.
var errMissed = errors.New("the link could not be handed over, and is made anew")

// begin dials, unless it does already.
func (h *handover) begin() {
	if h.done != nil {
		return
	}
	done := make(chan struct{})
	h.done = done
	h.connector.handOver(true)
	go func() {
		defer close(done)
		h.next, h.failure = h.connector.dial(h.parent, h.carrier)
	}()
}

// errStands ends what is being sent over the present connection when the next
// one stands, over which it is sent again.
var errStands = errors.New("the next link stands")

// send sends a frame over the present connection, unless the next one stands.
// Much may wait to be sent, and the present certificate has little time left
// from the first use of the next one on.
func (h *handover) send(over link.Conn) func(*stellav1.ConnectRequest) error {
	return func(f *stellav1.ConnectRequest) error {
		h.connector.pulse.beat(0) // much may wait, on a slow line
		select {
		case <-h.connector.anew:
			h.begin()
		case <-h.done:
			if h.next != nil {
				return errStands
			}
		default:
		}
		return over.Send(f)
	}
}

// over takes the end of the dial; it reports whether the present connection is
// to end, and why. A dial that failed is made again a little later.
func (h *handover) over(ctx context.Context) (bool, error) {
	if h.next != nil {
		return true, nil
	}
	h.done = nil
	if h.connector.handOver(false) {
		return true, errMissed
	}
	h.tries++
	wait := backoff(time.Second, h.tries, 0)
	h.connector.log.WarnContext(ctx, "the link was not made anew with the new certificate yet; the present one goes on",
		"error", h.connector.explain(h.failure), "retry", wait.Round(time.Millisecond).String())
	time.AfterFunc(wait, h.connector.renewed)
	return false, nil
}

// settle waits for a dial that is under way, and returns the next connection, if
// one stands. The server may have ended the present one because of it.
func (h *handover) settle() *standing {
	if h.done == nil {
		return nil
	}
	<-h.done
	if h.parent.Err() != nil && h.next != nil {
		h.next.close()
		return nil
	}
	return h.next
}

// handOver says whether tasks are left for the next connection from now on, and
// reports whether one was.
func (c *connector) handOver(handing bool) (missed bool) {
	c.taking.Lock()
	defer c.taking.Unlock()
	missed = c.missed
	c.handing, c.missed = handing, false
	return missed
}

// take takes a task that came over the present connection.
func (c *connector) take(ctx context.Context, t *stellav1.Task) error {
	c.taking.Lock()
	defer c.taking.Unlock()
	if c.handing {
		c.missed = true
		return nil
	}
	return c.run.take(ctx, t.GetTaskJson(), t.GetSignature())
}
