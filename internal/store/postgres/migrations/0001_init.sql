-- +goose Up

-- Texts that name something are compared byte by byte (COLLATE "C"), so that
-- pages come in the same order on every engine and in every locale.

CREATE TABLE tenants (
    id         TEXT COLLATE "C" PRIMARY KEY,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
INSERT INTO tenants (id) VALUES ('default');

-- A third of each page stays free: a heartbeat then updates its row in place,
-- without touching any index.
CREATE TABLE agents (
    id                      TEXT COLLATE "C" NOT NULL,
    tenant_id               TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name                    TEXT COLLATE "C" NOT NULL,
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
    labels                  JSONB NOT NULL DEFAULT '{}',
    capabilities            JSONB NOT NULL DEFAULT '[]',
    -- What of them the agent may offer; empty is all.
    allowed_capabilities    JSONB NOT NULL DEFAULT '[]',
    -- What else its token said of it, which it cannot change.
    bound                   JSONB NOT NULL DEFAULT '{}',
    routes                  JSONB NOT NULL DEFAULT '[]',
    encryption_key          TEXT NOT NULL,
    public_key_hash         TEXT NOT NULL,
    certificate_fingerprint TEXT NOT NULL,
    certificate_not_after   TIMESTAMPTZ,
    last_heartbeat          TIMESTAMPTZ,
    reported_status         TEXT NOT NULL,
    not_accepting           TEXT NOT NULL,
    resource_usage          JSONB,
    created_at              TIMESTAMPTZ NOT NULL,
    -- When people or the agent itself last changed what it is; heartbeats and
    -- liveness leave it alone.
    updated_at              TIMESTAMPTZ NOT NULL,
    CONSTRAINT agents_id PRIMARY KEY (id),
    CONSTRAINT agents_name UNIQUE (tenant_id, name)
) WITH (fillfactor = 67);
CREATE INDEX agents_tenant ON agents (tenant_id, id);
CREATE INDEX agents_status ON agents (status);
CREATE INDEX agents_capabilities ON agents USING GIN (capabilities);

CREATE TABLE certificates (
    fingerprint TEXT COLLATE "C" PRIMARY KEY,
    agent_id    TEXT COLLATE "C" NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    tenant_id   TEXT COLLATE "C" NOT NULL,
    serial      TEXT NOT NULL,
    not_before  TIMESTAMPTZ NOT NULL,
    not_after   TIMESTAMPTZ NOT NULL,
    revoked_at  TIMESTAMPTZ,
    created_at  TIMESTAMPTZ NOT NULL
);
CREATE INDEX certificates_agent ON certificates (agent_id);

CREATE TABLE registration_tokens (
    id           TEXT COLLATE "C" PRIMARY KEY,
    tenant_id    TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    hash         TEXT COLLATE "C" NOT NULL UNIQUE,
    name         TEXT NOT NULL,
    agent_id     TEXT COLLATE "C" NOT NULL,
    environment  TEXT NOT NULL,
    group_name   TEXT NOT NULL,
    cluster      TEXT NOT NULL,
    platform     TEXT NOT NULL,
    capabilities JSONB NOT NULL DEFAULT '[]',
    labels       JSONB NOT NULL DEFAULT '{}',
    max_uses     BIGINT NOT NULL,
    uses         BIGINT NOT NULL DEFAULT 0,
    created_by   TEXT NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL,
    expires_at   TIMESTAMPTZ NOT NULL,
    revoked_at   TIMESTAMPTZ
);
CREATE INDEX registration_tokens_tenant ON registration_tokens (tenant_id, created_at);

-- What a token gave to a key, so that a retry gets the same answer. It goes
-- with the agent: a deleted identity is not handed out again.
CREATE TABLE token_uses (
    token_id        TEXT COLLATE "C" NOT NULL REFERENCES registration_tokens (id) ON DELETE CASCADE,
    public_key_hash TEXT COLLATE "C" NOT NULL,
    agent_id        TEXT COLLATE "C" NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    chain_pem       TEXT NOT NULL,
    at              TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (token_id, public_key_hash)
);
CREATE INDEX token_uses_agent ON token_uses (agent_id);

CREATE TABLE api_tokens (
    id           TEXT COLLATE "C" PRIMARY KEY,
    tenant_id    TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    hash         TEXT COLLATE "C" NOT NULL UNIQUE,
    name         TEXT NOT NULL,
    role         TEXT NOT NULL,
    created_by   TEXT NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL,
    expires_at   TIMESTAMPTZ,
    revoked_at   TIMESTAMPTZ,
    last_used_at TIMESTAMPTZ
);
CREATE INDEX api_tokens_tenant ON api_tokens (tenant_id, created_at);

-- A target outlives its agent, and a task its target and agent: so there are
-- no foreign keys between them.
CREATE TABLE targets (
    id          TEXT COLLATE "C" NOT NULL,
    tenant_id   TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name        TEXT COLLATE "C" NOT NULL,
    kind        TEXT NOT NULL,
    agent_id    TEXT COLLATE "C" NOT NULL,
    selector    JSONB,
    environment TEXT NOT NULL,
    labels      JSONB NOT NULL DEFAULT '{}',
    config      JSONB NOT NULL DEFAULT '{}',
    created_at  TIMESTAMPTZ NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL,
    CONSTRAINT targets_id PRIMARY KEY (id),
    CONSTRAINT targets_name UNIQUE (tenant_id, name)
);
CREATE INDEX targets_tenant ON targets (tenant_id, id);
CREATE INDEX targets_agent ON targets (tenant_id, agent_id);
CREATE INDEX targets_shared ON targets (tenant_id) WHERE selector IS NOT NULL;

CREATE TABLE tasks (
    id                  TEXT COLLATE "C" NOT NULL,
    tenant_id           TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    type                TEXT NOT NULL,
    target_id           TEXT COLLATE "C" NOT NULL,
    -- The names as they were, for when the target or the agent is gone.
    target_name         TEXT COLLATE "C" NOT NULL,
    agent_name          TEXT COLLATE "C" NOT NULL DEFAULT '',
    state               TEXT NOT NULL CHECK (state IN ('queued', 'assigned', 'running', 'succeeded', 'failed', 'cancelled', 'expired')),
    reason              TEXT NOT NULL DEFAULT '',
    changing            BOOLEAN NOT NULL,
    capability          TEXT NOT NULL,
    priority            BIGINT NOT NULL,
    payload             JSONB NOT NULL,
    sealed              BYTEA,
    timeout_ms          BIGINT NOT NULL,
    idempotency_key     TEXT COLLATE "C" NOT NULL,
    agent_id            TEXT COLLATE "C" NOT NULL DEFAULT '',
    attempt             BIGINT NOT NULL DEFAULT 0,
    lease_until         TIMESTAMPTZ,
    cancel_requested    BOOLEAN NOT NULL DEFAULT FALSE,
    cancel_requested_at TIMESTAMPTZ,
    created_by          TEXT NOT NULL,
    created_at          TIMESTAMPTZ NOT NULL,
    expires_at          TIMESTAMPTZ NOT NULL,
    assigned_at         TIMESTAMPTZ,
    started_at          TIMESTAMPTZ,
    finished_at         TIMESTAMPTZ,
    result              JSONB,
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
-- the order in which they came. entries is JSON and not JSONB, because output
-- may hold what JSONB refuses.
CREATE TABLE task_logs (
    task_id        TEXT COLLATE "C" NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    attempt        BIGINT NOT NULL,
    first_seq      BIGINT NOT NULL,
    last_seq       BIGINT NOT NULL,
    first_position BIGINT NOT NULL,
    last_position  BIGINT NOT NULL,
    entries        JSON NOT NULL,
    bytes          BIGINT NOT NULL,
    -- Of this attempt up to here.
    total_bytes    BIGINT NOT NULL,
    -- How many entries this chunk stands for instead of holding them.
    lost           BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (task_id, last_position)
);
CREATE INDEX task_logs_attempt ON task_logs (task_id, attempt, last_seq);

CREATE TABLE deployments (
    task_id    TEXT COLLATE "C" PRIMARY KEY,
    tenant_id  TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    target_id  TEXT COLLATE "C" NOT NULL REFERENCES targets (id) ON DELETE CASCADE,
    release_id TEXT NOT NULL,
    digest     TEXT NOT NULL,
    payload    JSONB NOT NULL,
    sealed     BYTEA,
    at         TIMESTAMPTZ NOT NULL
);
CREATE INDEX deployments_target ON deployments (target_id, at);

CREATE TABLE audit (
    seq       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL,
    at        TIMESTAMPTZ NOT NULL,
    actor     TEXT NOT NULL,
    action    TEXT NOT NULL,
    object    TEXT NOT NULL,
    remote    TEXT NOT NULL,
    outcome   TEXT NOT NULL,
    detail    TEXT NOT NULL
);
CREATE INDEX audit_tenant ON audit (tenant_id, seq);

-- +goose StatementBegin
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

-- The server's own keys, sealed.
CREATE TABLE keys (
    name       TEXT COLLATE "C" PRIMARY KEY,
    sealed     BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Written to find out whether the store can be written.
CREATE TABLE readiness (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    at TIMESTAMPTZ NOT NULL
);
