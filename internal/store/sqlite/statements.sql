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
WHERE a.lifecycle <> 'revoked'
  AND CASE WHEN b.value ->> 'boot' = 0 THEN a.last_heartbeat IS NULL OR a.last_heartbeat <= b.value ->> 'at'
    ELSE (b.value ->> 'boot', b.value ->> 'number') >= (a.signed_boot, a.signed_number) END
  AND a.liveness <> 'live'
ORDER BY a.id;

-- name: RecordHeartbeats :exec
UPDATE agents
SET liveness = 'live',
  last_heartbeat = max(COALESCE(agents.last_heartbeat, b.at), b.at),
  reported_status = b.status,
  not_accepting = b.not_accepting,
  transport = b.transport,
  resource_usage = COALESCE(b.usage, agents.resource_usage),
  capabilities = COALESCE(b.capabilities, agents.capabilities),
  signed_boot = CASE WHEN b.boot = 0 THEN agents.signed_boot ELSE b.boot END,
  signed_number = CASE WHEN b.boot = 0 THEN agents.signed_number ELSE b.number END,
  instance = COALESCE(NULLIF(b.instance, ''), agents.instance)
FROM (
  SELECT value ->> 'tenant' AS tenant_id, value ->> 'id' AS id, value ->> 'at' AS at,
    value ->> 'status' AS status, value ->> 'notAccepting' AS not_accepting, value ->> 'transport' AS transport,
    value -> 'usage' AS usage, value -> 'capabilities' AS capabilities,
    value ->> 'boot' AS boot, value ->> 'number' AS number, value ->> 'instance' AS instance
  FROM json_each($1)
) AS b
WHERE agents.id = b.id AND agents.tenant_id = b.tenant_id
  AND agents.lifecycle <> 'revoked'
  AND CASE WHEN b.boot = 0 THEN agents.last_heartbeat IS NULL OR agents.last_heartbeat <= b.at
    ELSE (b.boot, b.number) >= (agents.signed_boot, agents.signed_number) END;

-- name: InsertCapableRecipients :execrows
INSERT INTO command_recipients (command_id, agent_id, agent_name, state)
SELECT $1, id, name, 'pending' FROM agents
WHERE tenant_id = $2 AND lifecycle = 'active' AND liveness = 'live' AND ($3 = '' OR group_name = $3)
  AND (EXISTS (SELECT 1 FROM json_each(capabilities) WHERE value IN (SELECT value FROM json_each($4)))
      AND (allowed_capabilities = '[]' OR EXISTS (SELECT 1 FROM json_each(allowed_capabilities) WHERE value IN (SELECT value FROM json_each($4))))
    OR EXISTS (SELECT 1 FROM json_each(capabilities) WHERE value IN (SELECT value FROM json_each($5)))
      AND (allowed_capabilities = '[]' OR EXISTS (SELECT 1 FROM json_each(allowed_capabilities) WHERE value IN (SELECT value FROM json_each($5)))))
ORDER BY id;

-- name: LockCommands :many
SELECT id, tenant_id, type, expires_at FROM commands WHERE id IN (SELECT value FROM json_each($1)) ORDER BY id;

-- name: ReportedRecipients :many
SELECT r.command_id, r.agent_id, r.agent_name, r.state, r.delivered_at
FROM json_each($1) b CROSS JOIN command_recipients r ON r.command_id = b.value ->> 'c' AND r.agent_id = b.value ->> 'a';

-- name: MoveRecipients :exec
UPDATE command_recipients
SET state = b.state, delivered_at = b.delivered_at, ended_at = b.ended_at, answer = b.answer, error = b.error
FROM (
  SELECT value ->> 'c' AS command_id, value ->> 'a' AS agent_id, value ->> 'state' AS state,
    value ->> 'delivered' AS delivered_at, value ->> 'ended' AS ended_at, value ->> 'answer' AS answer, value ->> 'error' AS error
  FROM json_each($1)
) AS b
WHERE command_recipients.command_id = b.command_id AND command_recipients.agent_id = b.agent_id;

-- name: CountCommands :exec
UPDATE commands
SET pending = commands.pending + b.pending, delivered = commands.delivered + b.delivered, acknowledged = commands.acknowledged + b.acknowledged,
  failed = commands.failed + b.failed, expired = commands.expired + b.expired,
  done_at = CASE WHEN commands.pending + b.pending + commands.delivered + b.delivered = 0 THEN b.at END
FROM (
  SELECT value ->> 'id' AS id, value ->> 'pending' AS pending, value ->> 'delivered' AS delivered,
    value ->> 'acknowledged' AS acknowledged, value ->> 'failed' AS failed, value ->> 'expired' AS expired, value ->> 'at' AS at
  FROM json_each($1)
) AS b
WHERE commands.id = b.id;

