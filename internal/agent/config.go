package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"stella-ops.org/stella/internal/obs/metrics"
)

// Config is all that can be set of an agent: by flag, by environment, or in a
// file, where the settings that hosts differ in also stand under agent.
type Config struct {
	Data        string            `name:"data" default:"stella-agent-data" help:"folder for the agent's identity, keys and journal"`
	Server      string            `name:"server" key:"agent.orchestrator_url" help:"https://… URL of the server; known from the identity once registered"`
	ID          string            `name:"id" key:"agent.id" help:"the agent's own persistent id; the server makes one when left out"`
	Name        string            `name:"name" key:"agent.name" help:"the agent's name; the host's when left out"`
	Group       string            `name:"group" help:"the group that the agent belongs to"`
	Environment string            `name:"env" key:"agent.environment" help:"the agent's environment, as in production"`
	Labels      map[string]string `name:"label" key:"agent.labels" help:"key=value to select the agent by; may be repeated"`
	// Short names of capabilities stand for all of theirs.
	Capabilities []string `name:"capability" key:"agent.capabilities" help:"offer only this of what works here, as in docker or host.deploy; may be repeated; all when left out"`

	MaxConcurrentTasks   int           `name:"max-concurrent-tasks" key:"agent.max_concurrent_tasks" default:"5" help:"how many tasks run at a time"`
	ReconnectBackoff     time.Duration `name:"reconnect-backoff" key:"agent.reconnect_backoff" default:"5s" help:"wait before the first try to reconnect; it grows, and is jittered"`
	MaxReconnectAttempts int           `name:"max-reconnect-attempts" key:"agent.max_reconnect_attempts" default:"10" help:"failures in a row after which the agent calls itself unhealthy; it goes on trying"`
	Transport            string        `name:"transport" default:"auto" help:"auto, websocket, grpc or poll; auto begins with the leanest and takes the next when it does not get through"`
	PollInterval         time.Duration `name:"poll-interval" default:"2s" help:"how often to ask for tasks when polling"`
	CommandsDir          string        `name:"commands-dir" help:"folder with an executable for each type of command that the agent's user adds; commands.d in the data folder when left out"`
	CertAutoRenew        bool          `name:"cert-auto-renew" key:"agent.certificates.auto_renew" default:"true" help:"renew the certificate when it is time"`
	CertRenewalThreshold time.Duration `name:"cert-renewal-threshold" key:"agent.certificates.renewal_threshold" default:"168h" help:"how long before its end to renew the certificate; never later than when two thirds of its life are over"`
	Socket               string        `name:"socket" help:"Unix socket at which programs on this host talk to the agent; agent.sock in the data folder when left out"`
	DockerHost           string        `name:"docker-host" help:"the Docker Engine's address; the usual socket when left out"`
	CPUPercent           int           `name:"limit-cpu" key:"agent.resource_limits.cpu_percent" default:"0" help:"CPU use in percent above which no new task is taken; 0 is no limit"`
	MemoryPercent        int           `name:"limit-memory" key:"agent.resource_limits.memory_percent" default:"0" help:"the same for memory"`
	DiskPercent          int           `name:"limit-disk" key:"agent.resource_limits.disk_percent" default:"0" help:"the same for the disk of the data folder"`
	DrainTimeout         time.Duration `name:"drain-timeout" default:"30s" help:"how long running tasks may take to end when the agent is stopped; what has not ended is undone at the next start"`
	MetricsAddr          string        `name:"metrics-addr" help:"host:port, of this machine or of a private network, at which /metrics is read over plain HTTP and without a token, as in 127.0.0.1:9464; nowhere when left out"`
	LogFormat            string        `name:"log-format" key:"agent.observability.logging.format" help:"text or json; text on a terminal and json otherwise when left out"`
	LogLevel             string        `name:"log-level" key:"agent.observability.logging.level" default:"info" help:"debug, info, warn or error"`
}

func (c *Config) validate() error {
	if c.Data == "" {
		return errors.New("data: say in which folder the agent keeps its identity")
	}
	switch c.Transport {
	case "auto", "websocket", "grpc", "poll":
	default:
		return fmt.Errorf("transport: %q is none: use auto, websocket, grpc or poll", c.Transport)
	}
	if c.MaxConcurrentTasks < 1 || c.MaxConcurrentTasks > 1000 {
		return fmt.Errorf("max-concurrent-tasks: %d is out of range: give 1 to 1000", c.MaxConcurrentTasks)
	}
	if c.ReconnectBackoff <= 0 || c.PollInterval <= 0 {
		return errors.New("reconnect-backoff and poll-interval must be longer than nothing")
	}
	for _, p := range []int{c.CPUPercent, c.MemoryPercent, c.DiskPercent} {
		if p < 0 || p > 100 {
			return fmt.Errorf("a limit of %d percent is out of range", p)
		}
	}
	if c.MetricsAddr != "" {
		if err := metrics.CheckAddr(c.MetricsAddr); err != nil {
			return fmt.Errorf("metrics-addr: %w", err)
		}
	}
	return nil
}

func (c *Config) commandsDir() string {
	if c.CommandsDir != "" {
		return c.CommandsDir
	}
	return filepath.Join(c.Data, "commands.d")
}

// LocalSocket is where the agent has its local socket.
func (c *Config) LocalSocket() string {
	if c.Socket != "" {
		return c.Socket
	}
	return filepath.Join(c.Data, "agent.sock")
}
