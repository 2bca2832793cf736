-- name: lock
-- Two `apply` at once: the second waits and then compares with what the first has written.
SELECT pg_advisory_xact_lock(hashtextextended('mailmill:apply', 0));

-- name: stored
-- Everything that YAML files describe, as (kind, tenant's slug, slug, spec, a campaign's state, and of one that was planned
-- whether for a sandbox).
SELECT 'tenant' AS kind, slug AS tenant, '' AS slug, spec, NULL AS state, NULL::boolean AS sandbox FROM tenants
UNION ALL SELECT 'source', t.slug, x.slug, x.spec, NULL, NULL FROM sources x JOIN tenants t ON t.id = x.tenant_id
  WHERE x.deleted_at IS NULL
UNION ALL SELECT 'transport', t.slug, x.slug, x.spec, NULL, NULL FROM transports x JOIN tenants t ON t.id = x.tenant_id
UNION ALL SELECT 'identity', t.slug, x.slug, x.spec, NULL, NULL FROM identities x JOIN tenants t ON t.id = x.tenant_id
UNION ALL SELECT 'template', t.slug, x.slug, x.spec, NULL, NULL FROM templates x JOIN tenants t ON t.id = x.tenant_id
UNION ALL SELECT 'tag', t.slug, x.slug, x.spec, NULL, NULL FROM tags x JOIN tenants t ON t.id = x.tenant_id
 WHERE x.deleted_at IS NULL AND x.spec <> '{}'
UNION ALL SELECT 'field', t.slug, x.slug, x.spec, NULL, NULL FROM fields x JOIN tenants t ON t.id = x.tenant_id
UNION ALL SELECT 'segment', t.slug, x.slug, x.spec, NULL, NULL FROM segments x JOIN tenants t ON t.id = x.tenant_id
UNION ALL SELECT 'campaign', t.slug, x.slug, x.spec, x.state::text,
       CASE WHEN x.state IN ('running', 'paused') THEN (x.content ->> 'sandbox')::boolean END
  FROM campaigns x JOIN tenants t ON t.id = x.tenant_id;

-- name: lock_campaigns
-- A tick may be about to start one of them: it goes before us or after us. Claims go on, whose leases name them.
SELECT c.id FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
 WHERE t.slug || '/' || c.slug = ANY (%(names)s) ORDER BY c.id FOR NO KEY UPDATE OF c;

-- name: put_tenant
-- A new tenant has no contacts that older rules examined.
INSERT INTO tenants (slug, name, postal_address, time_zone, spec, rules_version)
VALUES (%(tenant)s, %(spec)s->>'name', %(spec)s->>'postal_address', %(spec)s->>'time_zone', %(spec)s, %(rules)s)
ON CONFLICT (slug) DO UPDATE SET name = excluded.name, postal_address = excluded.postal_address,
  time_zone = excluded.time_zone, spec = excluded.spec, applied_at = clock_timestamp();

-- name: put_source
-- One that was deleted comes back, perhaps as another type, and with it the contacts that its deletion took back; it is read
-- from its beginning, as is what has another URL now: how far one API was read says nothing of another.
WITH back AS (
  DELETE FROM withdrawals w USING sources s JOIN tenants t ON t.id = s.tenant_id
   WHERE t.slug = %(tenant)s AND s.slug = %(slug)s AND s.deleted_at IS NOT NULL AND w.source_id = s.id AND w.batch_id = 0)
INSERT INTO sources (tenant_id, slug, kind, priority, spec)
SELECT id, %(slug)s, %(spec)s->>'type', (%(spec)s->>'priority')::smallint, %(spec)s FROM tenants WHERE slug = %(tenant)s
ON CONFLICT (tenant_id, slug) DO UPDATE SET kind = excluded.kind, priority = excluded.priority, spec = excluded.spec,
  (cursor, walk_from, walk_until, walk_absent, retry_at) = (
    SELECT sources.cursor, sources.walk_from, sources.walk_until, sources.walk_absent, sources.retry_at
     WHERE sources.spec ->> 'url' IS NOT DISTINCT FROM excluded.spec ->> 'url'),
  deleted_at = NULL, applied_at = clock_timestamp();

