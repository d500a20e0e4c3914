// Package metrics is how the programs tell of themselves in numbers: counters
// and gauges that Prometheus reads, and everything that reads its format. It has
// the names of all of them, and is the one package that knows Prometheus'
// library.
//
// It knows nothing of what is counted. Parts that count declare the small
// interface that they need; internal/server and internal/agent register the
// metrics and hand them over.
package metrics

import (
	"log/slog"
	"maps"
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Registry is all metrics of a program. What is registered twice, or under a
// name that is none, is a mistake in the program and panics. It is safe for
// concurrent use.
type Registry struct {
	all  *prometheus.Registry
	ours prometheus.Registerer
}

// New returns a registry with what Go's runtime and the process tell of
// themselves. All that is registered has the given labels besides its own.
func New(labels map[string]string) *Registry {
	all := prometheus.NewRegistry()
	all.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Registry{all: all, ours: prometheus.WrapRegistererWith(labels, all)}
}

// Counters are a counter for each value of some labels. They are safe for
// concurrent use, and nil ones count nothing.
type Counters struct{ vec *prometheus.CounterVec }

// Inc adds one to the counter of the labels' values.
func (c *Counters) Inc(values ...string) {
	if c != nil {
		c.vec.WithLabelValues(values...).Inc()
	}
}

// Counters registers counters. Those that are begun with, each a value for each
// label, are zero until they are counted, so that the first time is a change
// that can be seen; without labels, the one that there is.
func (r *Registry) Counters(name, help string, labels []string, begin ...[]string) *Counters {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	r.ours.MustRegister(vec)
	if len(labels) == 0 {
		vec.WithLabelValues()
	}
	for _, values := range begin {
		vec.WithLabelValues(values...)
	}
	return &Counters{vec}
}

// Sample is one value, and those of its labels.
type Sample struct {
	Labels []string
	Value  float64
}

// One is a value that has no labels.
func One(v float64) []Sample { return []Sample{{Value: v}} }

// Count registers a counter that somebody else keeps. read is called for each
// scrape, also by several at once.
func (r *Registry) Count(name, help string, labels []string, read func() []Sample) {
	r.ours.MustRegister(&reader{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue, read})
}

// Gauge registers a gauge, which read reads. read is called for each scrape, also
// by several at once; it returns nothing when the value is not known.
func (r *Registry) Gauge(name, help string, labels []string, read func() []Sample) {
	r.ours.MustRegister(&reader{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue, read})
}

// reader is a metric that is read when it is asked for.
type reader struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func() []Sample
}

var _ prometheus.Collector = (*reader)(nil)

// Describe implements prometheus.Collector.
func (m *reader) Describe(to chan<- *prometheus.Desc) { to <- m.desc }

// Collect implements prometheus.Collector.
func (m *reader) Collect(to chan<- prometheus.Metric) {
	for _, s := range m.read() {
		v, err := prometheus.NewConstMetric(m.desc, m.kind, s.Value, s.Labels...)
		if err != nil {
			v = prometheus.NewInvalidMetric(m.desc, err)
		}
		to <- v
	}
}

// Handler answers with all metrics in Prometheus' text format, or in OpenMetrics
// when that is asked for. What cannot be read is left out, and logged.
func (r *Registry) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(r.all, promhttp.HandlerOpts{
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelError),
		ErrorHandling:     promhttp.ContinueOnError,
		EnableOpenMetrics: true,
		// Not CoalesceGather: who takes its answer slowly would have all others
		// be told what was true when it asked.
	})
}

// Each makes a label's values of a map of counts, in the order of its keys.
func Each[N ~int | ~int64](counts map[string]N) []Sample {
	out := make([]Sample, 0, len(counts))
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, Sample{Labels: []string{k}, Value: float64(counts[k])})
	}
	return out
}