-- name: LockExpiredCommands :many
SELECT id, tenant_id, type, expires_at FROM commands WHERE done_at IS NULL AND expires_at <= $1 ORDER BY expires_at LIMIT $2;

-- name: ExpireRecipients :many
UPDATE command_recipients
SET state = 'expired', ended_at = $1, error = CASE WHEN delivered_at IS NULL THEN $2 ELSE $3 END
WHERE (command_id, agent_id) IN (
  SELECT r.command_id, r.agent_id FROM command_recipients r
  WHERE r.command_id IN (SELECT value FROM json_each($4)) AND r.state IN ('pending', 'delivered')
  LIMIT $5)
RETURNING command_id, agent_id, agent_name, delivered_at, error;

-- name: LockEndedCommands :many
SELECT id FROM commands WHERE done_at < $1 ORDER BY done_at LIMIT $2;

-- name: DeleteRecipients :execrows
DELETE FROM command_recipients
WHERE (command_id, agent_id) IN (
  SELECT r.command_id, r.agent_id FROM command_recipients r
  WHERE r.command_id IN (SELECT value FROM json_each($1)) LIMIT $2);

-- name: DeleteCommands :exec
DELETE FROM commands WHERE id IN (SELECT value FROM json_each($1));

-- name: PendingCommands :many
-- Without CROSS it would begin with all commands of the tenant.
SELECT c.*
FROM command_recipients r CROSS JOIN commands c ON c.id = r.command_id
WHERE r.agent_id = $1 AND r.state = 'pending' AND c.tenant_id = $2 AND c.expires_at > $3
ORDER BY r.command_id LIMIT $4;

-- name: UnsentCommands :many
SELECT c.tenant_id, r.command_id, r.agent_id
FROM command_recipients r CROSS JOIN commands c ON c.id = r.command_id CROSS JOIN agents a ON a.id = r.agent_id
WHERE r.state = 'pending' AND (r.agent_id, r.command_id) > ($1, $2)
  AND c.created_at <= $3 AND c.expires_at > $4 AND a.liveness <> 'dead' AND a.lifecycle <> 'revoked'
ORDER BY r.agent_id, r.command_id LIMIT $5;

-- name: LockArtifact :one
SELECT * FROM artifacts WHERE tenant_id = $1 AND digest = $2;

-- name: LockAuditChain :one
SELECT c.tenant_id, c.origin, c.floor_seq, c.floor_hash, c.floor_at, c.head_seq, c.head_hash, c.seal,
  CAST(COALESCE((SELECT min(a.seq) FROM audit a WHERE a.tenant_id = c.tenant_id), 0) AS BIGINT) AS first,
  CAST(COALESCE((SELECT max(a.seq) FROM audit a WHERE a.tenant_id = c.tenant_id), 0) AS BIGINT) AS last
FROM audit_chains c WHERE c.tenant_id = $1;

-- name: InsertAudit :exec
INSERT INTO audit (tenant_id, seq, at, actor, action, object, remote, outcome, detail, previous, hash)
SELECT value ->> 'tenant', value ->> 'seq', value ->> 'at',
  value ->> 'actor', value ->> 'action', value ->> 'object', value ->> 'remote', value ->> 'outcome', value ->> 'detail',
  unhex(value ->> 'previous'), unhex(value ->> 'hash')
FROM json_each($1);

-- name: EndedCertificatesOf :many
SELECT c.serial, c.revoked_at, c.not_after, c.tenant_id, c.agent_id, CASE a.lifecycle WHEN 'revoked' THEN 'revoked' ELSE 'replaced' END AS why
FROM certificates c JOIN agents a ON a.id = c.agent_id
WHERE c.revoked_at IS NOT NULL AND c.agent_id IN (SELECT value FROM json_each($1))
UNION ALL
SELECT r.serial, r.revoked_at, r.not_after, r.tenant_id, r.agent_id, r.why FROM revoked_serials r
WHERE r.agent_id IN (SELECT value FROM json_each($1));

-- name: AgentChanges :many
SELECT COALESCE((SELECT q.seq + 1 FROM sqlite_sequence q WHERE q.name = 'agent_changes'), 1) AS horizon, 0 AS seq, '' AS tenant_id, '' AS agent_id
UNION ALL
SELECT 0, c.seq, c.tenant_id, c.agent_id FROM agent_changes c WHERE c.seq >= $1
ORDER BY seq;

-- name: ForgetAgentChanges :exec
DELETE FROM agent_changes WHERE at < CAST(unixepoch('subsec') * 1000000 AS INTEGER) - 3600000000;
