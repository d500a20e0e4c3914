package api

import (
	"encoding/json"
	"time"
)

// DeployPayload is what a deploy task deploys.
type DeployPayload struct {
	// Image is a repository without tag or digest, as in
	// registry.example.com/team/app (docker).
	Image  string `json:"image,omitempty" maxLength:"1024" doc:"docker: the image's repository."`
	Digest string `json:"digest,omitempty" maxLength:"128" doc:"docker: the image's digest, as in sha256:…; never a tag."`
	// PreviousDigest is what the caller believes runs now; for the record.
	PreviousDigest string              `json:"previousDigest,omitempty" maxLength:"128" doc:"docker: what the caller believes runs now; for the record only."`
	Artifacts      []ArtifactReference `json:"artifacts,omitempty" maxItems:"1000" doc:"compose, ssh, host: the release's files."`
	Config         DeployConfig        `json:"config,omitzero" doc:"How the release runs."`
	Hooks          Hooks               `json:"hooks,omitzero" doc:"Commands around the deployment."`
}

// DeployConfig is how the release runs.
type DeployConfig struct {
	ReleaseID     string            `json:"releaseId,omitempty" maxLength:"128" doc:"The release's id; the task's id when left out."`
	ReleaseName   string            `json:"releaseName,omitempty" maxLength:"255" doc:"The release's name, for people."`
	ContainerName string            `json:"containerName,omitempty" maxLength:"255" doc:"docker: the target's name when left out."`
	Environment   map[string]string `json:"environment,omitempty" doc:"Environment variables. Their values are kept encrypted and shown masked."`
	Ports         []string          `json:"ports,omitempty" maxItems:"256" doc:"docker: [ip:]host:container[/protocol]."`
	Volumes       []string          `json:"volumes,omitempty" maxItems:"256" doc:"docker: source:target[:ro]."`
	Networks      []string          `json:"networks,omitempty" maxItems:"32" doc:"docker: networks to join; they must exist."`
	RestartPolicy string            `json:"restartPolicy,omitempty" maxLength:"64" doc:"docker: no, always, unless-stopped (the default) or on-failure[:n]."`
	MemoryLimit   int64             `json:"memoryLimit,omitempty" minimum:"0" doc:"docker: in bytes."`
	CPULimit      float64           `json:"cpuLimit,omitempty" minimum:"0" doc:"docker: in CPUs, as in 0.5."`
	Command       []string          `json:"command,omitempty" doc:"docker: instead of the image's own."`
	Labels        map[string]string `json:"labels,omitempty" doc:"docker: labels beside Stella's own."`
	// CleanupPrevious false keeps what a rollback needs: the previous
	// container, stopped; the previous compose project's files; the backup of
	// an ssh target.
	CleanupPrevious *bool `json:"cleanupPrevious,omitempty" doc:"docker, compose, ssh: false keeps the previous version, to roll back to without the server's history."`
	// ExpectedDigests are the digests that a compose file must pin, by service.
	ExpectedDigests map[string]string `json:"expectedDigests,omitempty" doc:"compose: for each service of the lock file, the digest of its image, as in sha256:…; a service that is not here is refused."`
	Profiles        []string          `json:"profiles,omitempty" maxItems:"64" doc:"compose: the profiles to enable."`
	// DeploymentTimeout is the limit of an ssh target's deploy script.
	DeploymentTimeout int64 `json:"deploymentTimeout,omitempty" minimum:"0" maximum:"86400" doc:"ssh: how long the deploy script may take, in seconds; 1800 when left out."`
	StopTimeout       int64 `json:"stopTimeout,omitempty" minimum:"0" doc:"How long the old version may take to stop, in seconds; 10 when left out."`
	// Start and Stop are commands of a release, run by sh in current/ (host)
	// or in the target's folder (ssh).
	Start string `json:"start,omitempty" maxLength:"16384" doc:"ssh, host: starts the release; it must return."`
	Stop  string `json:"stop,omitempty" maxLength:"16384" doc:"ssh, host: stops the release."`
	// Unit is a systemd unit that is restarted instead of Start and Stop.
	Unit        string       `json:"unit,omitempty" maxLength:"255" doc:"host: the systemd unit that runs the release, instead of start and stop."`
	Keep        int          `json:"keep,omitempty" minimum:"0" maximum:"100" doc:"host: how many releases to keep; 5 when left out."`
	HealthCheck *HealthCheck `json:"healthCheck,omitempty" doc:"How to tell whether the release works; without one, it is enough that it starts."`
}

