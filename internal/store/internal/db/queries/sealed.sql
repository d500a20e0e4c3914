-- What is sealed, for sealing it anew. A sealed text begins with its key's
-- name; those that begin otherwise are outdated.

-- name: OutdatedTasks :many
SELECT id, sealed FROM tasks
WHERE id > sqlc.arg(after) AND substr(sealed, 1, 9) <> sqlc.arg(head) AND length(sealed) > 0
ORDER BY id LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: ReplaceTaskText :execrows
UPDATE tasks SET sealed = sqlc.arg(anew) WHERE id = sqlc.arg(id) AND sealed = sqlc.arg(old);

-- name: OutdatedDeployments :many
SELECT task_id, sealed FROM deployments
WHERE task_id > sqlc.arg(after) AND substr(sealed, 1, 9) <> sqlc.arg(head) AND length(sealed) > 0
ORDER BY task_id LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: ReplaceDeploymentText :execrows
UPDATE deployments SET sealed = sqlc.arg(anew) WHERE task_id = sqlc.arg(task_id) AND sealed = sqlc.arg(old);

-- name: OutdatedRollouts :many
SELECT id, sealed FROM rollouts
WHERE id > sqlc.arg(after) AND substr(sealed, 1, 9) <> sqlc.arg(head) AND length(sealed) > 0
ORDER BY id LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: ReplaceRolloutText :execrows
UPDATE rollouts SET sealed = sqlc.arg(anew) WHERE id = sqlc.arg(id) AND sealed = sqlc.arg(old);

-- name: OutdatedSecrets :many
SELECT tenant_id, name, sealed FROM secrets
WHERE (tenant_id, name) > (sqlc.arg(after_tenant), sqlc.arg(after_name)) AND substr(sealed, 1, 9) <> sqlc.arg(head)
ORDER BY tenant_id, name LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: ReplaceSecretText :execrows
UPDATE secrets SET sealed = sqlc.arg(anew) WHERE tenant_id = sqlc.arg(tenant_id) AND name = sqlc.arg(name) AND sealed = sqlc.arg(old);

-- name: OutdatedKeys :many
-- All keys but the keyring, which is sealed under the master key.
SELECT name, sealed FROM keys
WHERE name > sqlc.arg(after) AND name <> sqlc.arg(keyring) AND substr(sealed, 1, 9) <> sqlc.arg(head)
ORDER BY name LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: SwapKey :execrows
UPDATE keys SET sealed = sqlc.arg(anew) WHERE name = sqlc.arg(name) AND sealed = sqlc.arg(old);

-- name: KeyNames :many
SELECT name FROM keys ORDER BY name;
