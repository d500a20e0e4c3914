package files

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/artifact"
)

// Upload does an upload-files task into a target's folder and blocks until it
// is over. An error means that nothing was begun.
func Upload(ctx context.Context, task *api.AgentTask, dir string, p *api.UploadPayload, env executor.Env) (*api.TaskResult, error) {
	if len(p.Files) == 0 {
		return nil, deploy.Fail(api.ErrInvalidPayload, "there are no files to upload")
	}
	all := ".stella-upload-" + task.ID
	s := &uploadState{Swap: Swap{Directory: dir, Staging: all + "/new", Backup: all + "/old"}, All: all}
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
	plan := s.plan(func(ctx context.Context) error { return s.stage(ctx, p.Files, env) })
	return deploy.Run(ctx, task, plan, env.Journal, env.Log), nil
}

// UploadPlan is the plan to resume an upload by, made from its record's state.
func UploadPlan(data json.RawMessage) (*deploy.Plan, error) {
	s := &uploadState{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, err
	}
	return s.plan(nil), nil
}

// uploadState is what an upload keeps in the journal.
type uploadState struct {
	Swap
	// All is the folder that holds both of Swap's.
	All string `json:"all"`
}

func (s *uploadState) plan(stage func(ctx context.Context) error) *deploy.Plan {
	return &deploy.Plan{
		State: s,
		Steps: []deploy.Step{
			{Name: deploy.PhaseVerify, Do: stage, Undo: s.unstage},
			{Name: "upload", Do: s.place, Undo: func(context.Context) error { return s.TakeBack() }, Changes: true},
		},
		Finish: []deploy.Step{{Name: deploy.PhaseCleanup, Do: s.drop}},
		Outputs: func() map[string]any {
			return map[string]any{"files": s.Names, "directory": s.Directory}
		},
		Restored: func() (bool, string) { return true, "The files are as they were before" },
	}
}

func (s *uploadState) stage(ctx context.Context, list []api.ArtifactReference, env executor.Env) error {
	root, err := s.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	if err := s.Open(root); err != nil {
		return err
	}
	for i := range list {
		size, err := Put(ctx, root, s.New(list[i].Name), &list[i], env.Artifacts)
		if err != nil {
			return err
		}
		env.Log.Line("system", Said(&list[i], size))
	}
	return s.Prepare()
}

func (s *uploadState) place(ctx context.Context) error {
	if err := s.KeepOld(ctx); err != nil {
		return err
	}
	return s.Place(ctx)
}

// unstage removes what the upload needed, unless it holds files that are
// nowhere else: then an earlier undo has failed.
func (s *uploadState) unstage(ctx context.Context) error {
	if !s.Restored() {
		return fmt.Errorf("the former files are still in %s/%s and not in their places, so they are kept there", s.Directory, s.Backup)
	}
	return s.drop(ctx)
}

func (s *uploadState) drop(context.Context) error {
	return os.RemoveAll(filepath.Join(s.Directory, s.All))
}
