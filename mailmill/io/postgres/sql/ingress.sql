-- name: bind
-- What row-level security shows until the end of this transaction.
SELECT set_config('mailmill.tenant_id', %(tenant_id)s, true), set_config('mailmill.tenant_slug', %(tenant_slug)s, true);

-- name: limit_statements
SELECT set_config('statement_timeout', %(timeout)s, false);

-- name: links
SELECT url FROM links WHERE tenant_id = %(tenant_id)s AND campaign_id = %(campaign_id)s ORDER BY ordinal;

-- name: tenant_id
SELECT id FROM tenants WHERE slug = %(slug)s;

-- name: tenant_name
SELECT name FROM tenants WHERE id = %(tenant_id)s;

-- name: webhook
SELECT id, spec ->> 'webhook_secret' FROM transports WHERE tenant_id = %(tenant_id)s AND slug = %(slug)s;

-- name: address_key
SELECT address_key FROM messages
 WHERE id = %(message_id)s AND tenant_id = %(tenant_id)s AND campaign_id = %(campaign_id)s;
