-- A command's recipients change only while its own row is locked: so batches,
-- sweeps and servers never block each other half-way, and what was read of a
-- recipient under the lock is what an update then meets.

-- name: InsertCommand :exec
INSERT INTO commands (id, tenant_id, type, payload, scope, recipient, agent_id, recipients, pending, created_by, created_at, expires_at, done_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, sqlc.arg(recipients), sqlc.arg(recipients), $8, $9, $10, $11);

-- name: InsertRecipient :execrows
INSERT INTO command_recipients (command_id, agent_id, agent_name, state)
SELECT CAST(sqlc.arg(command_id) AS TEXT), id, name, 'pending' FROM agents
WHERE tenant_id = sqlc.arg(tenant_id) AND id = sqlc.arg(agent_id) AND lifecycle <> 'revoked';

-- name: InsertRecipients :execrows
INSERT INTO command_recipients (command_id, agent_id, agent_name, state)
SELECT CAST(sqlc.arg(command_id) AS TEXT), id, name, 'pending' FROM agents
WHERE tenant_id = sqlc.arg(tenant_id) AND lifecycle = 'active' AND liveness = 'live'
  AND (CAST(sqlc.arg(group_name) AS TEXT) = '' OR group_name = sqlc.arg(group_name))
ORDER BY id;

-- name: InsertCapableRecipients :execrows
-- Those who have a capability and may use it, by either of two lists of the
-- names that cover one: fleet.Agent.Can is the same rule.
INSERT INTO command_recipients (command_id, agent_id, agent_name, state)
SELECT CAST(sqlc.arg(command_id) AS TEXT), id, name, 'pending' FROM agents
WHERE tenant_id = sqlc.arg(tenant_id) AND lifecycle = 'active' AND liveness = 'live'
  AND (CAST(sqlc.arg(group_name) AS TEXT) = '' OR group_name = sqlc.arg(group_name))
  AND (EXISTS (SELECT 1 FROM jsonb_array_elements_text(capabilities) AS have(c) WHERE have.c IN (SELECT jsonb_array_elements_text(sqlc.arg(names1)::jsonb)))
      AND (allowed_capabilities = '[]'
        OR EXISTS (SELECT 1 FROM jsonb_array_elements_text(allowed_capabilities) AS may(c) WHERE may.c IN (SELECT jsonb_array_elements_text(sqlc.arg(names1)::jsonb))))
    OR EXISTS (SELECT 1 FROM jsonb_array_elements_text(capabilities) AS have(c) WHERE have.c IN (SELECT jsonb_array_elements_text(sqlc.arg(names2)::jsonb)))
      AND (allowed_capabilities = '[]'
        OR EXISTS (SELECT 1 FROM jsonb_array_elements_text(allowed_capabilities) AS may(c) WHERE may.c IN (SELECT jsonb_array_elements_text(sqlc.arg(names2)::jsonb)))))
ORDER BY id;

-- name: Command :one
SELECT * FROM commands WHERE tenant_id = $1 AND id = $2;

-- name: Commands :many
-- A list; see Agents.
SELECT * FROM commands WHERE tenant_id = $1;

-- name: CommandsOfAgent :many
-- A list; see Agents. Those that were for this agent alone, and those that were
-- for many, this one among them.
SELECT sqlc.embed(c), r.state
FROM commands c JOIN command_recipients r ON r.command_id = c.id AND r.agent_id = $2
WHERE c.tenant_id = $1 AND c.agent_id IN ('', $2);

-- name: Deliveries :many
-- A list of the recipients of one command; see Agents.
SELECT * FROM command_recipients WHERE command_id = $1;

-- name: PendingRecipients :many
SELECT agent_id FROM command_recipients WHERE command_id = $1 AND state = 'pending' ORDER BY agent_id;

-- name: PendingCommands :many
SELECT sqlc.embed(c)
FROM command_recipients r JOIN commands c ON c.id = r.command_id
WHERE r.agent_id = sqlc.arg(agent_id) AND r.state = 'pending'
  AND c.tenant_id = sqlc.arg(tenant_id) AND c.expires_at > sqlc.arg(at)
ORDER BY r.command_id LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: UnsentCommands :many
-- What waits for agents that are dead is left out, or it would hide the rest.
SELECT c.tenant_id, r.command_id, r.agent_id
FROM command_recipients r JOIN commands c ON c.id = r.command_id JOIN agents a ON a.id = r.agent_id
WHERE r.state = 'pending' AND (r.agent_id, r.command_id) > (CAST(sqlc.arg(after_agent) AS TEXT), CAST(sqlc.arg(after_command) AS TEXT))
  AND c.created_at <= sqlc.arg(sent_before) AND c.expires_at > sqlc.arg(at) AND a.liveness <> 'dead' AND a.lifecycle <> 'revoked'
