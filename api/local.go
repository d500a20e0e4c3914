package api

import "time"

// CertificateRenewal is what a renewal of an agent's certificate brought: the
// result of the command renew-certificate, and the answer of the agent's local
// socket.
type CertificateRenewal struct {
	Renewed  bool      `json:"renewed" doc:"Whether there is a new certificate; otherwise it was not due."`
	NotAfter time.Time `json:"notAfter" doc:"When the certificate ends that the agent has now."`
	RenewsAt time.Time `json:"renewsAt" doc:"When the agent will renew it by itself."`
	Serial   string    `json:"serial" doc:"Its serial number, in hex."`
}

// RenewalRequest is the payload of the command renew-certificate, and the body
// of POST /v1/renew-certificate on the agent's local socket.
type RenewalRequest struct {
	// Force renews also what is not due.
	Force bool `json:"force,omitempty"`
}

// LocalStatus is how an agent is, as it knows itself: the answer of GET
// /v1/status on its local socket. It is told without asking the server, so that
// it can be read when the server is out of reach.
type LocalStatus struct {
	AgentID string `json:"agentId" doc:"The agent's id."`
	// Name is what the agent asked to be called; a token that binds a name wins.
	Name    string `json:"name" doc:"The name that the agent registered with. The server has another one when the token bound it."`
	Version string `json:"version" doc:"The agent program's version."`
	Server  string `json:"server" doc:"The server's URL."`
	// Status is not the server's word, which goes by the heartbeats that it hears.
	Status    AgentStatus `json:"status" doc:"online: connected, and all that it is to offer works; degraded: connected and something does not work, or connecting; offline: unhealthy, after as many failures in a row as max-reconnect-attempts says."`
	Broken    string      `json:"broken,omitempty" doc:"What the agent was told to offer and cannot, and why."`
	Connected bool        `json:"connected" doc:"Whether the link to the server stands."`
	Transport string      `json:"transport,omitempty" doc:"How it is connected: websocket, grpc or poll; empty when it is not."`
	// The times are by the agent's own clock.
	ConnectedSince *time.Time `json:"connectedSince,omitempty" doc:"Since when the link stands."`
	LastConnected  *time.Time `json:"lastConnected,omitempty" doc:"When the link stood last, now if it does; left out when it has not since the agent started."`
	LastHeartbeat  *time.Time `json:"lastHeartbeat,omitempty" doc:"When a heartbeat was last taken by the link."`
	Failures       int        `json:"failures,omitempty" doc:"How often in a row it was tried in vain to connect."`
	LastError      string     `json:"lastError,omitempty" doc:"What keeps the agent from its server, and what to do about it; left out while it is connected."`
	LastErrorAt    *time.Time `json:"lastErrorAt,omitempty" doc:"When that was met last."`
	NotAccepting   string     `json:"notAccepting,omitempty" doc:"Why the agent takes no new tasks, when it does not."`
	// Certificate is left out when its file cannot be read.
	Certificate *LocalCertificate `json:"certificate,omitempty" doc:"The certificate that the agent has."`
	Tasks       []LocalTask       `json:"tasks" nullable:"false" doc:"The tasks that have not ended, the oldest first."`
	Boot        int64             `json:"boot" doc:"How many times the agent was started from its data folder, or more."`
	PID         int               `json:"pid" doc:"The agent's process."`
	StartedAt   time.Time         `json:"startedAt" doc:"When it was started."`
	// UptimeSeconds does not change with the clock.
	UptimeSeconds int64 `json:"uptimeSeconds" doc:"For how long it runs."`
}

// LocalCertificate is an agent's certificate, as its host sees it.
type LocalCertificate struct {
	Serial    string    `json:"serial" doc:"Its serial number, in hex."`
	NotBefore time.Time `json:"notBefore" doc:"When it begins to be good."`
	NotAfter  time.Time `json:"notAfter" doc:"When it ends."`
	RenewsAt  time.Time `json:"renewsAt" doc:"When the agent will renew it by itself."`
}

// LocalTask is a task that an agent has taken and not ended.
type LocalTask struct {
	ID      string    `json:"id" doc:"The task's id."`
	Type    TaskType  `json:"type" doc:"What it does, as in deploy."`
	Attempt int64     `json:"attempt" doc:"Which attempt it is."`
	Since   time.Time `json:"since" doc:"When the agent took it."`
}
