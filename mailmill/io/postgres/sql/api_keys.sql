-- name: find
-- Through a function, since the role that asks may not read the table.
SELECT id, tenant_id, hash FROM api_key(%(prefix)s);

-- name: create
INSERT INTO api_keys (tenant_id, name, prefix, hash) VALUES (%(tenant_id)s, %(name)s, %(prefix)s, %(hash)s);

-- name: list
SELECT k.prefix, k.name, t.slug AS tenant, k.created_at, k.revoked_at
  FROM api_keys k LEFT JOIN tenants t ON t.id = k.tenant_id ORDER BY k.id;

-- name: revoke
-- A key that is revoked already stays so from the first time on.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE prefix = %(prefix)s
RETURNING revoked_at;
