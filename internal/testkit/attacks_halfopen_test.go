package testkit_test

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/obs/metrics"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// halfOpen is how many connections an attacker opens and does not finish.
const halfOpen = 10_000

// helloRecord is a whole first word of a TLS client.
func helloRecord(t *testing.T) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go func() {
		_ = tls.Client(theirs, &tls.Config{ServerName: "localhost", MinVersion: tls.VersionTLS13}).HandshakeContext(t.Context()) // it never gets an answer
	}()
	header := make([]byte, 5)
	if _, err := io.ReadFull(ours, header); err != nil {
		t.Fatal(err)
	}
	record := make([]byte, int(binary.BigEndian.Uint16(header[3:])))
	if _, err := io.ReadFull(ours, record); err != nil {
		t.Fatal(err)
	}
	return append(header, record...)
}

// openHalf opens n connections: one in so many begins a handshake, waits for the
// server's part, and is silent from then on; of the others, each second one says
// nothing, and each second one less than a word. They stay open until they are
// closed by what it returns, or the test ends. A server that closes one is no
// failure.
func openHalf(t *testing.T, to string, n, oneIn int) (closeAll func()) {
	t.Helper()
	hello := helloRecord(t)
	var mu sync.Mutex
	var open []net.Conn
	closeAll = func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			_ = c.Close()
		}
		open = nil
	}
	t.Cleanup(closeAll)
	const dialers = 20
	var wg sync.WaitGroup
	for i := range dialers {
		d := &net.Dialer{Timeout: soon}
		if runtime.GOOS == "linux" {
			// All of 127.0.0.0/8 is this machine, and each address has ports of
			// its own: none are missing for others' connections.
			d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i))}
		}
		wg.Go(func() {
			for k := range n / dialers {
				c, err := d.DialContext(t.Context(), "tcp", to)
				if err != nil {
					t.Errorf("connection %d of %d: %v", k, i, err)
					return
				}
				mu.Lock()
				open = append(open, c)
				mu.Unlock()
				_ = c.SetDeadline(time.Now().Add(soon))
				switch {
				case k%oneIn == 0:
					if _, err := c.Write(hello); err == nil {
						_, _ = io.ReadFull(c, make([]byte, 5)) // the server's part has begun
					}
				case k%4 == 1:
					_, _ = c.Write(hello[:6])
				}
			}
		})
	}
	wg.Wait()
	return closeAll
}

