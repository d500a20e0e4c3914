-- Both take the batch as one JSON array, in which a time is microseconds since
-- 1970. A beat that is older than what is known is passed over. Which of two signed
-- ones (with a boot) is the older, the agent has said; of others the servers' clocks
-- say so.

-- name: LockReturning :many
-- The agents that come back to life by a batch. All of the batch's agents are
-- locked, in one order, so that two servers' batches cannot block each other.
WITH beats AS (
  SELECT e ->> 'tenant' AS tenant_id, e ->> 'id' AS id,
    TIMESTAMPTZ 'epoch' + (e ->> 'at')::bigint * INTERVAL '1 microsecond' AS at,
    (e ->> 'boot')::bigint AS boot, (e ->> 'number')::bigint AS number
  FROM jsonb_array_elements(sqlc.arg(beats)::jsonb) AS e
), locked AS (
  SELECT a.tenant_id, a.id, a.name, a.liveness, b.at
  FROM agents a JOIN beats b ON b.id = a.id AND b.tenant_id = a.tenant_id
  WHERE a.lifecycle <> 'revoked'
    AND CASE WHEN b.boot = 0 THEN a.last_heartbeat IS NULL OR a.last_heartbeat <= b.at
      ELSE (b.boot, b.number) >= (a.signed_boot, a.signed_number) END
  ORDER BY a.id
  FOR UPDATE OF a
)
SELECT tenant_id, id, name FROM locked WHERE liveness <> 'live';

-- name: RecordHeartbeats :exec
UPDATE agents
SET liveness = 'live',
  last_heartbeat = GREATEST(agents.last_heartbeat, b.at),
  reported_status = b.status,
  not_accepting = b.not_accepting,
  transport = b.transport,
  resource_usage = COALESCE(b.usage, agents.resource_usage),
  capabilities = COALESCE(b.capabilities, agents.capabilities),
  signed_boot = CASE WHEN b.boot = 0 THEN agents.signed_boot ELSE b.boot END,
  signed_number = CASE WHEN b.boot = 0 THEN agents.signed_number ELSE b.number END,
  instance = COALESCE(NULLIF(b.instance, ''), agents.instance)
FROM (
  SELECT e ->> 'tenant' AS tenant_id, e ->> 'id' AS id,
    TIMESTAMPTZ 'epoch' + (e ->> 'at')::bigint * INTERVAL '1 microsecond' AS at,
    e ->> 'status' AS status, e ->> 'notAccepting' AS not_accepting,
    e ->> 'transport' AS transport,
    e -> 'usage' AS usage, e -> 'capabilities' AS capabilities,
    (e ->> 'boot')::bigint AS boot, (e ->> 'number')::bigint AS number, e ->> 'instance' AS instance
  FROM jsonb_array_elements(sqlc.arg(beats)::jsonb) AS e
) AS b
WHERE agents.id = b.id AND agents.tenant_id = b.tenant_id
  AND agents.lifecycle <> 'revoked'
  AND CASE WHEN b.boot = 0 THEN agents.last_heartbeat IS NULL OR agents.last_heartbeat <= b.at
    ELSE (b.boot, b.number) >= (agents.signed_boot, agents.signed_number) END;
