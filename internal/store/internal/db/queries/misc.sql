-- name: InsertAudit :exec
INSERT INTO audit (tenant_id, at, actor, action, object, remote, outcome, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: AuditEvents :many
SELECT * FROM audit
WHERE tenant_id = sqlc.arg(tenant_id) AND (CAST(sqlc.arg(before_seq) AS BIGINT) = 0 OR seq < sqlc.arg(before_seq))
ORDER BY seq DESC LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: Key :one
SELECT sealed FROM keys WHERE name = $1;

-- name: PutKeyIfAbsent :exec
INSERT INTO keys (name, sealed) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING;

-- name: Ready :exec
INSERT INTO readiness (id, at) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET at = excluded.at;
