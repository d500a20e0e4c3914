-- +goose Up

-- Which agents have changed in the last hour: their life cycle, their
-- certificates, or what they may do. The server looks here for what the bus has
-- not told it. There is one writer at a time, so that numbers are in the order
-- of the commits; none is given twice.
CREATE TABLE agent_changes (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    agent_id  TEXT NOT NULL,
    at        TIMESTAMP NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
);
CREATE INDEX agent_changes_at ON agent_changes (at);

-- Whose certificate it was, and why it ended.
ALTER TABLE revoked_serials ADD COLUMN tenant_id TEXT NOT NULL DEFAULT '';
ALTER TABLE revoked_serials ADD COLUMN agent_id TEXT NOT NULL DEFAULT '';
ALTER TABLE revoked_serials ADD COLUMN why TEXT NOT NULL DEFAULT 'deleted' CHECK (why IN ('revoked', 'deleted', 'replaced'));
CREATE INDEX revoked_serials_agent ON revoked_serials (agent_id);
