-- name: NoteClone :exec
INSERT INTO agent_clones (tenant_id, agent_id, seen_at, held, kept) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, agent_id) DO UPDATE SET seen_at = excluded.seen_at, held = excluded.held, kept = excluded.kept;

-- name: ForgetClones :exec
DELETE FROM agent_clones WHERE seen_at < $1;

-- name: Clones :many
SELECT * FROM agent_clones WHERE tenant_id = $1 AND seen_at >= $2 ORDER BY agent_id;
