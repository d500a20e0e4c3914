-- +goose Up

-- One version on its way to many targets. The targets are in the row, as JSON:
-- a step is one statement, which counts only if nobody has written since.

CREATE TABLE rollouts (
    id              TEXT COLLATE "C" NOT NULL,
    tenant_id       TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    state           TEXT NOT NULL,
    reason          TEXT NOT NULL,
    plan            TEXT NOT NULL,
    release_id      TEXT NOT NULL,
    release_name    TEXT NOT NULL,
    -- What people see; and all of it, encrypted under the master key.
    payload         TEXT NOT NULL,
    sealed          BYTEA NOT NULL,
    members         TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    version         BIGINT NOT NULL,
    created_by      TEXT NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    updated_at      TIMESTAMPTZ NOT NULL,
    finished_at     TIMESTAMPTZ,
    CONSTRAINT rollouts_id PRIMARY KEY (id)
);
CREATE INDEX rollouts_tenant ON rollouts (tenant_id, id);
CREATE INDEX rollouts_created ON rollouts (tenant_id, created_at, id);
CREATE UNIQUE INDEX rollouts_key ON rollouts (tenant_id, idempotency_key) WHERE idempotency_key <> '';
CREATE INDEX rollouts_moving ON rollouts (state) WHERE state IN ('running', 'paused', 'rolling-back', 'cancelling');
