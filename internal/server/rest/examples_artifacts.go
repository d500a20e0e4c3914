package rest

import "stella-ops.org/stella/api"

// The artifact of the story is what "ci" has built of release 2026.3.1.
const (
	exampleArtifactDigest = "sha256:6b1f0c2d3e4a59687a8b9cad0e1f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b"
	exampleArtifactBytes  = 48 << 20
)

func exampleArtifactRequest() api.ArtifactRequest {
	return api.ArtifactRequest{Digest: exampleArtifactDigest, Size: exampleArtifactBytes, Name: "shop-2026.3.1.tar.gz", MediaType: "application/gzip"}
}

func exampleUpload(received int64) api.ArtifactUpload {
	return api.ArtifactUpload{Digest: exampleArtifactDigest, Size: exampleArtifactBytes, Received: received, Complete: received == exampleArtifactBytes}
}

func exampleArtifact() api.Artifact {
	req := exampleArtifactRequest()
	return api.Artifact{
		Digest: req.Digest, Name: req.Name, MediaType: req.MediaType, Size: req.Size, Received: req.Size, Complete: true,
		CreatedBy: "ci", CreatedAt: at(5, 0), CompletedAt: atp(5, 4), LastUsedAt: at(6, 0),
	}
}

func exampleArtifactUsed() api.Artifact {
	a := exampleArtifact()
	a.UsedBy = []api.ArtifactUse{{TaskID: exampleTaskID, Type: api.TaskDeploy, TargetName: "shop", State: api.TaskSucceeded}}
	return a
}
