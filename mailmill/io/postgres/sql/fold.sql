-- The fold's transaction, in this order: offsets, batch, ledger, engagement, suppressions, manifest, counters.

-- name: stand_at
-- Give the consumer a row for each partition it has not read yet.
INSERT INTO offsets (consumer, topic, part, next)
SELECT %(consumer)s, %(topic)s, p.part, p.next FROM unnest(%(parts)s::int[], %(nexts)s::bigint[]) p (part, next)
ON CONFLICT DO NOTHING;

-- name: offsets
SELECT part, next FROM offsets WHERE consumer = %(consumer)s AND topic = %(topic)s;

-- name: move
-- Compare and set. The row's lock makes a second owner wait here, and then find the offset moved: 0 rows, fenced.
UPDATE offsets SET next = %(next)s
 WHERE consumer = %(consumer)s AND topic = %(topic)s AND part = %(part)s AND next = %(start)s;

-- name: session
-- The batch. Its columns are those of fold.MESSAGES_SCHEMA.
CREATE TEMPORARY TABLE IF NOT EXISTS batch (
  message bigint, tenant int, campaign int,
  at_accepted int, at_failed int, at_delivered int, at_bounced_soft int, at_bounced_hard int, at_complained int,
  at_opened int, at_clicked int, at_unsubscribed int, at_replied int, at_forwarded int, at_machine_opened int,
  at_machine_clicked int,
  links bigint, keys bigint[], suppresses boolean,
  last_accepted int, last_delivered int, last_opened int, last_clicked int, last_bounced int
) ON COMMIT DELETE ROWS;

-- name: plan
-- The batch has no statistics; it is small beside the ledger and sorted by its key.
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;

-- name: take_batch
COPY batch FROM STDIN (FORMAT csv);

-- name: ledger
-- Only rows that learn something are written. A row holds up to 256 keys of what may repeat; what does not fit is told
-- by `full`, the keys it holds then, and goes to seen_overflow.
COPY (
UPDATE messages m SET
    at_accepted = least(m.at_accepted, d.at_accepted), at_failed = least(m.at_failed, d.at_failed),
    at_delivered = least(m.at_delivered, d.at_delivered),
    at_bounced_soft = least(m.at_bounced_soft, d.at_bounced_soft),
    at_bounced_hard = least(m.at_bounced_hard, d.at_bounced_hard),
    at_complained = least(m.at_complained, d.at_complained), at_opened = least(m.at_opened, d.at_opened),
    at_clicked = least(m.at_clicked, d.at_clicked), at_unsubscribed = least(m.at_unsubscribed, d.at_unsubscribed),
    at_replied = least(m.at_replied, d.at_replied), at_forwarded = least(m.at_forwarded, d.at_forwarded),
    at_machine_opened = least(m.at_machine_opened, d.at_machine_opened),
    at_machine_clicked = least(m.at_machine_clicked, d.at_machine_clicked),
    clicked_links = m.clicked_links | d.links,
    seen = CASE WHEN d.keys IS NULL THEN m.seen ELSE coalesce(m.seen, '{}') ||
      (SELECT (array_agg(k))[1 : greatest(0, 256 - coalesce(cardinality(m.seen), 0))]
         FROM unnest(d.keys) k WHERE k <> ALL (coalesce(m.seen, '{}'))) END
  FROM batch d
 WHERE m.id = d.message AND m.tenant_id = d.tenant AND m.campaign_id = d.campaign
   AND (m.clicked_links | d.links <> m.clicked_links OR NOT d.keys <@ coalesce(m.seen, '{}')
     OR least(m.at_accepted, d.at_accepted) IS DISTINCT FROM m.at_accepted
     OR least(m.at_failed, d.at_failed) IS DISTINCT FROM m.at_failed
     OR least(m.at_delivered, d.at_delivered) IS DISTINCT FROM m.at_delivered
     OR least(m.at_bounced_soft, d.at_bounced_soft) IS DISTINCT FROM m.at_bounced_soft
     OR least(m.at_bounced_hard, d.at_bounced_hard) IS DISTINCT FROM m.at_bounced_hard
     OR least(m.at_complained, d.at_complained) IS DISTINCT FROM m.at_complained
     OR least(m.at_opened, d.at_opened) IS DISTINCT FROM m.at_opened
     OR least(m.at_clicked, d.at_clicked) IS DISTINCT FROM m.at_clicked
     OR least(m.at_unsubscribed, d.at_unsubscribed) IS DISTINCT FROM m.at_unsubscribed
     OR least(m.at_replied, d.at_replied) IS DISTINCT FROM m.at_replied
     OR least(m.at_forwarded, d.at_forwarded) IS DISTINCT FROM m.at_forwarded
     OR least(m.at_machine_opened, d.at_machine_opened) IS DISTINCT FROM m.at_machine_opened
     OR least(m.at_machine_clicked, d.at_machine_clicked) IS DISTINCT FROM m.at_machine_clicked)
RETURNING m.id, m.tenant_id, m.campaign_id, m.domain, CASE WHEN d.suppresses THEN m.address_key END,
    old.at_accepted, old.at_failed, old.at_delivered, old.at_bounced_soft, old.at_bounced_hard, old.at_complained,
    old.at_opened, old.at_clicked, old.at_unsubscribed, old.at_replied, old.at_forwarded, old.at_machine_opened,
    old.at_machine_clicked,
    old.clicked_links, CASE WHEN d.keys IS NOT NULL THEN array_to_string(old.seen, ' ') END,
    CASE WHEN d.keys IS NOT NULL AND cardinality(new.seen) >= 256 THEN array_to_string(new.seen, ' ') END
) TO STDOUT (FORMAT csv);

