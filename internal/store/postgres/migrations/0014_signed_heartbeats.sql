-- +goose Up

-- Whether the agent signs its heartbeats, and so is never heard unsigned; and the
-- last of what it signed that was heard, which is in the order of boot and number.
ALTER TABLE agents ADD COLUMN signs_heartbeats BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE agents ADD COLUMN signed_boot BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN signed_number BIGINT NOT NULL DEFAULT 0;
