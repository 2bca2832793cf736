-- What a generation of contacts is read from, in buckets of 65,536 contact ids. All of it is one snapshot.

-- name: lock
-- Two publishers at once: the later snapshot must also be the later generation. The session holds it, because a snapshot
-- that waited here would be old.
SELECT pg_advisory_lock(hashtextextended('mailmill:publish:' || %(tenant_id)s::text, 0));

-- name: lock_timeout
SELECT set_config('lock_timeout', %(milliseconds)s, false);

-- name: tenants
SELECT slug, id FROM tenants t
 WHERE EXISTS (SELECT FROM manifest m WHERE m.tenant_id = t.id AND m.dataset = 'contacts') ORDER BY slug;

-- name: merge_rule
SELECT coalesce(spec -> 'merge', '{}') FROM tenants WHERE id = %(tenant_id)s;

-- name: sources
SELECT id, slug FROM sources WHERE tenant_id = %(tenant_id)s ORDER BY slug;

-- name: origin
-- Transaction numbers mean something within one server and one making of its tables: a restored backup has others.
SELECT (SELECT system_identifier FROM pg_control_system()) || '.' || 'contacts'::regclass::oid;

-- name: stage
-- Who is not mailed now, and why; of several reasons the gravest.
CREATE TEMP TABLE shown (contact_id bigint PRIMARY KEY, reason text NOT NULL) ON COMMIT DROP;

-- name: fill_shown
INSERT INTO shown
SELECT DISTINCT ON (c.id) c.id, s.reason
  FROM suppressions s JOIN contacts c ON c.tenant_id = %(tenant_id)s AND c.match_key = s.address_key
 WHERE (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL) AND s.channel = CASE WHEN c.email IS NULL THEN 'phone' ELSE 'email' END
   AND s.scope_campaign_id IS NULL AND (s.expires_at IS NULL OR s.expires_at > %(now)s)
 ORDER BY c.id, array_position(%(gravest)s::text[], s.reason);

-- name: stage_named
-- The mailboxes that are suppressed, by the tenant's rule.
CREATE TEMP TABLE named (near text NOT NULL, mailbox text NOT NULL, reason text NOT NULL) ON COMMIT DROP;

-- name: fill_named
INSERT INTO named
SELECT near, mailbox_of(address_key, %(rule)s), reason FROM suppressions
 WHERE (tenant_id = %(tenant_id)s OR tenant_id IS NULL) AND address_key LIKE '%%@%%' AND %(strips)s
   AND scope_campaign_id IS NULL AND (expires_at IS NULL OR expires_at > %(now)s);

-- name: fill_shown_by_rule
-- Where a tenant's rule makes several addresses one person: whom a suppression of another one concerns, be it a contact or not.
-- The contacts are read once past a hash of `named`: hence no equals sign for the mailbox, which would be worked out for all.
-- Only a match key has its case folded: of ß that makes ss.
INSERT INTO shown
SELECT DISTINCT ON (c.id) c.id, c.reason
  FROM (SELECT c.id, n.reason
          FROM (SELECT id, CASE WHEN match_key LIKE '%%@%%' THEN match_key ELSE coalesce(lower(email), match_key) END AS key
                  FROM contacts WHERE tenant_id = %(tenant_id)s) c
          JOIN named n ON n.near = near_mailbox(c.key) AND n.mailbox IS NOT DISTINCT FROM mailbox_of(c.key, %(rule)s)
        UNION ALL
        SELECT c.id, s.reason FROM suppressions s JOIN contacts c ON c.phone = s.address_key
         WHERE (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL) AND c.tenant_id = %(tenant_id)s AND %(phone)s
           AND s.scope_campaign_id IS NULL AND (s.expires_at IS NULL OR s.expires_at > %(now)s)) c
 ORDER BY c.id, array_position(%(gravest)s::text[], c.reason)
ON CONFLICT (contact_id) DO UPDATE SET reason = excluded.reason
 WHERE array_position(%(gravest)s::text[], excluded.reason) < array_position(%(gravest)s::text[], shown.reason);

-- name: fill_withdrawn
-- Contacts that none of their sources stands for any more.
INSERT INTO shown
SELECT DISTINCT w.contact_id, 'withdrawn' FROM withdrawals w
 WHERE w.tenant_id = %(tenant_id)s
   AND NOT EXISTS (SELECT FROM contact_sources s
                    WHERE s.tenant_id = %(tenant_id)s AND s.block = w.contact_id >> 6 AND s.contact_id = w.contact_id
                      AND NOT EXISTS (SELECT FROM withdrawals x WHERE x.contact_id = s.contact_id AND x.source_id = s.source_id))