-- name: put_tag
-- Describing a tag again takes it back into use; contacts get it with the next load that says so.
INSERT INTO tags (tenant_id, slug, spec) SELECT id, %(slug)s, %(spec)s FROM tenants WHERE slug = %(tenant)s
ON CONFLICT (tenant_id, slug) DO UPDATE SET spec = excluded.spec, deleted_at = NULL, applied_at = clock_timestamp();

-- name: put_field
INSERT INTO fields (tenant_id, slug, spec) SELECT id, %(slug)s, %(spec)s FROM tenants WHERE slug = %(tenant)s
ON CONFLICT (tenant_id, slug) DO UPDATE SET spec = excluded.spec, applied_at = clock_timestamp();

-- name: put_transport
INSERT INTO transports (tenant_id, slug, kind, spec)
SELECT id, %(slug)s, %(spec)s->>'type', %(spec)s FROM tenants WHERE slug = %(tenant)s
ON CONFLICT (tenant_id, slug) DO UPDATE SET kind = excluded.kind, spec = excluded.spec, applied_at = clock_timestamp();

-- name: put_identity
INSERT INTO identities (tenant_id, slug, spec) SELECT id, %(slug)s, %(spec)s FROM tenants WHERE slug = %(tenant)s
ON CONFLICT (tenant_id, slug) DO UPDATE SET spec = excluded.spec, applied_at = clock_timestamp();

-- name: put_template
INSERT INTO templates (tenant_id, slug, spec) SELECT id, %(slug)s, %(spec)s FROM tenants WHERE slug = %(tenant)s
ON CONFLICT (tenant_id, slug) DO UPDATE SET spec = excluded.spec, applied_at = clock_timestamp();

-- name: put_segment
INSERT INTO segments (tenant_id, slug, spec) SELECT id, %(slug)s, %(spec)s FROM tenants WHERE slug = %(tenant)s
ON CONFLICT (tenant_id, slug) DO UPDATE SET spec = excluded.spec, applied_at = clock_timestamp();

-- name: put_campaign
-- The state moves only where the plan says so, and only from a state in which nothing was planned yet.
WITH before AS (
  SELECT c.id, c.state FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
   WHERE t.slug = %(tenant)s AND c.slug = %(slug)s),
written AS (
  INSERT INTO campaigns (tenant_id, slug, spec, state, scheduled_at, ends_at)
  SELECT id, %(slug)s, %(spec)s, coalesce(%(state)s::campaign_state, 'draft'), (%(spec)s->>'start')::timestamptz,
         (%(spec)s->>'ends')::timestamptz FROM tenants WHERE slug = %(tenant)s
  ON CONFLICT (tenant_id, slug) DO UPDATE SET spec = excluded.spec, ends_at = excluded.ends_at,
    state = coalesce(%(state)s::campaign_state, campaigns.state),
    scheduled_at = CASE WHEN %(state)s::text IS NULL THEN campaigns.scheduled_at ELSE excluded.scheduled_at END,
    finished_at = CASE WHEN %(state)s::text IS NULL THEN campaigns.finished_at END,
    applied_at = clock_timestamp()
  WHERE campaigns.state IN ('draft', 'scheduled', 'missed', 'failed')
  RETURNING id, tenant_id, state),
noted AS (
  INSERT INTO campaign_transitions (tenant_id, campaign_id, from_state, to_state, by, reason)
  SELECT w.tenant_id, w.id, coalesce(b.state, 'draft'), w.state, %(by)s, 'apply' FROM written w LEFT JOIN before b USING (id)
   WHERE coalesce(b.state, 'draft') <> w.state)
SELECT id FROM written;

-- name: tenant_ids
SELECT slug, id FROM tenants WHERE slug = ANY (%(slugs)s);

-- name: tenants
SELECT t.slug, t.name, t.time_zone, t.applied_at,
       (SELECT count(*) FROM sources x WHERE x.tenant_id = t.id AND x.deleted_at IS NULL) AS sources,
       (SELECT count(*) FROM segments x WHERE x.tenant_id = t.id) AS segments,
       (SELECT count(*) FROM campaigns x WHERE x.tenant_id = t.id) AS campaigns,
       (SELECT count(*) FROM contacts x WHERE x.tenant_id = t.id) AS contacts
  FROM tenants t ORDER BY t.slug;
