-- +goose Up

-- The same tables as on PostgreSQL.

-- The audit log becomes a chain for each tenant: a line has a number that rises
-- by one in its tenant, the hash of the line before it, and its own. Lines from
-- before have no hashes, keep their numbers, and stay as they are.

DROP TRIGGER audit_no_update;
DROP TRIGGER audit_no_delete;
ALTER TABLE audit RENAME TO audit_before;
CREATE TABLE audit (
    seq       INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    at        TIMESTAMP NOT NULL,
    actor     TEXT NOT NULL,
    action    TEXT NOT NULL,
    object    TEXT NOT NULL,
    remote    TEXT NOT NULL,
    outcome   TEXT NOT NULL,
    detail    TEXT NOT NULL,
    previous  BLOB,
    hash      BLOB,
    CONSTRAINT audit_id PRIMARY KEY (tenant_id, seq),
    CONSTRAINT audit_seq CHECK (seq > 0)
) WITHOUT ROWID;
INSERT INTO audit (seq, tenant_id, at, actor, action, object, remote, outcome, detail)
    SELECT seq, tenant_id, at, actor, action, object, remote, outcome, detail FROM audit_before;
DROP TABLE audit_before;
CREATE INDEX audit_at ON audit (tenant_id, at, seq);
CREATE INDEX audit_actor ON audit (tenant_id, actor, seq);
CREATE INDEX audit_action ON audit (tenant_id, action, seq);

-- Where each chain begins and ends, sealed by the servers.
CREATE TABLE audit_chains (
    tenant_id  TEXT PRIMARY KEY,
    -- The last line from before the chain.
    origin     INTEGER NOT NULL DEFAULT 0,
    -- The last line that retention removed, and when it did.
    floor_seq  INTEGER NOT NULL DEFAULT 0,
    floor_hash BLOB NOT NULL DEFAULT (zeroblob(32)),
    floor_at   TIMESTAMP,
    -- The last line.
    head_seq   INTEGER NOT NULL DEFAULT 0,
    head_hash  BLOB NOT NULL DEFAULT (zeroblob(32)),
    seal       BLOB NOT NULL DEFAULT x'',
    CONSTRAINT audit_chains_order CHECK (origin >= 0 AND floor_seq >= 0 AND head_seq >= floor_seq AND head_seq >= origin)
);

-- +goose StatementBegin
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
WHEN NOT EXISTS (SELECT 1 FROM audit_chains c WHERE c.tenant_id = OLD.tenant_id AND OLD.seq <= c.floor_seq) BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
-- +goose StatementEnd
-- INSERT OR REPLACE removes a row and asks no trigger for removals.
-- +goose StatementBegin
CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit a WHERE a.tenant_id = NEW.tenant_id AND a.seq = NEW.seq) BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
-- +goose StatementEnd
-- The server makes a row that is empty, and fills it in the same transaction.
-- +goose StatementBegin
CREATE TRIGGER audit_chains_rise BEFORE UPDATE ON audit_chains
WHEN NEW.tenant_id <> OLD.tenant_id OR NEW.floor_seq < OLD.floor_seq OR NEW.head_seq < OLD.head_seq
    OR (NEW.origin <> OLD.origin AND OLD.seal <> x'') BEGIN
    SELECT RAISE(ABORT, 'the ends of the audit log only rise');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_chains_no_delete BEFORE DELETE ON audit_chains BEGIN
    SELECT RAISE(ABORT, 'the ends of the audit log stay');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_chains_no_replace BEFORE INSERT ON audit_chains
WHEN EXISTS (SELECT 1 FROM audit_chains c WHERE c.tenant_id = NEW.tenant_id) BEGIN
    SELECT RAISE(ABORT, 'the ends of the audit log stay');
END;
-- +goose StatementEnd
