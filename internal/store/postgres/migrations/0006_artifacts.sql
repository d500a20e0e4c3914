-- +goose Up

-- Files that people push for deployments, each named by the digest of its bytes.

CREATE TABLE artifacts (
    tenant_id    TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    digest       TEXT COLLATE "C" NOT NULL,
    -- Whose bytes these are: another one each time that the digest is uploaded
    -- from its beginning, so that what is left of an older try never mixes in.
    upload_id    TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,
    media_type   TEXT NOT NULL,
    notes        TEXT NOT NULL,
    size         BIGINT NOT NULL,
    received     BIGINT NOT NULL DEFAULT 0,
    complete     BOOLEAN NOT NULL DEFAULT FALSE,
    -- The state of the hash over what was received.
    sum          BYTEA,
    created_by   TEXT NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL,
    -- When bytes came last.
    updated_at   TIMESTAMPTZ NOT NULL,
    completed_at TIMESTAMPTZ,
    last_used_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT artifacts_id PRIMARY KEY (tenant_id, digest),
    CONSTRAINT artifacts_received CHECK (received BETWEEN 0 AND size AND (NOT complete OR received = size))
);
CREATE INDEX artifacts_name ON artifacts (tenant_id, name, digest);
CREATE INDEX artifacts_size ON artifacts (tenant_id, size, digest);
CREATE INDEX artifacts_created ON artifacts (tenant_id, created_at, digest);
CREATE INDEX artifacts_unused ON artifacts (last_used_at) WHERE complete;
CREATE INDEX artifacts_stalled ON artifacts (updated_at) WHERE NOT complete;

-- The bytes, in pieces. There is no foreign key to artifacts: when one goes, its
-- row goes at once and its bytes follow in small steps.
CREATE TABLE artifact_chunks (
    upload_id TEXT COLLATE "C" NOT NULL,
    -- Where in the artifact the piece begins.
    position  BIGINT NOT NULL,
    data      BYTEA NOT NULL,
    CONSTRAINT artifact_chunks_id PRIMARY KEY (upload_id, position)
);
-- Releases are compressed already: to try again costs time and gains nothing.
ALTER TABLE artifact_chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- Uploads whose bytes are nobody's any more.
CREATE TABLE artifact_trash (
    upload_id TEXT COLLATE "C" PRIMARY KEY
);

CREATE TABLE artifact_uses (
    tenant_id TEXT COLLATE "C" NOT NULL,
    digest    TEXT COLLATE "C" NOT NULL,
    task_id   TEXT COLLATE "C" NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    CONSTRAINT artifact_uses_id PRIMARY KEY (tenant_id, digest, task_id),
    FOREIGN KEY (tenant_id, digest) REFERENCES artifacts (tenant_id, digest) ON DELETE CASCADE
);
CREATE INDEX artifact_uses_task ON artifact_uses (task_id);
