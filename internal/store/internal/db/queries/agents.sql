-- name: Agent :one
-- The id wins over the name.
SELECT * FROM agents
WHERE tenant_id = $1 AND (id = sqlc.arg(id_or_name) OR name = sqlc.arg(id_or_name))
ORDER BY CASE WHEN id = sqlc.arg(id_or_name) THEN 0 ELSE 1 END
LIMIT 1;

-- name: AgentExists :one
SELECT count(*) FROM agents WHERE tenant_id = $1 AND id = $2;

-- name: Agents :many
-- Like all that are named a list, it is only the beginning: store/list.go adds
-- the filter, the order and the page.
SELECT * FROM agents WHERE tenant_id = $1;

-- name: SetAgentLabels :execrows
UPDATE agents SET labels = $3, updated_at = $4 WHERE tenant_id = $1 AND id = $2;

-- name: SetAgentCapabilities :execrows
-- Heartbeats go on to say what works; this says what of it counts.
UPDATE agents SET capabilities = $3, allowed_capabilities = $3, updated_at = $4 WHERE tenant_id = $1 AND id = $2;

-- name: SetLifecycle :execrows
UPDATE agents SET lifecycle = sqlc.arg(to_state), updated_at = sqlc.arg(at)
WHERE tenant_id = sqlc.arg(tenant_id) AND id = sqlc.arg(id)
  AND lifecycle <> sqlc.arg(to_state)
  AND lifecycle IN (sqlc.arg(from1), sqlc.arg(from2), sqlc.arg(from3));

-- name: DeleteAgent :execrows
DELETE FROM agents WHERE tenant_id = $1 AND id = $2;

-- name: SweepLiveness :many
UPDATE agents
SET liveness = CASE WHEN COALESCE(last_heartbeat, created_at) < sqlc.arg(dead_before) THEN 'dead' ELSE 'stale' END
WHERE lifecycle <> 'revoked'
  AND (liveness = 'live' AND COALESCE(last_heartbeat, created_at) < sqlc.arg(stale_before)
    OR liveness IN ('live', 'stale') AND COALESCE(last_heartbeat, created_at) < sqlc.arg(dead_before))
RETURNING tenant_id, id, name, liveness;

-- name: AgentIDTaken :one
-- An id is unique among all tenants.
SELECT count(*) FROM agents WHERE id = $1;

-- name: NoteAgentChange :exec
INSERT INTO agent_changes (tenant_id, agent_id) VALUES ($1, $2);

-- name: AgentChanges :many
-- What was committed since somebody got the horizon that since is, and perhaps
-- some from before it. There is always a row: the one of number 0 has only the
-- horizon.
SELECT CAST(pg_snapshot_xmin(pg_current_snapshot())::text AS BIGINT) AS horizon, CAST(0 AS BIGINT) AS seq, CAST('' AS TEXT) AS tenant_id, CAST('' AS TEXT) AS agent_id
UNION ALL
SELECT 0 AS horizon, c.seq, c.tenant_id, c.agent_id FROM agent_changes c WHERE c.tx >= sqlc.arg(since)
ORDER BY seq;

-- name: ForgetAgentChanges :exec
DELETE FROM agent_changes WHERE at < now() - INTERVAL '1 hour';
