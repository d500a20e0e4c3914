-- name: InsertTarget :exec
INSERT INTO targets (id, tenant_id, name, kind, agent_id, selector, environment, labels, config, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: Target :one
-- The id wins over the name.
SELECT * FROM targets
WHERE tenant_id = $1 AND (id = sqlc.arg(id_or_name) OR name = sqlc.arg(id_or_name))
ORDER BY CASE WHEN id = sqlc.arg(id_or_name) THEN 0 ELSE 1 END
LIMIT 1;

-- name: Targets :many
-- A list; see Agents.
SELECT * FROM targets WHERE tenant_id = $1;

-- name: SharedTargets :many
SELECT * FROM targets WHERE tenant_id = $1 AND selector IS NOT NULL ORDER BY id;

-- name: UpdateTarget :execrows
UPDATE targets
SET name = $3, kind = $4, agent_id = $5, selector = $6, environment = $7, labels = $8, config = $9, updated_at = $10
WHERE tenant_id = $1 AND id = $2;

-- name: UnfinishedOnTarget :one
SELECT count(*) FROM tasks WHERE target_id = $1 AND state IN ('queued', 'assigned', 'running');

-- name: KeepTargetName :exec
-- The target's ended tasks keep showing its last name.
UPDATE tasks SET target_name = $2 WHERE target_id = $1 AND target_name <> $2;

-- name: DeleteTarget :execrows
DELETE FROM targets WHERE tenant_id = $1 AND id = $2;

-- name: LockTarget :one
-- Nothing is added to the target until the transaction ends.
SELECT name FROM targets WHERE tenant_id = $1 AND id = $2 FOR UPDATE;

-- name: ShareTarget :one
-- The target stays until the transaction ends.
SELECT name FROM targets WHERE tenant_id = $1 AND id = $2 FOR KEY SHARE;
