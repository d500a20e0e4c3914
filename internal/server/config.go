package server

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/obs/metrics"
	"stella-ops.org/stella/internal/server/limit"
)

// Config is all that can be set of a server: by flag, by environment, or in a
// file.
type Config struct {
	Data              string            `name:"data" default:"stella-data" help:"folder for the database, keys and the first admin token"`
	Listen            string            `name:"listen" default:":8443" help:"address to listen on"`
	Advertise         string            `name:"advertise" help:"URL by which agents and people reach the server; https://<host name>:<port> when left out"`
	Database          string            `name:"database" help:"postgres://… URL; an SQLite file in the data folder when left out"`
	NATS              string            `name:"nats" help:"nats://… URL of a cluster that several servers share; a bus inside the process when left out"`
	MasterKeyFile     string            `name:"master-key-file" help:"file with the key that encrypts secrets at rest; master.key in the data folder when left out"`
	TrustDomain       string            `name:"trust-domain" default:"stella.local" help:"domain of the agents' SPIFFE ids; fixed at the first start"`
	HeartbeatInterval time.Duration     `name:"heartbeat-interval" default:"30s" help:"how often agents report"`
	StaleAfter        time.Duration     `name:"stale-after" default:"90s" help:"silence after which an agent is stale"`
	DeadAfter         time.Duration     `name:"dead-after" default:"5m" help:"time after which a stale agent is dead"`
	TaskLease         time.Duration     `name:"task-lease" default:"2m" help:"silence about a task after which its agent is taken to have lost it"`
	AgentCertLife     time.Duration     `name:"agent-cert-life" default:"2160h" help:"validity of agents' certificates"`
	AgentCertLifeEnv  map[string]string `name:"agent-cert-life-env" help:"environment=duration, as in dev=24h: another validity for the agents of an environment; may be repeated"`
	AgentCertLifeMax  time.Duration     `name:"agent-cert-life-max" default:"8760h" help:"the longest validity that a registration token, an environment or an agent's request gets"`
	CertRecovery      time.Duration     `name:"cert-recovery" default:"2160h" help:"for how long after the end of its certificate an agent may still get a new one by it, as when it was switched off; 0 is not at all"`
	ReconnectRate     int               `name:"reconnect-rate" default:"500" help:"how many agents a second come back when all have lost the server; they never spread over more than half of stale-after; 0 is without a limit"`
	RequireSigned     bool              `name:"require-signed-heartbeats" help:"hear no agent that does not sign its heartbeats, and register none; without it, an agent of another maker may beat by its certificate alone"`
	MaxArtifactSize   string            `name:"max-artifact-size" default:"2GiB" help:"how large one artifact may be, as in 500MiB or 10GiB"`
	ArtifactGrace     time.Duration     `name:"artifact-grace" default:"24h" help:"how long an artifact that nothing needs any more stays after its last use"`
	RefusedPerMinute  int               `name:"refused-per-minute" default:"10" help:"how many refused tokens and certificates a minute are answered to one address; more get 429; 0 is without a limit"`
	RefusedBurst      int               `name:"refused-burst" default:"20" help:"how many refused tokens and certificates are answered to one address at once"`
	AnonymousRate     int               `name:"anonymous-rate" default:"50" help:"how many requests a second without token and certificate are answered to one address; more get 429; 0 is without a limit"`
	AnonymousBurst    int               `name:"anonymous-burst" default:"200" help:"how many requests without token and certificate are answered to one address at once"`
	MaxHandshakes     int               `name:"max-handshakes" default:"5000" help:"how many connections may be in their TLS handshake; when one more comes, the oldest that says nothing is closed; 0 is without a limit"`
	HandshakeTimeout  time.Duration     `name:"handshake-timeout" default:"10s" help:"how long a TLS handshake, and then the first request's headers, may take"`
	BodyTimeout       time.Duration     `name:"body-timeout" default:"30s" help:"how long a request's body may take, and a part of an upload; an answer may take four times as long"`
	MetricsAddr       string            `name:"metrics-addr" help:"host:port, of this machine or of a private network, at which /metrics is read over plain HTTP and without a token; nowhere when left out, and then GET /metrics of the API still answers who has a token"`
	AgentsDir         string            `name:"agents-dir" help:"folder with agents' programs to give out, as in stella-agent_linux_arm64, beside the one that the server was built with; agents in the data folder when left out"`
	LogFormat         string            `name:"log-format" help:"text or json; text on a terminal and json otherwise when left out"`
	LogLevel          string            `name:"log-level" default:"info" help:"debug, info, warn or error"`
	AuditRetention    time.Duration     `name:"audit-retention" default:"0s" help:"how long lines of the audit log are kept, as in 8760h; 0 is for ever, the default, because how long they have to be kept is for you and your auditors to say, and what is removed is gone"`
}

// minAuditRetention keeps a slip of the pen from emptying the audit log.
const minAuditRetention = 24 * time.Hour

