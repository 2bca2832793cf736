-- Each statement gives one table of the warehouse for one tenant, columns in the order of io/warehouse_schema.py.

-- name: lock
-- One publication at a time. Its own session holds it, because a snapshot that waited here would be old.
SELECT pg_advisory_lock(hashtextextended('mailmill:warehouse', 0));

-- name: tenants
SELECT id, slug, name, time_zone FROM tenants WHERE %(slug)s::text IS NULL OR slug = %(slug)s ORDER BY slug;

-- name: files
SELECT dataset, part, file, rows FROM manifest
 WHERE tenant_id = %(tenant_id)s AND dataset IN ('contacts', 'segments', 'messages', 'events')
 ORDER BY dataset, part, published_at, file;

-- name: ledgers
-- What would change an exported ledger: its campaign's state and what was counted. Whether people or the sender are still
-- at work on it (`open`) is answered by adding up the ledger itself, below.
SELECT c.id, c.slug, c.state NOT IN ('finished', 'cancelled', 'failed', 'missed') AS open,
       md5(concat_ws('|', %(version)s::text, c.state, c.planned, c.started_at, c.finished_at,
         (SELECT max(id) FROM campaign_transitions t WHERE t.campaign_id = c.id),
         (SELECT string_agg(concat_ws(':', kind, uniq, total), ',' ORDER BY kind) FROM rollups r
           WHERE r.tenant_id = c.tenant_id AND r.campaign_id = c.id AND r.hour = -1),
         (SELECT string_agg(concat_ws(':', link, uniq, total), ',' ORDER BY link) FROM link_counters l
           WHERE l.campaign_id = c.id))) AS fingerprint,
       (SELECT m.facts ->> 'fingerprint' FROM manifest m
         WHERE m.tenant_id = c.tenant_id AND m.dataset = 'messages' AND m.part = c.slug LIMIT 1) AS exported
  FROM campaigns c WHERE c.tenant_id = %(tenant_id)s AND c.planned IS NOT NULL ORDER BY c.id;

-- name: ledger_sum
SELECT md5(string_agg(concat_ws(':', state, n, attempts, due, done), ',' ORDER BY state))
  FROM (SELECT state, count(*) AS n, sum(attempt) AS attempts, max(due_at) AS due, max(done_at) AS done
          FROM messages WHERE campaign_id = %(campaign_id)s AND tenant_id = %(tenant_id)s
           AND id >= coalesce((SELECT first_message_id FROM campaigns WHERE id = %(campaign_id)s), 0)
           AND id < coalesce((SELECT first_message_id + planned FROM campaigns WHERE id = %(campaign_id)s), 9223372036854775807)
         GROUP BY state) s;

-- name: ledger
-- Without the address: whoever needs it joins contacts, so that erasing a person stays possible. Ids are contiguous in a
-- campaign, so this reads its part of the ledger and no more.
COPY (
  SELECT m.id, m.contact_id, m.campaign_id, m.domain, m.state, m.outcome, m.attempt, t.slug, m.code, m.reason,
         (extract(epoch FROM m.done_at) * 1000000)::bigint, m.at_accepted, m.at_failed, m.at_delivered, m.at_bounced_soft,
         m.at_bounced_hard, m.at_complained, m.at_opened, m.at_clicked, m.at_unsubscribed, m.at_replied, m.at_forwarded,
         m.at_machine_opened, m.at_machine_clicked
    FROM messages m LEFT JOIN transports t ON t.id = m.transport_id
   WHERE m.campaign_id = %(campaign_id)s AND m.tenant_id = %(tenant_id)s
     AND m.id >= coalesce((SELECT first_message_id FROM campaigns WHERE id = %(campaign_id)s), 0)
     AND m.id < coalesce((SELECT first_message_id + planned FROM campaigns WHERE id = %(campaign_id)s), 9223372036854775807)
   ORDER BY m.id) TO STDOUT (FORMAT csv);

-- name: table_tenants
COPY (SELECT slug, id, name, time_zone FROM tenants WHERE id = %(tenant_id)s) TO STDOUT (FORMAT csv);