ON CONFLICT (contact_id) DO NOTHING;

-- name: fingerprints
-- A row's transaction number changes with every change of the row, so this changes with any row a bucket is made of. What
-- a source vouches for as a whole is written with the sightings it is about.
SELECT bucket, string_agg(concat(what, ':', n, ':', hash), ' ' ORDER BY what) AS fingerprint
  FROM (SELECT 'contacts' AS what, id >> %(bits)s AS bucket, count(*) AS n, bit_xor(hashxidextended(xmin, id)) AS hash
          FROM contacts WHERE tenant_id = %(tenant_id)s GROUP BY 2
        UNION ALL
        SELECT 'sources', block >> (%(bits)s - 6), count(*),
               bit_xor(hashxidextended(xmin, hashint8extended(block, source_id)))
          FROM sightings WHERE tenant_id = %(tenant_id)s GROUP BY 2
        UNION ALL
        SELECT 'seen', contact_id >> %(bits)s, count(*),
               bit_xor(hashxidextended(xmin, hashint8extended(contact_id, source_id)))
          FROM lone_sightings WHERE tenant_id = %(tenant_id)s GROUP BY 2
        UNION ALL
        SELECT 'engagement', contact_id >> %(bits)s, count(*), bit_xor(hashxidextended(xmin, contact_id))
          FROM engagement WHERE tenant_id = %(tenant_id)s GROUP BY 2
        UNION ALL
        SELECT 'words', c.id >> %(bits)s, count(*), bit_xor(w.hash)
          FROM (SELECT address_key, hashxidextended(xmin, id) AS hash FROM consents
                 WHERE tenant_id = %(tenant_id)s AND address_key IS NOT NULL
                UNION ALL SELECT address_key, hashxidextended(xmin, -id) FROM suppressions
                 WHERE (tenant_id = %(tenant_id)s OR tenant_id IS NULL) AND reason IN ('unsubscribed', 'complained')
                UNION ALL SELECT address_key, hashxidextended(xmin, id + 4611686018427387904) FROM suppression_removals
                 WHERE (tenant_id = %(tenant_id)s OR tenant_id IS NULL) AND reason IN ('unsubscribed', 'complained')) w
          JOIN contacts c ON c.tenant_id = %(tenant_id)s AND c.match_key = w.address_key GROUP BY 2
        UNION ALL
        SELECT 'withdrawals', contact_id >> %(bits)s, count(*), bit_xor(hashint8extended(contact_id, source_id))
          FROM withdrawals WHERE tenant_id = %(tenant_id)s GROUP BY 2
        UNION ALL
        SELECT 'shown', contact_id >> %(bits)s, count(*), bit_xor(hashtextextended(reason, contact_id))
          FROM shown GROUP BY 2) p
 GROUP BY bucket HAVING bool_or(what = 'contacts') ORDER BY bucket;

-- name: contacts
-- A bucket's contacts, and those of other buckets that are shown in it. Lists are joined by the unit separator. A double
-- holds microseconds exactly until the year 2255, and is an order faster than numeric.
COPY (
  SELECT id, match_key, email, phone, name, language, category, country, time_zone, array_to_string(tags, E'\x1f'),
         fields::text, verdict, verdict_reason, (date_part('epoch', created_at) * 1000000)::bigint
    FROM contacts
   WHERE tenant_id = %(tenant_id)s AND (id BETWEEN %(first)s AND %(last)s OR id = ANY(%(others)s::bigint[]))
) TO STDOUT (FORMAT csv);

-- name: sightings
-- A source that has withdrawn a contact is none of its sources any more, though it was. As contact_sources, but of the lone
-- ones no others are looked at.
COPY (
  SELECT u.id, CASE WHEN w.contact_id IS NULL THEN s.source_id END, coalesce(l.first_seen, u.first_seen, s.first_seen[1]),
         coalesce(l.last_seen, u.last_seen, s.last_seen[1])
    FROM sightings s CROSS JOIN LATERAL unnest(s.ids, s.first_seen, s.last_seen) u (id, first_seen, last_seen)
    LEFT JOIN lone_sightings l ON l.contact_id = u.id AND l.source_id = s.source_id
         AND (l.contact_id BETWEEN %(first)s AND %(last)s OR l.contact_id = ANY(%(others)s::bigint[]))
    LEFT JOIN withdrawals w ON w.contact_id = u.id AND w.source_id = s.source_id
   WHERE s.tenant_id = %(tenant_id)s
     AND (s.block BETWEEN %(first)s::bigint >> 6 AND %(last)s::bigint >> 6
          OR s.block = ANY(ARRAY(SELECT id >> 6 FROM unnest(%(others)s::bigint[]) id)))
     AND (u.id BETWEEN %(first)s AND %(last)s OR u.id = ANY(%(others)s::bigint[]))
) TO STDOUT (FORMAT csv);

