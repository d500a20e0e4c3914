package api

import "time"

// Target is something that is deployed to.
type Target struct {
	ID   string `json:"id" doc:"The id; it never changes."`
	Name string `json:"name" doc:"The name, unique in the tenant."`
	// Kind names the executor: docker, compose, ssh or host.
	Kind string `json:"kind" doc:"docker, compose, ssh or host."`
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
	// Directory is where the target keeps what is deployed to it; absolute.
	Directory string `json:"directory,omitempty" maxLength:"4096" doc:"host: the absolute folder that holds releases/ and current; compose: the project's folder; ssh: the folder on the remote host."`
	// DockerHost is the engine's address as the agent sees it.
	DockerHost string `json:"dockerHost,omitempty" maxLength:"1024" doc:"docker, compose: the engine, as in unix:///var/run/docker.sock or ssh://user@host; the agent's own when left out."`
	// Project is the name of a compose project.
	Project string `json:"project,omitempty" maxLength:"128" doc:"compose: the project's name; made of the target's name when left out."`
	// SSH is how a remote host is reached.
	SSH *SSHConfig `json:"ssh,omitempty" doc:"ssh: how the host is reached."`
	// StickerLocation is file (on the agent's host) or volume.
	StickerLocation string `json:"stickerLocation,omitempty" enum:"file,volume" doc:"docker: where the version sticker is kept."`
	StickerPath     string `json:"stickerPath,omitempty" maxLength:"4096" doc:"The sticker's absolute path; the agent chooses one when left out."`
	StickerVolume   string `json:"stickerVolume,omitempty" maxLength:"255" doc:"docker: the volume that holds the sticker."`
}

// SSHConfig is how a remote host is reached.
type SSHConfig struct {
	SSHHop
	// Jumps are passed through in order, the first from the agent.
	Jumps []SSHHop `json:"jumps,omitempty" maxItems:"8" doc:"Hosts to go through, in order, the first from the agent."`
	// Sudo has everything done as another user than the one that logs in.
	Sudo            bool   `json:"sudo,omitempty" doc:"Whether files are put and commands run by sudo."`
	SudoUser        string `json:"sudoUser,omitempty" maxLength:"128" doc:"The user to become by sudo; root when left out."`
	SudoPasswordRef string `json:"sudoPasswordRef,omitempty" maxLength:"255" doc:"sudo's password, as in secret://name; none when sudo asks for none."`
	// ConnectionTimeout and KeepAliveInterval are in milliseconds.
	ConnectionTimeout int64 `json:"connectionTimeout,omitempty" minimum:"0" maximum:"600000" doc:"How long connecting may take, in milliseconds; 30000 when left out."`
	KeepAliveInterval int64 `json:"keepAliveInterval,omitempty" minimum:"0" maximum:"600000" doc:"How often a silent connection is tried, in milliseconds; 15000 when left out."`
}

// SSHHop is one SSH server and how to log in to it. Its key is always checked.
type SSHHop struct {
	Host     string `json:"host" minLength:"1" maxLength:"255" doc:"The host's name or address, as the agent or the jump before it sees it."`
	Port     int    `json:"port,omitempty" minimum:"0" maximum:"65535" doc:"22 when left out."`
	Username string `json:"username" minLength:"1" maxLength:"128" doc:"The user to log in as."`
	// HostKeys pin the host; without any, KnownHosts decides.
	HostKeys []string `json:"hostKeys,omitempty" maxItems:"16" doc:"The host's public keys, each as in ssh-ed25519 AAAA…; stella target scan shows them."`
	// KnownHosts is a file on the agent's host.
	KnownHosts string `json:"knownHosts,omitempty" maxLength:"4096" doc:"A known_hosts file on the agent's host; without it and without hostKeys, those of the agent's user and of its system."`
	// PrivateKeyRef, PassphraseRef and PasswordRef are secret://name; a key
	// may also be file:///path on the agent's host.
	PrivateKeyRef string `json:"privateKeyRef,omitempty" maxLength:"4096" doc:"The private key, as in secret://name, or as in file:///path on the agent's host."`
	PassphraseRef string `json:"passphraseRef,omitempty" maxLength:"255" doc:"The private key's passphrase, as in secret://name."`
	PasswordRef   string `json:"passwordRef,omitempty" maxLength:"255" doc:"The password, as in secret://name."`
	// Agent logs in by the SSH agent that $SSH_AUTH_SOCK of the agent names.
	Agent bool `json:"agent,omitempty" doc:"Whether to log in by the ssh-agent of the agent's host ($SSH_AUTH_SOCK)."`
}

// TargetRequest makes a target (POST) or replaces what is said of it (PUT).
type TargetRequest struct {
	Name          string            `json:"name" minLength:"1" maxLength:"255" doc:"The name, unique in the tenant: 1 to 128 letters, digits, dots, underscores or hyphens."`
	Kind          string            `json:"kind" enum:"docker,compose,ssh,host" doc:"docker: containers of an engine; compose: projects of one; ssh: a folder on a remote host; host: releases in a folder of the agent's own host."`
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
