-- name: AuditChain :one
-- Where a tenant's chain begins and ends, and which lines there are: one
-- statement sees both as they were at one moment.
SELECT c.tenant_id, c.origin, c.floor_seq, c.floor_hash, c.floor_at, c.head_seq, c.head_hash, c.seal,
  CAST(COALESCE((SELECT min(a.seq) FROM audit a WHERE a.tenant_id = c.tenant_id), 0) AS BIGINT) AS first,
  CAST(COALESCE((SELECT max(a.seq) FROM audit a WHERE a.tenant_id = c.tenant_id), 0) AS BIGINT) AS last
FROM audit_chains c WHERE c.tenant_id = $1;

-- name: LockAuditChain :one
-- Whoever adds to a chain, or shortens it, holds its row.
SELECT c.tenant_id, c.origin, c.floor_seq, c.floor_hash, c.floor_at, c.head_seq, c.head_hash, c.seal,
  CAST(COALESCE((SELECT min(a.seq) FROM audit a WHERE a.tenant_id = c.tenant_id), 0) AS BIGINT) AS first,
  CAST(COALESCE((SELECT max(a.seq) FROM audit a WHERE a.tenant_id = c.tenant_id), 0) AS BIGINT) AS last
FROM audit_chains c WHERE c.tenant_id = $1
FOR UPDATE OF c;

-- name: AuditBounds :one
SELECT CAST(COALESCE((SELECT min(a.seq) FROM audit a WHERE a.tenant_id = $1), 0) AS BIGINT) AS first,
  CAST(COALESCE((SELECT max(b.seq) FROM audit b WHERE b.tenant_id = $1), 0) AS BIGINT) AS last;

-- name: BeginAuditChain :exec
-- An empty one, without a seal.
INSERT INTO audit_chains (tenant_id) VALUES ($1) ON CONFLICT (tenant_id) DO NOTHING;

-- name: UpdateAuditChain :exec
UPDATE audit_chains
SET origin = $2, floor_seq = $3, floor_hash = $4, floor_at = $5, head_seq = $6, head_hash = $7, seal = $8
WHERE tenant_id = $1;

-- name: InsertAudit :exec
-- Takes the lines as one JSON array, in which a time is microseconds since 1970
-- and a hash is hexadecimal.
INSERT INTO audit (tenant_id, seq, at, actor, action, object, remote, outcome, detail, previous, hash)
SELECT e ->> 'tenant', (e ->> 'seq')::bigint,
  TIMESTAMPTZ 'epoch' + (e ->> 'at')::bigint * INTERVAL '1 microsecond',
  e ->> 'actor', e ->> 'action', e ->> 'object', e ->> 'remote', e ->> 'outcome', e ->> 'detail',
  decode(e ->> 'previous', 'hex'), decode(e ->> 'hash', 'hex')
FROM jsonb_array_elements(sqlc.arg(lines)::jsonb) AS e;

-- name: RemoveAudit :execrows
DELETE FROM audit WHERE tenant_id = $1 AND seq <= $2;

-- name: AuditLines :many
-- In the order of the chain.
SELECT * FROM audit WHERE tenant_id = $1 AND seq > sqlc.arg(after) AND seq <= sqlc.arg(until) ORDER BY seq LIMIT sqlc.arg(most);

-- name: AuditEvents :many
-- A list; see Agents.
SELECT * FROM audit WHERE tenant_id = $1;

-- name: AuditChains :many
SELECT tenant_id FROM audit_chains ORDER BY tenant_id;

-- name: UnchainedAudit :many
SELECT tenant_id, CAST(max(seq) AS BIGINT) AS last FROM audit WHERE hash IS NULL GROUP BY tenant_id;
