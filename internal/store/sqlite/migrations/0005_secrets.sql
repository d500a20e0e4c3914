-- +goose Up

-- The same table as on PostgreSQL. Secrets are few: their lists need no index.

CREATE TABLE secrets (
    tenant_id  TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    -- How many values the name has had.
    version    INTEGER NOT NULL,
    -- The value, encrypted under the master key.
    sealed     BLOB NOT NULL,
    created_by TEXT NOT NULL,
    updated_by TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    CONSTRAINT secrets_name PRIMARY KEY (tenant_id, name)
);
