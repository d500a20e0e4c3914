package metrics

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// ask asks a handler for its metrics, and returns them without those of Go's
// runtime and of the process.
func ask(t *testing.T, h http.Handler, accept string) (kind, ours string) {
	t.Helper()
	w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var b strings.Builder
	theirs := 0
	for line := range strings.Lines(w.Body.String()) {
		if name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "); strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			theirs++
			continue
		}
		b.WriteString(line)
	}
	if theirs < 100 {
		t.Errorf("%d lines of Go's runtime and of the process", theirs)
	}
	return w.Header().Get("Content-Type"), b.String()
}

func TestFormats(t *testing.T) {
	t.Parallel()
	r := New(map[string]string{"agent_id": "a1"})
	c := r.Counters("x_total", "How many.", []string{"reason"}, []string{"begun"})
	r.Counters("y_total", "How many more.", nil)
	r.Count("z_total", "Kept elsewhere.", []string{"by"}, func() []Sample { return Each(map[string]int64{"b": 2, "a": 1}) })
	known := true
	r.Gauge("g", "How much.", nil, func() []Sample {
		if known {
			return One(1.5)
		}
		return nil
	})
	r.Gauge("odd", "It has a label too few.", []string{"a"}, func() []Sample {
		if known {
			return nil
		}
		return One(1)
	})
	c.Inc("a \"reason\"\nand more")
	const want = `# HELP g How much.
# TYPE g gauge
g{agent_id="a1"} 1.5
# HELP x_total How many.
# TYPE x_total counter
x_total{agent_id="a1",reason="a \"reason\"\nand more"} 1
x_total{agent_id="a1",reason="begun"} 0
# HELP y_total How many more.
# TYPE y_total counter
y_total{agent_id="a1"} 0
# HELP z_total Kept elsewhere.
# TYPE z_total counter
z_total{agent_id="a1",by="a"} 1
z_total{agent_id="a1",by="b"} 2
`
	h := r.Handler(slog.New(slog.DiscardHandler))
	kind, got := ask(t, h, "")
	if !strings.HasPrefix(kind, "text/plain; version=0.0.4") || got != want {
		t.Errorf("%s\n%s", kind, got)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	if families, err := parser.TextToMetricFamilies(strings.NewReader(got)); err != nil || len(families) != 4 {
		t.Errorf("%d families, %v", len(families), err)
	}
	kind, got = ask(t, h, "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(kind, "application/openmetrics-text; version=1.0.0") || !strings.HasSuffix(got, "# EOF\n") || !strings.Contains(got, "# TYPE x counter\n") {
		t.Errorf("%s\n%s", kind, got)
	}

	// What is not known, or goes wrong, is missing alone.
	known = false
	var log bytes.Buffer
	_, got = ask(t, r.Handler(slog.New(slog.NewTextHandler(&log, nil))), "")
	if strings.Contains(got, "# TYPE g ") || strings.Contains(got, "odd") || !strings.Contains(got, "y_total{agent_id=\"a1\"} 0\n") {
		t.Errorf("%s", got)
	}
	if !strings.Contains(log.String(), "odd") {
		t.Errorf("the log says nothing of it: %s", log.String())
	}
}

// However many words there are, there are no more series than were allowed.
func TestWordsAreBounded(t *testing.T) {
	t.Parallel()
	const most = 5
	w := NewWords(most)
	var mu sync.Mutex
	seen := map[string]bool{}
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			for i := range 100 {
				word := w.Of(fmt.Sprintf("word-%d", i))
				mu.Lock()
				seen[word] = true
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(seen) != most+1 || !seen[Others] {
		t.Errorf("%d words: %v", len(seen), seen)
	}
	for word := range seen {
		if w.Of(word) != word {
			t.Errorf("%s is another word now", word)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for addr, good := range map[string]bool{
		"127.0.0.1:9464": true, "[::1]:9464": true, "localhost:9464": true, "10.1.2.3:1": true, "192.168.0.1:1": true, "172.16.0.1:1": true,
		"[fd00::1]:1": true, "[fe80::1%eth0]:1": true, "100.64.0.1:1": true, "[::ffff:10.0.0.1]:1": true, "a-name:1": true,
		"": false, "9464": false, ":9464": false, "0.0.0.0:9464": false, "[::]:9464": false, "127.0.0.1": false, "127.0.0.1:": false,
		"8.8.8.8:1": false, "[2001:db8::1]:1": false, "100.128.0.1:1": false, "172.32.0.1:1": false, "[::ffff:8.8.8.8]:1": false,
	} {
		if err := CheckAddr(addr); (err == nil) != good {
			t.Errorf("%q: %v", addr, err)
		}
	}
	if l, err := Listen(t.Context(), "0.0.0.0:0"); err == nil {
		_ = l.Close()
		t.Error("it listens to the whole world")
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	l, err := Listen(t.Context(), "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("an address that is taken: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, New(nil).Handler(log), log) }()
	for _, c := range []struct {
		method, path string
		status       int
	}{{"GET", "/metrics", 200}, {"HEAD", "/metrics", 200}, {"POST", "/metrics", 405}, {"GET", "/", 404}, {"GET", "/debug/pprof/", 404}} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+l.Addr().String()+c.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != c.status || c.status == 200 && c.method == "GET" && !bytes.Contains(body, []byte("go_goroutines ")) {
			t.Errorf("%s %s: %s, %v", c.method, c.path, res.Status, err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("it ended with %v", err)
	}
}
