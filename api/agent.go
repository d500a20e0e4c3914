package api

import "time"

// RegisterRequest asks for an identity: POST /api/v1/agents/register with the
// header X-Registration-Token.
type RegisterRequest struct {
	_            struct{} `json:"-" additionalProperties:"true"`
	Name         string   `json:"name" maxLength:"255" doc:"The agent's name, unique in its tenant."`
	Version      string   `json:"version,omitempty" maxLength:"50" doc:"The agent program's version."`
	Capabilities []string `json:"capabilities,omitempty" maxItems:"256" doc:"What the agent can do, as in docker.deploy."`
	CSR          string   `json:"csr" maxLength:"16384" doc:"A PKCS#10 certificate request in PEM. Names in it are ignored."`
	// ID is the agent's own persistent id; the server makes one otherwise.
	ID          string            `json:"id,omitempty" maxLength:"128" doc:"The agent's own persistent id, when it brings one."`
	Group       string            `json:"group,omitempty" maxLength:"255" doc:"The group that the agent says it belongs to."`
	Environment string            `json:"environment,omitempty" maxLength:"255" doc:"The environment, as in production."`
	Labels      map[string]string `json:"labels,omitempty" doc:"Labels to select the agent by."`
	Routes      []string          `json:"routes,omitempty" maxItems:"4096" doc:"The ids of the routes that the agent serves."`
	Platform    string            `json:"platform,omitempty" maxLength:"50" doc:"linux, windows or docker."`
	// EncryptionPublicKey is what tasks are sealed to, see Sealed.
	EncryptionPublicKey string `json:"encryptionPublicKey,omitempty" maxLength:"4096" doc:"The public key to seal the agent's tasks to (RFC 9180), in base64: 1216 bytes are one of MLKEM768-X25519, 32 bytes one of DHKEM(X25519, HKDF-SHA256). Without one the agent gets its tasks in the clear, over its own TLS connection, and none that has credentials."`
	// CertificateLifeSeconds only shortens what the server would give.
	CertificateLifeSeconds int    `json:"certificateLifeSeconds,omitempty" minimum:"0" maximum:"315360000" doc:"How long the certificate is to be good, when less than the server would give is enough."`
	Instance               string `json:"instance,omitempty" maxLength:"64" doc:"A UUID of this start of the agent, by which two hosts with one identity are told apart."`
	// SignsHeartbeats is never taken back by the agent's own key.
	SignsHeartbeats bool `json:"signsHeartbeats,omitempty" doc:"The agent signs its heartbeats; none of its is heard unsigned from then on. Only a new registration token can take that back."`
}

// RegisterResponse is an identity: the certificate for the key of the request
// and what the agent needs to work.
type RegisterResponse struct {
	AgentID         string        `json:"agentId" doc:"The agent's id."`
	Name            string        `json:"name,omitempty" doc:"The agent's name, which its token may have bound."`
	Certificate     string        `json:"certificate" doc:"The agent's certificate and its issuer's, in PEM."`
	CACertificate   string        `json:"caCertificate" doc:"The root certificate to trust, in PEM."`
	EventsURL       string        `json:"eventsUrl" doc:"Where the agent's events are streamed (SSE)."`
	TaskStreamURL   string        `json:"taskStreamUrl" doc:"Where the agent's tasks are streamed (WebSocket)."`
	Config          AgentSettings `json:"config" doc:"What the server wants of the agent."`
	ServerPublicKey string        `json:"serverPublicKey" doc:"The Ed25519 key that signs what the server sends: the 32 bytes of RFC 8032, in base64."`
}

// CertificateRequest asks for an agent's next certificate: POST
// /api/v1/agents/{id}/certificate, with the client certificate that the agent
// has, or had until lately.
type CertificateRequest struct {
	_                      struct{} `json:"-" additionalProperties:"true"`
	CSR                    string   `json:"csr" maxLength:"16384" doc:"A PKCS#10 certificate request in PEM, for a new key. Names in it are ignored."`
	EncryptionPublicKey    string   `json:"encryptionPublicKey,omitempty" maxLength:"4096" doc:"The agent's new public key for sealed payloads, in base64; the one that it has stays when left out."`
	CertificateLifeSeconds int      `json:"certificateLifeSeconds,omitempty" minimum:"0" maximum:"315360000" doc:"How long the certificate is to be good, when less than the server would give is enough."`
	Instance               string   `json:"instance,omitempty" maxLength:"64" doc:"A UUID of this start of the agent, by which two hosts with one identity are told apart."`
	SignsHeartbeats        bool     `json:"signsHeartbeats,omitempty" doc:"The agent signs its heartbeats from now on; none of its is heard unsigned any more. When left out, it stays as it is."`
}

