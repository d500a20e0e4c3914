-- name: LockTask :one
-- Positions in a task's log are given to one server at a time.
SELECT id FROM tasks WHERE id = $1 FOR NO KEY UPDATE;

-- name: LogTail :one
SELECT last_seq, last_position, total_bytes, lost FROM task_logs
WHERE task_id = $1 AND attempt = $2 ORDER BY last_seq DESC LIMIT 1;

-- name: LogEnd :one
SELECT last_position FROM task_logs WHERE task_id = $1 ORDER BY last_position DESC LIMIT 1;

-- name: InsertLogChunk :exec
INSERT INTO task_logs (task_id, attempt, first_seq, last_seq, first_position, last_position, entries, bytes, total_bytes, lost)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: GrowLogMarker :exec
UPDATE task_logs SET last_seq = sqlc.arg(last_seq), lost = sqlc.arg(lost)
WHERE task_id = sqlc.arg(task_id) AND last_position = sqlc.arg(last_position);

-- name: LogChunks :many
SELECT first_position, last_position, entries, lost FROM task_logs
WHERE task_id = sqlc.arg(task_id) AND last_position > sqlc.arg(after)
ORDER BY last_position LIMIT CAST(sqlc.arg(page) AS BIGINT);
