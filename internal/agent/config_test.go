package agent

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
	good := Config{Data: "d", Transport: "auto", MaxConcurrentTasks: 5, ReconnectBackoff: time.Second, PollInterval: time.Second}
	for _, c := range []struct {
		name   string
		change func(*Config)
		says   string // empty: it is good
	}{
		{"as it is", func(*Config) {}, ""},
		{"limits", func(c *Config) { c.CPUPercent, c.MemoryPercent, c.DiskPercent = 100, 1, 0 }, ""},
		{"no data folder", func(c *Config) { c.Data = "" }, "data"},
		{"unknown transport", func(c *Config) { c.Transport = "pigeon" }, "transport"},
		{"no tasks", func(c *Config) { c.MaxConcurrentTasks = 0 }, "max-concurrent-tasks"},
		{"too many tasks", func(c *Config) { c.MaxConcurrentTasks = 1001 }, "max-concurrent-tasks"},
		{"no wait", func(c *Config) { c.ReconnectBackoff = 0 }, "reconnect-backoff"},
		{"no pause", func(c *Config) { c.PollInterval = 0 }, "poll-interval"},
		{"more than all", func(c *Config) { c.DiskPercent = 101 }, "101"},
		{"metrics for this machine", func(c *Config) { c.MetricsAddr = "127.0.0.1:9464" }, ""},
		{"metrics for the world", func(c *Config) { c.MetricsAddr = "0.0.0.0:9464" }, "metrics-addr"},
		{"less than nothing", func(c *Config) { c.CPUPercent = -1 }, "-1"},
	} {
		cfg := good
		c.change(&cfg)
		err := cfg.validate()
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
