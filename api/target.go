package api

import "time"

// Target is something that is deployed to.
type Target struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Kind names the executor: docker or host.
	Kind string `json:"kind" doc:"docker or host."`
	// AgentID is the one agent that reaches the target; empty with a selector.
	AgentID   string `json:"agentId,omitempty" doc:"The agent that reaches the target."`
	AgentName string `json:"agentName,omitempty"`
	// AgentSelector lets any agent that matches serve the target.
	AgentSelector *AgentSelector    `json:"agentSelector,omitempty" doc:"Or: any agent that matches."`
	Environment   string            `json:"environment,omitempty"`
	Labels        map[string]string `json:"labels"`
	Config        TargetConfig      `json:"config"`
	CreatedAt     time.Time         `json:"createdAt"`
	UpdatedAt     time.Time         `json:"updatedAt"`
}

// AgentSelector picks agents; every field that is set must match.
type AgentSelector struct {
	Group       string            `json:"group,omitempty" maxLength:"255"`
	Environment string            `json:"environment,omitempty" maxLength:"255"`
	Labels      map[string]string `json:"labels,omitempty"`
}

// TargetConfig says how the target is reached and where things go on it.
type TargetConfig struct {
	// Directory is where a host target keeps its releases; absolute.
	Directory string `json:"directory,omitempty" maxLength:"4096" doc:"host: the absolute folder that holds releases/ and current."`
	// DockerHost is the engine's address as the agent sees it.
	DockerHost string `json:"dockerHost,omitempty" maxLength:"1024" doc:"docker: the engine, as in unix:///var/run/docker.sock; the agent's own when left out."`
	// StickerLocation is file (on the agent's host) or volume.
	StickerLocation string `json:"stickerLocation,omitempty" enum:"file,volume" doc:"docker: where the version sticker is kept."`
	StickerPath     string `json:"stickerPath,omitempty" maxLength:"4096" doc:"The sticker's absolute path; the agent chooses one when left out."`
	StickerVolume   string `json:"stickerVolume,omitempty" maxLength:"255" doc:"docker: the volume that holds the sticker."`
}

// TargetRequest makes a target (POST) or replaces what is said of it (PUT).
type TargetRequest struct {
	Name          string            `json:"name" minLength:"1" maxLength:"255"`
	Kind          string            `json:"kind" enum:"docker,host"`
	Agent         string            `json:"agent,omitempty" maxLength:"255" doc:"The id or name of the agent that reaches the target."`
	AgentSelector *AgentSelector    `json:"agentSelector,omitempty"`
	Environment   string            `json:"environment,omitempty" maxLength:"255"`
	Labels        map[string]string `json:"labels,omitempty"`
	Config        TargetConfig      `json:"config,omitzero"`
}

// TargetList is the answer of GET /api/v1/targets.
type TargetList struct {
	Items []Target `json:"items"`
	Next  string   `json:"next,omitempty"`
}
