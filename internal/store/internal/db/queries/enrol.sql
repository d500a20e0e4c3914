-- name: InsertToken :exec
INSERT INTO registration_tokens (id, tenant_id, hash, name, agent_id, environment, group_name, cluster, platform,
    capabilities, labels, max_uses, uses, created_by, created_at, expires_at, revoked_at, certificate_life_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18);

-- name: TokenByHash :one
SELECT * FROM registration_tokens WHERE hash = $1;

-- name: Tokens :many
-- A list; see Agents.
SELECT * FROM registration_tokens WHERE tenant_id = $1;

-- name: TokenExists :one
SELECT count(*) FROM registration_tokens WHERE tenant_id = $1 AND id = $2;

-- name: RevokeToken :execrows
UPDATE registration_tokens SET revoked_at = sqlc.arg(at)
WHERE tenant_id = sqlc.arg(tenant_id) AND id = sqlc.arg(id) AND revoked_at IS NULL;

-- name: SpendToken :execrows
UPDATE registration_tokens SET uses = uses + 1
WHERE id = sqlc.arg(id) AND tenant_id = sqlc.arg(tenant_id)
  AND uses < max_uses AND revoked_at IS NULL AND expires_at > sqlc.arg(at);

-- name: TokenUse :one
SELECT agent_id, chain_pem FROM token_uses WHERE token_id = $1 AND public_key_hash = $2;

-- name: InsertTokenUse :execrows
-- One use per key: none is added for a key that has used the token before.
INSERT INTO token_uses (token_id, public_key_hash, agent_id, chain_pem, at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (token_id, public_key_hash) DO NOTHING;

-- name: InsertAgent :exec
INSERT INTO agents (id, tenant_id, name, version, lifecycle, liveness, group_name, environment, platform, cluster,
    labels, capabilities, allowed_capabilities, routes, encryption_key, public_key_hash, certificate_fingerprint,
    certificate_not_after, last_heartbeat, reported_status, not_accepting, resource_usage, created_at, updated_at, bound, certificate_life_ms, trust, signs_heartbeats)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28);

-- name: ResumeAgent :execrows
-- What people decided and what heartbeats say is not the agent's to change.
UPDATE agents
SET name = $3, version = $4, group_name = $5, environment = $6, platform = $7, cluster = $8, labels = $9,
    capabilities = $10, routes = $11, encryption_key = $12, public_key_hash = $13, certificate_fingerprint = $14,
    certificate_not_after = $15, updated_at = $16, allowed_capabilities = $17, bound = $18, certificate_life_ms = $19, trust = $20
WHERE tenant_id = $1 AND id = $2 AND lifecycle <> 'revoked';

-- name: InsertCertificate :exec
INSERT INTO certificates (fingerprint, agent_id, tenant_id, serial, not_before, not_after, created_at, public_key_hash, pending, trust)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: RevokeCertificates :exec
UPDATE certificates SET revoked_at = sqlc.arg(at)
WHERE agent_id = sqlc.arg(agent_id) AND (revoked_at IS NULL OR revoked_at > sqlc.arg(at));

-- name: AdoptCertificate :one
UPDATE certificates SET pending = FALSE WHERE fingerprint = $1 AND pending RETURNING *;

-- name: EndCertificatesBefore :exec
-- What was issued before the one that is used now.
UPDATE certificates SET revoked_at = sqlc.arg(at)
WHERE agent_id = sqlc.arg(agent_id) AND fingerprint <> sqlc.arg(fingerprint) AND created_at <= sqlc.arg(created_at)
  AND (revoked_at IS NULL OR revoked_at > sqlc.arg(at));

-- name: SetAgentCertificate :exec
UPDATE agents SET certificate_fingerprint = $2, certificate_not_after = $3, public_key_hash = $4, trust = $5 WHERE id = $1;

-- name: SetEncryptionKey :execrows
UPDATE agents SET encryption_key = $3 WHERE tenant_id = $1 AND id = $2 AND lifecycle <> 'revoked';

-- name: SetSignsHeartbeats :execrows
UPDATE agents SET signs_heartbeats = $3 WHERE tenant_id = $1 AND id = $2 AND lifecycle <> 'revoked';

-- name: AgentLifecycle :one
SELECT lifecycle FROM agents WHERE tenant_id = $1 AND id = $2;

-- name: CertificateAgent :one
SELECT sqlc.embed(a), c.revoked_at AS certificate_revoked_at, c.pending AS certificate_pending, c.trust AS certificate_trust
FROM certificates c JOIN agents a ON a.id = c.agent_id
WHERE c.fingerprint = $1;