-- name: engagement
COPY (
  SELECT contact_id, last_accepted::bigint * 1000000, last_delivered::bigint * 1000000, last_opened::bigint * 1000000,
         last_clicked::bigint * 1000000, last_bounced::bigint * 1000000
    FROM engagement
   WHERE tenant_id = %(tenant_id)s
     AND (contact_id BETWEEN %(first)s AND %(last)s OR contact_id = ANY(%(others)s::bigint[]))
) TO STDOUT (FORMAT csv);

-- name: shown
COPY (
  SELECT contact_id, reason FROM shown
   WHERE contact_id BETWEEN %(first)s AND %(last)s OR contact_id = ANY(%(others)s::bigint[])
) TO STDOUT (FORMAT csv);

-- name: consents
COPY (
  SELECT contact_id, consent FROM consents_of(%(tenant_id)s, %(first)s, %(last)s)
  UNION ALL
  SELECT o.contact_id, o.consent FROM unnest(%(others)s::bigint[]) id, consents_of(%(tenant_id)s, id, id) o
) TO STDOUT (FORMAT csv);

-- name: keys
-- What a tenant's rule may hold for one person.
COPY (SELECT id, match_key, phone FROM contacts
       WHERE tenant_id = %(tenant_id)s AND id BETWEEN %(first)s AND %(last)s) TO STDOUT (FORMAT csv);

-- name: said
-- Every value of these contacts with its rank (contacts.provenance) as it counts: what its source still says, it said last
-- when the contact was last seen there.
COPY (
  SELECT c.id, f.field, f.value, (r.rank ->> 0)::bigint,
         CASE WHEN w.still THEN w.last_seen ELSE (r.rank ->> 1)::bigint END, (r.rank ->> 2)::bigint,
         CASE WHEN w.still THEN w.last_batch ELSE (r.rank ->> 3)::bigint END
    FROM contacts c
   CROSS JOIN LATERAL (
     SELECT * FROM (VALUES ('email', c.email), ('phone', c.phone), ('name', c.name), ('language', c.language),
       ('category', c.category), ('country', c.country), ('time_zone', c.time_zone)) v (field, value)
     UNION ALL SELECT 'fields.' || e.key, e.value FROM jsonb_each_text(c.fields) e) f (field, value)
   CROSS JOIN LATERAL (
     SELECT coalesce(c.provenance -> f.field, c.provenance -> '*', '[-32768, 0, 0, 0]') AS rank) r
    LEFT JOIN LATERAL (
      SELECT coalesce(l.last_seen, s.last_seen[p], s.last_seen[1]) AS last_seen,
             coalesce(l.last_batch, s.last_batch[p], s.last_batch[1]) AS last_batch,
             ((r.rank ->> 1)::bigint, (r.rank ->> 3)::bigint)
               >= (coalesce(l.said_seen, s.said_seen[p], s.said_seen[1]),
                   coalesce(l.said_batch, s.said_batch[p], s.said_batch[1])) AS still
        FROM sightings s CROSS JOIN LATERAL array_position(s.ids, c.id) p
        LEFT JOIN lone_sightings l ON l.contact_id = c.id AND l.source_id = s.source_id
       WHERE s.block = c.id >> 6 AND s.source_id = (r.rank ->> 2)::int AND p IS NOT NULL) w ON true
   WHERE c.tenant_id = %(tenant_id)s AND c.id = ANY(%(members)s::bigint[]) AND f.value IS NOT NULL
) TO STDOUT (FORMAT csv);

-- name: withdraw
-- Every file of the generation before but those that stay.
DELETE FROM manifest WHERE tenant_id = %(tenant_id)s AND dataset = 'contacts' AND NOT file = ANY(%(kept)s::text[]);

-- name: keep
UPDATE manifest SET facts = u.facts::jsonb FROM unnest(%(files)s::text[], %(facts)s::text[]) u (file, facts)
 WHERE manifest.file = u.file;
