-- name: Queued :many
-- It begins with the targets, which are few, and not with all that waits in
-- the tenant: so the tenant is asked of the target, which its tasks share.
WITH mine AS MATERIALIZED (
  SELECT id FROM targets WHERE targets.agent_id = sqlc.arg(agent_id) AND targets.tenant_id = sqlc.arg(tenant_id)
  UNION
  SELECT jsonb_array_elements_text(sqlc.arg(shared_targets)::jsonb)
)
SELECT t.id, t.attempt, t.capability
FROM mine m JOIN targets g ON g.id = m.id JOIN tasks t ON t.target_id = g.id
WHERE t.state = 'queued' AND t.expires_at > sqlc.arg(at) AND g.tenant_id = sqlc.arg(tenant_id)
  AND NOT (t.changing AND EXISTS (
    SELECT 1 FROM tasks b WHERE b.target_id = t.target_id AND b.changing AND b.state IN ('assigned', 'running')))
ORDER BY t.priority DESC,
  (SELECT count(*) FROM tasks w WHERE w.target_id = t.target_id AND w.state IN ('assigned', 'running')),
  t.created_at, t.id
LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: LockAgent :one
-- An agent's claims come one after the other, so that they can be counted.
SELECT tenant_id, name, lifecycle FROM agents WHERE id = $1 FOR UPDATE;

-- name: ClaimTask :execrows
UPDATE tasks
SET state = 'assigned', attempt = attempt + 1, agent_id = sqlc.arg(agent_id), agent_name = sqlc.arg(agent_name),
    lease_until = sqlc.arg(lease_until), assigned_at = sqlc.arg(at), started_at = NULL, reason = '',
    cancel_requested = FALSE, cancel_requested_at = NULL
WHERE tasks.id = sqlc.arg(id) AND tasks.tenant_id = sqlc.arg(tenant_id) AND tasks.state = 'queued'
  AND tasks.attempt = sqlc.arg(attempt) AND tasks.expires_at > sqlc.arg(at)
  AND (SELECT count(*) FROM tasks h WHERE h.agent_id = sqlc.arg(agent_id) AND h.state IN ('assigned', 'running'))
    < CAST(sqlc.arg(max_active) AS BIGINT)
  AND NOT (tasks.changing AND EXISTS (
    SELECT 1 FROM tasks b WHERE b.target_id = tasks.target_id AND b.changing AND b.state IN ('assigned', 'running')));

-- name: HeldBy :many
SELECT * FROM task_details WHERE agent_id = $1 AND state IN ('assigned', 'running') ORDER BY id;

-- name: StartTask :execrows
UPDATE tasks SET state = 'running', started_at = sqlc.arg(at)
WHERE id = sqlc.arg(id) AND attempt = sqlc.arg(attempt) AND agent_id = sqlc.arg(agent_id) AND state = 'assigned';

-- name: RenewLease :exec
UPDATE tasks SET lease_until = sqlc.arg(until)
WHERE id = sqlc.arg(id) AND attempt = sqlc.arg(attempt) AND agent_id = sqlc.arg(agent_id)
  AND state IN ('assigned', 'running') AND lease_until < sqlc.arg(until);

-- name: FinishTask :execrows
UPDATE tasks
SET state = sqlc.arg(state), reason = sqlc.arg(reason), result = sqlc.arg(result), finished_at = sqlc.arg(at), lease_until = NULL
WHERE id = sqlc.arg(id) AND attempt = sqlc.arg(attempt) AND agent_id = sqlc.arg(agent_id)
  AND state IN ('assigned', 'running');

-- name: LeasesBefore :many
SELECT * FROM task_details WHERE state IN ('assigned', 'running') AND lease_until < sqlc.arg(at) ORDER BY lease_until, id;

-- name: Requeue :execrows
UPDATE tasks
SET state = 'queued', reason = sqlc.arg(reason), agent_id = '', agent_name = '', lease_until = NULL, assigned_at = NULL, started_at = NULL
WHERE id = sqlc.arg(id) AND attempt = sqlc.arg(attempt) AND state IN ('assigned', 'running')
  AND lease_until < sqlc.arg(lease_before) AND NOT cancel_requested;

-- name: FailLost :execrows
UPDATE tasks
SET state = sqlc.arg(state), reason = sqlc.arg(reason), result = sqlc.arg(result), finished_at = sqlc.arg(at), lease_until = NULL
WHERE id = sqlc.arg(id) AND attempt = sqlc.arg(attempt) AND agent_id = sqlc.arg(agent_id)
  AND state IN ('assigned', 'running') AND lease_until < sqlc.arg(lease_before);

-- name: InsertDeployment :exec
INSERT INTO deployments (task_id, tenant_id, target_id, release_id, digest, payload, sealed, at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: Deployments :many
SELECT * FROM deployments WHERE tenant_id = $1 AND target_id = $2 ORDER BY at DESC, task_id DESC LIMIT CAST(sqlc.arg(page) AS BIGINT);
