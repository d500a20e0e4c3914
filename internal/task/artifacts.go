package task

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// Artifact is one of Stella's store that a task needs.
type Artifact struct {
	Digest string
	// Field is where the request names it, and Name how the file is called.
	Field, Name string
}

// Missing is the fault of an artifact that the task needs and that is not in
// the store, or not whole: of size bytes, only received are there.
func (a Artifact) Missing(there bool, received, size int64) error {
	why := "is not in Stella's store"
	if there {
		why = fmt.Sprintf("is not complete in Stella's store (%d of %d bytes)", received, size)
	}
	msg := fmt.Sprintf("%s of the file %q %s: push the file with `stella artifact push`, then try again", a.Digest, clip(a.Name), why)
	return &fault.Error{
		Kind: fault.Invalid, Code: "artifact_missing", Message: a.Field + ": " + msg,
		Fields: []fault.Field{{Location: a.Field, Message: msg}},
	}
}

// artifactsOf returns what of a list is in Stella's store, at the place where
// the list stands in the request.
func artifactsOf(at string, list []api.ArtifactReference) []Artifact {
	var out []Artifact
	for i := range list {
		if strings.HasPrefix(list[i].URL, api.ArtifactScheme) {
			out = append(out, Artifact{Digest: list[i].Digest, Field: fmt.Sprintf("%s[%d].url", at, i), Name: list[i].Name})
		}
	}
	// In one order, so that two tasks never wait for each other's; and once.
	slices.SortStableFunc(out, func(a, b Artifact) int { return cmp.Compare(a.Digest, b.Digest) })
	return slices.CompactFunc(out, func(a, b Artifact) bool { return a.Digest == b.Digest })
}

// stored are the artifacts of Stella's store that a payload names.
type stored interface{ artifacts() []Artifact }

func (p *deployPayload) artifacts() []Artifact {
	return artifactsOf("body.payload.artifacts", p.Artifacts)
}

func (p *uploadPayload) artifacts() []Artifact { return artifactsOf("body.payload.files", p.Files) }

// artifacts of a rollback are those of the deployment that it may have to
// repeat; the request names that only by its release.
func (p *rollbackPayload) artifacts() []Artifact {
	if p.Deploy == nil {
		return nil
	}
	list := artifactsOf("", p.Deploy.Artifacts)
	for i := range list {
		list[i].Field = "body.payload.releaseId"
	}
	return list
}
