-- name: InsertTask :execrows
-- The first task with an idempotency key is the only one.
INSERT INTO tasks (id, tenant_id, type, target_id, target_name, state, reason, changing, capability, priority, payload,
    sealed, timeout_ms, idempotency_key, attempt, created_by, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, 'queued', $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT (tenant_id, idempotency_key) WHERE idempotency_key <> '' DO NOTHING;

-- name: Task :one
SELECT * FROM task_details WHERE tenant_id = $1 AND id = $2;

-- name: TaskByID :one
SELECT * FROM task_details WHERE id = $1;

-- name: TaskByKey :one
SELECT * FROM task_details WHERE tenant_id = $1 AND idempotency_key = $2 AND idempotency_key <> '';

-- name: TaskExists :one
SELECT count(*) FROM tasks WHERE id = sqlc.arg(id) AND (CAST(sqlc.arg(tenant_id) AS TEXT) = '' OR tenant_id = sqlc.arg(tenant_id));

-- name: Tasks :many
-- A list; see Agents.
SELECT * FROM task_details WHERE tenant_id = $1;

-- name: CancelQueued :execrows
UPDATE tasks SET state = 'cancelled', reason = sqlc.arg(reason), finished_at = sqlc.arg(at)
WHERE tenant_id = sqlc.arg(tenant_id) AND id = sqlc.arg(id) AND state = 'queued';

-- name: RequestCancel :execrows
UPDATE tasks SET cancel_requested = TRUE, cancel_requested_at = COALESCE(cancel_requested_at, sqlc.arg(at))
WHERE tenant_id = sqlc.arg(tenant_id) AND id = sqlc.arg(id) AND state IN ('assigned', 'running');

-- name: ExpireQueued :many
UPDATE tasks SET state = 'expired', finished_at = sqlc.arg(at)
WHERE state = 'queued' AND expires_at <= sqlc.arg(at)
RETURNING id;

-- name: WaitingFor :many
SELECT DISTINCT t.tenant_id, g.agent_id
FROM tasks t JOIN targets g ON g.id = t.target_id
WHERE t.state = 'queued' AND t.expires_at > sqlc.arg(at);

-- name: Assigned :many
-- What was given to agents and not begun. The first condition is an index's.
SELECT tenant_id, agent_id, id, attempt FROM tasks
WHERE state IN ('assigned', 'running') AND state = 'assigned' AND NOT cancel_requested;
