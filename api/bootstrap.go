package api

import "time"

// BootstrapRequest is POST /api/v1/admin/agents/bootstrap: a registration token
// for a new agent, with how to start the agent by it.
type BootstrapRequest struct {
	RegistrationTokenRequest
	ServerURL string `json:"serverUrl,omitempty" maxLength:"255" doc:"The address by which the agent reaches the server, where that is another one than the server calls itself; the server's certificate must be for it."`
}

// Bootstrap is the answer to a BootstrapRequest. All of it but the ids and times
// is secret: the token is in it.
type Bootstrap struct {
	ID             string             `json:"id" doc:"The token's id; it is no secret."`
	Token          string             `json:"token" doc:"The registration token, shown once."`
	TokenExpires   time.Time          `json:"tokenExpires" doc:"When the token ends."`
	MaxUses        int                `json:"maxUses" doc:"How many agents may register with it."`
	ServerURL      string             `json:"serverUrl" doc:"The address by which the agent will reach the server."`
	Platform       string             `json:"platform" enum:"linux,windows,docker" doc:"What the commands are for."`
	Configuration  string             `json:"configuration" doc:"The agent's configuration file, as the installer writes it (YAML)."`
	InstallCommand string             `json:"installCommand" doc:"The line that makes a host an agent: it fetches the installer, checks that it is this server's, and runs it."`
	Alternatives   []BootstrapCommand `json:"alternatives,omitempty" doc:"Other lines that do the same."`
	InstallScript  string             `json:"installScript,omitempty" doc:"The installer with the token in it, for where the line cannot be used; none for docker. For windows the token is to be given by the variable STELLA_BOOTSTRAP_TOKEN."`
	Warning        string             `json:"warning,omitempty" doc:"What will be in the way, as that this server has no agent for the platform."`
}

// BootstrapCommand is a line to type on a host.
type BootstrapCommand struct {
	When    string `json:"when" doc:"What it needs, as in: with wget."`
	Command string `json:"command" doc:"The line."`
}