// CertificateResponse is an agent's next certificate. The one before goes on
// until a minute after the first use of this one.
type CertificateResponse struct {
	Certificate     string    `json:"certificate" doc:"The certificate and its issuer's, in PEM."`
	CACertificate   string    `json:"caCertificate" doc:"The root certificates to trust, in PEM."`
	NotAfter        time.Time `json:"notAfter" doc:"When it ends."`
	ServerTime      time.Time `json:"serverTime" doc:"The server's clock, to measure skew by."`
	ServerPublicKey string    `json:"serverPublicKey" doc:"The Ed25519 key that signs what the server sends, in base64."`
}

// CodeCertificateExpired is the code of the problem that an agent gets whose
// certificate has ended, and who may get the next one by it.
const CodeCertificateExpired = "certificate_expired"

// AgentSettings is what the server tells every agent.
type AgentSettings struct {
	HeartbeatIntervalMs int64     `json:"heartbeatIntervalMs" doc:"How often the agent reports, in milliseconds."`
	ServerTime          time.Time `json:"serverTime" doc:"The server's clock, to measure skew by."`
}

// Lifecycle is what people decided about an agent.
type Lifecycle string

// The life-cycle states.
const (
	LifecycleActive   Lifecycle = "active"
	LifecycleInactive Lifecycle = "inactive"
	LifecycleRevoked  Lifecycle = "revoked"
)

// Liveness is what an agent's heartbeats say.
type Liveness string

// The liveness states.
const (
	Live  Liveness = "live"
	Stale Liveness = "stale"
	Dead  Liveness = "dead"
)

// AgentStatus is the word that a list of agents shows.
type AgentStatus string

// The agent statuses.
const (
	StatusOnline   AgentStatus = "online"
	StatusDegraded AgentStatus = "degraded"
	StatusOffline  AgentStatus = "offline"
)

// Agent is an agent as the API shows it.
type Agent struct {
	ID            string            `json:"id" doc:"The id; it never changes."`
	Name          string            `json:"name" doc:"The name, unique in the tenant."`
	Version       string            `json:"version" doc:"The agent program's version, as the agent says."`
	Status        AgentStatus       `json:"status" enum:"online,degraded,offline" doc:"online: active, live and healthy; degraded: active and stale, or unhealthy; offline: everything else."`
	Lifecycle     Lifecycle         `json:"lifecycle" enum:"active,inactive,revoked" doc:"What people decided: active, inactive or revoked."`
	Liveness      Liveness          `json:"liveness" enum:"live,stale,dead" doc:"What heartbeats say: live, stale or dead."`
	Group         string            `json:"group,omitempty" doc:"The group that it belongs to."`
	Environment   string            `json:"environment,omitempty" doc:"The environment, as in production."`
	Platform      string            `json:"platform,omitempty" doc:"linux, windows or docker."`
	Labels        map[string]string `json:"labels" doc:"Labels to select it by."`
	Capabilities  []string          `json:"capabilities" nullable:"false" doc:"What it can do, as in docker.deploy."`
	Routes        []string          `json:"routes,omitempty" doc:"The ids of the routes that it serves."`
	ResourceUsage *ResourceUsage    `json:"resourceUsage,omitempty" doc:"The load of its machine, as of the last heartbeat that told it."`
	LastHeartbeat *time.Time        `json:"lastHeartbeat,omitempty" doc:"When it was last heard."`
	// Transport is how the agent is connected now: websocket, grpc, poll, or empty.
	Transport              string      `json:"transport,omitempty" doc:"How it is connected: websocket, grpc, poll, or empty when it is not."`
	NotAccepting           string      `json:"notAccepting,omitempty" doc:"Why the agent takes no new tasks, when it does not."`
	SignsHeartbeats        bool        `json:"signsHeartbeats" doc:"Whether the agent signs its heartbeats; then it is never heard unsigned."`
	CertificateFingerprint string      `json:"certificateFingerprint,omitempty" doc:"SHA-256 of the agent's certificate, in hex."`
	CertificateNotAfter    *time.Time  `json:"certificateNotAfter,omitempty" doc:"When the certificate ends; the agent renews it before."`
	Clone                  *AgentClone `json:"clone,omitempty" doc:"A second host that uses this agent's identity: its disk was copied. Left out when there is none, and after ten minutes without it."`
	CreatedAt              time.Time   `json:"createdAt" doc:"When it registered first."`
	UpdatedAt              time.Time   `json:"updatedAt" doc:"When it, or what is said of it, was changed last."`
}

// AgentClone says that two hosts use one identity.
type AgentClone struct {
	SeenAt time.Time `json:"seenAt" doc:"When the one was held off last."`
	Held   string    `json:"held" doc:"Where the one comes from that is held off: the newer one."`
	Kept   string    `json:"kept" doc:"Where the one comes from that works: the older one."`
}