-- name: PruneCertificates :exec
-- One that ended so long ago is not even good for recovery, so nobody asks for it.
DELETE FROM certificates WHERE agent_id = sqlc.arg(agent_id) AND not_after < sqlc.arg(ended_before);

-- name: CountTrust :many
SELECT trust, liveness, count(*) AS agents FROM agents WHERE lifecycle <> 'revoked' GROUP BY trust, liveness;

-- name: CountCertificates :many
-- Reads all agents once, and no index: none could be kept cheaply of all that is
-- asked here. For who asks now and then, and keeps the answer.
SELECT trust, liveness, count(*) AS agents,
  count(*) FILTER (WHERE certificate_not_after <= sqlc.arg(at)) AS ended,
  count(*) FILTER (WHERE certificate_not_after > sqlc.arg(at) AND certificate_not_after <= sqlc.arg(within_hour)) AS within_hour,
  count(*) FILTER (WHERE certificate_not_after > sqlc.arg(at) AND certificate_not_after <= sqlc.arg(within_day)) AS within_day,
  count(*) FILTER (WHERE certificate_not_after > sqlc.arg(at) AND certificate_not_after <= sqlc.arg(within_week)) AS within_week,
  count(*) FILTER (WHERE certificate_not_after > sqlc.arg(at) AND certificate_not_after <= sqlc.arg(within_month)) AS within_month
FROM agents WHERE lifecycle <> 'revoked' GROUP BY trust, liveness;

-- name: AgentsWithoutTrust :many
SELECT name FROM agents WHERE lifecycle <> 'revoked' AND trust <> $1 ORDER BY CASE liveness WHEN 'dead' THEN 1 ELSE 0 END, name LIMIT $2;

-- name: KeepRevokedSerials :exec
-- Of an agent that is about to be deleted.
INSERT INTO revoked_serials (serial, revoked_at, not_after, tenant_id, agent_id, why)
SELECT c.serial, CASE WHEN c.revoked_at < sqlc.arg(at) THEN c.revoked_at ELSE sqlc.arg(at) END AS revoked_at, c.not_after, c.tenant_id, c.agent_id, 'deleted' AS why FROM certificates c WHERE c.agent_id = sqlc.arg(agent_id)
ON CONFLICT (serial) DO NOTHING;

-- name: InsertRevokedSerial :exec
INSERT INTO revoked_serials (serial, revoked_at, not_after, tenant_id, agent_id, why) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (serial) DO NOTHING;

-- name: PruneRevokedSerials :exec
DELETE FROM revoked_serials WHERE not_after < sqlc.arg(ended_before);

-- name: SerialRevoked :one
SELECT count(*) FROM revoked_serials WHERE serial = $1;

-- name: EndedCertificates :many
SELECT c.serial, c.revoked_at, c.not_after, c.tenant_id, c.agent_id, CASE a.lifecycle WHEN 'revoked' THEN 'revoked' ELSE 'replaced' END AS why
FROM certificates c JOIN agents a ON a.id = c.agent_id
WHERE c.revoked_at IS NOT NULL AND c.not_after > sqlc.arg(good_after)
UNION ALL
SELECT r.serial, r.revoked_at, r.not_after, r.tenant_id, r.agent_id, r.why FROM revoked_serials r WHERE r.not_after > sqlc.arg(good_after);

-- name: EndedCertificatesOf :many
SELECT c.serial, c.revoked_at, c.not_after, c.tenant_id, c.agent_id, CASE a.lifecycle WHEN 'revoked' THEN 'revoked' ELSE 'replaced' END AS why
FROM certificates c JOIN agents a ON a.id = c.agent_id
WHERE c.revoked_at IS NOT NULL AND c.agent_id IN (SELECT jsonb_array_elements_text(sqlc.arg(agents)::jsonb))
UNION ALL
SELECT r.serial, r.revoked_at, r.not_after, r.tenant_id, r.agent_id, r.why FROM revoked_serials r
WHERE r.agent_id IN (SELECT jsonb_array_elements_text(sqlc.arg(agents)::jsonb));

-- name: StandingCertificates :many
-- Those of agents that are not revoked.
SELECT c.serial, c.fingerprint, c.tenant_id, c.agent_id, a.name, c.revoked_at FROM certificates c JOIN agents a ON a.id = c.agent_id
WHERE a.lifecycle <> 'revoked';

-- name: EndCertificate :execrows
UPDATE certificates SET revoked_at = sqlc.arg(at)
WHERE fingerprint = sqlc.arg(fingerprint) AND (revoked_at IS NULL OR revoked_at > sqlc.arg(at));

-- name: NewestCertificate :one
SELECT not_before FROM certificates WHERE agent_id = $1 ORDER BY not_before DESC LIMIT 1;