ORDER BY r.agent_id, r.command_id LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: LockCommands :many
SELECT id, tenant_id, type, expires_at FROM commands
WHERE id IN (SELECT jsonb_array_elements_text(sqlc.arg(ids)::jsonb))
ORDER BY id FOR NO KEY UPDATE;

-- name: ReportedRecipients :many
SELECT r.command_id, r.agent_id, r.agent_name, r.state, r.delivered_at
FROM (SELECT e ->> 'c' AS command_id, e ->> 'a' AS agent_id FROM jsonb_array_elements(sqlc.arg(refs)::jsonb) AS e) AS b
JOIN command_recipients r ON r.command_id = b.command_id AND r.agent_id = b.agent_id;

-- name: MoveRecipients :exec
-- The batch is one JSON array, in which a time is microseconds since 1970.
UPDATE command_recipients
SET state = b.state, delivered_at = b.delivered_at, ended_at = b.ended_at, answer = b.answer, error = b.error
FROM (
  SELECT e ->> 'c' AS command_id, e ->> 'a' AS agent_id, e ->> 'state' AS state,
    TIMESTAMPTZ 'epoch' + (e ->> 'delivered')::bigint * INTERVAL '1 microsecond' AS delivered_at,
    TIMESTAMPTZ 'epoch' + (e ->> 'ended')::bigint * INTERVAL '1 microsecond' AS ended_at,
    e ->> 'answer' AS answer, e ->> 'error' AS error
  FROM jsonb_array_elements(sqlc.arg(batch)::jsonb) AS e
) AS b
WHERE command_recipients.command_id = b.command_id AND command_recipients.agent_id = b.agent_id;

-- name: CountCommands :exec
-- The batch says by how much each command's counts change.
UPDATE commands
SET pending = commands.pending + b.pending, delivered = commands.delivered + b.delivered, acknowledged = commands.acknowledged + b.acknowledged,
  failed = commands.failed + b.failed, expired = commands.expired + b.expired,
  done_at = CASE WHEN commands.pending + b.pending + commands.delivered + b.delivered = 0 THEN b.at END
FROM (
  SELECT e ->> 'id' AS id, (e ->> 'pending')::bigint AS pending, (e ->> 'delivered')::bigint AS delivered,
    (e ->> 'acknowledged')::bigint AS acknowledged, (e ->> 'failed')::bigint AS failed, (e ->> 'expired')::bigint AS expired,
    TIMESTAMPTZ 'epoch' + (e ->> 'at')::bigint * INTERVAL '1 microsecond' AS at
  FROM jsonb_array_elements(sqlc.arg(batch)::jsonb) AS e
) AS b
WHERE commands.id = b.id;

-- name: LockExpiredCommands :many
SELECT id, tenant_id, type, expires_at FROM commands
WHERE id IN (SELECT c.id FROM commands c WHERE c.done_at IS NULL AND c.expires_at <= sqlc.arg(at) ORDER BY c.expires_at LIMIT CAST(sqlc.arg(page) AS BIGINT))
  AND done_at IS NULL
ORDER BY id FOR NO KEY UPDATE;

-- name: ExpireRecipients :many
UPDATE command_recipients
SET state = 'expired', ended_at = sqlc.arg(at),
  error = CASE WHEN delivered_at IS NULL THEN CAST(sqlc.arg(not_connected) AS TEXT) ELSE CAST(sqlc.arg(not_answered) AS TEXT) END
WHERE (command_id, agent_id) IN (
  SELECT r.command_id, r.agent_id FROM command_recipients r
  WHERE r.command_id IN (SELECT jsonb_array_elements_text(sqlc.arg(ids)::jsonb)) AND r.state IN ('pending', 'delivered')
  LIMIT CAST(sqlc.arg(page) AS BIGINT))
RETURNING command_id, agent_id, agent_name, delivered_at, error;

-- name: LockEndedCommands :many
SELECT id FROM commands
WHERE id IN (SELECT c.id FROM commands c WHERE c.done_at < sqlc.arg(before) ORDER BY c.done_at LIMIT CAST(sqlc.arg(page) AS BIGINT))
ORDER BY id FOR UPDATE;

-- name: DeleteRecipients :execrows
DELETE FROM command_recipients
WHERE (command_id, agent_id) IN (
  SELECT r.command_id, r.agent_id FROM command_recipients r
  WHERE r.command_id IN (SELECT jsonb_array_elements_text(sqlc.arg(ids)::jsonb))
  LIMIT CAST(sqlc.arg(page) AS BIGINT));

-- name: DeleteCommands :exec
DELETE FROM commands WHERE id IN (SELECT jsonb_array_elements_text(sqlc.arg(ids)::jsonb));