// IsZero reports whether nothing is configured, be it that an empty list or
// mapping is there or that none is: both are left out of a payload.
func (c DeployConfig) IsZero() bool {
	text, err := json.Marshal(c)
	return err == nil && string(text) == "{}"
}

// ArtifactReference is a file that goes with a release.
type ArtifactReference struct {
	_    struct{} `json:"-" additionalProperties:"true"`
	Name string   `json:"name" maxLength:"4096" doc:"A relative path."`
	// Type is file, deploy_script (run once in the new release), systemd_unit,
	// compose_lock (a compose file with every image pinned) or env_file
	// (variables for a compose file).
	Type string `json:"type,omitempty" doc:"file (the default), deploy_script (ssh, host), systemd_unit (host), compose_lock or env_file (compose)."`
	// Digest is checked always.
	Digest  string `json:"digest,omitempty" maxLength:"128" doc:"sha256:… of the content; needed with a url."`
	URL     string `json:"url,omitempty" maxLength:"4096" doc:"Where the agent gets the content: http, https, or artifact://sha256:… for what was pushed to Stella."`
	Content []byte `json:"content,omitempty" doc:"The content itself, in base64."`
	Mode    string `json:"mode,omitempty" maxLength:"5" doc:"Permissions in octal; 0644, or 0755 for a deploy_script, when left out."`
}

// ArtifactScheme begins the URL of an artifact in Stella's own store:
// artifact://sha256:….
const ArtifactScheme = "artifact://"

// Hooks run around a deployment: on the agent's host, and on the remote host of
// an ssh target.
type Hooks struct {
	PreDeploy  *Hook `json:"preDeploy,omitempty" doc:"Before anything is touched; a failure ends the task."`
	PostDeploy *Hook `json:"postDeploy,omitempty" doc:"When the new version is healthy; a failure rolls it back."`
}

// Hook is a command with its limits.
type Hook struct {
	Command     []string          `json:"command" minItems:"1" doc:"The program and its arguments; no shell is put around it."`
	Timeout     int64             `json:"timeout,omitempty" minimum:"0" doc:"In seconds; 300 when left out."`
	Environment map[string]string `json:"environment,omitempty" doc:"Environment variables beside those of the agent."`
}

// HealthCheck tells whether a version works. It is tried every interval until
// it has passed, or until the timeout.
type HealthCheck struct {
	Type string `json:"type" enum:"http,tcp,command,docker" doc:"http: a URL answers as expected; tcp: a port accepts; command: a program exits 0 (in the container on docker); docker: the image's own HEALTHCHECK."`
	// URL is called from the agent's host.
	URL            string   `json:"url,omitempty" maxLength:"4096" doc:"http: what to get."`
	ExpectedStatus int      `json:"expectedStatus,omitempty" minimum:"0" maximum:"599" doc:"http: 200 to 399 when left out."`
	ExpectedBody   string   `json:"expectedBody,omitempty" maxLength:"4096" doc:"http: a text that the answer must contain."`
	Address        string   `json:"address,omitempty" maxLength:"1024" doc:"tcp: host:port."`
	Command        []string `json:"command,omitempty" doc:"command: the program and its arguments."`
	IntervalMs     int64    `json:"intervalMs,omitempty" minimum:"0" doc:"Between tries; 1000 when left out."`
	Timeout        int64    `json:"timeout,omitempty" minimum:"0" doc:"For all tries together, in seconds; 60 when left out."`
	// Successes in a row that make it healthy.
	Successes int `json:"successes,omitempty" minimum:"0" maximum:"100" doc:"How many passes in a row are needed; 1 when left out."`
}

