package load

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

// errUnseen says why a server's process cannot be measured from here.
var errUnseen = errors.New("the server's process is not measured")

// Usage is what a process used while something was measured.
type Usage struct {
	// RSSBefore, RSSAfter and RSSPeak are its resident memory in bytes.
	RSSBefore int64 `json:"rssBeforeBytes"`
	RSSAfter  int64 `json:"rssAfterBytes"`
	RSSPeak   int64 `json:"rssPeakBytes"`
	// CPUSeconds is its processor time, and Cores how many cores that kept busy.
	CPUSeconds float64 `json:"cpuSeconds"`
	Cores      float64 `json:"cores"`
	Threads    int     `json:"threads"`
	Files      int     `json:"files"`
}

// sample is a process at one moment.
type sample struct {
	at      time.Time
	rss     int64
	cpu     time.Duration
	threads int
	files   int
}

// meter measures a process from its start to stop. A nil one measures nothing.
type meter struct {
	p        *process
	first    sample
	stopPeak func()

	mu   sync.Mutex
	peak int64
}

// startMeter begins to measure; p may be nil.
func startMeter(p *process) (*meter, error) {
	if p == nil {
		return nil, nil
	}
	s, err := p.read()
	if err != nil {
		return nil, err
	}
	m := &meter{p: p, first: s, peak: s.rss}
	m.stopPeak = sync.OnceFunc(every(250*time.Millisecond, func() {
		if s, err := p.read(); err == nil { // one that has ended is found out by stop
			m.mu.Lock()
			m.peak = max(m.peak, s.rss)
			m.mu.Unlock()
		}
	}))
	return m, nil
}

// stop returns what was used; nil when nothing was measured.
func (m *meter) stop() (*Usage, error) {
	if m == nil {
		return nil, nil
	}
	m.stopPeak()
	s, err := m.p.read()
	if err != nil {
		return nil, err
	}
	took := s.at.Sub(m.first.at).Seconds()
	u := &Usage{RSSBefore: m.first.rss, RSSAfter: s.rss, RSSPeak: max(m.peak, s.rss), CPUSeconds: (s.cpu - m.first.cpu).Seconds(), Threads: s.threads, Files: s.files}
	if took > 0 {
		u.Cores = u.CPUSeconds / took
	}
	return u, nil
}

// meters measure the server and this process side by side.
type meters struct{ server, self *meter }

func (r *run) startMeters() (*meters, error) {
	server, err := startMeter(r.server)
	if err != nil {
		return nil, err
	}
	self, err := startMeter(selfProcess())
	return &meters{server, self}, err
}

// drop ends what stop would have ended.
func (m *meters) drop() {
	for _, m := range []*meter{m.server, m.self} {
		if m != nil {
			m.stopPeak()
		}
	}
}

// stop returns what the server (nil when it is not measured) and this process
// used.
func (m *meters) stop() (server, self *Usage, err error) {
	server, err = m.server.stop()
	self, selfErr := m.self.stop()
	return server, self, errors.Join(err, selfErr)
}

// Machine describes where figures come from.
func Machine() string {
	cpu, mem := "unknown processor", ""
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == "model name" {
				cpu = strings.TrimSpace(v)
				break
			}
		}
	}
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kb int64
		if _, err := fmt.Sscanf(string(data), "MemTotal: %d kB", &kb); err == nil {
			mem = fmt.Sprintf(", %.0f GiB memory", float64(kb)/(1<<20))
		}
	}
	kernel := ""
	if data, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = ", kernel " + strings.TrimSpace(string(data))
	}
	return fmt.Sprintf("%s, %d cores%s, %s/%s%s, %s", cpu, runtime.NumCPU(), mem, runtime.GOOS, runtime.GOARCH, kernel, runtime.Version())
}
