-- name: PutSecret :one
INSERT INTO secrets (tenant_id, name, version, sealed, created_by, updated_by, created_at, updated_at)
VALUES ($1, $2, 1, $3, $4, $5, $6, $7)
ON CONFLICT (tenant_id, name) DO UPDATE
SET version = secrets.version + 1, sealed = excluded.sealed, updated_by = excluded.updated_by, updated_at = excluded.updated_at
RETURNING version, created_by, created_at;

-- name: Secret :one
SELECT * FROM secrets WHERE tenant_id = $1 AND name = $2;

-- name: Secrets :many
-- A list; see Agents.
SELECT * FROM secrets WHERE tenant_id = $1;

-- name: DeleteSecret :execrows
DELETE FROM secrets WHERE tenant_id = $1 AND name = $2;
