package api

import "time"

// Target is something that is deployed to.
type Target struct {
	ID   string `json:"id" doc:"The id; it never changes."`
	Name string `json:"name" doc:"The name, unique in the tenant."`
	// Kind names the executor: docker or host.
	Kind string `json:"kind" doc:"docker or host."`
	// AgentID is the one agent that reaches the target; empty with a selector.
	AgentID   string `json:"agentId,omitempty" doc:"The agent that reaches the target."`
	AgentName string `json:"agentName,omitempty" doc:"The name of that agent."`
	// AgentSelector lets any agent that matches serve the target.
	AgentSelector *AgentSelector    `json:"agentSelector,omitempty" doc:"Or: any agent that matches."`
	Environment   string            `json:"environment,omitempty" doc:"The environment, as in production."`
	Labels        map[string]string `json:"labels" doc:"Labels to select it by."`
	Config        TargetConfig      `json:"config" doc:"How it is reached and where things go on it."`
	CreatedAt     time.Time         `json:"createdAt" doc:"When it was made."`
	UpdatedAt     time.Time         `json:"updatedAt" doc:"When it was changed last."`
}

// AgentSelector picks agents; every field that is set must match.
type AgentSelector struct {
	Group       string            `json:"group,omitempty" maxLength:"255" doc:"The agents' group."`
	Environment string            `json:"environment,omitempty" maxLength:"255" doc:"The agents' environment."`
	Labels      map[string]string `json:"labels,omitempty" doc:"Labels that the agents must have, with these values."`
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
	Name          string            `json:"name" minLength:"1" maxLength:"255" doc:"The name, unique in the tenant: 1 to 128 letters, digits, dots, underscores or hyphens."`
	Kind          string            `json:"kind" enum:"docker,host" doc:"docker: containers of an engine; host: releases in a folder."`
	Agent         string            `json:"agent,omitempty" maxLength:"255" doc:"The id or name of the agent that reaches the target."`
	AgentSelector *AgentSelector    `json:"agentSelector,omitempty" doc:"Or: any agent that matches."`
	Environment   string            `json:"environment,omitempty" maxLength:"255" doc:"The environment, as in production."`
	Labels        map[string]string `json:"labels,omitempty" doc:"Labels to select it by."`
	Config        TargetConfig      `json:"config,omitzero" doc:"How it is reached and where things go on it."`
}

// TargetList is the answer of GET /api/v1/targets.
type TargetList struct {
	Items []Target `json:"items" nullable:"false" doc:"The targets of this page."`
	Next  string   `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
}
