-- name: Key :one
SELECT sealed FROM keys WHERE name = $1;

-- name: PutKeyIfAbsent :exec
INSERT INTO keys (name, sealed) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING;

-- name: Ready :exec
INSERT INTO readiness (id, at) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET at = excluded.at;
