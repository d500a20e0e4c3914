-- +goose Up

-- A renewed certificate is pending until it is used for the first time; those
-- before it end then.
ALTER TABLE certificates ADD COLUMN pending BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE certificates ADD COLUMN public_key_hash TEXT NOT NULL DEFAULT '';

-- How long the certificates of an agent live, as its token said; 0 leaves it to
-- the server.
ALTER TABLE registration_tokens ADD COLUMN certificate_life_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN certificate_life_ms INTEGER NOT NULL DEFAULT 0;
