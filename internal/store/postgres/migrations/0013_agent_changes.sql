-- +goose Up

-- Which agents have changed in the last hour: their life cycle, their
-- certificates, or what they may do. Servers look here for what the bus has not
-- told them.
--
-- Transactions commit in another order than they begin in, so that a number of
-- our own would not tell what is new: a row shows its transaction, and who has
-- looked with a snapshot has seen all of those before the oldest one that was
-- still under way then.
CREATE TABLE agent_changes (
    seq       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tx        BIGINT NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    tenant_id TEXT COLLATE "C" NOT NULL,
    agent_id  TEXT COLLATE "C" NOT NULL,
    at        TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX agent_changes_tx ON agent_changes (tx);
CREATE INDEX agent_changes_at ON agent_changes (at);

-- Whose certificate it was, and why it ended.
ALTER TABLE revoked_serials
    ADD COLUMN tenant_id TEXT COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN agent_id TEXT COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN why TEXT NOT NULL DEFAULT 'deleted' CHECK (why IN ('revoked', 'deleted', 'replaced'));
CREATE INDEX revoked_serials_agent ON revoked_serials (agent_id);
