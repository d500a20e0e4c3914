package rest

import "stella-ops.org/stella/api"

// aboutArtifacts is about Stella's own store of files.
func aboutArtifacts() map[string]about {
	const gone = "404 artifact_not_found"
	const bytes = "the content's bytes"
	return map[string]about{
		"artifact.begin": {
			tag: "artifacts",
			text: "Begins the upload of an artifact, or takes up one that is there, and says how much of it is stored: send what comes behind with PATCH. " +
				"When `complete` is true, nothing is to be sent. A name, a media type or notes that are given stand from then on. Idempotent.\n\n" +
				"An upload that nobody continues is forgotten after a day; a complete artifact when no task that is not over and none of the last 20 deployments " +
				"of a target was made with it, and the server's grace period since its last use is over.",
			request: exampleArtifactRequest(), answers: "How far the upload has come.", answer: exampleUpload(16 << 20),
			refuses: []string{"409 size_differs", "413 artifact_too_large", "422 digest_mismatch"},
		},
		"artifact.append": {
			tag: "artifacts",
			text: "Adds to an upload, as much of it as the body holds; the body is stored as it comes, and what came counts even if the connection breaks. " +
				"Ask with POST where to go on then. The answer comes when all of it is durable. With the last byte the digest is compared: " +
				"if it is another one, all of the upload is dropped. An artifact that is complete already answers so, and the body is not read.\n\n" +
				"There is no limit to how long the body may take, as long as something comes every 30 seconds.",
			request: bytes, answers: "How far the upload has come.", answer: exampleUpload(exampleArtifactBytes),
			refuses: []string{gone, "409 wrong_offset", "422 digest_mismatch"},
		},
		"artifact.list": {
			tag: "artifacts", text: "Lists artifacts, and uploads that are not complete, the newest first unless told otherwise.",
			answers: "A page of artifacts.", answer: api.ArtifactList{Items: []api.Artifact{exampleArtifact()}, Next: exampleCursor},
		},
		"artifact.get": {
			tag: "artifacts", text: "Shows one artifact, by its digest or its name, and the last tasks that were made with it. Of several with one name it is the newest that is complete.",
			answers: "The artifact.", answer: exampleArtifactUsed(), refuses: []string{gone},
		},
		"artifact.content": {
			tag: "artifacts",
			text: "Gives an artifact's bytes, all of them or a range (RFC 9110, section 14). The entity tag is the digest. " +
				"The server checks nothing: compare the digest of what you got.",
			refuses: []string{gone, "409 artifact_incomplete", "416 range_not_satisfiable"},
		},
		"artifact.delete": {
			tag: "artifacts",
			text: "Forgets an artifact, or an upload that is not complete, at once; the space of its bytes is given back in the background. " +
				"It is refused while a task that is not over, or one of the last 20 deployments of a target, was made with it. Repeated, it answers 404.",
			answers: "The artifact is forgotten.", answer: deleted, refuses: []string{gone, "409 artifact_in_use"},
		},
		"agent.artifact": {
			tag: "agent-protocol",
			text: "Gives an agent the bytes of an artifact that its task was made with, all of them or a range, so that a download that broke goes on where it was. " +
				"Only the agent that holds the task gets them, and only until the task is over; for everybody else there is no such artifact. " +
				"The server checks nothing: compare the digest of what you got.",
			refuses: []string{gone, "416 range_not_satisfiable"},
		},
	}
}
