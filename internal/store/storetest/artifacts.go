package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/artifact"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/task"
)

// artifacts is the service over a store, with the bench's clock.
func (b *bench) artifacts(s *store.Store, most int64) *artifact.Service {
	return artifact.NewService(s, artifact.Options{MaxBytes: most}, func() time.Time { return b.now }, slog.New(slog.DiscardHandler))
}

// content makes bytes of which no two seeds have the same.
func content(seed uint64, size int) []byte {
	data := make([]byte, size)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(data) // it never fails
	return data
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func request(data []byte, name string) api.ArtifactRequest {
	return api.ArtifactRequest{Digest: digestOf(data), Size: int64(len(data)), Name: name}
}

// pushed adds a complete artifact and returns its digest.
func (b *bench) pushed(t testing.TB, data []byte, name string) string {
	t.Helper()
	s := b.artifacts(b.Store, 0)
	a, err := s.Begin(b.ctx, tenant, "me", request(data, name))
	must(t, err)
	a, err = s.Append(b.ctx, tenant, a.Digest, a.Received, bytes.NewReader(data[a.Received:]))
	must(t, err)
	if !a.Complete {
		t.Fatalf("the artifact is not complete: %+v", a)
	}
	return a.Digest
}

// uses is for insert.
func uses(digests ...string) func(*task.Task) {
	return func(k *task.Task) {
		for i, d := range digests {
			k.Artifacts = append(k.Artifacts, task.Artifact{Digest: d, Field: fmt.Sprintf("body.payload.artifacts[%d].url", i), Name: "f"})
		}
	}
}

// reads checks that an artifact has its bytes, from a place on.
func (b *bench) reads(t testing.TB, digest string, from int64, want []byte) {
	t.Helper()
	s := b.artifacts(b.Store, 0)
	a, err := s.Complete(b.ctx, tenant, digest)
	must(t, err)
	c := s.Content(b.ctx, a)
	_, err = c.Seek(from, io.SeekStart)
	must(t, err)
	got, err := io.ReadAll(c)
	must(t, err)
	if !bytes.Equal(got, want[from:]) {
		t.Fatalf("from %d come %d bytes that are not the content's", from, len(got))
	}
}

// noPieces checks that nothing is left of uploads.
func (b *bench) noPieces(t testing.TB, uploads ...string) {
	t.Helper()
	for _, id := range uploads {
		_, _, err := b.ArtifactPiece(b.ctx, id, 1<<40)
		wantFault(t, err, fault.NotFound, "artifact_not_found")
	}
}

// largest notes how much is asked of it at once.
type largest struct {
	io.Reader
	most int
}

func (r *largest) Read(p []byte) (int, error) {
	r.most = max(r.most, len(p))
	return r.Reader.Read(p)
}

func testArtifactUpload(t *testing.T, b *bench) {
	data := content(1, 2*artifact.PieceBytes+12345)
	req := request(data, "app.tar.gz")
	req.MediaType, req.Notes = "application/gzip", "of 100 % \x00 and \xff"
	s := b.artifacts(b.Store, 0)
	a, err := s.Begin(b.ctx, tenant, "me", req)
	must(t, err)
	want := &artifact.Artifact{
		TenantID: tenant, Digest: req.Digest, UploadID: a.UploadID, Name: req.Name, MediaType: req.MediaType, Notes: "of 100 % \ufffd and \ufffd",
		Size: req.Size, CreatedBy: "me", CreatedAt: b.now, UpdatedAt: b.now, LastUsedAt: b.now,
	}
	same(t, "begun", a, want)

	// The connection breaks in the middle of a piece: what came counts.
	broken := errors.New("broken")
	cut := artifact.PieceBytes + 777
	_, err = s.Append(b.ctx, tenant, a.Digest, 0, io.MultiReader(bytes.NewReader(data[:cut]), iotest.ErrReader(broken)))
	wantError(t, err, broken)
	_, err = s.Complete(b.ctx, tenant, a.Digest)
	wantFault(t, err, fault.Conflict, "artifact_incomplete")

	// Another server takes it up, as another person pushes the same bytes.
	other := b.artifacts(b.open(t), 0)
	b.now = b.now.Add(time.Minute)
	again, err := other.Begin(b.ctx, tenant, "you", request(data, ""))
	must(t, err)
	if again.Received != int64(cut) || again.UploadID != a.UploadID || again.Name != req.Name || again.CreatedBy != "me" {
		t.Fatalf("taken up: %+v", again)
	}
	for _, wrong := range []int64{0, int64(cut) - 1, int64(cut) + 1} {
		_, err = other.Append(b.ctx, tenant, a.Digest, wrong, bytes.NewReader(data[wrong:]))
		wantFault(t, err, fault.Conflict, "wrong_offset")
		var where *artifact.WrongOffset
		if !errors.As(err, &where) || where.Want != int64(cut) {
			t.Fatalf("it goes on at %+v, want %d", where, cut)
		}
	}
	body := &largest{Reader: bytes.NewReader(data[cut:])}
	a, err = other.Append(b.ctx, tenant, a.Digest, int64(cut), body)
	must(t, err)
	if body.most > artifact.PieceBytes {
		t.Errorf("%d bytes are read at once", body.most)
	}
	want.Received, want.Complete, want.UpdatedAt, want.CompletedAt, want.LastUsedAt = req.Size, true, b.now, b.now, b.now
	a.Sum = nil
	same(t, "complete", a, want)
	for _, from := range []int64{0, 1, artifact.PieceBytes - 1, artifact.PieceBytes, int64(cut) - 1, int64(cut), int64(len(data)) - 1, int64(len(data))} {
		b.reads(t, a.Digest, from, data)
	}

	// It is there: nothing is read any more.
	again, err = s.Begin(b.ctx, tenant, "you", request(data, "renamed"))
	must(t, err)
	if !again.Complete || again.Name != "renamed" {
		t.Fatalf("pushed again: %+v", again)
	}
	if _, err = s.Append(b.ctx, tenant, a.Digest, 0, iotest.ErrReader(broken)); err != nil {
		t.Fatalf("append to what is complete: %v", err)
	}
	wrong := request(data, "")
	wrong.Size++
	_, err = s.Begin(b.ctx, tenant, "you", wrong)
	wantFault(t, err, fault.Conflict, "size_differs")

	named, uses, err := s.Get(b.ctx, tenant, "renamed")
	must(t, err)
	if named.Digest != a.Digest || len(uses) != 0 {
		t.Fatalf("by its name: %+v %v", named, uses)
	}
}

func testArtifactMismatch(t *testing.T, b *bench) {
	data := content(2, artifact.PieceBytes+5)
	s := b.artifacts(b.Store, 0)
	req := request(data, "app")
	first, err := s.Begin(b.ctx, tenant, "me", req)
	must(t, err)
	wrong := bytes.Clone(data)
	wrong[7]++
	_, err = s.Append(b.ctx, tenant, req.Digest, 0, bytes.NewReader(wrong))
	wantFault(t, err, fault.Invalid, "digest_mismatch")
	for _, d := range []string{req.Digest, digestOf(wrong)} {
		if !bytes.Contains([]byte(err.Error()), []byte(d)) {
			t.Errorf("it does not say %s: %v", d, err)
		}
	}
	_, _, err = s.Get(b.ctx, tenant, req.Digest)
	wantFault(t, err, fault.NotFound, "artifact_not_found")
	// A new upload has nothing of the old one, also before that is reclaimed.
	second, err := s.Begin(b.ctx, tenant, "me", req)
	must(t, err)
	if second.Received != 0 || second.UploadID == first.UploadID {
		t.Fatalf("begun anew: %+v", second)
	}
	must(t, s.Reclaim(b.ctx))
	b.noPieces(t, first.UploadID)
	b.pushed(t, data, "app")
	b.reads(t, req.Digest, 0, data)
	// What is dropped late does not take a newer upload along.
	must(t, b.DropUpload(b.ctx, tenant, req.Digest, first.UploadID))
	must(t, b.DropUpload(b.ctx, tenant, req.Digest, second.UploadID))
	b.reads(t, req.Digest, 0, data)

	// No bytes have a digest too, and need no upload.
	empty := digestOf(nil)
	a, err := s.Begin(b.ctx, tenant, "me", api.ArtifactRequest{Digest: empty})
	must(t, err)
	if !a.Complete {
		t.Fatalf("empty: %+v", a)
	}
	b.reads(t, empty, 0, nil)
	_, err = s.Begin(b.ctx, tenant, "me", api.ArtifactRequest{Digest: req.Digest})
	wantFault(t, err, fault.Invalid, "digest_mismatch")
}

func testArtifactLimits(t *testing.T, b *bench) {
	s := b.artifacts(b.Store, 1000)
	data := content(3, 1001)
	_, err := s.Begin(b.ctx, tenant, "me", request(data, ""))
	wantFault(t, err, fault.TooLarge, "artifact_too_large")
	b.pushed(t, data[:1000], "")
	for name, req := range map[string]api.ArtifactRequest{
		"no digest":           {Digest: "sha256:12", Size: 1},
		"a digest in capital": {Digest: "sha256:ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789", Size: 1},
		"no size":             {Digest: digestOf(data), Size: -1},
		"a name of two lines": {Digest: digestOf(data), Size: 1, Name: "a\nb"},
		"a digest for a name": {Digest: digestOf(data), Size: 1, Name: digestOf(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Begin(b.ctx, tenant, "me", req)
			wantFault(t, err, fault.Invalid, "invalid")
		})
	}
	// More than what was announced is not taken.
	req := request(data[:500], "")
	_, err = s.Begin(b.ctx, tenant, "me", req)
	must(t, err)
	a, err := s.Append(b.ctx, tenant, req.Digest, 0, bytes.NewReader(data))
	must(t, err)
	if !a.Complete || a.Received != 500 {
		t.Fatalf("of 1001 bytes: %+v", a)
	}
	b.reads(t, req.Digest, 0, data[:500])
}

// overtaken is a body that has something else happen before its first byte.
type overtaken struct {
	io.Reader
	first func()
}

func (r *overtaken) Read(p []byte) (int, error) {
	if r.first != nil {
		r.first()
		r.first = nil
	}
	return r.Reader.Read(p)
}

// testArtifactOvertaken: of two uploads at the same place, one counts.
func testArtifactOvertaken(t *testing.T, b *bench) {
	data := content(30, artifact.PieceBytes+100)
	req := request(data, "")
	one, two := b.artifacts(b.Store, 0), b.artifacts(b.open(t), 0)
	_, err := one.Begin(b.ctx, tenant, "me", req)
	must(t, err)
	meanwhile := func(from, upto int64) func() {
		return func() {
			_, err := two.Append(b.ctx, tenant, req.Digest, from, bytes.NewReader(data[from:upto]))
			must(t, err)
		}
	}
	_, err = one.Append(b.ctx, tenant, req.Digest, 0, &overtaken{bytes.NewReader(data), meanwhile(0, 777)})
	wantFault(t, err, fault.Conflict, "wrong_offset")
	var where *artifact.WrongOffset
	if !errors.As(err, &where) || where.Want != 777 {
		t.Fatalf("it goes on at %+v, want 777", where)
	}
	// Who is overtaken by the end is at the end, too.
	a, err := one.Append(b.ctx, tenant, req.Digest, 777, &overtaken{bytes.NewReader(data[777:]), meanwhile(777, int64(len(data)))})
	must(t, err)
	if !a.Complete {
		t.Fatalf("overtaken by the end: %+v", a)
	}
	b.reads(t, req.Digest, 0, data)
}

// testArtifactTogether: many push the same bytes to two servers, with broken
// connections; all of them come to the end, and the content is right.
func testArtifactTogether(t *testing.T, b *bench) {
	data := content(4, 3*artifact.PieceBytes/2)
	req := request(data, "app")
	services := []*artifact.Service{b.artifacts(b.Store, 0), b.artifacts(b.open(t), 0)}
	broken := errors.New("broken")
	together(t, 8, func(i int) error {
		s := services[i%2]
		for n := 1; ; n++ {
			a, err := s.Begin(b.ctx, tenant, "me", req)
			if err != nil || a.Complete {
				return err
			}
			upto := min(int64(len(data)), a.Received+int64(100_000*n*(i+1)))
			_, err = s.Append(b.ctx, tenant, req.Digest, a.Received, io.MultiReader(bytes.NewReader(data[a.Received:upto]), iotest.ErrReader(broken)))
			if err != nil && !errors.Is(err, broken) && fault.CodeOf(err) != "wrong_offset" {
				return err
			}
		}
	})
	b.reads(t, req.Digest, 0, data)
}

func testArtifactTenants(t *testing.T, b *bench) {
	must(t, b.db.Exec(b.ctx, "INSERT INTO tenants (id) VALUES ('elsewhere')"))
	data := content(5, 1000)
	digest := b.pushed(t, data, "app")
	s := b.artifacts(b.Store, 0)
	_, _, err := s.Get(b.ctx, "elsewhere", digest)
	wantFault(t, err, fault.NotFound, "artifact_not_found")
	_, _, err = s.Get(b.ctx, "elsewhere", "app")
	wantFault(t, err, fault.NotFound, "artifact_not_found")
	wantFault(t, s.Remove(b.ctx, "elsewhere", digest), fault.NotFound, "artifact_not_found")
	_, err = s.Append(b.ctx, "elsewhere", digest, 0, bytes.NewReader(data))
	wantFault(t, err, fault.NotFound, "artifact_not_found")
	// To know a digest is not to have the bytes.
	a, err := s.Begin(b.ctx, "elsewhere", "you", request(data, ""))
	must(t, err)
	if a.Received != 0 || a.Complete {
		t.Fatalf("elsewhere: %+v", a)
	}
	list, err := b.Artifacts(b.ctx, "elsewhere", artifact.Filter{})
	must(t, err)
	if len(list) != 1 || list[0].Complete {
		t.Fatalf("elsewhere are %+v", list)
	}
	k := b.queued(b.target(t, "web", "id-a").ID)
	k.TenantID = "elsewhere"
	uses(digest)(k)
	wantFault(t, b.CheckArtifacts(b.ctx, k), fault.Invalid, "artifact_missing")
	must(t, s.Remove(b.ctx, "elsewhere", digest))
	b.reads(t, digest, 0, data)
}

func testArtifactUses(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"), b.agent("b"))
	mine, other := b.target(t, "mine", "id-a"), b.target(t, "other", "id-b")
	one, two := b.pushed(t, content(6, 10), "one"), b.pushed(t, content(7, 20), "two")
	half := request(content(8, 30), "half")
	s := b.artifacts(b.Store, 0)
	_, err := s.Begin(b.ctx, tenant, "me", half)
	must(t, err)

	for digest, says := range map[string]string{digestOf(nil): "is not in Stella's store", half.Digest: "is not complete in Stella's store (0 of 30 bytes)"} {
		k := b.queued(mine.ID)
		uses(one, digest)(k)
		err := b.CheckArtifacts(b.ctx, k)
		wantFault(t, err, fault.Invalid, "artifact_missing")
		f := fault.As(err)
		if len(f.Fields) != 1 || f.Fields[0].Location != "body.payload.artifacts[1].url" || !bytes.Contains([]byte(f.Message), []byte(says)) || !bytes.Contains([]byte(f.Message), []byte("stella artifact push")) {
			t.Errorf("%+v", f)
		}
		_, err = b.InsertTask(b.ctx, k)
		wantFault(t, err, fault.Invalid, "artifact_missing")
		_, err = b.Task(b.ctx, tenant, k.ID)
		wantFault(t, err, fault.NotFound, "task_not_found")
	}

	b.now = b.now.Add(time.Hour)
	k := b.insert(t, mine.ID, uses(one, two))
	theirs := b.insert(t, other.ID, uses(two))
	a, used, err := s.Get(b.ctx, tenant, two)
	must(t, err)
	if !a.LastUsedAt.Equal(b.now) {
		t.Errorf("it was used at %s", a.LastUsedAt)
	}
	same(t, "uses", used, []artifact.Use{
		{TaskID: theirs.ID, Type: api.TaskDeploy, TargetName: "other", State: api.TaskQueued},
		{TaskID: k.ID, Type: api.TaskDeploy, TargetName: "mine", State: api.TaskQueued},
	})

	// The agent that holds the task gets what the task was made with; nobody
	// else gets anything, and nobody before or after.
	refused := func(agent, taskID, digest string) {
		t.Helper()
		_, err := s.ForTask(b.ctx, tenant, agent, taskID, digest)
		wantFault(t, err, fault.NotFound, "artifact_not_found")
	}
	refused("id-a", k.ID, one)
	b.claimed(t, k, "id-a")
	b.claimed(t, theirs, "id-b")
	for _, d := range []string{one, two} {
		got, err := s.ForTask(b.ctx, tenant, "id-a", k.ID, d)
		must(t, err)
		if got.Digest != d {
			t.Errorf("%s is %+v", d, got)
		}
	}
	refused("id-b", k.ID, one)
	refused("id-a", theirs.ID, two)
	refused("id-b", theirs.ID, one)
	refused("id-a", k.ID, half.Digest)
	_, err = s.ForTask(b.ctx, "elsewhere", "id-a", k.ID, one)
	wantFault(t, err, fault.NotFound, "artifact_not_found")
	wantFault(t, s.Remove(b.ctx, tenant, one), fault.Conflict, "artifact_in_use")

	done, err := b.FinishTask(b.ctx, task.Finish{Ref: task.Ref{ID: k.ID, Attempt: 1}, AgentID: "id-a", State: api.TaskFailed, At: b.now})
	must(t, err)
	if !done {
		t.Fatal("the result was not taken")
	}
	refused("id-a", k.ID, one)
	must(t, s.Remove(b.ctx, tenant, one))
	wantFault(t, s.Remove(b.ctx, tenant, one), fault.NotFound, "artifact_not_found")
	wantFault(t, s.Remove(b.ctx, tenant, two), fault.Conflict, "artifact_in_use")
	must(t, s.Remove(b.ctx, tenant, half.Digest))
}

func testArtifactCollect(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"))
	web := b.target(t, "web", "id-a")
	s := b.artifacts(b.Store, 0)
	deploy := func(digest string) {
		t.Helper()
		k := b.insert(t, web.ID, uses(digest))
		b.claimed(t, k, "id-a")
		b.now = b.now.Add(time.Second)
		_, err := b.FinishTask(b.ctx, task.Finish{
			Ref: task.Ref{ID: k.ID, Attempt: 1}, AgentID: "id-a", State: api.TaskSucceeded, At: b.now,
			Deployment: &task.Deployment{TaskID: k.ID, TenantID: tenant, TargetID: web.ID, ReleaseID: k.ID, Sealed: []byte{1}, At: b.now},
		})
		must(t, err)
	}
	// More pieces than one step of reclaiming takes.
	unused := b.pushed(t, content(9, 20*artifact.PieceBytes), "unused")
	uploadOf := func(digest string) string {
		t.Helper()
		a, err := b.Artifact(b.ctx, tenant, digest)
		must(t, err)
		return a.UploadID
	}
	gone := []string{uploadOf(unused)}
	waiting := b.pushed(t, content(10, 10), "waiting")
	b.insert(t, web.ID, uses(waiting), unchanging, func(k *task.Task) { k.ExpiresAt = b.now.Add(1000 * time.Hour) })
	oldest, kept := b.pushed(t, content(11, 10), "oldest"), b.pushed(t, content(12, 10), "kept")
	deploy(oldest)
	deploy(kept)
	filler := b.pushed(t, content(13, 10), "filler")
	for range artifact.KeptDeployments - 1 {
		deploy(filler)
	}
	stalled := request(content(14, 2000), "stalled")
	_, err := s.Begin(b.ctx, tenant, "me", stalled)
	must(t, err)
	_, err = s.Append(b.ctx, tenant, stalled.Digest, 0, bytes.NewReader(content(14, 2000)[:500]))
	must(t, err)
	gone = append(gone, uploadOf(stalled.Digest), uploadOf(oldest))

	left := func(want ...string) {
		t.Helper()
		must(t, s.Collect(b.ctx))
		must(t, s.Reclaim(b.ctx))
		q, err := artifact.Schema.Query(filter.Request{Sort: "name"}, b.now)
		must(t, err)
		all, err := b.Artifacts(b.ctx, tenant, artifact.Filter{Query: q})
		must(t, err)
		var got []string
		for _, a := range all {
			got = append(got, a.Name)
		}
		same(t, "what is left", got, want)
	}
	b.now = b.now.Add(23 * time.Hour)
	left("filler", "kept", "oldest", "stalled", "unused", "waiting")
	b.pushed(t, content(15, 10), "fresh")
	b.now = b.now.Add(2 * time.Hour)
	left("filler", "fresh", "kept", "waiting")
	b.noPieces(t, gone...)
	// One more deployment, and the oldest that was kept is kept no more.
	deploy(filler)
	b.now = b.now.Add(25 * time.Hour)
	left("filler", "waiting")
	// Two servers at once, each of which looks at all.
	for i := range 20 {
		b.pushed(t, content(uint64(100+i), 100), "")
	}
	b.now = b.now.Add(25 * time.Hour)
	services := []*artifact.Service{s, b.artifacts(b.open(t), 0)}
	together(t, 4, func(i int) error {
		return errors.Join(services[i%2].Collect(b.ctx), services[i%2].Reclaim(b.ctx))
	})
	left("filler", "waiting")
}

// testArtifactCollectRace: the artifacts of a task that is just being made are
// either there for it, or the task is not made. It takes many, so that their
// removal meets it in the middle.
func testArtifactCollectRace(t *testing.T, b *bench) {
	web := b.target(t, "web", "id-a")
	s := b.artifacts(b.open(t), 0)
	made := 0
	for range 12 {
		k := b.queued(web.ID)
		var digests []string
		for i := range 20 {
			digests = append(digests, b.pushed(t, content(uint64(i), 50), ""))
		}
		slices.Sort(digests)
		uses(digests...)(k)
		b.now = b.now.Add(48 * time.Hour)
		k.CreatedAt, k.ExpiresAt = b.now, b.now.Add(time.Hour)
		var insertErr error
		together(t, 2, func(i int) error {
			if i == 0 {
				return s.Collect(b.ctx)
			}
			_, insertErr = b.InsertTask(b.ctx, k)
			return nil
		})
		if insertErr != nil {
			wantFault(t, insertErr, fault.Invalid, "artifact_missing")
			continue
		}
		made++
		must(t, b.CheckArtifacts(b.ctx, k))
		for _, d := range digests {
			wantFault(t, s.Remove(b.ctx, tenant, d), fault.Conflict, "artifact_in_use")
		}
		_, err := b.CancelQueued(b.ctx, tenant, k.ID, "", b.now)
		must(t, err)
	}
	t.Logf("%d of 12 tasks were made", made)
}

func testArtifactList(t *testing.T, b *bench) {
	s := b.artifacts(b.Store, 0)
	start := b.now
	for i := range 30 {
		data := content(uint64(i), 100*(1+i/4))
		req := request(data, pick(i, "", "app", "App", "ä", "a_b", "100%"))
		req.MediaType = pick(i/2, "", "application/gzip")
		b.now = start.Add(-time.Duration(i/3) * time.Hour)
		_, err := s.Begin(b.ctx, tenant, pick(i, "me", "You"), req)
		must(t, err)
		_, err = s.Append(b.ctx, tenant, req.Digest, 0, bytes.NewReader(data[:len(data)-(i%3)*10]))
		must(t, err)
	}
	b.now = start
	all, err := b.Artifacts(b.ctx, tenant, artifact.Filter{})
	must(t, err)
	agree(t, artifact.Schema, b.now, all, func(q filter.Query, limit int) ([]*artifact.Artifact, error) {
		return b.Artifacts(b.ctx, tenant, artifact.Filter{Query: q, Limit: limit})
	})
	one, err := b.Artifacts(b.ctx, tenant, artifact.Filter{Name: "app"})
	must(t, err)
	if len(one) != 5 {
		t.Errorf("%d are called app", len(one))
	}
}

// testArtifactGone: reading ends with a fault when the artifact goes meanwhile,
// and not as if it were the end.
func testArtifactGone(t *testing.T, b *bench) {
	s := b.artifacts(b.Store, 0)
	data := content(20, 3*artifact.PieceBytes)
	digest := b.pushed(t, data, "")
	a, err := s.Complete(b.ctx, tenant, digest)
	must(t, err)
	c := s.Content(b.ctx, a)
	_, err = io.CopyN(io.Discard, c, 10)
	must(t, err)
	must(t, s.Remove(b.ctx, tenant, digest))
	must(t, s.Reclaim(b.ctx))
	_, err = io.Copy(io.Discard, c)
	wantFault(t, err, fault.NotFound, "artifact_not_found")
	wantError(t, c.Err(), err)
	ended, cancel := context.WithCancel(b.ctx)
	cancel()
	_, err = s.Content(ended, a).Read(make([]byte, 1))
	wantError(t, err, context.Canceled)
}
