package limit

import (
	"container/list"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// HandshakeOptions says how TLS connections come about.
type HandshakeOptions struct {
	// Config is the server's side of TLS.
	Config *tls.Config
	// Timeout is how long a handshake may take.
	Timeout time.Duration
	// Most is how many connections may be in their handshake at the same time.
	Most int
}

// Handshakes is a listener whose connections have finished their TLS handshake
// when Accept returns them. Each handshake ends within its time, and there are
// never more of them under way than allowed: when one more comes, the oldest of
// whose peers nothing has come is closed, or else the oldest whose peer takes
// more than a moment for its last word.
//
// An honest peer says its first word at once, and then waits for the server, not
// the server for it; so ten thousand connections that say nothing push each
// other out and keep nobody from connecting. To turn away the newest instead
// would shut everybody out. Only when the server itself cannot keep up with
// honest peers do the next ones wait until it can.
//
// It is safe for concurrent use.
type Handshakes struct {
	tcp   net.Listener
	opts  HandshakeOptions
	log   *slog.Logger
	ready chan net.Conn
	left  chan struct{} // has a value when a handshake has ended
	ended chan struct{} // closed when nothing is accepted any more
	err   error         // why; set before ended is closed

	mu     sync.Mutex
	closed bool
	open   list.List // of *opening, the oldest first

	displaced, failed atomic.Int64
}

var _ net.Listener = (*Handshakes)(nil)

// NewHandshakes begins to accept connections of a TCP listener, which is its
// own from then on; Close ends that.
func NewHandshakes(tcp net.Listener, o HandshakeOptions, log *slog.Logger) *Handshakes {
	h := &Handshakes{tcp: tcp, opts: o, log: log, ready: make(chan net.Conn), left: make(chan struct{}, 1), ended: make(chan struct{})}
	go h.acceptAll()
	return h
}

// Accept implements net.Listener. It blocks until a connection has finished its
// handshake, or the listener is closed.
func (h *Handshakes) Accept() (net.Conn, error) {
	select {
	case c := <-h.ready:
		return c, nil
	case <-h.ended:
		return nil, h.err
	}
}

// Addr implements net.Listener.
func (h *Handshakes) Addr() net.Addr { return h.tcp.Addr() }

// Close implements net.Listener: it ends handshakes that are under way too. It
// is idempotent.
func (h *Handshakes) Close() error {
	err := h.tcp.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for e := h.open.Front(); e != nil; e = e.Next() {
		_ = openingOf(e).Conn.Close()
	}
	return err
}

// Open is how many handshakes are under way.
func (h *Handshakes) Open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open.Len()
}

// Displaced is how many connections were closed to make room for others.
func (h *Handshakes) Displaced() int64 { return h.displaced.Load() }

// Failed is how many handshakes failed: not in time, with a certificate that is
// not of this authority, or by a peer that speaks something else or left.
func (h *Handshakes) Failed() int64 { return h.failed.Load() }

func (h *Handshakes) acceptAll() {
	for pause := time.Duration(0); ; {
		conn, err := h.tcp.Accept()
		if err == nil {
			pause = 0
			if o := h.enter(conn); o != nil {
				go h.shake(o)
			}
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			h.err = err
			close(h.ended)
			return
		}
		// Most likely no file is left: one that says nothing is given up for
		// the next.
		h.mu.Lock()
		h.displace()
		h.mu.Unlock()
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		h.log.Error("no connection can be accepted: raise the limit of open files, or look at who holds them", "error", err, "again_in", pause)
		time.Sleep(pause)
	}
}

// lastWord is how long an honest peer takes to answer the server's part of a
// handshake, on a bad line.
const lastWord = time.Second

// opening is a connection in its handshake. It knows whether the server waits
// for the peer, and since when it has answered it.
type opening struct {
	net.Conn
	place    *list.Element
	waiting  atomic.Bool
	answered atomic.Int64 // in Unix nanoseconds; 0 before that
}

// Write implements net.Conn.
func (o *opening) Write(p []byte) (int, error) {
	o.answered.CompareAndSwap(0, time.Now().UnixNano())
	return o.Conn.Write(p)
}

// Read implements net.Conn.
func (o *opening) Read(p []byte) (int, error) {
	o.waiting.Store(true)
	n, err := o.Conn.Read(p)
	o.waiting.Store(false)
	return n, err
}

func openingOf(e *list.Element) *opening {
	o, _ := e.Value.(*opening) // there is nothing else in the list
	return o
}

// enter makes room for a connection, and waits while all the others are at work;
// those that come meanwhile wait with the kernel. It returns nil when the
// listener is closed, and then the connection is too.
func (h *Handshakes) enter(conn net.Conn) *opening {
	for {
		if o, closed := h.tryEnter(conn); o != nil || closed {
			return o
		}
		select {
		case <-h.left:
		case <-time.After(5 * time.Millisecond): // somebody may have begun to wait for a peer
		}
	}
}

func (h *Handshakes) tryEnter(conn net.Conn) (o *opening, closed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		_ = conn.Close()
		return nil, true
	}
	if h.opts.Most > 0 && h.open.Len() >= h.opts.Most && !h.displace() {
		return nil, false
	}
	o = &opening{Conn: conn}
	o.place = h.open.PushBack(o)
	return o, false
}

// displace closes a connection that keeps the server waiting, if there is one;
// h.mu is held.
func (h *Handshakes) displace() bool {
	var late *opening
	before := time.Now().Add(-lastWord).UnixNano()
	for e := h.open.Front(); e != nil; e = e.Next() {
		o := openingOf(e)
		if !o.waiting.Load() {
			continue
		}
		answered := o.answered.Load()
		if answered == 0 {
			late = o
			break
		}
		if late == nil && answered < before {
			late = o
		}
	}
	if late == nil {
		return false
	}
	h.leave(late)
	_ = late.Conn.Close()
	h.displaced.Add(1)
	return true
}

// leave takes a connection out, once; h.mu is held.
func (h *Handshakes) leave(o *opening) {
	if o.place != nil {
		h.open.Remove(o.place)
		o.place = nil
		select {
		case h.left <- struct{}{}:
		default:
		}
	}
}

// shake has the handshake done, on a goroutine whose stack goes with it: the one
// that serves the connection afterwards needs less.
func (h *Handshakes) shake(o *opening) {
	conn := tls.Server(o, h.opts.Config)
	_ = o.SetDeadline(time.Now().Add(h.opts.Timeout)) // it is closed already otherwise
	err := conn.Handshake()
	h.mu.Lock()
	h.leave(o)
	closed := h.closed
	h.mu.Unlock()
	if err != nil || closed {
		h.failed.Add(1)
		h.log.Debug("a TLS handshake did not come about", "remote", o.RemoteAddr().String(), "error", err)
		_ = o.Conn.Close()
		return
	}
	_ = o.SetDeadline(time.Time{}) // it is closed already otherwise
	select {
	case h.ready <- conn:
	case <-h.ended:
		_ = conn.Close()
	}
}
