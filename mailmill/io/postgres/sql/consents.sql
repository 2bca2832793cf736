-- name: add
INSERT INTO consents (tenant_id, channel, address_key, status, basis, proof, at, recorded_by)
VALUES (%(tenant_id)s, %(channel)s, %(address_key)s, %(status)s, %(basis)s, %(proof)s, coalesce(%(at)s, clock_timestamp()), %(by)s)
RETURNING at;

-- name: reached_by
-- Who is known by a number may have an address as well. Nobody, where they have granted it again since.
WITH granted AS (
  SELECT address_key FROM consents
   WHERE tenant_id = %(tenant_id)s AND status = 'granted' AND NOT of_list AND at > %(at)s AND at <= clock_timestamp())
SELECT key FROM (
  SELECT %(key)s::text AS key
  UNION SELECT lower(email) FROM contacts WHERE tenant_id = %(tenant_id)s AND match_key = %(key)s AND email IS NOT NULL) k
 WHERE NOT EXISTS (SELECT FROM granted g WHERE g.address_key IN (%(key)s, k.key));

-- name: of_batch
-- One row for a list whose source vouches for all of it; a batch that is loaded again says it once.
INSERT INTO consents (tenant_id, address_key, status, basis, proof, source_id, batch_id, at, recorded_by, of_list)
VALUES (%(tenant_id)s, NULL, 'granted', %(basis)s, %(proof)s, %(source_id)s, %(batch_id)s, %(at)s, 'ingest', true)
ON CONFLICT DO NOTHING;

-- name: newly_vouched
SELECT batch_id FROM consents WHERE address_key IS NULL AND batch_id = ANY(%(batch_ids)s) AND recorded_at >= transaction_timestamp();

-- name: touch_sightings
-- A publication knows by the transaction numbers of its rows that a file is to be made anew (fingerprints in generations.sql).
UPDATE sightings SET digest = digest
 WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s
   AND (first_batch && %(batch_ids)s::bigint[] OR last_batch && %(batch_ids)s::bigint[]);

-- name: touch_lone
UPDATE lone_sightings SET digest = digest
 WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s
   AND (first_batch = ANY(%(batch_ids)s) OR last_batch = ANY(%(batch_ids)s));

-- name: vouched
SELECT batch_id, basis, proof FROM consents WHERE address_key IS NULL AND batch_id = ANY(%(batch_ids)s::bigint[]);

-- name: of_each
-- What a batch vouched for, for each of these contacts.
INSERT INTO consents (tenant_id, channel, address_key, status, basis, proof, source_id, batch_id, at, recorded_by, of_list)
SELECT b.tenant_id, CASE WHEN c.match_key LIKE '%%@%%' THEN 'email' ELSE 'phone' END, c.match_key, b.status, b.basis, b.proof,
       b.source_id, b.batch_id, b.at, b.recorded_by, true
  FROM unnest(%(ids)s::bigint[], %(batch_ids)s::bigint[]) x (id, batch_id)
  JOIN consents b ON b.batch_id = x.batch_id AND b.address_key IS NULL JOIN contacts c ON c.id = x.id AND c.tenant_id = b.tenant_id
ON CONFLICT DO NOTHING;

-- name: of_rows
-- Rows that say themselves how consent was given, and perhaps when: without that not against a withdrawal.
INSERT INTO consents (tenant_id, channel, address_key, status, basis, proof, source_id, batch_id, at, recorded_by)
SELECT %(tenant_id)s, CASE WHEN r.key LIKE '%%@%%' THEN 'email' ELSE 'phone' END, r.key, 'granted', r.basis, r.proof,
       %(source_id)s, %(batch_id)s, r.at, 'ingest'
  FROM unnest(%(keys)s::text[], %(bases)s::text[], %(proofs)s::text[], %(ats)s::timestamptz[], %(dated)s::bool[])
       r (key, basis, proof, at, dated)
 WHERE dated OR NOT EXISTS (
   SELECT FROM consents w WHERE w.tenant_id = %(tenant_id)s AND w.address_key = r.key AND w.status = 'withdrawn'
   UNION ALL SELECT FROM suppressions s WHERE (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL) AND s.address_key = r.key
      AND s.channel = ANY(ARRAY['email', 'phone']) AND s.scope_campaign_id IS NULL AND s.reason IN ('unsubscribed', 'complained')
   UNION ALL SELECT FROM suppression_removals m WHERE (m.tenant_id = %(tenant_id)s OR m.tenant_id IS NULL) AND m.address_key = r.key
      AND m.scope_campaign_id IS NULL AND m.reason IN ('unsubscribed', 'complained'))
