-- name: sources
SELECT t.slug AS tenant, s.slug, s.kind, s.spec->>'folder' AS folder,
       extract(epoch FROM s.applied_at)::text AS version,
       CASE WHEN s.retry_at <= clock_timestamp() THEN extract(epoch FROM s.retry_at)::text ELSE '' END AS failed
  FROM sources s JOIN tenants t ON t.id = s.tenant_id WHERE s.deleted_at IS NULL ORDER BY t.slug, s.slug;

-- name: apis_due
-- HTTP sources, but for those that asked to be left alone for a while.
SELECT t.slug AS tenant, s.slug, s.kind FROM sources s JOIN tenants t ON t.id = s.tenant_id
 WHERE s.deleted_at IS NULL AND s.kind IN ('scraper_pro', 'backlink_engine')
   AND (s.retry_at IS NULL OR s.retry_at <= clock_timestamp())
 ORDER BY t.slug, s.slug;

-- name: tenants
SELECT slug AS tenant, '' AS slug FROM tenants ORDER BY slug;

-- name: segments
SELECT t.slug AS tenant, s.slug FROM segments s JOIN tenants t ON t.id = s.tenant_id ORDER BY t.slug, s.slug;

-- name: edited_segments
-- Made by another rule than today's, also where the rule was applied while they were being made.
SELECT t.slug AS tenant, s.slug, concat(extract(epoch FROM s.applied_at), '/', extract(epoch FROM max(m.published_at))) AS version
  FROM segments s JOIN tenants t ON t.id = s.tenant_id
  JOIN manifest m ON m.tenant_id = s.tenant_id AND m.dataset = 'segments' AND m.part = s.slug
 WHERE m.facts -> 'rule' IS DISTINCT FROM s.spec -> 'rule'
 GROUP BY t.slug, s.slug, s.applied_at ORDER BY t.slug, s.slug;

-- name: published_contacts
-- What each tenant's generation of contacts is made of: another one is made of other files.
SELECT t.slug AS tenant, '' AS slug, md5(string_agg(m.file, ' ' ORDER BY m.file)) AS version
  FROM manifest m JOIN tenants t ON t.id = m.tenant_id WHERE m.dataset = 'contacts' GROUP BY t.slug ORDER BY t.slug;

-- name: campaigns
SELECT t.slug AS tenant, c.slug FROM campaigns c JOIN tenants t ON t.id = c.tenant_id ORDER BY t.slug, c.slug;

-- name: campaigns_with_work
-- Campaigns that are due, those that have something to send (a queued message whose time has come, on a route that is not held
-- and has something left of its day), and those that only have to be settled: their end has passed, they were cancelled,
-- nothing waits and nobody works at them, or a lease has run out, since whoever had it is gone and may have left a journal here.
-- kind: the state; window: the hours outside of which there is nothing to do; at: the time here.
SELECT t.slug AS tenant, c.slug, c.state::text AS kind, clock_timestamp() AS at,
       CASE WHEN NOT o.otherwise AND NOT (c.content ->> 'sandbox')::boolean THEN nullif(c.content -> 'window', 'null') END AS window
  FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
 CROSS JOIN LATERAL (SELECT coalesce(
       (c.state = 'scheduled' AND c.scheduled_at <= clock_timestamp())
    OR c.state = 'planning'
    OR (c.state = 'cancelled' AND c.finished_at IS NULL)
    OR (c.state IN ('running', 'paused')
        AND (c.ends_at <= clock_timestamp()
             OR EXISTS (SELECT FROM leases l WHERE l.campaign_id = c.id AND l.until < clock_timestamp())
             OR NOT EXISTS (SELECT FROM messages m WHERE m.campaign_id = c.id AND m.queued)
                AND NOT EXISTS (SELECT FROM leases l WHERE l.campaign_id = c.id))), false) AS otherwise) o
 WHERE o.otherwise
    OR (c.state = 'running'
        AND NOT EXISTS (SELECT FROM transports r WHERE r.id = c.transport_id AND r.held_at IS NOT NULL)
        AND NOT EXISTS (SELECT FROM transports r JOIN budgets b ON b.transport_id = r.id AND b.period = 'day'
                           AND b.starts_at = date_trunc('day', clock_timestamp(), 'UTC')
                         WHERE r.id = c.transport_id AND r.kind <> 'sandbox' AND b.used >= (r.spec ->> 'per_day')::bigint)
        AND EXISTS (SELECT FROM messages m WHERE m.campaign_id = c.id AND m.queued AND m.due_at <= clock_timestamp()))
 ORDER BY c.scheduled_at NULLS LAST, c.id;

