-- name: InsertAPIToken :exec
INSERT INTO api_tokens (id, tenant_id, hash, name, role, created_by, created_at, expires_at, revoked_at, last_used_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: APITokenByHash :one
SELECT * FROM api_tokens WHERE hash = $1;

-- name: APITokens :many
-- A list; see Agents.
SELECT * FROM api_tokens WHERE tenant_id = $1;

-- name: APITokenExists :one
SELECT count(*) FROM api_tokens WHERE tenant_id = $1 AND id = $2;

-- name: RevokeAPIToken :execrows
UPDATE api_tokens SET revoked_at = sqlc.arg(at)
WHERE tenant_id = sqlc.arg(tenant_id) AND id = sqlc.arg(id) AND revoked_at IS NULL;

-- name: TouchAPIToken :exec
UPDATE api_tokens SET last_used_at = sqlc.arg(at)
WHERE id = sqlc.arg(id) AND (last_used_at IS NULL OR last_used_at < sqlc.arg(at));

-- name: CountAPITokens :one
SELECT count(*) FROM api_tokens;
