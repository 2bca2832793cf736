-- name: contact
SELECT id, match_key, email, phone, name, language, category, country, time_zone, tags, fields, provenance, verdict,
       verdict_reason, created_at, updated_at
  FROM contacts WHERE tenant_id = %(tenant_id)s AND match_key = %(key)s;

-- name: contact_by_email
-- For a contact that was first known by its phone. There is no index for this: it is asked when the key finds nobody.
SELECT id, match_key, email, phone, name, language, category, country, time_zone, tags, fields, provenance, verdict,
       verdict_reason, created_at, updated_at
  FROM contacts WHERE tenant_id = %(tenant_id)s AND lower(email) = %(key)s ORDER BY id LIMIT 1;

-- name: contact_by_id
SELECT id, match_key, email, phone, name, language, category, country, time_zone, tags, fields, provenance, verdict,
       verdict_reason, created_at, updated_at
  FROM contacts WHERE tenant_id = %(tenant_id)s AND id = %(contact_id)s;

-- name: sources
SELECT s.slug AS source, s.kind, c.first_seen, c.last_seen, f.origin AS first_from, l.origin AS last_from,
       w.contact_id IS NOT NULL AS withdrawn
  FROM contact_sources c JOIN sources s ON s.id = c.source_id
  LEFT JOIN withdrawals w ON w.contact_id = c.contact_id AND w.source_id = c.source_id
  LEFT JOIN batches f ON f.id = c.first_batch_id LEFT JOIN batches l ON l.id = c.last_batch_id
 WHERE c.contact_id = %(contact_id)s AND c.block = %(contact_id)s::bigint >> 6 AND c.tenant_id = %(tenant_id)s
 ORDER BY c.first_seen, s.slug;

-- name: last_words
-- Of each source of a contact: since when it has said what it says now, and when it last said it.
SELECT s.source_id, coalesce(l.said_seen, s.said_seen[p], s.said_seen[1]),
       coalesce(l.said_batch, s.said_batch[p], s.said_batch[1]), coalesce(l.last_seen, s.last_seen[p], s.last_seen[1]),
       coalesce(l.last_batch, s.last_batch[p], s.last_batch[1])
  FROM sightings s CROSS JOIN LATERAL array_position(s.ids, %(contact_id)s::bigint) p
  LEFT JOIN lone_sightings l ON l.contact_id = %(contact_id)s AND l.source_id = s.source_id
 WHERE s.block = %(contact_id)s::bigint >> 6 AND s.tenant_id = %(tenant_id)s AND p IS NOT NULL;

-- name: source_names
SELECT id, slug FROM sources WHERE tenant_id = %(tenant_id)s;

-- name: batch_origins
SELECT id, origin FROM batches WHERE tenant_id = %(tenant_id)s AND id = ANY(%(batch_ids)s);

-- name: suppressions
-- With those that were taken back or said anew after their end: until then they kept mail away.
SELECT reason, CASE WHEN tenant_id IS NULL THEN 'all' WHEN scope_campaign_id IS NULL THEN 'tenant' ELSE 'campaign' END AS scope,
       scope_campaign_id AS campaign_id, created_at, expires_at, note, address_key AS address
  FROM (SELECT tenant_id, channel, address_key, reason, scope_campaign_id, created_at, expires_at, note FROM suppressions
        UNION ALL
        SELECT tenant_id, channel, address_key, reason, scope_campaign_id, suppressed_at, removed_at,
               CASE WHEN removed_by = 'its end' THEN note
                    ELSE concat_ws('; ', note, concat_ws(': ', 'taken back by ' || removed_by, why)) END
          FROM suppression_removals) s
 WHERE (tenant_id = %(tenant_id)s OR tenant_id IS NULL)
   AND address_key = ANY(%(keys)s) AND channel = ANY(ARRAY['email', 'phone'])
 ORDER BY created_at;

