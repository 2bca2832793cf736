-- name: sources
SELECT t.slug AS tenant, s.slug, s.kind, s.spec->>'folder' AS folder,
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
-- Campaigns that are due, or run and have a message that may be claimed now (a queued one whose time has come, on a
-- route that is not held) or that have nothing open any more and wait to be called finished. And, where no worker is at
-- work who would see to it, those of which one was lost with messages in hand, or that ended or were cancelled meanwhile.
SELECT t.slug AS tenant, c.slug
  FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
 WHERE (c.state = 'scheduled' AND c.scheduled_at <= clock_timestamp())
    OR c.state = 'planning'
    OR (c.state = 'running'
        AND NOT EXISTS (SELECT 1 FROM transports r WHERE r.id = c.transport_id AND r.held_at IS NOT NULL)
        AND (EXISTS (SELECT 1 FROM messages m
                      WHERE m.campaign_id = c.id AND m.queued AND m.due_at <= clock_timestamp())
             OR NOT EXISTS (SELECT 1 FROM messages m
                             WHERE m.campaign_id = c.id
                               AND m.state IN ('queued', 'leased', 'deferred', 'held'))))
    OR (NOT EXISTS (SELECT FROM workers WHERE seen_at > clock_timestamp() - interval '30 s' AND ended_at IS NULL)
        AND (EXISTS (SELECT FROM leases l JOIN messages m ON m.id BETWEEN l.first_id AND l.last_id AND m.lease_token = l.token
                      WHERE l.campaign_id = c.id AND l.until < clock_timestamp())
             OR ((c.state = 'cancelled' OR (c.state IN ('running', 'paused') AND c.ends_at <= clock_timestamp()))
                 AND EXISTS (SELECT FROM messages m WHERE m.campaign_id = c.id AND m.queued))))
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

-- name: audience_dirt
-- A suppression that was there when the planning began must have kept its address out; a later one is caught at the claim.
-- Ten minutes before, for one may be written long before it is committed: by an import of many.
SELECT (SELECT count(*) - count(DISTINCT m.address_key) FROM messages m WHERE m.campaign_id = c.id) AS duplicates,
       count(s.*) FILTER (WHERE s.recorded_at < p.began) AS suppressed_when_frozen,
       count(s.*) FILTER (WHERE s.recorded_at >= p.began) AS suppressed_since
  FROM campaigns c
 CROSS JOIN LATERAL (SELECT coalesce(max(at), c.started_at) - interval '10 minutes' AS began FROM campaign_transitions
                      WHERE campaign_id = c.id AND to_state = 'planning') p
  LEFT JOIN messages m ON m.campaign_id = c.id
  LEFT JOIN LATERAL (SELECT m.address_key AS key UNION ALL SELECT unnest(m.aliases)) k ON true
  LEFT JOIN suppressions s ON (s.tenant_id = c.tenant_id OR s.tenant_id IS NULL) AND s.channel = 'email' AND s.address_key = k.key
        AND (s.scope_campaign_id IS NULL OR s.scope_campaign_id = c.id)
        AND (s.expires_at IS NULL OR s.expires_at > c.started_at)
 WHERE c.id = %(campaign_id)s
 GROUP BY c.id;

-- name: reputation
SELECT coalesce(sum(uniq) FILTER (WHERE kind = 'accepted'), 0)::bigint AS accepted,
       coalesce(sum(uniq) FILTER (WHERE kind = 'bounced_hard'), 0)::bigint AS bounced_hard,
       coalesce(sum(uniq) FILTER (WHERE kind = 'complained'), 0)::bigint AS complained
  FROM counters WHERE campaign_id = %(campaign_id)s;

-- name: hold_run
SELECT pg_advisory_lock_shared(hashtextextended('mailmill:run:' || %(run_id)s, 0));

-- name: probe_run
SELECT pg_try_advisory_xact_lock(hashtextextended('mailmill:run:' || %(run_id)s, 0));
