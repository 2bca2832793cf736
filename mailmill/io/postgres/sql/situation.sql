-- name: running
-- Campaigns to explain: those named, else those that are under way.
SELECT c.id FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
 WHERE CASE WHEN %(name)s::text IS NULL THEN c.state IN ('scheduled', 'planning', 'running', 'paused')
            ELSE t.slug || '/' || c.slug = %(name)s END
 ORDER BY t.slug, c.id;

-- name: situation
-- What keeps a campaign's messages, as pipelines/send/obstacles.py asks. A worker lives that was heard of lately; those may
-- send that were not started for other campaigns.
WITH live AS (
  SELECT w.name, w.seen_at, w.troubles, w.campaigns IS NULL OR n.name = ANY(w.campaigns) AS may_send
    FROM workers w, (SELECT t.slug || '/' || c.slug AS name FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
                      WHERE c.id = %(campaign_id)s) n
   WHERE w.ended_at IS NULL AND w.seen_at > clock_timestamp() - make_interval(secs => %(heard_s)s))
SELECT t.slug || '/' || c.slug AS campaign, c.state::text, clock_timestamp() AS now, t.slug || '/' || r.slug AS transport,
       r.kind, CASE WHEN r.held_at IS NOT NULL THEN coalesce(r.held_reason, 'held') END AS held, coalesce(r.held_for, '{}') AS held_for,
       c.scheduled_at, c.ends_at,
       coalesce((SELECT concat_ws(': ', x.by, x.reason) FROM campaign_transitions x WHERE x.campaign_id = c.id
                  ORDER BY x.id DESC LIMIT 1), '') AS last_step,
       (c.content ->> 'sandbox')::boolean AS sandbox, nullif(c.content -> 'window', 'null') AS window,
       coalesce(d.due_at <= clock_timestamp(), false) AS ready,
       CASE WHEN d.due_at > clock_timestamp() THEN nullif(d.due_at, 'infinity') END AS next_due_at,
       (SELECT mode() WITHIN GROUP (ORDER BY w.reason) FROM
         (SELECT reason FROM messages WHERE campaign_id = c.id AND queued ORDER BY due_at, id LIMIT 1000) w) AS waiting_for,
       -- nothing is due later than what waits for a provider's release
       coalesce((SELECT m.reason = 'provider_held' FROM messages m WHERE m.campaign_id = c.id AND m.queued
                  ORDER BY m.due_at DESC, m.id DESC LIMIT 1), false) AS held_back,
       (SELECT count(*) FROM leases l WHERE l.campaign_id = c.id AND l.worker IN (SELECT name FROM live))::int AS leased,
       (SELECT count(*) FROM leases l WHERE l.campaign_id = c.id AND l.worker NOT IN (SELECT name FROM live))::int AS orphaned,
       coalesce((SELECT jsonb_object_agg(b.period, jsonb_build_array(b.used, (r.spec ->> ('per_' || b.period))::bigint))
                   FROM budgets b WHERE b.transport_id = r.id AND r.spec ->> ('per_' || b.period) IS NOT NULL
                    AND b.starts_at = date_trunc(b.period, clock_timestamp(), 'UTC')), '{}') AS spent,
       (SELECT count(*) FROM live WHERE may_send)::int AS workers, (SELECT count(*) FROM live WHERE NOT may_send)::int AS elsewhere,
       -- What is held for a provider is told by held_for, to those who have somebody there. Who ended says nothing of a relay
       -- that somebody else sends by.
       (SELECT said.key || ': ' || said.value FROM workers w CROSS JOIN LATERAL jsonb_each_text(w.troubles) said
         WHERE said.key = t.slug || '/' || r.slug AND NOT starts_with(said.value, 'held for ')
           AND (w.name IN (SELECT name FROM live) OR NOT EXISTS (SELECT FROM live WHERE may_send)
                AND coalesce(w.ended_at, w.seen_at) > clock_timestamp() - interval '1 hour')
         ORDER BY coalesce(w.ended_at, w.seen_at) DESC LIMIT 1) AS trouble,
       -- As with a relay; whoever resumed a campaign knows why a worker had paused it.
       (SELECT said.key || ': ' || said.value FROM workers w CROSS JOIN LATERAL jsonb_each_text(w.troubles) said
         WHERE said.key = 'campaign ' || t.slug || '/' || c.slug AND NOT starts_with(said.value, 'paused: ')
           AND (w.name IN (SELECT name FROM live) OR NOT EXISTS (SELECT FROM live WHERE may_send)
                AND coalesce(w.ended_at, w.seen_at) > clock_timestamp() - interval '1 hour')
         ORDER BY coalesce(w.ended_at, w.seen_at) DESC LIMIT 1) AS unusable
  FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
  LEFT JOIN transports r ON r.id = coalesce(c.transport_id,
    (SELECT id FROM transports o WHERE o.tenant_id = c.tenant_id AND o.slug = c.spec ->> 'transport'))
  LEFT JOIN LATERAL (SELECT due_at FROM messages m WHERE m.campaign_id = c.id AND m.queued
                      ORDER BY m.due_at, m.id LIMIT 1) d ON true
 WHERE c.id = %(campaign_id)s;
