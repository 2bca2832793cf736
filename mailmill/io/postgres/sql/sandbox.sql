-- name: webhooks
-- Where the mail of each tenant's sandbox transports is reported: by the domains of its return paths.
SELECT t.slug, r.slug, r.spec ->> 'webhook_secret',
       coalesce(array_agg(DISTINCT i.spec ->> 'return_path_domain') FILTER (WHERE i.id IS NOT NULL), '{}')
  FROM transports r
  JOIN tenants t ON t.id = r.tenant_id
  LEFT JOIN identities i ON i.tenant_id = r.tenant_id
 WHERE r.kind = 'sandbox' AND r.spec ->> 'webhook_secret' IS NOT NULL
 GROUP BY t.slug, r.slug, r.spec
 ORDER BY t.slug, r.slug;