ON CONFLICT DO NOTHING;

-- name: history
-- What became of a person's contacts, by time: first seen, consents given and withdrawn, suppressed and taken back.
WITH words AS (
  SELECT *, CASE WHEN tenant_id IS NULL THEN 'for every tenant' WHEN scope_campaign_id IS NOT NULL THEN 'for one campaign' END AS scope
    FROM (SELECT tenant_id, address_key, reason, scope_campaign_id, event_id, note, created_at AS at, expires_at,
                 NULL::timestamptz AS removed_at, NULL AS removed_by, NULL AS why
            FROM suppressions WHERE (tenant_id = %(tenant_id)s OR tenant_id IS NULL) AND address_key = ANY(%(keys)s)
          UNION ALL
          SELECT tenant_id, address_key, reason, scope_campaign_id, event_id, note, suppressed_at, NULL, removed_at, removed_by, why
            FROM suppression_removals WHERE (tenant_id = %(tenant_id)s OR tenant_id IS NULL) AND address_key = ANY(%(keys)s)) s)
SELECT at, what, detail, basis, proof, source, by, address FROM (
  SELECT c.created_at AS at, 'created' AS what, NULL AS detail, NULL AS basis, NULL AS proof, NULL AS source, NULL AS by,
         c.match_key AS address
    FROM contacts c WHERE c.id = ANY(%(ids)s::bigint[]) AND c.tenant_id = %(tenant_id)s
  UNION ALL
  SELECT k.at, 'consent ' || k.status, CASE WHEN k.of_list THEN 'of the whole batch' END, k.basis, k.proof, s.slug, k.recorded_by,
         k.address_key
    FROM consents k LEFT JOIN sources s ON s.id = k.source_id
   WHERE k.tenant_id = %(tenant_id)s AND k.address_key = ANY(%(keys)s)
  UNION
  SELECT k.at, 'consent ' || k.status, 'of the whole batch', k.basis, k.proof, s.slug, k.recorded_by, c.match_key
    FROM consents k JOIN sources s ON s.id = k.source_id
    JOIN contact_sources x ON x.source_id = k.source_id AND k.batch_id IN (x.first_batch_id, x.last_batch_id)
    JOIN contacts c ON c.id = x.contact_id AND c.tenant_id = %(tenant_id)s
   WHERE k.tenant_id = %(tenant_id)s AND k.address_key IS NULL AND x.tenant_id = %(tenant_id)s
     AND x.block = ANY(ARRAY(SELECT id >> 6 FROM unnest(%(ids)s::bigint[]) id)) AND x.contact_id = ANY(%(ids)s::bigint[])
  UNION ALL
  SELECT at, 'suppressed', concat_ws(', ', reason, scope, 'until ' || expires_at), NULL, note, NULL, NULL, address_key FROM words
  UNION ALL
  SELECT at, 'consent withdrawn', reason, NULL, event_id, NULL, NULL, address_key FROM words
   WHERE scope IS DISTINCT FROM 'for one campaign' AND reason IN ('unsubscribed', 'complained')
  UNION ALL
  SELECT expires_at, 'active again', concat_ws(', ', reason, scope), NULL, NULL, NULL, NULL, address_key FROM words
   WHERE expires_at <= clock_timestamp()
  UNION ALL
  SELECT removed_at, 'suppression removed', concat_ws(', ', reason, scope), NULL, why, NULL, removed_by, address_key FROM words
   WHERE removed_at IS NOT NULL) h
 ORDER BY at, what, address;

-- name: current
SELECT consent FROM unnest(%(ids)s::bigint[]) id, consents_of(%(tenant_id)s, id, id);

-- name: withdrawn
SELECT c.match_key FROM contacts c, consents_of(%(tenant_id)s, c.id, c.id) o
 WHERE c.tenant_id = %(tenant_id)s AND c.match_key = ANY(%(keys)s) AND o.consent = 'withdrawn' ORDER BY c.match_key;

-- name: held
SELECT channel, status, basis, proof, at, recorded_at, recorded_by FROM consents
 WHERE tenant_id = %(tenant_id)s AND address_key = ANY(%(keys)s) ORDER BY at, id;
