package ssh

import (
	"context"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
)

// rollback restores the version that the last deployment has kept. Where there
// is none, the deployment that the server has filled in is repeated.
func (e *Executor) rollback(ctx context.Context, task *api.AgentTask, env executor.Env, r *remote) (*api.TaskResult, error) {
	p, err := payload[api.RollbackPayload](task)
	if err != nil {
		return nil, err
	}
	if p.Deploy != nil {
		if err := validate(p.Deploy); err != nil {
			return nil, err
		}
	}
	d, seen, err := r.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if prev := seen.previous; prev != nil && (p.ReleaseID == "" || p.ReleaseID == prev.ReleaseID) {
		d.payload, d.next = &api.DeployPayload{}, prev
		d.state.Restores = true
		d.state.Sticker.ReleaseID, d.state.Sticker.ReleaseName = prev.ReleaseID, prev.ReleaseName
		return deploy.Run(ctx, task, d.plan(), env.Journal, env.Log), nil
	}
	if p.Deploy != nil {
		env.Log.Line("system", "the release to go back to is not kept on the host; it is deployed again")
		return d.deployPayload(ctx, task, env, p.Deploy)
	}
	what := "a release before the current one"
	if p.ReleaseID != "" {
		what = "release " + p.ReleaseID
	}
	return nil, deploy.Fail(api.ErrNothingToRestore,
		"%s is not kept in %s on %s; deploy the version that you want, and deploy with --keep-previous to have the one before kept", what, r.dir, r.config.Host)
}
