-- name: InsertRollout :execrows
-- The first rollout with an idempotency key is the only one.
INSERT INTO rollouts (id, tenant_id, state, reason, plan, release_id, release_name, payload, sealed, members, idempotency_key,
    version, created_by, created_at, updated_at, finished_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
ON CONFLICT (tenant_id, idempotency_key) WHERE idempotency_key <> '' DO NOTHING;

-- name: RolloutByKey :one
SELECT * FROM rollouts WHERE tenant_id = $1 AND idempotency_key = $2 AND idempotency_key <> '';

-- name: Rollout :one
SELECT * FROM rollouts WHERE tenant_id = $1 AND id = $2;

-- name: Rollouts :many
-- A list; see Agents. What is deployed may be large, and is left out.
SELECT id, tenant_id, state, reason, plan, release_id, release_name, members, version, created_by, created_at, updated_at, finished_at
FROM rollouts WHERE tenant_id = $1;

-- name: UpdateRollout :execrows
UPDATE rollouts SET state = sqlc.arg(state), reason = sqlc.arg(reason), plan = sqlc.arg(plan), members = sqlc.arg(members),
    updated_at = sqlc.arg(updated_at), finished_at = sqlc.arg(finished_at), version = version + 1
WHERE id = sqlc.arg(id) AND version = sqlc.arg(version);

-- name: MovingRollouts :many
SELECT tenant_id, id FROM rollouts WHERE state IN ('running', 'paused', 'rolling-back', 'cancelling') ORDER BY id LIMIT 1000;
