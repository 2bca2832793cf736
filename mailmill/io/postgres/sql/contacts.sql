-- Taking a batch into the contacts. All of it runs in one transaction, under the tenant's lock.

-- name: lock
SELECT pg_advisory_xact_lock(hashtextextended('mailmill:contacts:' || %(tenant_id)s::text, 0));

-- name: stage
-- COPY into a table with forced row-level security is refused, into a temporary one it is not.
CREATE TEMP TABLE IF NOT EXISTS wanted (id bigint NOT NULL) ON COMMIT DROP;
CREATE TEMP TABLE IF NOT EXISTS incoming (
  id bigint NOT NULL, match_key text NOT NULL, email text, phone text, name text, language text, category text, country text,
  time_zone text, tags text[], fields jsonb, provenance jsonb, verdict text, verdict_reason text) ON COMMIT DROP;

-- name: clear
TRUNCATE wanted, incoming;

-- name: how_many
-- At most so many contacts: what batches brought, whatever became of them since.
SELECT coalesce(sum(contacts_new), 0) FROM source_totals WHERE tenant_id = %(tenant_id)s;

-- name: everybody
-- Ids, eight bytes each, and the keys beside them.
SELECT string_agg(int8send(id), ''), string_agg(match_key, E'\x1f') FROM contacts WHERE tenant_id = %(tenant_id)s;

-- name: known
-- The same of those with one of these keys. The index takes a whole array of them and goes from one to the next on a page
-- without starting at its root again. That the array comes from a SELECT spares the planner to look at each of them.
SELECT string_agg(int8send(id), ''), string_agg(match_key, E'\x1f') FROM contacts
 WHERE tenant_id = %(tenant_id)s AND match_key = ANY((SELECT string_to_array(%(keys)s, E'\x1f'))::text[]);

-- name: draw_ids
SELECT string_agg(int8send(nextval('contacts_id_seq')), '') FROM generate_series(1, %(n)s);

-- name: copy_incoming
COPY incoming (id, match_key, email, phone, name, language, category, country, time_zone, tags, fields, provenance, verdict,
  verdict_reason) FROM STDIN (FORMAT csv);

-- name: add_contacts
INSERT INTO contacts (id, tenant_id, match_key, email, phone, name, language, category, country, time_zone, tags, fields,
  provenance, verdict, verdict_reason)
OVERRIDING SYSTEM VALUE
SELECT id, %(tenant_id)s, match_key, email, phone, name, language, category, country, time_zone, tags, fields, provenance,
  verdict, verdict_reason FROM incoming;

-- name: copy_wanted
COPY wanted FROM STDIN (FORMAT csv);

-- name: states
-- Contacts by id: STATE_SCHEMA, tags joined by the unit separator. IS NOT DISTINCT FROM, here and below, so that they are
-- looked up by id and never by tenant (see read_elements in sightings.sql).
COPY (
  SELECT c.id, c.match_key, c.email, c.phone, c.name, c.language, c.category, c.country, c.time_zone,
         array_to_string(c.tags, E'\x1f'), c.fields::text, c.provenance::text, c.verdict, c.verdict_reason
    FROM wanted w JOIN contacts c ON c.id = w.id AND c.tenant_id IS NOT DISTINCT FROM %(tenant_id)s
) TO STDOUT (FORMAT csv);

-- name: update_contacts
UPDATE contacts c SET email = i.email, phone = i.phone, name = i.name, language = i.language, category = i.category,
       country = i.country, time_zone = i.time_zone, tags = i.tags, fields = i.fields, provenance = i.provenance,
       verdict = i.verdict, verdict_reason = i.verdict_reason, updated_at = clock_timestamp()
  FROM incoming i WHERE c.id = i.id AND c.tenant_id IS NOT DISTINCT FROM %(tenant_id)s;

-- name: delete_contacts
DELETE FROM contacts c USING wanted w WHERE c.id = w.id AND c.tenant_id IS NOT DISTINCT FROM %(tenant_id)s;

-- name: was_loaded
SELECT loaded_at IS NOT NULL FROM batches WHERE tenant_id = %(tenant_id)s AND id = %(batch_id)s;

-- name: deleted_tags
SELECT slug FROM tags WHERE tenant_id = %(tenant_id)s AND deleted_at IS NOT NULL;
