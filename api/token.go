package api

import "time"

// RegistrationTokenRequest is POST /api/v1/admin/agent-tokens. What it binds,
// an agent that registers with the token cannot override.
type RegistrationTokenRequest struct {
	Name         string            `json:"name,omitempty" maxLength:"255" doc:"Binds the agent's name."`
	AgentID      string            `json:"agentId,omitempty" maxLength:"128" doc:"Binds the agent's id; needed to take over an identity that exists."`
	Environment  string            `json:"environment,omitempty" maxLength:"255" doc:"Binds the environment."`
	Group        string            `json:"group,omitempty" maxLength:"255" doc:"Binds the group."`
	Cluster      string            `json:"cluster,omitempty" maxLength:"255" doc:"Binds the cluster."`
	Platform     string            `json:"platform,omitempty" maxLength:"50" doc:"Binds the platform."`
	Capabilities []string          `json:"capabilities,omitempty" maxItems:"256" doc:"Binds the capabilities to a part of these."`
	Labels       map[string]string `json:"labels,omitempty" doc:"Labels that the agent gets."`
	TTLSeconds   int               `json:"ttlSeconds,omitempty" minimum:"0" maximum:"2592000" doc:"The token's life; 900 when left out."`
	MaxUses      int               `json:"maxUses,omitempty" minimum:"0" maximum:"100000" doc:"How many agents may register; 1 when left out."`
	// CertificateLifeSeconds may not be longer than the server allows.
	CertificateLifeSeconds int `json:"certificateLifeSeconds,omitempty" minimum:"0" maximum:"315360000" doc:"How long the agents' certificates are good; as the server, or the environment, says when left out."`
}

// RegistrationToken is a token as it is listed; the secret is in Token only in
// the answer that made it.
type RegistrationToken struct {
	ID           string            `json:"id" doc:"The id; it is no secret."`
	Token        string            `json:"token,omitempty" doc:"The secret, shown once."`
	ServerURL    string            `json:"serverUrl,omitempty" doc:"Where agents reach the server; with the secret."`
	State        string            `json:"state" enum:"usable,used,expired,revoked" doc:"usable, used, expired or revoked."`
	Name         string            `json:"name,omitempty" doc:"The agent's name that it binds."`
	AgentID      string            `json:"agentId,omitempty" doc:"The agent's id that it binds."`
	Environment  string            `json:"environment,omitempty" doc:"The environment that it binds."`
	Group        string            `json:"group,omitempty" doc:"The group that it binds."`
	Cluster      string            `json:"cluster,omitempty" doc:"The cluster that it binds."`
	Platform     string            `json:"platform,omitempty" doc:"The platform that it binds."`
	Capabilities []string          `json:"capabilities,omitempty" doc:"The capabilities that it allows; all when left out."`
	Labels       map[string]string `json:"labels,omitempty" doc:"The labels that it gives."`
	MaxUses      int               `json:"maxUses" doc:"How many agents may register with it."`
	Uses         int               `json:"uses" doc:"How many have."`
	// CertificateLifeSeconds is 0 when the server decides.
	CertificateLifeSeconds int       `json:"certificateLifeSeconds,omitempty" doc:"How long its agents' certificates are good, when it says so."`
	CreatedBy              string    `json:"createdBy" doc:"The name of the API token that made it."`
	CreatedAt              time.Time `json:"createdAt" doc:"When it was made."`
	ExpiresAt              time.Time `json:"expiresAt" doc:"When it ends."`
}

// RegistrationTokenList is the answer of GET /api/v1/admin/agent-tokens.
type RegistrationTokenList struct {
	Items []RegistrationToken `json:"items" nullable:"false" doc:"The tokens of this page."`
	Next  string              `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
}

// Role is what an API token may do: a viewer reads, an operator also deploys,
// an admin also decides who may do what.
type Role string

// The roles.
const (
	RoleViewer   Role = "viewer"
	RoleOperator Role = "operator"
	RoleAdmin    Role = "admin"
)

// APITokenRequest is POST /api/v1/admin/api-tokens.
type APITokenRequest struct {
	Name       string `json:"name" minLength:"1" maxLength:"255" doc:"Whom the token is for."`
	Role       Role   `json:"role" enum:"viewer,operator,admin" doc:"What it may do: a viewer reads, an operator also deploys, an admin also decides who may do what."`
	TTLSeconds int    `json:"ttlSeconds,omitempty" minimum:"0" maximum:"315360000" doc:"The token's life; for ever when left out."`
}

// APIToken is an API token as it is listed; the secret is in Token only in
// the answer that made it.
type APIToken struct {
	ID         string     `json:"id" doc:"The id; it is no secret."`
	Token      string     `json:"token,omitempty" doc:"The secret, shown once."`
	Name       string     `json:"name" doc:"Whom it is for."`
	Role       Role       `json:"role" enum:"viewer,operator,admin" doc:"What it may do."`
	State      string     `json:"state" enum:"usable,expired,revoked" doc:"usable, expired or revoked."`
	CreatedBy  string     `json:"createdBy,omitempty" doc:"The name of the API token that made it."`
	CreatedAt  time.Time  `json:"createdAt" doc:"When it was made."`
	ExpiresAt  *time.Time `json:"expiresAt,omitempty" doc:"When it ends; never when left out."`
	LastUsedAt *time.Time `json:"lastUsedAt,omitempty" doc:"When it was used last, to a minute or so."`
}

// APITokenList is the answer of GET /api/v1/admin/api-tokens.
type APITokenList struct {
	Items []APIToken `json:"items" nullable:"false" doc:"The tokens of this page."`
	Next  string     `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
}

// WhoAmI is the answer of GET /api/v1/whoami.
type WhoAmI struct {
	Name   string `json:"name" doc:"Whom the token is for."`
	Role   Role   `json:"role" enum:"viewer,operator,admin" doc:"What it may do."`
	Tenant string `json:"tenant" doc:"The tenant that it sees."`
	Server string `json:"server" doc:"The server's version."`
}
