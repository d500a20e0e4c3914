package ssh

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/artifact"
)

// uploadState is what an upload keeps in the journal.
//
// In the stage, new/<i> is file i until it is put in its place, and old/<i> is
// what was in that place. So an undo sees for each file whether it was put
// there and what it replaced.
type uploadState struct {
	Directory string   `json:"directory"`
	Names     []string `json:"names"`
	Made      bool     `json:"made,omitempty"`
}

// uploading is one upload; files is nil after a crash.
type uploading struct {
	*remote
	files []api.ArtifactReference
	state *uploadState
}

func (e *Executor) upload(ctx context.Context, task *api.AgentTask, env executor.Env, r *remote) (*api.TaskResult, error) {
	p, err := payload[api.UploadPayload](task)
	if err != nil {
		return nil, err
	}
	if len(p.Files) == 0 {
		return nil, deploy.Fail(api.ErrInvalidPayload, "there are no files to upload")
	}
	s := &uploadState{Directory: r.dir}
	seen := map[string]bool{}
	for i := range p.Files {
		if err := artifact.Validate(&p.Files[i]); err != nil {
			return nil, err
		}
		name := p.Files[i].Name
		if seen[name] {
			return nil, deploy.Fail(api.ErrInvalidPayload, "the file %q is there twice", name)
		}
		seen[name] = true
		s.Names = append(s.Names, name)
	}
	found, err := r.anywhere(ctx, "[ -d \"$dir\" ] || value made yes\n")
	if err != nil {
		return nil, err
	}
	s.Made = found.values["made"] != ""
	u := &uploading{remote: r, files: p.Files, state: s}
	return deploy.Run(ctx, task, u.plan(), env.Journal, env.Log), nil
}

func (u *uploading) plan() *deploy.Plan {
	s := u.state
	again := func(body string) func(context.Context) error {
		return func(ctx context.Context) error {
			return u.insist(ctx, u.patience, func(ctx context.Context) error {
				_, err := u.anywhere(ctx, u.inStage()+body)
				return errors.Join(err, u.dropSent(ctx))
			})
		}
	}
	drop := `rm -rf "$stage" || exit` + "\n"
	undrop := drop
	if s.Made {
		undrop += "rmdir \"$dir\" 2>/dev/null || :\n"
	}
	return &deploy.Plan{
		State: s,
		Steps: []deploy.Step{
			{Name: deploy.PhaseVerify, Do: u.stage, Undo: again(undrop)},
			{Name: "upload", Do: u.place, Undo: again(u.takeBack()), Changes: true},
		},
		Finish: []deploy.Step{{Name: deploy.PhaseCleanup, Do: again(drop)}},
		Outputs: func() map[string]any {
			return map[string]any{"files": s.Names, "directory": s.Directory}
		},
		Restored: func() (bool, string) { return true, "The files are as they were before" },
	}
}

func (u *uploading) stage(ctx context.Context) error {
	if _, err := u.anywhere(ctx, u.inStage()+openStage); err != nil {
		return err
	}
	files := make([]source, 0, len(u.files))
	for i := range u.files {
		src, err := u.artifact(&u.files[i])
		if err != nil {
			return err
		}
		files = append(files, src)
	}
	digests, err := u.sendFiles(ctx, files)
	if err != nil {
		return err
	}
	for i, digest := range digests {
		u.env.Log.Line("system", fmt.Sprintf("%s: verified on the host, sha256:%s", u.files[i].Name, digest))
	}
	return nil
}

// place puts every file in its place, in one script.
func (u *uploading) place(ctx context.Context) error {
	var b strings.Builder
	b.WriteString(u.inStage())
	files := make([]file, len(u.state.Names))
	for i, name := range u.state.Names {
		files[i] = file{Name: name}
		fmt.Fprintf(&b, "fits %s %s\n", quote(name), quote(path.Dir(name)))
	}
	if dirs := folders(files); len(dirs) > 0 {
		fmt.Fprintf(&b, "mkdir -p %s || exit\n", quoteAll(dotted(dirs)))
	}
	for i, name := range u.state.Names {
		fmt.Fprintf(&b, "keep %s %d\nput \"$stage/new/%d\" %s\n", quote(name), i, i, quote(name))
	}
	_, err := u.script(ctx, b.String())
	return err
}

func (u *uploading) takeBack() string {
	var b strings.Builder
	b.WriteString("[ -d \"$stage\" ] || exit 0\ncd \"$dir\" || exit\n") // an earlier undo came past here already
	for i, name := range u.state.Names {
		fmt.Fprintf(&b, "take_back %s %d\n", quote(name), i)
	}
	return b.String()
}