-- name: campaigns
SELECT c.id, c.slug AS campaign, c.state::text, coalesce(c.spec ->> 'segment', '') AS segment, c.as_of, c.started_at, c.planned,
       (SELECT bool_and(r.added) FROM campaign_recipients r
         WHERE r.campaign_id = c.id AND r.contact_id = ANY(%(ids)s::bigint[])) AS by_hand
  FROM campaigns c
 WHERE c.tenant_id = %(tenant_id)s ORDER BY c.id;

-- name: messages
-- Of the person by any of their contacts; where a campaign has several, that of the one asked for comes last.
SELECT m.id, m.campaign_id, m.contact_id, m.address, m.state::text, m.outcome, m.attempt, CASE WHEN isfinite(m.due_at) THEN m.due_at END AS due_at, m.done_at, m.code, m.reason, m.reply,
       t.slug AS transport,
       jsonb_strip_nulls(jsonb_build_object('accepted', to_timestamp(at_accepted), 'failed', to_timestamp(at_failed),
         'delivered', to_timestamp(at_delivered), 'bounced_soft', to_timestamp(at_bounced_soft),
         'bounced_hard', to_timestamp(at_bounced_hard), 'complained', to_timestamp(at_complained),
         'opened', to_timestamp(at_opened), 'clicked', to_timestamp(at_clicked),
         'unsubscribed', to_timestamp(at_unsubscribed), 'replied', to_timestamp(at_replied),
         'forwarded', to_timestamp(at_forwarded), 'machine_opened', to_timestamp(at_machine_opened),
         'machine_clicked', to_timestamp(at_machine_clicked))) AS facts
  FROM messages m LEFT JOIN transports t ON t.id = m.transport_id
 WHERE m.contact_id = ANY(%(ids)s::bigint[]) AND m.tenant_id = %(tenant_id)s
 ORDER BY m.contact_id IS NOT DISTINCT FROM %(contact_id)s, m.id;

-- name: attempts
SELECT a.message_id, a.attempt, a.at, t.slug AS transport, a.connection, a.stage, a.code, a.enhanced, a.reply,
       a.latency_ms
  FROM attempts a LEFT JOIN transports t ON t.id = a.transport_id
 WHERE a.message_id = ANY(%(message_ids)s) AND a.tenant_id = %(tenant_id)s ORDER BY a.message_id, a.attempt;

-- name: held_messages
-- What the ledger says to whom, apart from what became of it.
SELECT m.id, c.slug AS campaign, m.address, m.domain, m.provider,
       (SELECT jsonb_object_agg(n.name, nullif(v.value, E'\x02'))
          FROM jsonb_array_elements_text(c.content -> 'merge_fields') WITH ORDINALITY n (name, at)
          JOIN string_to_table(f.merge_values, E'\x1f') WITH ORDINALITY v (value, at) USING (at)) AS merge_values
  FROM messages m JOIN campaigns c ON c.id = m.campaign_id LEFT JOIN message_fields f ON f.message_id = m.id
 WHERE m.tenant_id = %(tenant_id)s AND m.id = ANY(%(message_ids)s) AND m.address_key = ANY(%(keys)s) ORDER BY m.id;

-- name: held_engagement
SELECT to_timestamp(max(last_accepted)) AS last_accepted, to_timestamp(max(last_delivered)) AS last_delivered,
       to_timestamp(max(last_opened)) AS last_opened, to_timestamp(max(last_clicked)) AS last_clicked,
       to_timestamp(max(last_bounced)) AS last_bounced
  FROM engagement WHERE tenant_id = %(tenant_id)s AND contact_id = ANY(%(ids)s) HAVING count(*) > 0;

-- name: held_choices
-- Campaigns that a person added them to or took them out of.
SELECT c.slug AS campaign, r.added FROM campaign_recipients r JOIN campaigns c ON c.id = r.campaign_id
 WHERE r.tenant_id = %(tenant_id)s AND r.contact_id = ANY(%(ids)s) ORDER BY c.id;

-- name: contact_of_message
SELECT contact_id FROM messages WHERE id = %(message_id)s AND tenant_id = %(tenant_id)s AND campaign_id = %(campaign_id)s;

-- name: segment_files
SELECT part, file FROM manifest WHERE tenant_id = %(tenant_id)s AND dataset = 'segments' ORDER BY part;
