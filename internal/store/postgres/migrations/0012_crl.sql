-- +goose Up

-- The certificates of agents that were deleted, which are gone with them, for
-- the list of revoked certificates.
CREATE TABLE revoked_serials (
    serial     TEXT PRIMARY KEY,
    revoked_at TIMESTAMPTZ NOT NULL,
    not_after  TIMESTAMPTZ NOT NULL
);
