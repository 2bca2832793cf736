-- name: move
-- One step of a campaign by compare-and-set, with its audit row. No row: it was not in one of the states, or it has been
-- given another time than the one that was looked at (null: the step is not about its time).
WITH moved AS (
  UPDATE campaigns SET state = %(target)s::campaign_state,
         finished_at = CASE WHEN %(target)s IN ('finished', 'failed', 'missed') THEN clock_timestamp() END,
         started_at = CASE WHEN %(target)s = 'running' THEN coalesce(started_at, clock_timestamp()) ELSE started_at END
   WHERE id = %(campaign_id)s AND state = ANY (%(sources)s::campaign_state[])
     AND (%(scheduled_at)s::timestamptz IS NULL OR scheduled_at = %(scheduled_at)s)
  RETURNING id, tenant_id, old.state AS before, new.state AS after),
noted AS (
  INSERT INTO campaign_transitions (tenant_id, campaign_id, from_state, to_state, by, reason)
  SELECT tenant_id, id, before, after, %(by)s, %(reason)s FROM moved)
SELECT before::text FROM moved;

-- name: set_start
UPDATE campaigns SET scheduled_at = coalesce(%(at)s::timestamptz, clock_timestamp())
 WHERE id = %(campaign_id)s AND state = 'scheduled'
RETURNING scheduled_at, clock_timestamp() AS now, (spec->>'ends')::timestamptz AS ends_at;

-- name: find
SELECT c.id AS campaign_id, c.tenant_id, t.slug || '/' || c.slug AS name, t.time_zone, c.state::text
  FROM campaigns c JOIN tenants t ON t.id = c.tenant_id WHERE t.slug = %(tenant)s AND c.slug = %(slug)s;

-- name: overview
-- With the pace of the last minute for those under way, from the ledger itself.
SELECT t.slug || '/' || c.slug AS campaign, c.state::text, c.scheduled_at, c.started_at, c.finished_at, c.planned,
       (SELECT reason FROM campaign_transitions x WHERE x.campaign_id = c.id ORDER BY x.id DESC LIMIT 1) AS reason,
       CASE WHEN c.state IN ('running', 'paused') THEN c.id END AS under_way
  FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
 WHERE %(tenant)s::text IS NULL OR t.slug = %(tenant)s ORDER BY t.slug, c.id;

-- name: history
SELECT at, from_state::text AS "from", to_state::text AS "to", by, reason
  FROM campaign_transitions WHERE campaign_id = %(campaign_id)s ORDER BY id;

-- name: due
-- Scheduled campaigns whose time has come, and plannings that may have been left; the clock is the database's.
SELECT c.id AS campaign_id, c.tenant_id, t.slug || '/' || c.slug AS name, c.state::text, c.scheduled_at,
       (c.spec->>'ends')::timestamptz AS ends_at, coalesce((c.spec->>'misfire_grace_s')::int, 3600) AS misfire_grace_s,
       clock_timestamp() AS now
  FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
 WHERE c.state = 'planning' OR (c.state = 'scheduled' AND c.scheduled_at <= clock_timestamp())
 ORDER BY c.scheduled_at, c.id;

-- name: try_planner
-- One planner a campaign. Held by the session, so a planner that is killed lets go of it.
SELECT pg_try_advisory_lock(hashtext('mailmill:plan'), %(campaign_id)s);

-- name: no_planner
-- Nobody plans it, and nobody begins to before this transaction ends.
SELECT pg_try_advisory_xact_lock(hashtext('mailmill:plan'), %(campaign_id)s);

-- name: is_due
SELECT scheduled_at FROM campaigns
 WHERE id = %(campaign_id)s AND (state = 'planning' OR (state = 'scheduled' AND scheduled_at <= clock_timestamp()));

