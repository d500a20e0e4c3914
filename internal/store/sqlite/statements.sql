-- The statements that SQLite cannot take as they are in internal/db/queries.
-- Parameters and columns are the same, in the same order.

-- name: LockTarget :one
-- There is one writer at a time, so that nothing needs a lock of its own.
SELECT name FROM targets WHERE tenant_id = $1 AND id = $2;

-- name: ShareTarget :one
SELECT name FROM targets WHERE tenant_id = $1 AND id = $2;

-- name: LockAgent :one
SELECT tenant_id, name, lifecycle FROM agents WHERE id = $1;

-- name: LockTask :one
SELECT id FROM tasks WHERE id = $1;

-- name: Queued :many
WITH mine AS MATERIALIZED (
  SELECT id FROM targets WHERE agent_id = $4 AND tenant_id = $2
  UNION
  SELECT value FROM json_each($5)
)
SELECT t.id, t.attempt, t.capability
FROM mine m CROSS JOIN targets g ON g.id = m.id CROSS JOIN tasks t ON t.target_id = g.id
WHERE t.state = 'queued' AND t.expires_at > $1 AND g.tenant_id = $2
  AND NOT (t.changing AND EXISTS (
    SELECT 1 FROM tasks b WHERE b.target_id = t.target_id AND b.changing AND b.state IN ('assigned', 'running')))
ORDER BY t.priority DESC,
  (SELECT count(*) FROM tasks w WHERE w.target_id = t.target_id AND w.state IN ('assigned', 'running')),
  t.created_at, t.id
LIMIT $3;

-- name: LockReturning :many
SELECT a.tenant_id, a.id, a.name
FROM json_each($1) b CROSS JOIN agents a ON a.id = b.value ->> 'id' AND a.tenant_id = b.value ->> 'tenant'
WHERE a.lifecycle <> 'revoked' AND (a.last_heartbeat IS NULL OR a.last_heartbeat <= b.value ->> 'at')
  AND a.liveness <> 'live'
ORDER BY a.id;

-- name: RecordHeartbeats :exec
UPDATE agents
SET liveness = 'live',
  last_heartbeat = b.at,
  reported_status = b.status,
  not_accepting = b.not_accepting,
  resource_usage = COALESCE(b.usage, agents.resource_usage),
  capabilities = COALESCE(b.capabilities, agents.capabilities)
FROM (
  SELECT value ->> 'tenant' AS tenant_id, value ->> 'id' AS id, value ->> 'at' AS at,
    value ->> 'status' AS status, value ->> 'notAccepting' AS not_accepting,
    value -> 'usage' AS usage, value -> 'capabilities' AS capabilities
  FROM json_each($1)
) AS b
WHERE agents.id = b.id AND agents.tenant_id = b.tenant_id
  AND agents.lifecycle <> 'revoked' AND (agents.last_heartbeat IS NULL OR agents.last_heartbeat <= b.at);