// AgentList is the answer of GET /api/v1/agents.
type AgentList struct {
	Items []Agent `json:"items" nullable:"false" doc:"The agents of this page."`
	// Next is empty on the last page.
	Next string `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
}

// AgentUpdate changes what people may change of an agent; a field that is
// left out stays.
type AgentUpdate struct {
	Labels       *map[string]string `json:"labels,omitempty" doc:"All labels that the agent is to have; none are kept besides."`
	Capabilities *[]string          `json:"capabilities,omitempty" doc:"All capabilities that the agent is to have, among those that its token allowed."`
}

// Deleted is the answer of every DELETE.
type Deleted struct {
	Deleted bool `json:"deleted" doc:"Always true: what could not be deleted is an error."`
}

// ResourceUsage is the load of an agent's machine. A percentage is 0 to 100.
type ResourceUsage struct {
	_                struct{} `json:"-" additionalProperties:"true"`
	CPUPercent       float64  `json:"cpuPercent,omitempty" doc:"The processors' load."`
	MemoryPercent    float64  `json:"memoryPercent,omitempty" doc:"How much of the memory is in use."`
	MemoryTotalBytes uint64   `json:"memoryTotalBytes,omitempty" doc:"How much memory there is."`
	DiskPercent      float64  `json:"diskPercent,omitempty" doc:"How full the disk is that holds the agent's data."`
	DiskFreeBytes    uint64   `json:"diskFreeBytes,omitempty" doc:"How much is free on it."`
	Load1            float64  `json:"load1,omitempty" doc:"The load average of one minute, as Unix counts it."`
	AgentMemoryBytes uint64   `json:"agentMemoryBytes,omitempty" doc:"What the agent itself uses."`
}

// HeartbeatRequest is POST /api/v1/agents/{id}/heartbeat.
type HeartbeatRequest struct {
	_             struct{}       `json:"-" additionalProperties:"true"`
	Status        string         `json:"status,omitempty" maxLength:"50" doc:"online, or degraded when the agent knows of a fault."`
	ResourceUsage *ResourceUsage `json:"resourceUsage,omitempty" doc:"The load of the agent's machine."`
	Capabilities  []string       `json:"capabilities,omitempty" maxItems:"256" doc:"What the agent can do, when that has changed."`
	// RunningTasks prolongs those tasks' leases and takes them off the answer.
	RunningTasks []TaskRef `json:"runningTasks,omitempty" maxItems:"1000" doc:"The tasks that the agent has taken and not finished."`
	// NotAccepting, when not empty, says why no new task may come.
	NotAccepting string     `json:"notAccepting,omitempty" maxLength:"255" doc:"Why the agent wants no new tasks, when it does not."`
	MaxTasks     int        `json:"maxTasks,omitempty" minimum:"0" maximum:"1000" doc:"How many tasks the agent runs at a time."`
	SentAt       *time.Time `json:"sentAt,omitempty" doc:"The agent's clock, to measure skew by."`
	Instance     string     `json:"instance,omitempty" maxLength:"64" doc:"A UUID of this start of the agent, by which two hosts with one identity are told apart."`
	Host         string     `json:"host,omitempty" maxLength:"255" doc:"The name of the agent's machine, for people who look for a copy of it."`
}

// HeartbeatResponse hands out the tasks that wait for the agent, unless it
// holds a stream, which then carries them.
type HeartbeatResponse struct {
	Tasks []AgentTask `json:"tasks" nullable:"false" doc:"Tasks to run. One that was not taken or completed comes again."`
	// Signatures are on the bytes of the tasks, one by one, as they stand in the
	// answer: PurposeTask, a NUL, and those bytes.
	Signatures [][]byte `json:"signatures,omitempty" doc:"The server's Ed25519 signatures on the tasks, in the same order: on the text stella/v1/task, a NUL, and the task's JSON byte for byte as it stands here."`
	// Cancelled names running tasks that the agent is asked to stop.
	Cancelled []TaskRef `json:"cancelled,omitempty" doc:"Running tasks to stop."`
	// Commands are those that wait for the agent and that no stream carries;
	// each is handed out once.
	Commands []AgentCommand `json:"commands,omitempty" doc:"Commands to run and to acknowledge. Each comes once."`
	// IntervalMs is when the server wants the next heartbeat.
	IntervalMs int64     `json:"intervalMs" doc:"When to report again, in milliseconds."`
	ServerTime time.Time `json:"serverTime" doc:"The server's clock, to measure skew by."`
	// ReconnectWindowMs spreads a fleet that has lost its server.
	ReconnectWindowMs int64 `json:"reconnectWindowMs,omitempty" doc:"After losing the server, wait a random part of this, in milliseconds, before the next request."`
	// Trust is empty while the agent's certificate is of the present one.
	Trust         string `json:"trust,omitempty" doc:"Names what agents are to trust, when the certificate was issued under another trust: renew it."`
	TrustSpreadMs int64  `json:"trustSpreadMs,omitempty" doc:"Within how many milliseconds to renew it, at a moment that chance chooses."`
}

// AgentToken is the answer of POST /api/v1/agents/token.
type AgentToken struct {
	Token     string `json:"token" doc:"A JWT bound to the caller's certificate (RFC 8705)."`
	ExpiresIn int    `json:"expiresIn" doc:"Its life in seconds."`
}
