-- +goose Up

-- Secrets are few: their lists need no index.

CREATE TABLE secrets (
    tenant_id  TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name       TEXT COLLATE "C" NOT NULL,
    -- How many values the name has had.
    version    BIGINT NOT NULL,
    -- The value, encrypted under the master key.
    sealed     BYTEA NOT NULL,
    created_by TEXT NOT NULL,
    updated_by TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT secrets_name PRIMARY KEY (tenant_id, name)
);
