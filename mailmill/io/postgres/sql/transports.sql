-- name: find
SELECT r.id, r.tenant_id, r.kind, r.spec,
       (SELECT i.spec ->> 'from_address' FROM identities i WHERE i.tenant_id = r.tenant_id ORDER BY i.id LIMIT 1) AS sender
  FROM transports r JOIN tenants t ON t.id = r.tenant_id WHERE t.slug = %(tenant)s AND r.slug = %(slug)s;

-- name: overview
SELECT t.slug || '/' || r.slug AS transport, r.kind, (r.spec ->> 'host') || ':' || (r.spec ->> 'port') AS relay,
       (r.spec ->> 'connections')::int AS connections, r.held_at, r.held_reason,
       (SELECT string_agg(provider, ', ' ORDER BY provider) FROM jsonb_object_keys(r.held_for) provider) AS held_for
  FROM transports r JOIN tenants t ON t.id = r.tenant_id
 WHERE %(tenant)s::text IS NULL OR t.slug = %(tenant)s ORDER BY t.slug, r.slug;

-- name: suppressed
-- Itself, or by the tenant's rule the same mailbox; without a rule every address is one of its own.
SELECT EXISTS (
  SELECT FROM suppressions s
   WHERE (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL) AND s.channel = 'email' AND s.scope_campaign_id IS NULL
     AND s.near = near_mailbox(%(address_key)s)
     AND mailbox_of(s.address_key, mailbox_rule(%(tenant_id)s)) = mailbox_of(%(address_key)s, mailbox_rule(%(tenant_id)s))
     AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp()));