// RollbackPayload goes back to what ran before.
type RollbackPayload struct {
	// ContainerName is the target's name when left out (docker).
	ContainerName string `json:"containerName,omitempty" maxLength:"255" doc:"docker: the container; the target's name when left out."`
	// TargetDigest or ReleaseID choose a version; the previous one otherwise.
	TargetDigest string `json:"targetDigest,omitempty" maxLength:"128" doc:"docker: the digest to go back to."`
	ReleaseID    string `json:"releaseId,omitempty" maxLength:"128" doc:"compose, ssh, host: the release to go back to."`
	// Deploy is filled in by the server: the deployment to repeat when the
	// target has kept nothing to restore.
	Deploy *DeployPayload `json:"deploy,omitempty" doc:"Filled in by the server."`
}

// HealthCheckPayload asks for one health check of what runs.
type HealthCheckPayload struct {
	ContainerName string       `json:"containerName,omitempty" maxLength:"255" doc:"docker: the container; the target's name when left out."`
	HealthCheck   *HealthCheck `json:"healthCheck,omitempty" doc:"docker: the container's state when left out."`
}

// InspectPayload asks what really runs.
type InspectPayload struct {
	ContainerName string `json:"containerName,omitempty" maxLength:"255" doc:"docker: the container; the target's name when left out."`
}

// CommandPayload is a program to run on the target (in the container on
// docker).
type CommandPayload struct {
	Command       []string          `json:"command" minItems:"1" doc:"The program and its arguments; no shell is put around it."`
	Environment   map[string]string `json:"environment,omitempty" doc:"Environment variables. Their values are kept encrypted and shown masked."`
	WorkingDir    string            `json:"workingDir,omitempty" maxLength:"4096" doc:"The folder to run it in."`
	User          string            `json:"user,omitempty" maxLength:"255" doc:"docker: the user to run it as."`
	ContainerName string            `json:"containerName,omitempty" maxLength:"255" doc:"docker: the container; the target's name when left out."`
}

// UploadPayload is files to put on the target.
type UploadPayload struct {
	Files         []ArtifactReference `json:"files" minItems:"1" maxItems:"1000" doc:"The files."`
	ContainerName string              `json:"containerName,omitempty" maxLength:"255" doc:"docker: the container; the target's name when left out."`
}

// StickerPayload is a sticker to write.
type StickerPayload struct {
	Sticker       VersionSticker `json:"sticker" doc:"The sticker."`
	ContainerName string         `json:"containerName,omitempty" maxLength:"255" doc:"docker: the container; the target's name when left out."`
}

// VersionSticker is what a target says of itself: which release it runs, since
// when, and who put it there.
type VersionSticker struct {
	_              struct{}  `json:"-" additionalProperties:"true"`
	ReleaseID      string    `json:"releaseId" doc:"The release's id."`
	ReleaseName    string    `json:"releaseName,omitempty" doc:"The release's name."`
	Image          string    `json:"image,omitempty" doc:"docker: the image's repository."`
	Digest         string    `json:"digest,omitempty" doc:"docker: the image's digest."`
	PreviousDigest string    `json:"previousDigest,omitempty" doc:"docker: the digest that ran before."`
	TargetID       string    `json:"targetId" doc:"The target's id."`
	TargetName     string    `json:"targetName" doc:"The target's name."`
	Environment    string    `json:"environment,omitempty" doc:"The target's environment."`
	TaskID         string    `json:"taskId" doc:"The task that deployed it."`
	AgentID        string    `json:"agentId,omitempty" doc:"The agent that deployed it."`
	DeployedAt     time.Time `json:"deployedAt" doc:"When it was deployed."`
}
