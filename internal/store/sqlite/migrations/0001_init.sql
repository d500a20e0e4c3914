-- +goose Up

-- The same tables as on PostgreSQL. A TIMESTAMP holds microseconds since 1970
-- as an integer (the driver is told so), JSON is TEXT, and texts compare byte
-- by byte.

CREATE TABLE tenants (
    id         TEXT PRIMARY KEY,
    created_at TIMESTAMP NOT NULL DEFAULT (unixepoch() * 1000000)
);
INSERT INTO tenants (id) VALUES ('default');

CREATE TABLE agents (
    id                      TEXT NOT NULL,
    tenant_id               TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name                    TEXT NOT NULL,
    version                 TEXT NOT NULL,
    lifecycle               TEXT NOT NULL CHECK (lifecycle IN ('active', 'inactive', 'revoked')),
    liveness                TEXT NOT NULL CHECK (liveness IN ('live', 'stale', 'dead')),
    -- The one word that a list shows; fleet.Agent.Status is the same rule.
    status                  TEXT NOT NULL GENERATED ALWAYS AS (
        CASE
            WHEN lifecycle <> 'active' THEN 'offline'
            WHEN liveness = 'live' AND reported_status <> 'degraded' THEN 'online'
            WHEN liveness IN ('live', 'stale') THEN 'degraded'
            ELSE 'offline'
        END) STORED,
    group_name              TEXT NOT NULL,
    environment             TEXT NOT NULL,
    platform                TEXT NOT NULL,
    cluster                 TEXT NOT NULL,
    labels                  TEXT NOT NULL DEFAULT '{}',
    capabilities            TEXT NOT NULL DEFAULT '[]',
    -- What of them the agent may offer; empty is all.
    allowed_capabilities    TEXT NOT NULL DEFAULT '[]',
    -- What else its token said of it, which it cannot change.
    bound                   TEXT NOT NULL DEFAULT '{}',
    routes                  TEXT NOT NULL DEFAULT '[]',
    encryption_key          TEXT NOT NULL,
    public_key_hash         TEXT NOT NULL,
    certificate_fingerprint TEXT NOT NULL,
    certificate_not_after   TIMESTAMP,
    last_heartbeat          TIMESTAMP,
    reported_status         TEXT NOT NULL,
    not_accepting           TEXT NOT NULL,
    resource_usage          TEXT,
    created_at              TIMESTAMP NOT NULL,
    -- When people or the agent itself last changed what it is; heartbeats and
    -- liveness leave it alone.
    updated_at              TIMESTAMP NOT NULL,
    CONSTRAINT agents_id PRIMARY KEY (id),
    CONSTRAINT agents_name UNIQUE (tenant_id, name)
);
CREATE INDEX agents_tenant ON agents (tenant_id, id);
CREATE INDEX agents_status ON agents (status);

CREATE TABLE certificates (
    fingerprint TEXT PRIMARY KEY,
    agent_id    TEXT NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    tenant_id   TEXT NOT NULL,
    serial      TEXT NOT NULL,
    not_before  TIMESTAMP NOT NULL,
    not_after   TIMESTAMP NOT NULL,
    revoked_at  TIMESTAMP,
    created_at  TIMESTAMP NOT NULL
);
CREATE INDEX certificates_agent ON certificates (agent_id);

CREATE TABLE registration_tokens (
    id           TEXT PRIMARY KEY,
    tenant_id    TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    hash         TEXT NOT NULL UNIQUE,
    name         TEXT NOT NULL,
    agent_id     TEXT NOT NULL,
    environment  TEXT NOT NULL,
    group_name   TEXT NOT NULL,
    cluster      TEXT NOT NULL,
    platform     TEXT NOT NULL,
    capabilities TEXT NOT NULL DEFAULT '[]',
    labels       TEXT NOT NULL DEFAULT '{}',
    max_uses     INTEGER NOT NULL,
    uses         INTEGER NOT NULL DEFAULT 0,
    created_by   TEXT NOT NULL,
    created_at   TIMESTAMP NOT NULL,
    expires_at   TIMESTAMP NOT NULL,
    revoked_at   TIMESTAMP
);
CREATE INDEX registration_tokens_tenant ON registration_tokens (tenant_id, created_at);

-- What a token gave to a key, so that a retry gets the same answer. It goes
-- with the agent: a deleted identity is not handed out again.
CREATE TABLE token_uses (
    token_id        TEXT NOT NULL REFERENCES registration_tokens (id) ON DELETE CASCADE,
    public_key_hash TEXT NOT NULL,
    agent_id        TEXT NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    chain_pem       TEXT NOT NULL,
    at              TIMESTAMP NOT NULL,
    PRIMARY KEY (token_id, public_key_hash)
);
CREATE INDEX token_uses_agent ON token_uses (agent_id);

CREATE TABLE api_tokens (
    id           TEXT PRIMARY KEY,
    tenant_id    TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    hash         TEXT NOT NULL UNIQUE,
    name         TEXT NOT NULL,
    role         TEXT NOT NULL,
    created_by   TEXT NOT NULL,
    created_at   TIMESTAMP NOT NULL,
    expires_at   TIMESTAMP,
    revoked_at   TIMESTAMP,
    last_used_at TIMESTAMP
);
CREATE INDEX api_tokens_tenant ON api_tokens (tenant_id, created_at);