-- name: orphans
-- Of rows that did not come back: those that are not in the ledger as the events say.
SELECT d.message, d.tenant, d.campaign,
       CASE WHEN m.id IS NULL THEN 'unknown_message' WHEN m.tenant_id <> d.tenant THEN 'other_tenant'
            ELSE 'other_campaign' END
  FROM batch d LEFT JOIN messages m ON m.id = d.message
 WHERE d.message = ANY (%(messages)s::bigint[])
   AND (m.id IS NULL OR m.tenant_id <> d.tenant OR m.campaign_id <> d.campaign);

-- name: overflow
-- Remember what no longer fits into the ledger rows. Out: what was new.
INSERT INTO seen_overflow (message_id, key, tenant_id)
SELECT * FROM unnest(%(messages)s::bigint[], %(keys)s::bigint[], %(tenants)s::int[])
ON CONFLICT DO NOTHING RETURNING message_id, key;

-- name: engagement
INSERT INTO engagement AS e (contact_id, tenant_id, last_accepted, last_delivered, last_opened, last_clicked, last_bounced)
SELECT m.contact_id, m.tenant_id, max(d.last_accepted), max(d.last_delivered), max(d.last_opened), max(d.last_clicked),
       max(d.last_bounced)
  FROM batch d JOIN messages m ON m.id = d.message
 WHERE num_nonnulls(d.last_accepted, d.last_delivered, d.last_opened, d.last_clicked, d.last_bounced) > 0
 GROUP BY m.contact_id, m.tenant_id ORDER BY m.contact_id
ON CONFLICT (contact_id) DO UPDATE SET
    last_accepted = greatest(e.last_accepted, excluded.last_accepted),
    last_delivered = greatest(e.last_delivered, excluded.last_delivered),
    last_opened = greatest(e.last_opened, excluded.last_opened),
    last_clicked = greatest(e.last_clicked, excluded.last_clicked),
    last_bounced = greatest(e.last_bounced, excluded.last_bounced)
 WHERE greatest(e.last_accepted, excluded.last_accepted) IS DISTINCT FROM e.last_accepted
    OR greatest(e.last_delivered, excluded.last_delivered) IS DISTINCT FROM e.last_delivered
    OR greatest(e.last_opened, excluded.last_opened) IS DISTINCT FROM e.last_opened
    OR greatest(e.last_clicked, excluded.last_clicked) IS DISTINCT FROM e.last_clicked
    OR greatest(e.last_bounced, excluded.last_bounced) IS DISTINCT FROM e.last_bounced;

-- name: suppress
-- For the whole tenant and without an end; an earlier end is lifted. Of a forgotten person's row nothing more is kept. Out:
-- how many workers have to hear of.
WITH changed AS (
  INSERT INTO suppressions AS s (tenant_id, address_key, reason, event_id)
  SELECT * FROM unnest(%(tenants)s::int[], %(address_keys)s::text[], %(reasons)s::text[], %(event_ids)s::text[])
         a (tenant, key, reason, event) WHERE key NOT LIKE 'forgotten:%%'
  ON CONFLICT (tenant_id, channel, address_key, reason, scope_campaign_id)
  DO UPDATE SET expires_at = NULL, event_id = excluded.event_id,
    recorded_at = CASE WHEN s.expires_at <= clock_timestamp() THEN clock_timestamp() ELSE s.recorded_at END WHERE s.expires_at IS NOT NULL
  RETURNING 1)
SELECT count(*) FROM changed;

-- name: bury
INSERT INTO dead_letters (topic, part, off, reason, val)
SELECT %(topic)s, * FROM unnest(%(parts)s::int[], %(offs)s::bigint[], %(reasons)s::text[], %(vals)s::bytea[])
ON CONFLICT (topic, part, off) DO NOTHING;

-- name: count
INSERT INTO counters AS c (tenant_id, campaign_id, kind, hour, uniq, total)
SELECT * FROM unnest(%(tenant)s::int[], %(campaign)s::int[], %(kind)s::text[], %(hour)s::int[],
                     %(uniq)s::bigint[], %(total)s::bigint[])
ON CONFLICT (campaign_id, kind, hour) DO UPDATE SET uniq = c.uniq + excluded.uniq, total = c.total + excluded.total;

-- name: count_links
INSERT INTO link_counters AS c (tenant_id, campaign_id, link, uniq, total)
SELECT * FROM unnest(%(tenant)s::int[], %(campaign)s::int[], %(link)s::smallint[], %(uniq)s::bigint[],
                     %(total)s::bigint[])
ON CONFLICT (campaign_id, link) DO UPDATE SET uniq = c.uniq + excluded.uniq, total = c.total + excluded.total;

-- name: count_domains
INSERT INTO domain_counters AS c (tenant_id, domain, kind, uniq, total)
SELECT * FROM unnest(%(tenant)s::int[], %(domain)s::text[], %(kind)s::text[], %(uniq)s::bigint[], %(total)s::bigint[])
ON CONFLICT (tenant_id, domain, kind) DO UPDATE SET uniq = c.uniq + excluded.uniq, total = c.total + excluded.total;
