-- +goose Up

-- The same tables as on PostgreSQL.

-- Commands, and what came of each with each recipient. Payloads and answers are
-- JSON as it came, in TEXT: nobody looks inside, and what one agent sends must
-- not be able to fail the batch that it is written with.

CREATE TABLE commands (
    id           TEXT NOT NULL,
    tenant_id    TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    type         TEXT NOT NULL,
    payload      TEXT NOT NULL,
    scope        TEXT NOT NULL CHECK (scope IN ('agent', 'group', 'all')),
    recipient    TEXT NOT NULL,
    -- The one agent that it is for; empty when it is for a group or all.
    agent_id     TEXT NOT NULL,
    -- How many recipients there are, and are in each state: kept with each
    -- change, because to count 50,000 rows for each look would be slow.
    recipients   INTEGER NOT NULL,
    pending      INTEGER NOT NULL,
    delivered    INTEGER NOT NULL DEFAULT 0,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    failed       INTEGER NOT NULL DEFAULT 0,
    expired      INTEGER NOT NULL DEFAULT 0,
    created_by   TEXT NOT NULL,
    created_at   TIMESTAMP NOT NULL,
    expires_at   TIMESTAMP NOT NULL,
    -- When the last recipient ended.
    done_at      TIMESTAMP,
    CONSTRAINT commands_id PRIMARY KEY (id),
    CONSTRAINT commands_counts CHECK (
        pending >= 0 AND delivered >= 0 AND pending + delivered + acknowledged + failed + expired = recipients
        AND (done_at IS NULL) = (pending + delivered > 0))
);
CREATE INDEX commands_tenant ON commands (tenant_id, id);
-- An agent's commands are its own and those that are for many, which are few:
-- an index of each agent's recipient rows would cost a send three times as much.
CREATE INDEX commands_agent ON commands (tenant_id, agent_id, id);
CREATE INDEX commands_expiry ON commands (expires_at) WHERE done_at IS NULL;
CREATE INDEX commands_done ON commands (done_at) WHERE done_at IS NOT NULL;

-- A recipient stays when its agent is deleted, so there is no foreign key to
-- agents; and none to commands, which a send would pay for with each row: the
-- two are written and deleted together.
CREATE TABLE command_recipients (
    command_id   TEXT NOT NULL,
    agent_id     TEXT NOT NULL,
    -- The name as it was.
    agent_name   TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'acknowledged', 'failed', 'expired')),
    delivered_at TIMESTAMP,
    ended_at     TIMESTAMP,
    answer       TEXT NOT NULL DEFAULT '',
    error        TEXT NOT NULL DEFAULT '',
    CONSTRAINT command_recipients_id PRIMARY KEY (command_id, agent_id)
) WITHOUT ROWID;
CREATE INDEX command_recipients_pending ON command_recipients (agent_id, command_id) WHERE state = 'pending';