// Ten thousand connections stand half open, and are nothing to anybody: agents
// beat, new ones come, people get answers; and when they are gone, nothing of them
// is left.
func TestAttackHalfOpenConnections(t *testing.T) { //nolint:paralleltest // it takes most of the files that a process may open
	needFiles(t, halfOpen+2000)
	// A process of its own, so that what it holds can be told from what the
	// attacker holds.
	cfg := testkit.ServerConfig(t.TempDir())
	cfg.Listen, cfg.MetricsAddr = testkit.FreePort(t), testkit.FreePort(t)
	cfg.MaxHandshakes, cfg.HandshakeTimeout, cfg.HeartbeatInterval = halfOpen+1000, time.Hour, 500*time.Millisecond
	spawn(t, "server", role{Server: &cfg})
	cp := testkit.Attach(t, cfg.Data, cfg.Listen)
	cp.StartAgent("steady")
	well(t, cp)

	// What Go has given out beside what the process takes, which the race detector
	// makes many times as much.
	type held struct{ goroutines, files, resident, inUse, handshakes float64 }
	look := func() held {
		f := scrape(t, cfg.MetricsAddr)
		return held{
			f.value("go_goroutines"), f.value("process_open_fds"), f.value("process_resident_memory_bytes"),
			f.value("go_memstats_heap_inuse_bytes") + f.value("go_memstats_stack_inuse_bytes"), f.value(metrics.Handshakes),
		}
	}
	before := look()
	began := time.Now()
	closeAll := openHalf(t, cp.Listen, halfOpen, 2)
	testkit.Eventually(t, soon, "all to be in their handshake", func() (bool, string) {
		now := look()
		return now.handshakes == halfOpen, fmt.Sprintf("%+v", now)
	})
	during := look()
	t.Logf("%d half-open connections in %s: %.1f KiB of memory, of which %.1f KiB are in use, %.2f goroutines and %.2f files each", halfOpen, time.Since(began).Round(time.Millisecond),
		(during.resident-before.resident)/halfOpen/1024, (during.inUse-before.inUse)/halfOpen/1024, (during.goroutines-before.goroutines)/halfOpen, (during.files-before.files)/halfOpen)
	if each := (during.inUse - before.inUse) / halfOpen; each > 64<<10 {
		t.Errorf("each holds %.1f KiB of memory", each/1024)
	}
	if each := (during.files - before.files) / halfOpen; each < 0.99 {
		t.Errorf("each takes %.2f files: they do not stand", each)
	}

	slowest := time.Duration(0)
	for range 10 {
		at := time.Now()
		c, err := client.New(client.Options{URL: cp.URL, Token: cp.AdminToken, CACert: cp.CA}) // a new connection
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Agent(t.Context(), "steady"); err != nil {
			t.Fatalf("an operator gets %v", err)
		}
		c.Close()
		slowest = max(slowest, time.Since(at))
	}
	t.Logf("the slowest of ten operators had an answer after %s", slowest.Round(time.Millisecond))
	if slowest > 2*time.Second {
		t.Errorf("an operator waited for %s", slowest)
	}
	last := time.Time{}
	for range 4 {
		at := time.Now()
		testkit.Eventually(t, soon, "the next heartbeat", func() (bool, string) {
			v, err := cp.Client.Agent(t.Context(), "steady")
			if err != nil {
				return false, err.Error()
			}
			ok := v.LastHeartbeat.After(last) && v.Status == api.StatusOnline && v.Transport != ""
			if ok {
				last = *v.LastHeartbeat
			}
			return ok, fmt.Sprint(v.Status, v.Transport, v.LastHeartbeat)
		})
		if d := time.Since(at); d > 5*time.Second {
			t.Errorf("heartbeats come every half second, and one was seen after %s", d)
		}
	}
	cp.StartAgent("new")
	well(t, cp)
	if now := look(); now.handshakes < halfOpen {
		t.Errorf("%v of %d connections stand no more", halfOpen-now.handshakes, halfOpen)
	}

	closeAll()
	testkit.Eventually(t, soon, "the server to have let go of all", func() (bool, string) {
		now := look()
		return now.handshakes == 0 && now.goroutines < before.goroutines+100 && now.files < before.files+50, fmt.Sprintf("%+v; before %+v", now, before)
	})
}

// Where the server bears far fewer, they push each other out, and nobody else:
// agents connect, come back and work, while the connections come and when they are
// there.
func TestAttackHalfOpenConnectionsPushEachOtherOut(t *testing.T) {
	t.Parallel()
	needFiles(t, halfOpen+4000)
	const most = 200
	cp := measuredServer(t, func(c *server.Config) { c.MaxHandshakes, c.HandshakeTimeout = most, time.Hour })
	before := cp.StartAgent("before")
	attacked := make(chan struct{})
	go func() {
		defer close(attacked)
		// Those to whom the server has spoken have a second for their answer, and
		// so few of them give way at a time.
		openHalf(t, cp.Listen, halfOpen, 20)
	}()
	defer func() { <-attacked }() // however this ends
	during := cp.StartAgent("during")
	<-attacked
	cp.StartAgent("after")
	for name, a := range map[string]*testkit.Agent{"before": before, "during": during} {
		if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
		a.Start("")
		seen := time.Now()
		testkit.Eventually(t, soon, name+" to be back and to beat", func() (bool, string) {
			v, err := cp.Client.Agent(t.Context(), name)
			if err != nil {
				return false, err.Error()
			}
			return v.Status == api.StatusOnline && v.Transport != "" && v.LastHeartbeat.After(seen), fmt.Sprint(v.Status, v.Transport, v.LastHeartbeat)
		})
	}
	well(t, cp)
	f := scrape(t, cp.Config().MetricsAddr)
	if displaced, open := f.value(metrics.HandshakesDisplaced), f.value(metrics.Handshakes); displaced < halfOpen-most || open > most {
		t.Errorf("%v were displaced, and %v are open", displaced, open)
	}
}
