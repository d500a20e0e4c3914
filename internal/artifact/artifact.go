// Package artifact knows Stella's own store of files: what people push for
// deployments, named by the digest of its bytes, and fetched by the agents whose
// tasks are made with it.
//
// An upload comes in pieces, each of which is durable when it counts, and may be
// taken up again from there, by another server too:
//
//	(nothing) ──begin──▶ uploading ──last piece, the digest is right──▶ complete
//	                        │  ▲                                           │
//	                        │  └─ piece ─┘                                 │
//	                        └── the digest is wrong, nobody went on ───▶ (nothing) ◀── nobody needs it
//
// A complete artifact stays as long as a task that is not over, or one of the
// last deployments of a target, was made with it (see [KeptDeployments]). When
// it goes, its record goes at once, and its bytes follow in small steps.
//
// The package knows no SQL and no HTTP, and nothing of what is in the files.
package artifact

import (
	"regexp"
	"strings"
	"time"
	"unicode"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

const (
	// PieceBytes is how much of an upload becomes durable at a time, and so how
	// much of it is ever in memory.
	PieceBytes = 1 << 20
	// KeptDeployments is of how many deployments of each target, counted from
	// the last, the artifacts are kept, so that a rollback can repeat them.
	KeptDeployments = 20
	// emptyDigest is the digest of no bytes at all.
	emptyDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// Artifact is one file, or the upload of one.
type Artifact struct {
	TenantID string
	Digest   string // sha256:… in lower case
	// UploadID tells this upload's bytes from those of earlier ones.
	UploadID  string
	Name      string // empty: none
	MediaType string
	Notes     string
	Size      int64
	// Received is how much of it is stored; Complete that it is all there, and
	// has the digest.
	Received int64
	Complete bool
	// Sum is the state of the hash over what was received, as crypto/sha256
	// marshals it; nil when nothing was.
	Sum         []byte
	CreatedBy   string
	CreatedAt   time.Time
	UpdatedAt   time.Time // when bytes came last
	CompletedAt time.Time // zero before that
	LastUsedAt  time.Time // pushed, or taken for a task
}

// Piece is the next part of an upload.
type Piece struct {
	TenantID, Digest, UploadID string
	// Position is where it begins: what was received before.
	Position int64
	Data     []byte
	// Sum is the hash's state behind it, and Complete that it is the last one
	// and the digest is right.
	Sum      []byte
	Complete bool
	At       time.Time
}

// Use is a task that was made with an artifact.
type Use struct {
	TaskID     string
	Type       api.TaskType
	TargetName string
	State      api.TaskState
}

// Removal says which artifact is to go.
type Removal struct {
	TenantID, Digest string
	// UnusedSince and StalledSince, when set, let it go only if it was not used
	// since then, or as an upload not continued.
	UnusedSince, StalledSince time.Time
}

// Ref names an artifact.
type Ref struct{ TenantID, Digest string }

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// IsDigest reports whether a text is the digest of an artifact.
func IsDigest(s string) bool { return digestPattern.MatchString(s) }

func validate(req *api.ArtifactRequest, most int64) error {
	switch {
	case !IsDigest(req.Digest):
		return fault.InvalidField("body.digest", "%q is no digest: it is sha256: and 64 hexadecimal digits in lower case", clip(req.Digest))
	case req.Size < 0:
		return fault.InvalidField("body.size", "%d bytes are none", req.Size)
	case req.Size > most:
		return fault.New(fault.TooLarge, "artifact_too_large",
			"the artifact has %d bytes, and this server takes %d at the most: make it smaller, or raise the server's --max-artifact-size", req.Size, most)
	case req.Size == 0 && req.Digest != emptyDigest:
		return mismatch(req.Digest, emptyDigest)
	}
	for field, text := range map[string]string{"name": req.Name, "mediaType": req.MediaType} {
		if len(text) > 255 || strings.ContainsFunc(text, unicode.IsControl) {
			return fault.InvalidField("body."+field, "%q is not usable: give at most 255 bytes on one line", clip(text))
		}
	}
	if IsDigest(req.Name) {
		return fault.InvalidField("body.name", "a digest cannot be a name")
	}
	if len(req.Notes) > 4096 {
		return fault.InvalidField("body.notes", "these are more than 4096 bytes")
	}
	return nil
}

// NotFound is the fault of an artifact that is not there.
func NotFound(digestOrName string) error {
	return fault.New(fault.NotFound, "artifact_not_found",
		"there is no artifact %q: `stella artifact list` shows those that are, and `stella artifact push` adds one", clip(digestOrName))
}

// InUse is the fault of an artifact that a task may still need.
func InUse(digest string, u Use) error {
	why := "which is not over"
	if u.State.Final() {
		why = "to whose deployment a rollback may go back"
	}
	return fault.New(fault.Conflict, "artifact_in_use",
		"artifact %s is used by task %s on target %s, %s: it goes by itself when nothing needs it any more", digest, u.TaskID, u.TargetName, why)
}

// OtherSize is the fault of a second upload that says another size.
func OtherSize(digest string, have, said int64) error {
	return fault.New(fault.Conflict, "size_differs",
		"artifact %s has %d bytes by what was said first, and not %d: one of the two is a mistake; if it was the first, remove it with `stella artifact remove` and push again", digest, have, said)
}

// WrongOffset is a fault's cause: the upload goes on at Want.
type WrongOffset struct{ Want int64 }

// Error says where the upload goes on.
func (w *WrongOffset) Error() string { return "the offset is not where the upload goes on" }

func wrongOffset(a *Artifact, said int64) error {
	f := fault.New(fault.Conflict, "wrong_offset",
		"%d of %d bytes of artifact %s are stored: go on from %d, and not from %d", a.Received, a.Size, a.Digest, a.Received, said)
	f.Cause = &WrongOffset{a.Received}
	return f
}

func mismatch(want, got string) error {
	return fault.New(fault.Invalid, "digest_mismatch",
		"the content has the digest %s, and was announced as %s: it was changed on the way or while it was read; nothing of it is kept, push it again", got, want)
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
