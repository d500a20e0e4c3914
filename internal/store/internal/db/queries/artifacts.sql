-- name: InsertArtifact :execrows
INSERT INTO artifacts (tenant_id, digest, upload_id, name, media_type, notes, size, complete, created_by, created_at, updated_at, completed_at, last_used_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, sqlc.arg(created_at), sqlc.arg(created_at), sqlc.arg(completed_at), sqlc.arg(created_at))
ON CONFLICT (tenant_id, digest) DO NOTHING;

-- name: TakeUpArtifact :exec
-- Whoever pushes it again is about to use it, and may know better what it is.
UPDATE artifacts
SET last_used_at = CASE WHEN last_used_at > sqlc.arg(at) THEN last_used_at ELSE sqlc.arg(at) END,
  updated_at = CASE WHEN updated_at > sqlc.arg(at) THEN updated_at ELSE sqlc.arg(at) END,
  name = CASE WHEN CAST(sqlc.arg(name) AS TEXT) = '' THEN name ELSE sqlc.arg(name) END,
  media_type = CASE WHEN CAST(sqlc.arg(media_type) AS TEXT) = '' THEN media_type ELSE sqlc.arg(media_type) END,
  notes = CASE WHEN CAST(sqlc.arg(notes) AS TEXT) = '' THEN notes ELSE sqlc.arg(notes) END
WHERE tenant_id = sqlc.arg(tenant_id) AND digest = sqlc.arg(digest);

-- name: LockArtifact :one
-- Whoever decides about an artifact's end waits for the tasks that just took
-- it, and reads them afterwards.
SELECT * FROM artifacts WHERE tenant_id = $1 AND digest = $2 FOR UPDATE;

-- name: Artifact :one
SELECT * FROM artifacts WHERE tenant_id = $1 AND digest = $2;

-- name: ArtifactNamed :one
-- Of several of one name, the newest that is whole.
SELECT * FROM artifacts WHERE tenant_id = $1 AND name = $2 ORDER BY complete DESC, created_at DESC, digest LIMIT 1;

-- name: Artifacts :many
-- A list; see Agents.
SELECT * FROM artifacts WHERE tenant_id = $1;

-- name: GrowArtifact :execrows
-- Only the next piece counts, so that two uploads of one artifact cannot mix.
UPDATE artifacts
SET received = sqlc.arg(upto), complete = sqlc.arg(complete), sum = sqlc.arg(sum), updated_at = sqlc.arg(at),
  completed_at = sqlc.arg(completed_at)
WHERE tenant_id = sqlc.arg(tenant_id) AND digest = sqlc.arg(digest) AND upload_id = sqlc.arg(upload_id)
  AND received = sqlc.arg(position) AND NOT complete;

-- name: InsertArtifactChunk :exec
INSERT INTO artifact_chunks (upload_id, position, data) VALUES ($1, $2, $3);

-- name: ArtifactChunk :one
SELECT position, data FROM artifact_chunks
WHERE upload_id = sqlc.arg(upload_id) AND position <= sqlc.arg(at) ORDER BY position DESC LIMIT 1;

-- name: UseArtifact :execrows
-- It writes, so that whoever is about to remove the artifact waits, and then
-- finds that it was used.
UPDATE artifacts
SET last_used_at = CASE WHEN last_used_at > sqlc.arg(at) THEN last_used_at ELSE sqlc.arg(at) END
WHERE tenant_id = sqlc.arg(tenant_id) AND digest = sqlc.arg(digest) AND complete;

-- name: InsertArtifactUse :exec
INSERT INTO artifact_uses (tenant_id, digest, task_id) VALUES ($1, $2, $3);

-- name: ArtifactUses :many
SELECT t.id, t.type, t.target_label, t.state
FROM artifact_uses u JOIN task_details t ON t.id = u.task_id
WHERE u.tenant_id = sqlc.arg(tenant_id) AND u.digest = sqlc.arg(digest)
ORDER BY u.task_id DESC LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: ArtifactHolder :one
-- A task that may still need the artifact: one that is not over, or one of the
-- last deployments of a target, to which a rollback may go back.
SELECT t.id, t.type, t.target_label, t.state
FROM artifact_uses u JOIN task_details t ON t.id = u.task_id
WHERE u.tenant_id = sqlc.arg(tenant_id) AND u.digest = sqlc.arg(digest)
  AND (t.state IN ('queued', 'assigned', 'running') OR EXISTS (
    SELECT 1 FROM deployments d WHERE d.task_id = u.task_id AND (
      SELECT count(*) FROM deployments n WHERE n.target_id = d.target_id AND (n.at, n.task_id) > (d.at, d.task_id))
      < CAST(sqlc.arg(kept) AS BIGINT)))
ORDER BY u.task_id DESC LIMIT 1;

-- name: ArtifactForTask :one
SELECT a.*
FROM artifact_uses u JOIN tasks t ON t.id = u.task_id
JOIN artifacts a ON a.tenant_id = u.tenant_id AND a.digest = u.digest
WHERE u.tenant_id = sqlc.arg(tenant_id) AND u.digest = sqlc.arg(digest) AND u.task_id = sqlc.arg(task_id)
  AND t.agent_id = sqlc.arg(agent_id) AND t.state IN ('assigned', 'running') AND a.complete;

-- name: UnusedArtifacts :many
-- What ArtifactHolder finds nobody for.
SELECT a.tenant_id, a.digest FROM artifacts a
WHERE a.complete AND a.last_used_at < sqlc.arg(before)
  AND NOT EXISTS (
    SELECT 1 FROM artifact_uses u JOIN tasks t ON t.id = u.task_id
    WHERE u.tenant_id = a.tenant_id AND u.digest = a.digest
      AND (t.state IN ('queued', 'assigned', 'running') OR EXISTS (
        SELECT 1 FROM deployments d WHERE d.task_id = u.task_id AND (
          SELECT count(*) FROM deployments n WHERE n.target_id = d.target_id AND (n.at, n.task_id) > (d.at, d.task_id))
          < CAST(sqlc.arg(kept) AS BIGINT))))
ORDER BY a.last_used_at LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: StalledArtifacts :many
SELECT tenant_id, digest FROM artifacts
WHERE NOT complete AND updated_at < sqlc.arg(before)
ORDER BY updated_at LIMIT CAST(sqlc.arg(page) AS BIGINT);

-- name: DeleteArtifact :execrows
DELETE FROM artifacts WHERE tenant_id = $1 AND digest = $2 AND upload_id = $3;

-- name: TrashUpload :exec
INSERT INTO artifact_trash (upload_id) VALUES ($1) ON CONFLICT (upload_id) DO NOTHING;

-- name: Trash :many
SELECT upload_id FROM artifact_trash ORDER BY upload_id LIMIT 1;

-- name: DeleteArtifactChunks :execrows
DELETE FROM artifact_chunks
WHERE artifact_chunks.upload_id = sqlc.arg(upload_id) AND artifact_chunks.position IN (
  SELECT c.position FROM artifact_chunks c WHERE c.upload_id = sqlc.arg(upload_id)
  ORDER BY c.position LIMIT CAST(sqlc.arg(page) AS BIGINT));

-- name: ForgetTrash :exec
DELETE FROM artifact_trash WHERE upload_id = $1;