-- name: live_workers
-- Those that may send a campaign. A worker that ended in trouble leaves its row for a day.
SELECT count(*) FROM workers WHERE seen_at > clock_timestamp() - interval '30 s' AND ended_at IS NULL
   AND (campaigns IS NULL OR %(campaign)s = ANY(campaigns));

-- name: audience
SELECT c.state::text, coalesce(c.planned, 0) AS planned,
       coalesce((SELECT jsonb_object_agg(e.reason, e.n ORDER BY e.n DESC) FROM exclusions e WHERE e.campaign_id = c.id),
                '{}') AS exclusions,
       coalesce((SELECT jsonb_object_agg(d.domain, d.n) FROM
                  (SELECT m.domain, count(*) AS n FROM messages m WHERE m.campaign_id = c.id
                    AND m.id >= c.first_message_id AND m.id < c.first_message_id + c.planned
                    GROUP BY m.domain ORDER BY n DESC, m.domain LIMIT 20) d), '{}') AS domains
  FROM campaigns c WHERE c.id = %(campaign_id)s;

-- name: no_nested_loops
-- The check follows on the planning: without statistics the planner takes the ledger for a handful of rows.
SET LOCAL enable_nestloop = off;

-- name: audience_dirt
-- Whoever may not be mailed as the claim judges it (ledger.sql). A suppression that stood before the planning must have
-- kept its person out; a later one is caught at the claim. What an import of suppressions writes may take minutes until
-- anybody sees it, so one that was recorded shortly before counts as later; so does another spelling by a rule that the
-- tenant was given since.
WITH c AS MATERIALIZED (
  SELECT c.id, c.tenant_id, c.started_at, c.first_message_id AS first, c.first_message_id + c.planned AS beyond,
         mailbox_rule(c.tenant_id) AS merge, t.applied_at,
         coalesce((SELECT max(x.at) FROM campaign_transitions x WHERE x.campaign_id = c.id AND x.to_state = 'planning'),
                  c.started_at) - interval '10 min' AS before
    FROM campaigns c JOIN tenants t ON t.id = c.tenant_id WHERE c.id = %(campaign_id)s),
m AS NOT MATERIALIZED (
  SELECT m.id, m.address_key, m.aliases FROM messages m
   WHERE m.campaign_id = (SELECT id FROM c) AND m.id >= (SELECT first FROM c) AND m.id < (SELECT beyond FROM c)),
s AS NOT MATERIALIZED (
  SELECT s.channel, s.address_key, s.near, s.recorded_at AS at FROM suppressions s
   WHERE (s.tenant_id = (SELECT tenant_id FROM c) OR s.tenant_id IS NULL) AND s.reason <> 'forgotten'
     AND (s.scope_campaign_id IS NULL OR s.scope_campaign_id = (SELECT id FROM c))
     AND (s.expires_at IS NULL OR s.expires_at > (SELECT started_at FROM c))),
-- materialized, so that each row is not joined with every suppression by itself
keys AS MATERIALIZED (
  SELECT id, address_key AS key, true AS own FROM m
  UNION ALL SELECT id, k, false FROM m CROSS JOIN LATERAL unnest(aliases) k WHERE aliases IS NOT NULL),
hits AS (
  SELECT k.id, s.at FROM keys k JOIN s ON s.address_key = k.key WHERE s.channel = 'email' OR NOT k.own
  UNION ALL
  SELECT k.id, greatest(s.at, (SELECT applied_at FROM c)) FROM keys k JOIN s ON s.near = near_mailbox(k.key)
   WHERE (SELECT merge FROM c) IS NOT NULL
     AND mailbox_of(s.address_key, (SELECT merge FROM c)) = mailbox_of(k.key, (SELECT merge FROM c)))
SELECT (SELECT count(*) - count(DISTINCT address_key) FROM m) AS duplicates,
       count(*) FILTER (WHERE h.at < c.before) AS suppressed_when_frozen,
       count(*) FILTER (WHERE h.at >= c.before) AS suppressed_since
  FROM c CROSS JOIN (SELECT id, min(at) AS at FROM hits GROUP BY id) h;

-- name: reputation
SELECT coalesce(sum(uniq) FILTER (WHERE kind = 'accepted'), 0)::bigint AS accepted,
       coalesce(sum(uniq) FILTER (WHERE kind = 'bounced_hard'), 0)::bigint AS bounced_hard,
       coalesce(sum(uniq) FILTER (WHERE kind = 'complained'), 0)::bigint AS complained
  FROM counters WHERE campaign_id = %(campaign_id)s;

-- name: hold_run
SELECT pg_advisory_lock_shared(hashtextextended('mailmill:run:' || %(run_id)s, 0));

-- name: probe_run
SELECT pg_try_advisory_xact_lock(hashtextextended('mailmill:run:' || %(run_id)s, 0));
