-- +goose Up

-- Lists can be narrowed and ordered by many fields. Each order that a list can
-- have is an index here, with the id behind it, so that a page is read from
-- where it begins and not from the start of the list; and so is what lists are
-- often narrowed by.
--
-- No index is on what a heartbeat changes: last_heartbeat, reported_status,
-- not_accepting, resource_usage. Heartbeats come by the tens of thousands a
-- second, and SQLite writes an entry again whether or not it differs: each
-- such index makes all of them a twentieth dearer. Only the one on status,
-- which was there, still does.
--
-- Labels have no index: SQLite can index the value of a key that is known
-- beforehand, and their keys are anybody's. The same holds for capabilities.

DROP INDEX agents_status;
CREATE INDEX agents_status ON agents (tenant_id, status, id);
-- Who is asked for are those that are silent; store/listings.go says so to the
-- planner. The others have no entry that a heartbeat could touch.
CREATE INDEX agents_silent ON agents (tenant_id, liveness, id) WHERE liveness <> 'live';
CREATE INDEX agents_lifecycle ON agents (tenant_id, lifecycle, id);
CREATE INDEX agents_environment ON agents (tenant_id, environment, id);
CREATE INDEX agents_group ON agents (tenant_id, group_name, id);
CREATE INDEX agents_version ON agents (tenant_id, version, id);
CREATE INDEX agents_platform ON agents (tenant_id, platform, id);
CREATE INDEX agents_created ON agents (tenant_id, created_at, id);

DROP INDEX targets_agent;
CREATE INDEX targets_agent ON targets (tenant_id, agent_id, id);
CREATE INDEX targets_kind ON targets (tenant_id, kind, id);
CREATE INDEX targets_environment ON targets (tenant_id, environment, id);
CREATE INDEX targets_created ON targets (tenant_id, created_at, id);

CREATE INDEX tasks_type ON tasks (tenant_id, type, id);
CREATE INDEX tasks_created ON tasks (tenant_id, created_at, id);
-- A time that is not there comes before all others.
CREATE INDEX tasks_finished ON tasks (tenant_id, COALESCE(finished_at, -9223372036854775807), id);

DROP INDEX registration_tokens_tenant;
CREATE INDEX registration_tokens_created ON registration_tokens (tenant_id, created_at, id);
CREATE INDEX registration_tokens_expires ON registration_tokens (tenant_id, expires_at, id);
CREATE INDEX registration_tokens_name ON registration_tokens (tenant_id, name, id);

-- Somebody's tokens are few: their other orders need no index.
DROP INDEX api_tokens_tenant;
CREATE INDEX api_tokens_created ON api_tokens (tenant_id, created_at, id);

CREATE INDEX audit_at ON audit (tenant_id, at, seq);
CREATE INDEX audit_actor ON audit (tenant_id, actor, seq);
CREATE INDEX audit_action ON audit (tenant_id, action, seq);

CREATE INDEX commands_type ON commands (tenant_id, type, id);
CREATE INDEX commands_created ON commands (tenant_id, created_at, id);
