package server

import (
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/internal/config/configtest"
)

func TestConfigIsComplete(t *testing.T) {
	t.Parallel()
	configtest.Complete(t, (*Config).validate)
}

func TestConfigChecks(t *testing.T) {
	t.Parallel()
	good := Config{
		Data: "d", Listen: ":8443", HeartbeatInterval: 30 * time.Second, StaleAfter: 90 * time.Second, DeadAfter: 5 * time.Minute,
		TaskLease: 2 * time.Minute, AgentCertLife: 24 * time.Hour,
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		says   string // empty: it is good
	}{
		{"as it is", func(*Config) {}, ""},
		{"an address of this machine", func(c *Config) { c.Listen = "[::1]:0" }, ""},
		{"advertised", func(c *Config) { c.Advertise = "https://stella.example.com" }, ""},
		{"no data folder", func(c *Config) { c.Data = "" }, "data"},
		{"no port", func(c *Config) { c.Listen = "localhost" }, "listen"},
		{"advertised without TLS", func(c *Config) { c.Advertise = "http://stella.example.com" }, "advertise"},
		{"advertised without scheme", func(c *Config) { c.Advertise = "stella.example.com:8443" }, "advertise"},
		{"advertised without host", func(c *Config) { c.Advertise = "https://" }, "advertise"},
		{"stale between two heartbeats", func(c *Config) { c.StaleAfter = 30 * time.Second }, "stale-after"},
		{"no heartbeats", func(c *Config) { c.HeartbeatInterval = 0 }, "heartbeat-interval"},
		{"lease shorter than a heartbeat", func(c *Config) { c.TaskLease = 30 * time.Second }, "task-lease"},
		{"artifacts of half a gigabyte", func(c *Config) { c.MaxArtifactSize = "512MiB" }, ""},
		{"artifacts of some bytes", func(c *Config) { c.MaxArtifactSize = "1000" }, ""},
		{"artifacts of no size", func(c *Config) { c.MaxArtifactSize = "0GiB" }, "max-artifact-size"},
		{"artifacts without end", func(c *Config) { c.MaxArtifactSize = "9999999999TiB" }, "max-artifact-size"},
		{"artifacts of a lot", func(c *Config) { c.MaxArtifactSize = "a lot" }, "max-artifact-size"},
		{"artifacts gone before they come", func(c *Config) { c.ArtifactGrace = -time.Second }, "artifact-grace"},
		{"an audit log of a year", func(c *Config) { c.AuditRetention = 365 * 24 * time.Hour }, ""},
		{"an audit log of an hour", func(c *Config) { c.AuditRetention = time.Hour }, "audit-retention"},
		{"an audit log of less than nothing", func(c *Config) { c.AuditRetention = -time.Hour }, "audit-retention"},
		{"less than no refusals", func(c *Config) { c.RefusedPerMinute = -1 }, "refused-per-minute"},
		{"less than no burst of refusals", func(c *Config) { c.RefusedBurst = -1 }, "refused-burst"},
		{"less than no strangers", func(c *Config) { c.AnonymousRate = -1 }, "anonymous-rate"},
		{"less than no burst of strangers", func(c *Config) { c.AnonymousBurst = -1 }, "anonymous-burst"},
		{"less than no handshakes", func(c *Config) { c.MaxHandshakes = -1 }, "max-handshakes"},
		{"metrics for this machine", func(c *Config) { c.MetricsAddr = "127.0.0.1:9463" }, ""},
		{"metrics for the world", func(c *Config) { c.MetricsAddr = ":9463" }, "metrics-addr"},
		{"certificates of a moment", func(c *Config) { c.AgentCertLife = time.Second }, "agent-cert-life"},
	} {
		cfg := good
		c.change(&cfg)
		err := cfg.validate()
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