func (c *Config) validate() error {
	if c.Data == "" {
		return fmt.Errorf("data: say in which folder the server keeps its data")
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("listen: %q is no address: write host:port, as in 0.0.0.0:8443", c.Listen)
	}
	if c.Advertise != "" {
		if u, err := url.Parse(c.Advertise); err != nil || u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("advertise: %q is no https:// URL", c.Advertise)
		}
	}
	if c.HeartbeatInterval <= 0 || c.StaleAfter <= c.HeartbeatInterval {
		return fmt.Errorf("stale-after (%s) must be longer than heartbeat-interval (%s), or every agent is stale between two heartbeats", c.StaleAfter, c.HeartbeatInterval)
	}
	if c.TaskLease <= c.HeartbeatInterval {
		return fmt.Errorf("task-lease (%s) must be longer than heartbeat-interval (%s), which prolongs it", c.TaskLease, c.HeartbeatInterval)
	}
	if c.ReconnectRate < 0 {
		return fmt.Errorf("reconnect-rate: %d agents a second are none: give a number, or 0 for no limit", c.ReconnectRate)
	}
	if _, err := c.maxArtifactBytes(); err != nil {
		return err
	}
	if c.ArtifactGrace < 0 {
		return fmt.Errorf("artifact-grace: %s is less than nothing", c.ArtifactGrace)
	}
	if c.RefusedPerMinute < 0 || c.RefusedBurst < 0 || c.AnonymousRate < 0 || c.AnonymousBurst < 0 || c.MaxHandshakes < 0 {
		return fmt.Errorf("refused-per-minute, refused-burst, anonymous-rate, anonymous-burst and max-handshakes: none may be less than 0, which is without a limit")
	}
	if c.MetricsAddr != "" {
		if err := metrics.CheckAddr(c.MetricsAddr); err != nil {
			return fmt.Errorf("metrics-addr: %w", err)
		}
	}
	if c.AuditRetention != 0 && c.AuditRetention < minAuditRetention {
		return fmt.Errorf("audit-retention: %s is shorter than a day: lines would be gone before anybody reads them; give at least %s, or 0 to keep them for ever", c.AuditRetention, minAuditRetention)
	}
	_, err := c.certificatePolicy()
	return err
}

// certificatePolicy is what agents' certificates may be.
func (c *Config) certificatePolicy() (enroll.Policy, error) {
	p := enroll.Policy{Life: c.AgentCertLife, MaxLife: c.AgentCertLifeMax, ByEnvironment: map[string]time.Duration{}, Recovery: c.CertRecovery, SignedOnly: c.RequireSigned}
	if p.MaxLife == 0 {
		p.MaxLife = p.Life
	}
	good := func(setting string, life time.Duration) error {
		if life < enroll.MinLife || life > p.MaxLife {
			return fmt.Errorf("%s: certificates live from %s to %s (agent-cert-life-max), not %s", setting, enroll.MinLife, p.MaxLife, life)
		}
		return nil
	}
	if err := good("agent-cert-life", p.Life); err != nil {
		return p, err
	}
	for env, text := range c.AgentCertLifeEnv {
		life, err := time.ParseDuration(text)
		if err != nil {
			return p, fmt.Errorf("agent-cert-life-env: %q is no duration: write it as in %s=24h", text, env)
		}
		if err := good("agent-cert-life-env: "+env, life); err != nil {
			return p, err
		}
		p.ByEnvironment[env] = life
	}
	return p, nil
}

// maxArtifactBytes is 0 when nothing is said.
func (c *Config) maxArtifactBytes() (int64, error) {
	number, factor := c.MaxArtifactSize, int64(1)
	if number == "" {
		return 0, nil
	}
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if text, ok := strings.CutSuffix(number, unit); ok {
			number, factor = text, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > 1<<50/factor {
		return 0, fmt.Errorf("max-artifact-size: %q is no size: write a whole number of bytes, or as in 500MiB or 10GiB", c.MaxArtifactSize)
	}
	return n * factor, nil
}

func (c *Config) thresholds() fleet.Thresholds {
	return fleet.Thresholds{StaleAfter: c.StaleAfter, DeadAfter: c.DeadAfter}
}

// strangers is how much who is not known may ask.
func (c *Config) strangers() limit.Options {
	return limit.Options{
		Refused:   limit.PerMinute(c.RefusedPerMinute, c.RefusedBurst),
		Anonymous: limit.Rate{PerSecond: float64(c.AnonymousRate), Burst: c.AnonymousBurst},
	}
}

// handshakeTimeout and bodyTimeout are never without a limit.
func (c *Config) handshakeTimeout() time.Duration { return cmp.Or(c.HandshakeTimeout, 10*time.Second) }
func (c *Config) bodyTimeout() time.Duration      { return cmp.Or(c.BodyTimeout, 30*time.Second) }

// revokedFile is the record of what was revoked.
func (c *Config) revokedFile() string { return filepath.Join(c.Data, "revoked.jsonl") }

// agentsFolders are where agents' programs are: the operator's own before those
// of the package that this program came with.
func (c *Config) agentsFolders() []string {
	folders := []string{cmp.Or(c.AgentsDir, filepath.Join(c.Data, "agents"))}
	if self, err := os.Executable(); err == nil {
		folders = append(folders, filepath.Join(filepath.Dir(filepath.Dir(self)), "lib", "stella", "agents"))
	}
	return folders
}

func (c *Config) masterKeyFile() string {
	if c.MasterKeyFile != "" {
		return c.MasterKeyFile
	}
	return filepath.Join(c.Data, "master.key")
}

// names are what the server's certificate is good for.
func (c *Config) names() []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	add := func(n string) {
		if n == "" || n == "0.0.0.0" || n == "::" {
			return
		}
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if host, err := os.Hostname(); err == nil {
		add(host)
	}
	if host, _, err := net.SplitHostPort(c.Listen); err == nil {
		add(host)
	}
	if u, err := url.Parse(c.Advertise); err == nil {
		add(u.Hostname())
	}
	return names
}

// baseURL is how the server is reached, now that it listens on addr.
func (c *Config) baseURL(addr net.Addr) string {
	if c.Advertise != "" {
		return c.Advertise
	}
	_, port, _ := net.SplitHostPort(addr.String())
	host, _, _ := net.SplitHostPort(c.Listen)
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "localhost"
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return "https://" + net.JoinHostPort(host, port)
}
