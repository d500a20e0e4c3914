package postgres_test

import (
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/testkit/peers"
)

// TestAuditIsCutOff ends the connections of a server in the midst of its
// batches, again and again, as a database does that goes away and comes back.
// Every line is in the chain, once.
func TestAuditIsCutOff(t *testing.T) {
	t.Parallel()
	d, ok := fresh(t).(database)
	if !ok {
		t.Fatal("no database")
	}
	s, err := d.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	box, err := seal.NewBox(make([]byte, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	key, err := access.LoadKey(t.Context(), s, box)
	if err != nil {
		t.Fatal(err)
	}
	lost := &counter{}
	log := access.NewLog(s, key, access.LogOptions{}, time.Now, slog.New(slog.NewTextHandler(lost, nil)))

	const writers, each, every = 16, 200, 80
	var writing sync.WaitGroup
	var written atomic.Int64
	cut := make(chan struct{}, writers*each/every)
	for range writers {
		writing.Go(func() {
			for range each {
				log.Audit(t.Context(), access.Event{Actor: "system", Action: "x", Outcome: "ok"})
				if written.Add(1)%every == 0 {
					cut <- struct{}{}
				}
			}
		})
	}
	admin := database(peers.Postgres(t))
	name := string(d)[strings.LastIndex(string(d), "/")+1:]
	name, _, _ = strings.Cut(name, "?")
	for range writers * each / every {
		<-cut
		if err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '`+name+`'`); err != nil {
			t.Fatal(err)
		}
	}
	writing.Wait()
	v, err := log.Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{})
	for tries := 0; err != nil && tries < 30; tries++ { // connections that were cut, and nobody has used since
		v, err = log.Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{})
	}
	if err != nil {
		t.Fatal(err)
	}
	if v.Problem != nil || v.From != 1 || v.Lines != writers*each || lost.lines.Load() != 0 {
		t.Errorf("%+v (%+v), and %d lines are in the server's log", v, v.Problem, lost.lines.Load())
	}
}

// counter counts lines.
type counter struct{ lines atomic.Int64 }

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	c.lines.Add(int64(strings.Count(string(p), "\n")))
	return len(p), nil
}
