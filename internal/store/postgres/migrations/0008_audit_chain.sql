-- +goose Up

-- The audit log becomes a chain for each tenant: a line has a number that rises
-- by one in its tenant, the hash of the line before it, and its own. Lines from
-- before have no hashes, keep their numbers, and stay as they are.

DROP TRIGGER audit_append_only ON audit;
ALTER TABLE audit ALTER COLUMN seq DROP IDENTITY;
ALTER TABLE audit DROP CONSTRAINT audit_pkey;
ALTER TABLE audit
    ADD COLUMN previous BYTEA,
    ADD COLUMN hash BYTEA,
    ADD CONSTRAINT audit_id PRIMARY KEY (tenant_id, seq),
    ADD CONSTRAINT audit_seq CHECK (seq > 0);
DROP INDEX audit_tenant;

-- Where each chain begins and ends, sealed by the servers. A row changes with
-- every batch of lines, in place: there is room for that in its page.
CREATE TABLE audit_chains (
    tenant_id  TEXT COLLATE "C" PRIMARY KEY,
    -- The last line from before the chain.
    origin     BIGINT NOT NULL DEFAULT 0,
    -- The last line that retention removed, and when it did.
    floor_seq  BIGINT NOT NULL DEFAULT 0,
    floor_hash BYTEA NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    floor_at   TIMESTAMPTZ,
    -- The last line.
    head_seq   BIGINT NOT NULL DEFAULT 0,
    head_hash  BYTEA NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    seal       BYTEA NOT NULL DEFAULT '',
    CONSTRAINT audit_chains_order CHECK (origin >= 0 AND floor_seq >= 0 AND head_seq >= floor_seq AND head_seq >= origin)
) WITH (fillfactor = 10);

CREATE TRIGGER audit_append_only BEFORE UPDATE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

-- +goose StatementBegin
CREATE FUNCTION audit_above_floor() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM audit_chains c WHERE c.tenant_id = OLD.tenant_id AND OLD.seq <= c.floor_seq) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only';
END
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_above_floor();

-- The server makes a row that is empty, and fills it in the same transaction.
-- +goose StatementBegin
CREATE FUNCTION audit_chains_only_rise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ends of the audit log only rise';
END
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_chains_rise BEFORE UPDATE ON audit_chains
    FOR EACH ROW WHEN (NEW.tenant_id <> OLD.tenant_id OR NEW.floor_seq < OLD.floor_seq OR NEW.head_seq < OLD.head_seq
        OR (NEW.origin <> OLD.origin AND OLD.seal <> ''::bytea))
    EXECUTE FUNCTION audit_chains_only_rise();
CREATE TRIGGER audit_chains_no_delete BEFORE DELETE OR TRUNCATE ON audit_chains
    FOR EACH STATEMENT EXECUTE FUNCTION audit_chains_only_rise();
