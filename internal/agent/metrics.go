package agent

import (
	"context"
	"crypto/x509"
	"sync/atomic"
	"time"

	"stella-ops.org/stella/internal/obs/metrics"
)

// meter counts what becomes of an agent's certificate. The zero value has counted
// nothing. It is safe for concurrent use.
type meter struct {
	done, failed ended // renewals
}

// ended is how often something has ended in a way, and when it last did, in Unix
// seconds; 0 for never.
type ended struct{ times, last atomic.Int64 }

func (e *ended) count(at time.Time) {
	e.last.Store(at.Unix())
	e.times.Add(1)
}

// renewal counts one that has ended.
func (m *meter) renewal(at time.Time, err error) {
	if err == nil {
		m.done.count(at)
	} else {
		m.failed.count(at)
	}
}

// register adds an agent's metrics. connected is whether its link stands, leaf the
// certificate that it has.
func (m *meter) register(r *metrics.Registry, connected func() bool, leaf func() (*x509.Certificate, error)) {
	status := []string{"status"}
	r.Gauge(metrics.AgentConnected, "Whether the agent's link to its server stands: 1 or 0.", nil, func() []metrics.Sample {
		if connected() {
			return metrics.One(1)
		}
		return metrics.One(0)
	})
	r.Gauge(metrics.AgentCertificateExpiry, "When the agent's certificate ends, in Unix seconds.", nil, func() []metrics.Sample {
		c, err := leaf()
		if err != nil {
			return nil // the keeper says so in the log
		}
		return metrics.One(float64(c.NotAfter.Unix()))
	})
	r.Count(metrics.AgentCertificateRenewal, "Renewals of the agent's certificate since the agent started, by how they ended.", status, func() []metrics.Sample {
		return metrics.Each(map[string]int64{"success": m.done.times.Load(), "failure": m.failed.times.Load()})
	})
	r.Gauge(metrics.AgentCertificateRenewed, "When a renewal of the agent's certificate last ended in this way, in Unix seconds; 0 for not since the agent started.", status, func() []metrics.Sample {
		return metrics.Each(map[string]int64{"success": m.done.last.Load(), "failure": m.failed.last.Load()})
	})
}

// serveMetrics has the metrics read, where the configuration says. An agent works
// without that.
func (a *Agent) serveMetrics(ctx context.Context, r *metrics.Registry) error {
	addr := a.Config.MetricsAddr
	if addr == "" {
		<-ctx.Done()
		return nil
	}
	l, err := metrics.Listen(ctx, addr)
	if err == nil {
		err = metrics.Serve(ctx, l, r.Handler(a.Log), a.Log)
	}
	if err != nil {
		a.Log.ErrorContext(ctx, "the agent's metrics cannot be read until it is started again", "metrics_addr", addr, "error", err)
		<-ctx.Done()
	}
	return nil
}
