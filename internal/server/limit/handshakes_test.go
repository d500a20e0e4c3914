package limit_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/internal/server/limit"
)

// patience is how long what must happen may take on a busy machine.
const patience = 20 * time.Second

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"server.test"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// listen returns a listener whose connections are served by answering one byte
// with one byte.
func listen(t *testing.T, o limit.HandshakeOptions) *limit.Handshakes {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is closed below
	if err != nil {
		t.Fatal(err)
	}
	o.Config = &tls.Config{Certificates: []tls.Certificate{certificate(t)}, MinVersion: tls.VersionTLS13}
	l := limit.NewHandshakes(tcp, o, slog.New(slog.DiscardHandler))
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("accept: %v", err)
				}
				return
			}
			serving.Go(func() {
				defer c.Close()
				b := make([]byte, 1)
				if _, err := io.ReadFull(c, b); err == nil {
					_, _ = c.Write(b)
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); serving.Wait() })
	return l
}

func dial(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{Timeout: patience}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// works has an honest peer connect and speak.
func works(t *testing.T, l net.Listener) {
	t.Helper()
	c := tls.Client(dial(t, l), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte{7}); err != nil {
		t.Fatalf("an honest peer: %v", err)
	}
	b := make([]byte, 1)
	if _, err := io.ReadFull(c, b); err != nil || b[0] != 7 {
		t.Fatalf("an honest peer: %v %v", b, err)
	}
}

// ended waits until the server has closed a connection.
func ended(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, c); isTimeout(err) {
		t.Fatalf("the connection is still open: %v", err)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestHandshakeThatTakesTooLongEnds(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]string{
		"nothing":              "",
		"a record's beginning": "\x16\x03\x01\x02\x00\x01",
		"something else":       "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := listen(t, limit.HandshakeOptions{Timeout: 200 * time.Millisecond, Most: 10})
			c := dial(t, l)
			if _, err := io.WriteString(c, says); err != nil {
				t.Fatal(err)
			}
			ended(t, c)
			works(t, l)
			if l.Failed() != 1 || l.Open() != 0 || l.Displaced() != 0 {
				t.Errorf("%d failed, %d open, %d displaced", l.Failed(), l.Open(), l.Displaced())
			}
		})
	}
}

// One that sends a byte now and then is not given longer.
func TestHandshakeThatDripsEnds(t *testing.T) {
	t.Parallel()
	l := listen(t, limit.HandshakeOptions{Timeout: 300 * time.Millisecond, Most: 10})
	c := dial(t, l)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for _, b := range []byte("\x16\x03\x01\x40\x00" + string(make([]byte, 4096))) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			<-tick.C
		}
	}()
	began := time.Now()
	ended(t, c)
	if d := time.Since(began); d > patience/2 {
		t.Errorf("it ended after %s", d)
	}
	works(t, l)
}

// Those who say nothing push each other out, and honest peers get in between.
func TestSilentConnectionsDoNotShutOthersOut(t *testing.T) {
	t.Parallel()
	const most = 8
	l := listen(t, limit.HandshakeOptions{Timeout: time.Hour, Most: most})
	silent := 0
	for range 5 {
		for range 2 * most {
			dial(t, l)
			silent++
		}
		works(t, l)
		if n := l.Open(); n > most {
			t.Fatalf("%d handshakes are under way, and %d may be", n, most)
		}
	}
	if got := l.Displaced(); got < int64(silent-most) || got > int64(silent) {
		t.Errorf("%d were displaced of %d", got, silent)
	}
}

// held is a connection whose other end hears nothing until it is let go.
type held struct {
	net.Conn
	said chan struct{} // closed when the first word was sent
	once sync.Once
	free chan struct{}
}

func (h *held) Write(p []byte) (int, error) {
	n, err := h.Conn.Write(p)
	h.once.Do(func() { close(h.said) })
	return n, err
}

func (h *held) Read(p []byte) (int, error) {
	<-h.free
	return h.Conn.Read(p)
}

// A peer that has begun, and is slow, is not pushed out by those that have not.
func TestSilentConnectionsDoNotPushOutSlowOnes(t *testing.T) {
	t.Parallel()
	const most = 4
	l := listen(t, limit.HandshakeOptions{Timeout: time.Hour, Most: most})
	slow := &held{Conn: dial(t, l), said: make(chan struct{}), free: make(chan struct{})}
	c := tls.Client(slow, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	shaken := make(chan error, 1)
	go func() { shaken <- c.HandshakeContext(t.Context()) }()
	<-slow.said
	works(t, l) // the server has come to the slow one meanwhile
	for range 5 * most {
		dial(t, l)
	}
	works(t, l)
	close(slow.free)
	if err := <-shaken; err != nil {
		t.Errorf("the slow one was pushed out: %v", err)
	}
}

// One that has begun and never ends gives way too, if after a moment, and those
// who come meanwhile wait.
func TestHandshakeThatDoesNotEndGivesWay(t *testing.T) {
	t.Parallel()
	l := listen(t, limit.HandshakeOptions{Timeout: time.Hour, Most: 1})
	slow := &held{Conn: dial(t, l), said: make(chan struct{}), free: make(chan struct{})}
	c := tls.Client(slow, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	shaken := make(chan error, 1)
	go func() { shaken <- c.HandshakeContext(t.Context()) }()
	<-slow.said
	works(t, l)
	if l.Displaced() != 1 {
		t.Errorf("%d were displaced", l.Displaced())
	}
	close(slow.free)
	// Its own part may have come about (TLS 1.3), and is worth nothing.
	err := <-shaken
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	if err == nil || isTimeout(err) {
		t.Errorf("it was given up, and goes on: %v", err)
	}
}

func TestCloseEndsHandshakes(t *testing.T) {
	t.Parallel()
	l := listen(t, limit.HandshakeOptions{Timeout: time.Hour})
	c := dial(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ended(t, c)
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
}