-- name: draft
-- What a campaign is made of; planning asks while it plans, a preview at any time.
SELECT c.id AS campaign_id, c.tenant_id, t.slug AS tenant, t.name AS tenant_name, t.postal_address, t.time_zone, c.slug,
       c.spec, s.spec AS segment,
       (SELECT coalesce(jsonb_object_agg(p.slug, p.spec), '{}') FROM templates p
         WHERE p.tenant_id = c.tenant_id AND (p.slug = c.spec->>'template' OR c.spec->'split' ? p.slug)) AS templates,
       i.spec AS identity, r.id AS transport_id,
       r.kind AS transport_kind, clock_timestamp() AS now
  FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
  LEFT JOIN segments s ON s.tenant_id = c.tenant_id AND s.slug = c.spec->>'segment'
  LEFT JOIN identities i ON i.tenant_id = c.tenant_id AND i.slug = c.spec->>'identity'
  LEFT JOIN transports r ON r.tenant_id = c.tenant_id AND r.slug = c.spec->>'transport'
 WHERE c.id = %(campaign_id)s AND (%(any_state)s OR c.state = 'planning');

-- name: lock_planning
-- From here on this transaction alone decides what becomes of the planning.
SELECT true FROM campaigns WHERE id = %(campaign_id)s AND state = 'planning' FOR UPDATE;

-- name: set_content
UPDATE campaigns SET transport_id = %(transport_id)s, content = %(content)s, as_of = %(as_of)s, ends_at = %(ends_at)s,
       first_message_id = %(first_message_id)s, planned = %(planned)s
 WHERE id = %(campaign_id)s;

-- name: settled
-- P15: campaigns that may be over, by cheap questions: nothing queued, and no lease that is worked at or still has rows. So
-- are cancelled ones whose last rows a worker had. Locked by a statement of its own, so that `finish` asks the ledger anew: whoever sends doubts again holds the campaign,
-- and a statement that had waited for that would go on with what it saw before. A null id means all of them.
SELECT c.id FROM campaigns c
 WHERE (c.state IN ('running', 'paused') AND c.planned IS NOT NULL OR c.state = 'cancelled' AND c.finished_at IS NULL)
   AND (%(campaign_id)s::int IS NULL OR c.id = %(campaign_id)s)
   AND NOT EXISTS (SELECT FROM messages m WHERE m.campaign_id = c.id AND m.queued)
   AND NOT EXISTS (SELECT FROM leases l WHERE l.campaign_id = c.id AND (l.until > clock_timestamp()
         OR EXISTS (SELECT FROM messages m WHERE m.id BETWEEN l.first_id AND l.last_id AND m.lease_token = l.token)))
 ORDER BY c.id FOR NO KEY UPDATE SKIP LOCKED;

-- name: finish
-- Finished is what the ledger says: every recipient that was planned is in a terminal state. What was cancelled stays so.
WITH finished AS (
  UPDATE campaigns c SET state = CASE c.state WHEN 'cancelled' THEN c.state ELSE 'finished' END, finished_at = clock_timestamp()
   WHERE c.id = %(campaign_id)s AND c.state IN ('running', 'paused', 'cancelled')
     AND coalesce(c.planned, 0) = (SELECT count(*) FROM messages m WHERE m.campaign_id = c.id
                         AND m.id >= c.first_message_id AND m.id < c.first_message_id + c.planned
                         AND m.state NOT IN ('queued', 'leased', 'deferred', 'held'))
  RETURNING id, tenant_id, slug, old.state AS before),
noted AS (
  INSERT INTO campaign_transitions (tenant_id, campaign_id, from_state, to_state, by, reason)
  SELECT tenant_id, id, before, 'finished', %(by)s, 'every recipient is accounted for' FROM finished WHERE before <> 'cancelled')
SELECT t.slug || '/' || f.slug FROM finished f JOIN tenants t ON t.id = f.tenant_id WHERE f.before <> 'cancelled';

-- name: tenant
SELECT id FROM tenants WHERE slug = %(tenant)s;
