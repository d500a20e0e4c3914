package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"stella-ops.org/stella/internal/config"
	"stella-ops.org/stella/internal/config/configtest"
)

func TestConfigIsComplete(t *testing.T) {
	t.Parallel()
	configtest.Complete(t, (*Config).validate)
}

// What installers write, and all that can stand under agent.
func TestConfigFileOfAHost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file string
		want func(*Config)
	}{
		"of an installer": {"agent:\n  name: prod-agent-01 # a comment\n  orchestrator_url: https://orchestrator.example.com:8443\n", func(c *Config) {
			c.Name, c.Server = "prod-agent-01", "https://orchestrator.example.com:8443"
		}},
		"of a name that is known otherwise": {"agent:\n  orchestrator_url: https://o\n", func(c *Config) { c.Server = "https://o" }},
		"with everything": {`
agent:
  id: a-1
  name: n
  environment: production
  labels: {region: eu, tier: "1"}
  orchestrator_url: https://o
  capabilities: [docker, host.deploy]
  max_concurrent_tasks: 9
  reconnect_backoff: 2s
  max_reconnect_attempts: 3
  resource_limits:
    cpu_percent: 80
    memory_percent: 81
    disk_percent: 82
  certificates:
    auto_renew: false
    renewal_threshold: 7d
  observability:
    logging: {level: debug, format: json}
group: web
`, func(c *Config) {
			*c = Config{
				Data: c.Data, Transport: c.Transport, PollInterval: c.PollInterval, DrainTimeout: c.DrainTimeout,
				ID: "a-1", Name: "n", Environment: "production", Labels: map[string]string{"region": "eu", "tier": "1"}, Server: "https://o", Group: "web",
				Capabilities: []string{"docker", "host.deploy"}, MaxConcurrentTasks: 9, ReconnectBackoff: 2 * time.Second, MaxReconnectAttempts: 3,
				CPUPercent: 80, MemoryPercent: 81, DiskPercent: 82, CertRenewalThreshold: 168 * time.Hour, LogLevel: "debug", LogFormat: "json",
			}
		}},
	} {
		want, err := fromFile(t, "")
		if err != nil {
			t.Fatal(err)
		}
		c.want(&want)
		got, err := fromFile(t, c.file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	_, err := fromFile(t, "agent:\n  orchestrator_ulr: https://o\n")
	if err == nil || !strings.Contains(err.Error(), "agent.yaml:2") || !strings.Contains(err.Error(), "did you mean agent.orchestrator_url?") {
		t.Errorf("a typing mistake: %v", err)
	}
}

// fromFile loads what a file says over the defaults.
func fromFile(t *testing.T, text string) (cfg Config, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Flags(fs, &cfg)
	if err := fs.Parse([]string{"--config", path}); err != nil {
		t.Fatal(err)
	}
	return cfg, config.Load(fs, &cfg, func(string) string { return "" })
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
