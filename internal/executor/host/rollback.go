package host

import (
	"context"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
)

// rollback makes a release current again that is still on the host: the one
// asked for, or the one before the current. Where it is gone, the deployment
// that the server has filled in is repeated.
func (e *Executor) rollback(ctx context.Context, task *api.AgentTask, env executor.Env) (*api.TaskResult, error) {
	p, err := payload[api.RollbackPayload](task)
	if err != nil {
		return nil, err
	}
	if err := deployable(); err != nil {
		return nil, deploy.Fail(api.ErrUnsupported, "%w", err)
	}
	d, err := e.prepare(task, env)
	if err != nil {
		return nil, err
	}
	goal, err := d.goal(p.ReleaseID)
	if err != nil {
		return nil, err
	}
	if goal == nil {
		if p.Deploy != nil {
			env.Log.Line("system", "the release to go back to is no longer on the host; it is deployed again")
			return e.deployPayload(ctx, task, env, p.Deploy)
		}
		what := "a release before the current one"
		if p.ReleaseID != "" {
			what = "release " + p.ReleaseID
		}
		return nil, deploy.Fail(api.ErrNothingToRestore, "%s is not in %s; deploy the version that you want", what, d.tree().path(releasesDir))
	}
	d.payload = &api.DeployPayload{}
	s := d.state
	s.New, s.Keep = goal.Folder, defaultKeep
	s.Sticker.ReleaseID, s.Sticker.ReleaseName = goal.ReleaseID, goal.ReleaseName
	return deploy.Run(ctx, task, d.plan(), env.Journal, env.Log), nil
}

// goal is the release to go back to; nil when it is not there.
func (d *deployment) goal(releaseID string) (*release, error) {
	all, err := d.tree().releases()
	if err != nil {
		return nil, err
	}
	previous := ""
	for _, r := range all {
		if r.Folder == d.state.Old {
			previous = r.Previous
		}
	}
	for _, r := range all {
		switch {
		case releaseID != "" && r.ReleaseID == releaseID && r.Folder != d.state.Old:
			return r, nil
		case releaseID == "" && previous != "" && r.Folder == previous:
			return r, nil
		}
	}
	return nil, nil
}