-- name: table_sources
COPY (SELECT %(tenant)s::text, s.slug, s.kind, s.priority, coalesce(t.batches, 0), coalesce(t.rows_read, 0),
             coalesce(t.rows_accepted, 0), coalesce(t.rows_rejected, 0), coalesce(t.duplicates_within, 0),
             coalesce(t.duplicates_across, 0), coalesce(t.contacts_new, 0), coalesce(t.contacts_changed, 0), t.loaded_at
        FROM sources s LEFT JOIN source_totals t ON t.source_id = s.id
       WHERE s.tenant_id = %(tenant_id)s ORDER BY s.slug) TO STDOUT (FORMAT csv);

-- name: table_batches
COPY (SELECT %(tenant)s::text, b.id, s.slug, b.origin, b.state, b.seen_at, b.rows_read, b.rows_accepted, b.rows_rejected,
             b.duplicates_within, b.duplicates_across, b.contacts_new, b.contacts_changed, b.loaded_at
        FROM batches b JOIN sources s ON s.id = b.source_id
       WHERE b.tenant_id = %(tenant_id)s ORDER BY b.id) TO STDOUT (FORMAT csv);

-- name: table_rejects
COPY (SELECT %(tenant)s::text, b.id, s.slug, r.key, r.value::bigint
        FROM batches b JOIN sources s ON s.id = b.source_id, jsonb_each_text(b.reject_reasons) r
       WHERE b.tenant_id = %(tenant_id)s ORDER BY b.id, r.key) TO STDOUT (FORMAT csv);

-- name: table_segments
COPY (SELECT %(tenant)s::text, s.slug, coalesce(s.spec ->> 'name', ''), sum(m.rows), max((m.facts ->> 'as_of')::timestamptz)
        FROM segments s LEFT JOIN manifest m
          ON m.tenant_id = s.tenant_id AND m.dataset = 'segments' AND m.part = s.slug
       WHERE s.tenant_id = %(tenant_id)s GROUP BY s.id ORDER BY s.slug) TO STDOUT (FORMAT csv);

-- name: table_campaigns
COPY (SELECT %(tenant)s::text, c.id, c.slug, coalesce(c.spec ->> 'name', ''), c.state, c.spec ->> 'segment',
             c.spec ->> 'template', c.spec ->> 'identity', c.spec ->> 'transport', c.planned, c.scheduled_at, c.started_at,
             c.finished_at, c.as_of
        FROM campaigns c WHERE c.tenant_id = %(tenant_id)s ORDER BY c.id) TO STDOUT (FORMAT csv);

-- name: table_exclusions
COPY (SELECT %(tenant)s::text, c.slug, e.reason, e.n FROM exclusions e JOIN campaigns c ON c.id = e.campaign_id
       WHERE e.tenant_id = %(tenant_id)s ORDER BY c.id, e.reason) TO STDOUT (FORMAT csv);

-- name: table_links
COPY (SELECT %(tenant)s::text, c.slug, l.ordinal, l.url, coalesce(k.uniq, 0), coalesce(k.total, 0)
        FROM links l JOIN campaigns c ON c.id = l.campaign_id
        LEFT JOIN link_counters k ON k.campaign_id = l.campaign_id AND k.link = l.ordinal
       WHERE l.tenant_id = %(tenant_id)s ORDER BY c.id, l.ordinal) TO STDOUT (FORMAT csv);

-- name: table_hourly_counters
COPY (SELECT %(tenant)s::text, c.slug, k.kind, to_timestamp(k.hour::bigint * 3600), k.uniq, k.total
        FROM counters k JOIN campaigns c ON c.id = k.campaign_id
       WHERE c.tenant_id = %(tenant_id)s AND k.tenant_id = %(tenant_id)s
       ORDER BY c.id, k.kind, k.hour) TO STDOUT (FORMAT csv);

-- name: table_daily_counters
-- Days of the tenant's calendar; an hour belongs to the day in which it begins.
COPY (SELECT %(tenant)s::text, c.slug, k.kind, (to_timestamp(k.hour::bigint * 3600) AT TIME ZONE %(time_zone)s)::date,
             sum(k.uniq), sum(k.total)
        FROM counters k JOIN campaigns c ON c.id = k.campaign_id
       WHERE c.tenant_id = %(tenant_id)s AND k.tenant_id = %(tenant_id)s
       GROUP BY c.id, k.kind, 4 ORDER BY c.id, k.kind, 4) TO STDOUT (FORMAT csv);

-- name: table_domain_counters
COPY (SELECT %(tenant)s::text, domain, kind, uniq, total FROM domain_counters
       WHERE tenant_id = %(tenant_id)s ORDER BY domain, kind) TO STDOUT (FORMAT csv);
