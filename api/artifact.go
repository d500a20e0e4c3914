package api

import "time"

// HeaderUploadOffset says from which byte on an upload goes on; the name is that
// of the IETF's draft on resumable uploads.
const HeaderUploadOffset = "Upload-Offset"

// ArtifactRequest is POST /api/v1/artifacts: it begins the upload of an artifact,
// or takes it up again.
type ArtifactRequest struct {
	Digest    string `json:"digest" minLength:"71" maxLength:"71" pattern:"^sha256:[0-9a-f]{64}$" doc:"sha256:… of the content: the artifact's name for good."`
	Size      int64  `json:"size" minimum:"0" doc:"How long the content is, in bytes."`
	Name      string `json:"name,omitempty" maxLength:"255" doc:"What people call it, as in app-1.4.2.tar.gz; it need not be unique."`
	MediaType string `json:"mediaType,omitempty" maxLength:"255" doc:"What it is, as in application/gzip; for the record."`
	Notes     string `json:"notes,omitempty" maxLength:"4096" doc:"Anything that people should know of it."`
}

// ArtifactUpload is how far an upload has come.
type ArtifactUpload struct {
	Digest   string `json:"digest" doc:"The artifact's digest."`
	Size     int64  `json:"size" doc:"How long the content is, in bytes."`
	Received int64  `json:"received" doc:"How much of it is stored: send what comes behind."`
	Complete bool   `json:"complete" doc:"Whether all of it is there, and has the digest. Nothing is to be sent then."`
}

// Artifact is a file in Stella's own store.
type Artifact struct {
	Digest      string     `json:"digest" doc:"sha256:… of the content."`
	Name        string     `json:"name,omitempty" doc:"What people call it."`
	MediaType   string     `json:"mediaType,omitempty" doc:"What it is, as its pusher said."`
	Notes       string     `json:"notes,omitempty" doc:"What its pusher noted."`
	Size        int64      `json:"size" doc:"How long the content is, in bytes."`
	Received    int64      `json:"received" doc:"How much of it is stored."`
	Complete    bool       `json:"complete" doc:"Whether all of it is there, and has the digest."`
	CreatedBy   string     `json:"createdBy,omitempty" doc:"The name of the API token that pushed it."`
	CreatedAt   time.Time  `json:"createdAt" doc:"When its upload began."`
	CompletedAt *time.Time `json:"completedAt,omitempty" doc:"When all of it was there."`
	LastUsedAt  time.Time  `json:"lastUsedAt" doc:"When it was pushed, or a task was made with it, last."`
	// UsedBy is only in the answer for one artifact.
	UsedBy []ArtifactUse `json:"usedBy,omitempty" doc:"The last tasks that were made with it, the newest first; not in listings."`
}

// ArtifactUse is a task that was made with an artifact.
type ArtifactUse struct {
	TaskID     string    `json:"taskId" doc:"The task."`
	Type       TaskType  `json:"type" doc:"What it does with its target."`
	TargetName string    `json:"targetName" doc:"The target's name."`
	State      TaskState `json:"state" enum:"queued,assigned,running,succeeded,failed,cancelled,expired" doc:"Where the task stands."`
}

// ArtifactList is the answer of GET /api/v1/artifacts.
type ArtifactList struct {
	Items []Artifact `json:"items" nullable:"false" doc:"The artifacts of this page."`
	Next  string     `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
}
