-- name: InsertAudit :exec
INSERT INTO audit (tenant_id, at, actor, action, object, remote, outcome, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: AuditEvents :many
-- A list; see Agents.
SELECT * FROM audit WHERE tenant_id = $1;

-- name: Key :one
SELECT sealed FROM keys WHERE name = $1;

-- name: PutKeyIfAbsent :exec
INSERT INTO keys (name, sealed) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING;

-- name: SwapKey :execrows
UPDATE keys SET sealed = sqlc.arg(anew) WHERE name = sqlc.arg(name) AND sealed = sqlc.arg(old);

-- name: Ready :exec
INSERT INTO readiness (id, at) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET at = excluded.at;