-- A target outlives its agent, and a task its target and agent: so there are
-- no foreign keys between them.
CREATE TABLE targets (
    id          TEXT NOT NULL,
    tenant_id   TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    agent_id    TEXT NOT NULL,
    selector    TEXT,
    environment TEXT NOT NULL,
    labels      TEXT NOT NULL DEFAULT '{}',
    config      TEXT NOT NULL DEFAULT '{}',
    created_at  TIMESTAMP NOT NULL,
    updated_at  TIMESTAMP NOT NULL,
    CONSTRAINT targets_id PRIMARY KEY (id),
    CONSTRAINT targets_name UNIQUE (tenant_id, name)
);
CREATE INDEX targets_tenant ON targets (tenant_id, id);
CREATE INDEX targets_agent ON targets (tenant_id, agent_id);
CREATE INDEX targets_shared ON targets (tenant_id) WHERE selector IS NOT NULL;

CREATE TABLE tasks (
    id                  TEXT NOT NULL,
    tenant_id           TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    type                TEXT NOT NULL,
    target_id           TEXT NOT NULL,
    -- The names as they were, for when the target or the agent is gone.
    target_name         TEXT NOT NULL,
    agent_name          TEXT NOT NULL DEFAULT '',
    state               TEXT NOT NULL CHECK (state IN ('queued', 'assigned', 'running', 'succeeded', 'failed', 'cancelled', 'expired')),
    reason              TEXT NOT NULL DEFAULT '',
    changing            BOOLEAN NOT NULL,
    capability          TEXT NOT NULL,
    priority            INTEGER NOT NULL,
    payload             TEXT NOT NULL,
    sealed              BLOB,
    timeout_ms          INTEGER NOT NULL,
    idempotency_key     TEXT NOT NULL,
    agent_id            TEXT NOT NULL DEFAULT '',
    attempt             INTEGER NOT NULL DEFAULT 0,
    lease_until         TIMESTAMP,
    cancel_requested    BOOLEAN NOT NULL DEFAULT FALSE,
    cancel_requested_at TIMESTAMP,
    created_by          TEXT NOT NULL,
    created_at          TIMESTAMP NOT NULL,
    expires_at          TIMESTAMP NOT NULL,
    assigned_at         TIMESTAMP,
    started_at          TIMESTAMP,
    finished_at         TIMESTAMP,
    result              TEXT,
    CONSTRAINT tasks_id PRIMARY KEY (id)
);
-- The rule that changes of one target never overlap, held by the database.
CREATE UNIQUE INDEX tasks_change ON tasks (target_id) WHERE changing AND state IN ('assigned', 'running');
CREATE UNIQUE INDEX tasks_idempotency ON tasks (tenant_id, idempotency_key) WHERE idempotency_key <> '';
CREATE INDEX tasks_tenant ON tasks (tenant_id, id);
CREATE INDEX tasks_state ON tasks (tenant_id, state, id);
CREATE INDEX tasks_target ON tasks (target_id, id);
CREATE INDEX tasks_agent ON tasks (agent_id, id);
CREATE INDEX tasks_queued ON tasks (target_id) WHERE state = 'queued';
CREATE INDEX tasks_expiry ON tasks (expires_at) WHERE state = 'queued';
CREATE INDEX tasks_active_target ON tasks (target_id) WHERE state IN ('assigned', 'running');
CREATE INDEX tasks_active_agent ON tasks (agent_id) WHERE state IN ('assigned', 'running');
CREATE INDEX tasks_lease ON tasks (lease_until) WHERE state IN ('assigned', 'running');

CREATE VIEW task_details AS
SELECT t.*, COALESCE(g.name, t.target_name) AS target_label, COALESCE(a.name, t.agent_name) AS agent_label
FROM tasks t
LEFT JOIN targets g ON g.id = t.target_id
LEFT JOIN agents a ON a.id = t.agent_id;

-- One row per chunk. Positions count a task's entries over all attempts, in
-- the order in which they came.
CREATE TABLE task_logs (
    task_id        TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    attempt        INTEGER NOT NULL,
    first_seq      INTEGER NOT NULL,
    last_seq       INTEGER NOT NULL,
    first_position INTEGER NOT NULL,
    last_position  INTEGER NOT NULL,
    entries        TEXT NOT NULL,
    bytes          INTEGER NOT NULL,
    -- Of this attempt up to here.
    total_bytes    INTEGER NOT NULL,
    -- How many entries this chunk stands for instead of holding them.
    lost           INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (task_id, last_position)
);
CREATE INDEX task_logs_attempt ON task_logs (task_id, attempt, last_seq);

CREATE TABLE deployments (
    task_id    TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    target_id  TEXT NOT NULL REFERENCES targets (id) ON DELETE CASCADE,
    release_id TEXT NOT NULL,
    digest     TEXT NOT NULL,
    payload    TEXT NOT NULL,
    sealed     BLOB,
    at         TIMESTAMP NOT NULL
);
CREATE INDEX deployments_target ON deployments (target_id, at);

CREATE TABLE audit (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    at        TIMESTAMP NOT NULL,
    actor     TEXT NOT NULL,
    action    TEXT NOT NULL,
    object    TEXT NOT NULL,
    remote    TEXT NOT NULL,
    outcome   TEXT NOT NULL,
    detail    TEXT NOT NULL
);
CREATE INDEX audit_tenant ON audit (tenant_id, seq);

-- +goose StatementBegin
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
-- +goose StatementEnd

-- The server's own keys, sealed.
CREATE TABLE keys (
    name       TEXT PRIMARY KEY,
    sealed     BLOB NOT NULL,
    created_at TIMESTAMP NOT NULL DEFAULT (unixepoch() * 1000000)
);

-- Written to find out whether the store can be written.
CREATE TABLE readiness (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at TIMESTAMP NOT NULL
);
