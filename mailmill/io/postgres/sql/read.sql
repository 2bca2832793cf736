-- name: bind
-- From here on this transaction sees one tenant, and of the table of tenants the one it names.
SELECT set_config('mailmill.tenant_id', %(number)s, true), set_config('mailmill.tenant_slug', %(slug)s, true);

-- name: tenant
-- A slug goes before a number that looks the same.
SELECT id, slug, name, time_zone FROM tenants
 WHERE slug = %(name)s OR id = %(number)s ORDER BY (slug = %(name)s) DESC LIMIT 1;

-- name: tenants
SELECT id, slug, name, time_zone FROM tenants ORDER BY slug;

-- name: contact_total
-- The generation's manifest rows say how many contacts there are; the contacts are not touched.
SELECT coalesce(sum(rows), 0)::bigint, max((facts ->> 'as_of')::timestamptz) FROM manifest
 WHERE tenant_id = %(tenant_id)s AND dataset = 'contacts';

-- name: campaigns_by_state
SELECT state::text, n FROM campaign_totals WHERE tenant_id = %(tenant_id)s AND n <> 0 ORDER BY state;

-- name: totals
-- campaign_id 0 is the whole tenant, hour -1 all hours.
SELECT kind, uniq, total FROM rollups
 WHERE tenant_id = %(tenant_id)s AND campaign_id = %(campaign_id)s AND hour = -1;

-- name: totals_of_campaigns
SELECT campaign_id, kind, uniq, total FROM rollups
 WHERE tenant_id = %(tenant_id)s AND campaign_id = ANY(%(campaign_ids)s) AND hour = -1;

-- name: hours_of_tenant
SELECT hour, kind, uniq, total FROM rollups
 WHERE tenant_id = %(tenant_id)s AND campaign_id = 0 AND hour BETWEEN %(first)s AND %(last)s;

-- name: hours_of_campaign
-- The kinds are named so that the key (campaign, kind, hour) is used to its end.
SELECT hour, kind, uniq, total FROM counters
 WHERE campaign_id = %(campaign_id)s AND tenant_id = %(tenant_id)s
   AND kind = ANY(%(kinds)s) AND hour BETWEEN %(first)s AND %(last)s;

-- name: sources
SELECT s.slug AS source, s.kind, coalesce(t.batches, 0) AS batches, coalesce(t.rows_read, 0) AS rows_read,
       coalesce(t.rows_accepted, 0) AS rows_accepted, coalesce(t.rows_rejected, 0) AS rows_rejected,
       coalesce(t.duplicates_within, 0) AS duplicates_within, coalesce(t.duplicates_across, 0) AS duplicates_across,
       coalesce(t.contacts_new, 0) AS contacts_new, coalesce(t.contacts_changed, 0) AS contacts_changed, t.loaded_at
  FROM sources s LEFT JOIN source_totals t ON t.source_id = s.id
 WHERE s.tenant_id = %(tenant_id)s ORDER BY s.slug;

-- name: segments
SELECT s.slug AS segment, coalesce(s.spec ->> 'name', '') AS name, g.contacts, g.joined, g."left", g.as_of
  FROM segments s
  LEFT JOIN LATERAL (
    SELECT sum(m.rows)::bigint AS contacts, max((m.facts ->> 'joined')::bigint) AS joined,
           max((m.facts ->> 'left')::bigint) AS "left", max((m.facts ->> 'as_of')::timestamptz) AS as_of
      FROM manifest m WHERE m.tenant_id = s.tenant_id AND m.dataset = 'segments' AND m.part = s.slug) g ON true
 WHERE s.tenant_id = %(tenant_id)s ORDER BY s.slug;

-- name: batches
SELECT b.id, s.slug AS source, b.origin, b.state::text, b.seen_at, b.rows_read, b.rows_accepted, b.rows_rejected,
       b.reject_reasons, b.contacts_new, b.contacts_changed, b.loaded_at
  FROM batches b JOIN sources s ON s.id = b.source_id
 WHERE b.tenant_id = %(tenant_id)s AND b.id < %(below)s ORDER BY b.id DESC LIMIT %(limit)s;

-- name: campaigns
SELECT id, slug AS campaign, coalesce(spec ->> 'name', '') AS name, state::text,
       coalesce(spec ->> 'segment', '') AS segment, scheduled_at, started_at, finished_at, planned
  FROM campaigns WHERE tenant_id = %(tenant_id)s AND id < %(below)s ORDER BY id DESC LIMIT %(limit)s;

-- name: campaign
SELECT id, slug AS campaign, coalesce(spec ->> 'name', '') AS name, state::text,
       coalesce(spec ->> 'segment', '') AS segment, scheduled_at, started_at, finished_at, planned
  FROM campaigns WHERE tenant_id = %(tenant_id)s AND slug = %(slug)s;

-- name: exclusions
SELECT campaign_id, reason, n FROM exclusions
 WHERE tenant_id = %(tenant_id)s AND campaign_id = ANY(%(campaign_ids)s) ORDER BY reason;

-- name: links
SELECT c.link AS ordinal, l.url, c.uniq, c.total
  FROM link_counters c LEFT JOIN links l ON l.campaign_id = c.campaign_id AND l.ordinal = c.link
 WHERE c.campaign_id = %(campaign_id)s AND c.tenant_id = %(tenant_id)s ORDER BY c.link;
