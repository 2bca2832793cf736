-- Taking a batch into the contacts. All of it runs in one transaction, under the tenant's lock.

-- name: lock
SELECT pg_advisory_xact_lock(hashtextextended('mailmill:contacts:' || %(tenant_id)s::text, 0));

-- name: stage
-- Ids are drawn here, so that contacts and their sources can both be written without a join. COPY into a table with
-- row-level security is refused, into a temporary one it is not.
CREATE TEMP TABLE incoming (
  id bigint NOT NULL DEFAULT nextval('contacts_id_seq'), match_key text, email text, phone text, name text, language text,
  category text, country text, time_zone text, tags text[], fields jsonb, provenance jsonb, verdict text, verdict_reason text,
  first_seen timestamptz, last_seen timestamptz) ON COMMIT DROP;
CREATE TEMP TABLE merged (
  match_key text, email text, phone text, name text, language text, category text, country text, time_zone text,
  tags text[], fields jsonb, provenance jsonb, verdict text, verdict_reason text) ON COMMIT DROP;
CREATE TEMP TABLE known (id bigint NOT NULL, match_key text NOT NULL) ON COMMIT DROP;

-- name: copy_incoming
COPY incoming (match_key, email, phone, name, language, category, country, time_zone, tags, fields, provenance, verdict,
  verdict_reason, first_seen, last_seen) FROM STDIN (FORMAT csv);

-- name: find_known
INSERT INTO known SELECT c.id, c.match_key FROM incoming i
  JOIN contacts c ON c.tenant_id = %(tenant_id)s AND c.match_key = i.match_key;

-- name: known_keys
COPY (SELECT match_key FROM known) TO STDOUT (FORMAT csv);

-- name: forget_known
-- What is left in incoming is new; the sightings of the rest move on first.
INSERT INTO contact_sources AS s (contact_id, source_id, tenant_id, first_seen, last_seen, first_batch_id, last_batch_id)
SELECT k.id, %(source_id)s, %(tenant_id)s, i.first_seen, i.last_seen, %(batch_id)s, %(batch_id)s
  FROM known k JOIN incoming i USING (match_key)
ON CONFLICT (contact_id, source_id) DO UPDATE SET
  first_seen = least(s.first_seen, excluded.first_seen), last_seen = greatest(s.last_seen, excluded.last_seen),
  first_batch_id = CASE WHEN (excluded.first_seen, excluded.first_batch_id) < (s.first_seen, s.first_batch_id)
                        THEN excluded.first_batch_id ELSE s.first_batch_id END,
  last_batch_id = CASE WHEN (excluded.last_seen, excluded.last_batch_id) > (s.last_seen, s.last_batch_id)
                       THEN excluded.last_batch_id ELSE s.last_batch_id END
  WHERE (excluded.first_seen, excluded.first_batch_id) < (s.first_seen, s.first_batch_id)
     OR (excluded.last_seen, excluded.last_batch_id) > (s.last_seen, s.last_batch_id);

-- name: drop_known
DELETE FROM incoming i USING known k WHERE k.match_key = i.match_key;

-- name: add_contacts
INSERT INTO contacts (id, tenant_id, match_key, email, phone, name, language, category, country, time_zone, tags, fields,
  provenance, verdict, verdict_reason)
OVERRIDING SYSTEM VALUE
SELECT id, %(tenant_id)s, match_key, email, phone, name, language, category, country, time_zone, tags, fields, provenance,
  verdict, verdict_reason FROM incoming;

-- name: add_sources
INSERT INTO contact_sources (contact_id, source_id, tenant_id, first_seen, last_seen, first_batch_id, last_batch_id)
SELECT id, %(source_id)s, %(tenant_id)s, first_seen, last_seen, %(batch_id)s, %(batch_id)s FROM incoming;

-- name: claims
-- What was claimed about the known contacts and won so far, one row a value (CLAIMS_SCHEMA).
COPY (
  SELECT c.match_key, f.field, f.value, (r.rank ->> 0)::bigint, (r.rank ->> 1)::bigint, (r.rank ->> 2)::bigint, (r.rank ->> 3)::bigint
    FROM known k JOIN contacts c ON c.id = k.id
   CROSS JOIN LATERAL (
     VALUES ('email', c.email), ('phone', c.phone), ('name', c.name), ('language', c.language), ('category', c.category),
            ('country', c.country), ('time_zone', c.time_zone), ('verdict', concat_ws(' ', c.verdict, c.verdict_reason))
     UNION ALL SELECT 'fields.' || e.key, e.value FROM jsonb_each_text(c.fields) e
     UNION ALL SELECT 'tags.' || t, '' FROM unnest(c.tags) t) f (field, value)
   CROSS JOIN LATERAL (
     SELECT coalesce(c.provenance -> f.field, c.provenance -> '*', '[-32768, 0, 0, 0]') AS rank) r
   WHERE f.value IS NOT NULL
) TO STDOUT (FORMAT csv);

-- name: copy_merged
COPY merged (match_key, email, phone, name, language, category, country, time_zone, tags, fields, provenance, verdict,
  verdict_reason) FROM STDIN (FORMAT csv);

-- name: update_contacts
-- Rows that stay as they are are left alone; `changed` leaves out those where only the provenance moved on.
WITH updated AS (
  UPDATE contacts c SET email = m.email, phone = m.phone, name = m.name, language = m.language, category = m.category,
         country = m.country, time_zone = m.time_zone, tags = m.tags, fields = m.fields, provenance = m.provenance,
         verdict = m.verdict, verdict_reason = m.verdict_reason, updated_at = clock_timestamp()
    FROM merged m JOIN known k USING (match_key)
   WHERE c.id = k.id
     AND (c.email, c.phone, c.name, c.language, c.category, c.country, c.time_zone, c.tags, c.fields, c.provenance, c.verdict, c.verdict_reason)
         IS DISTINCT FROM
         (m.email, m.phone, m.name, m.language, m.category, m.country, m.time_zone, m.tags, m.fields, m.provenance, m.verdict, m.verdict_reason)
  RETURNING (old.email, old.phone, old.name, old.language, old.category, old.country, old.time_zone, old.tags, old.fields, old.verdict, old.verdict_reason)
            IS DISTINCT FROM
            (new.email, new.phone, new.name, new.language, new.category, new.country, new.time_zone, new.tags, new.fields, new.verdict, new.verdict_reason) AS changed)
SELECT count(*) FILTER (WHERE changed) FROM updated;
