-- +goose Up

-- Agents whose identity a second host uses, a copy of the first: which of the two
-- was held off last, and which was let work.
CREATE TABLE agent_clones (
    tenant_id TEXT NOT NULL,
    agent_id  TEXT NOT NULL,
    seen_at   TIMESTAMP NOT NULL,
    held      TEXT NOT NULL,
    kept      TEXT NOT NULL,
    PRIMARY KEY (tenant_id, agent_id)
);

-- Which start of the agent was heard last.
ALTER TABLE agents ADD COLUMN instance TEXT NOT NULL DEFAULT '';
