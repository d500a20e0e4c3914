-- +goose Up

-- The carrier that brought the last heartbeat. Heartbeats write it: no index.
ALTER TABLE agents ADD COLUMN transport TEXT NOT NULL DEFAULT '';
