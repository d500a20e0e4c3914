package testkit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/testkit/contract"
)

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// thing is what the trip pushes.
var thing = []byte("the first half, and the second half")

var tripsOfArtifacts = []row{
	{"artifact.begin", func(w *trip) {
		req := api.ArtifactRequest{Digest: digestOf(thing), Size: int64(len(thing)), Name: "thing.txt", MediaType: "text/plain", Notes: "of the trip"}
		up, err := w.admin.BeginArtifact(w.Context(), req)
		w.ok(err)
		if up.Received != 0 || up.Complete {
			w.Errorf("%+v", up)
		}
		_, err = w.viewer.BeginArtifact(w.Context(), req)
		w.refused(err, 403, "role_missing")
		_, err = w.admin.BeginArtifact(w.Context(), api.ArtifactRequest{Digest: req.Digest, Size: 7})
		w.refused(err, 409, "size_differs")
		_, err = w.admin.BeginArtifact(w.Context(), api.ArtifactRequest{Digest: req.Digest, Size: 3 << 30})
		w.refused(err, 413, "artifact_too_large")
		_, err = w.admin.BeginArtifact(w.Context(), api.ArtifactRequest{Digest: req.Digest})
		w.refused(err, 422, "digest_mismatch")
	}, ""},
	{"artifact.append", func(w *trip) {
		digest := digestOf(thing)
		_, err := w.admin.ArtifactContent(w.Context(), digest, 0)
		w.refused(err, 409, "artifact_incomplete")
		up, err := w.admin.AppendArtifact(w.Context(), digest, 0, bytes.NewReader(thing[:10]))
		w.ok(err)
		if up.Received != 10 || up.Complete {
			w.Errorf("%+v", up)
		}
		_, err = w.admin.AppendArtifact(w.Context(), digest, 0, bytes.NewReader(thing))
		w.refused(err, 409, "wrong_offset")
		if at := w.goesOn(digest, "3"); at != "10" {
			w.Errorf("it says that the upload goes on at %q", at)
		}
		_, err = w.admin.AppendArtifact(w.Context(), "sha256:nothing", 0, bytes.NewReader(thing))
		w.refused(err, 404, "artifact_not_found")
		w.refused(w.call(contract.Careless(w.Context()), w.transport, http.MethodPatch, "/api/v1/artifacts/"+digest,
			map[string]string{"Authorization": "Bearer " + w.cp.AdminToken, api.HeaderUploadOffset: "10"}, "json", nil), 415, "unsupported_media_type")
		wrong := []byte("another content")
		_, err = w.admin.BeginArtifact(w.Context(), api.ArtifactRequest{Digest: digestOf(nil)[:70] + "0", Size: int64(len(wrong))})
		w.ok(err)
		_, err = w.admin.AppendArtifact(w.Context(), digestOf(nil)[:70]+"0", 0, bytes.NewReader(wrong))
		w.refused(err, 422, "digest_mismatch")
		if !strings.Contains(err.Error(), digestOf(wrong)) || !strings.Contains(err.Error(), digestOf(nil)[:70]+"0") {
			w.Errorf("it does not say both digests: %v", err)
		}
		up, err = w.admin.AppendArtifact(w.Context(), digest, 10, bytes.NewReader(thing[10:]))
		w.ok(err)
		if !up.Complete {
			w.Errorf("%+v", up)
		}
	}, ""},
	{"artifact.list", func(w *trip) {
		list, err := w.viewer.ArtifactPage(w.Context(), client.ArtifactFilter{Name: "thing.txt", Filter: "size > 3 and complete = true", Sort: "-size"})
		w.ok(err)
		if len(list.Items) != 1 || list.Items[0].Digest != digestOf(thing) {
			w.Errorf("%+v", list)
		}
		_, err = w.viewer.ArtifactPage(w.Context(), client.ArtifactFilter{Filter: "weight > 3"})
		w.refused(err, 422, "invalid")
	}, ""},
	{"artifact.content", func(w *trip) {
		for _, from := range []int64{0, 11} {
			body, err := w.viewer.ArtifactContent(w.Context(), "thing.txt", from)
			w.ok(err)
			got, err := io.ReadAll(body)
			w.ok(err)
			body.Close()
			if !bytes.Equal(got, thing[from:]) {
				w.Errorf("from %d: %q", from, got)
			}
		}
		_, err := w.viewer.ArtifactContent(w.Context(), digestOf(thing), int64(len(thing)))
		w.refused(err, 416, "range_not_satisfiable")
		_, err = w.viewer.ArtifactContent(w.Context(), "nothing", 0)
		w.refused(err, 404, "artifact_not_found")
	}, ""},
	{"agent.artifact", func(w *trip) {
		payload, err := json.Marshal(api.UploadPayload{Files: []api.ArtifactReference{{Name: "thing.txt", URL: api.ArtifactScheme + digestOf(thing)}}})
		w.ok(err)
		req := api.TaskRequest{Type: api.TaskUploadFiles, Target: "box", Payload: payload}
		task, err := w.admin.SubmitTask(w.Context(), req)
		w.ok(err)
		req.Payload = json.RawMessage(strings.ReplaceAll(string(payload), digestOf(thing), digestOf(nil)))
		_, err = w.admin.SubmitTask(w.Context(), req)
		w.refused(err, 422, "artifact_missing")
		var out api.HeartbeatResponse
		w.ok(w.call(w.Context(), w.agents, http.MethodPost, w.me("/heartbeat"), nil, api.HeartbeatRequest{MaxTasks: 1}, &out))
		if len(out.Tasks) != 1 || out.Tasks[0].ID != task.ID {
			w.Fatalf("the heartbeat handed out %+v", out.Tasks)
		}
		path := w.me("/tasks/" + task.ID + "/artifacts/" + digestOf(thing))
		header := map[string]string{"Authorization": "Bearer " + out.Tasks[0].Token, "Range": "bytes=11-"}
		if got := w.octets(path, header); !bytes.Equal(got, thing[11:]) {
			w.Errorf("%q", got)
		}
		header["Range"] = "bytes=1000-"
		w.refused(w.call(w.Context(), w.agents, http.MethodGet, path, header, nil, nil), 416, "range_not_satisfiable")
		delete(header, "Range")
		if got := w.octets(path, header); !bytes.Equal(got, thing) {
			w.Errorf("%q", got)
		}
		w.refused(w.call(w.Context(), w.agents, http.MethodGet, w.me("/tasks/another/artifacts/"+digestOf(thing)), header, nil, nil), 403, "token_of_another_task")
		w.refused(w.call(w.Context(), w.agents, http.MethodGet, w.me("/tasks/"+task.ID+"/artifacts/"+digestOf(nil)), header, nil, nil), 404, "artifact_not_found")
		w.ok(w.call(w.Context(), w.agents, http.MethodPost, w.me("/tasks/"+task.ID+"/complete"), header, api.CompleteRequest{Success: true}, nil))
		w.refused(w.call(w.Context(), w.agents, http.MethodGet, path, header, nil, nil), 404, "artifact_not_found")
	}, ""},
	{"artifact.get", func(w *trip) {
		got, err := w.viewer.Artifact(w.Context(), digestOf(thing))
		w.ok(err)
		if !got.Complete || len(got.UsedBy) != 1 || got.UsedBy[0].State != api.TaskSucceeded {
			w.Errorf("%+v", got)
		}
		_, err = w.viewer.Artifact(w.Context(), "nothing")
		w.refused(err, 404, "artifact_not_found")
	}, ""},
	{"artifact.delete", func(w *trip) {
		w.refused(w.viewer.DeleteArtifact(w.Context(), digestOf(thing)), 403, "role_missing")
		w.ok(w.admin.DeleteArtifact(w.Context(), digestOf(thing)))
		w.refused(w.admin.DeleteArtifact(w.Context(), digestOf(thing)), 404, "artifact_not_found")
	}, ""},
}

// goesOn is where the answer to a wrong offset says that an upload goes on.
func (w *trip) goesOn(digest, offset string) string {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodPatch, w.cp.URL+"/api/v1/artifacts/"+digest, bytes.NewReader(thing))
	w.ok(err)
	req.Header.Set("Authorization", "Bearer "+w.cp.AdminToken)
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set(api.HeaderUploadOffset, offset)
	res, err := w.transport.RoundTrip(req)
	w.ok(err)
	defer res.Body.Close()
	if res.StatusCode != http.StatusConflict {
		w.Fatal(res.Status)
	}
	return res.Header.Get(api.HeaderUploadOffset)
}

// octets is what an agent's request answers with.
func (w *trip) octets(path string, header map[string]string) []byte {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, w.cp.URL+path, http.NoBody)
	w.ok(err)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := w.agents.RoundTrip(req)
	w.ok(err)
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	w.ok(err)
	if res.StatusCode >= 300 {
		w.Fatalf("%s: %s", res.Status, got)
	}
	return got
}
