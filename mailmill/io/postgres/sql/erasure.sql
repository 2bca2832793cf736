-- Erasing a person. All of `erase` runs in one transaction that holds the tenant's forget lock alone; who takes rows in or
-- lists files holds it shared, and looks then whether somebody was forgotten meanwhile.

-- name: hold
-- No load and no publication of the tenant's contacts runs beside it (their own locks, contacts.sql and generations.sql).
SELECT pg_advisory_xact_lock(hashtextextended('mailmill:forget:' || %(tenant_id)s::text, 0)),
       pg_advisory_xact_lock(hashtextextended('mailmill:contacts:' || %(tenant_id)s::text, 0)),
       pg_advisory_xact_lock(hashtextextended('mailmill:publish:' || %(tenant_id)s::text, 0));

-- name: alone
-- Of the session: over all of a forget's transactions and what it does between them.
SELECT pg_advisory_lock(hashtextextended('mailmill:forgetting:' || %(tenant_id)s::text, 0));

-- name: hold_shared
SELECT pg_advisory_xact_lock_shared(hashtextextended('mailmill:forget:' || %(tenant_id)s::text, 0));

-- name: hold_shared_all
SELECT pg_advisory_xact_lock_shared(hashtextextended('mailmill:forget:' || t.id::text, 0)) FROM (SELECT id FROM tenants ORDER BY id) t;

-- name: number
-- Grows with every person that is forgotten for this tenant.
SELECT coalesce((SELECT max(id) FROM suppressions WHERE reason = 'forgotten' AND tenant_id = %(tenant_id)s), 0)
     + coalesce((SELECT max(id) FROM suppressions WHERE reason = 'forgotten' AND tenant_id IS NULL), 0);

-- name: erasures
-- Grows with every erasure, also of somebody who was forgotten before.
SELECT erasures FROM tenants WHERE id = %(tenant_id)s;

-- name: count_erasure
UPDATE tenants SET erasures = erasures + 1 WHERE id = %(tenant_id)s;

-- name: hashes
SELECT address_key FROM suppressions
 WHERE reason = 'forgotten' AND (tenant_id = %(tenant_id)s OR tenant_id IS NULL);

-- name: contacts
SELECT id, match_key, email, phone FROM contacts
 WHERE tenant_id = %(tenant_id)s
   AND (match_key = ANY(%(keys)s) OR lower(email) = ANY(%(keys)s) OR phone = ANY(%(keys)s) OR id = ANY(%(ids)s))
 ORDER BY id;

-- name: sharing
-- The contacts that have one of these numbers, oldest first.
SELECT match_key FROM contacts
 WHERE tenant_id = %(tenant_id)s AND (match_key = ANY(%(numbers)s) OR phone = ANY(%(numbers)s)) ORDER BY id;

-- name: ids_of
SELECT id FROM contacts WHERE tenant_id = %(tenant_id)s AND match_key = ANY(%(keys)s);

-- name: of_mailboxes
-- By what else a tenant knows these mailboxes, as contacts.match_key, in any place that is asked by an address. Each is read
-- from end to end, as the search afterwards does. Only a match key has its case folded: of ß that makes ss.
SELECT DISTINCT key FROM (
  SELECT match_key AS key, CASE WHEN match_key LIKE '%%@%%' THEN match_key ELSE coalesce(lower(email), match_key) END AS said
    FROM contacts WHERE tenant_id = %(tenant_id)s
  UNION ALL SELECT address_key, address_key FROM messages WHERE tenant_id = %(tenant_id)s AND address IS NOT NULL
  UNION ALL SELECT address_key, address_key FROM consents WHERE tenant_id = %(tenant_id)s AND address_key IS NOT NULL
  UNION ALL SELECT address_key, address_key FROM suppressions
             WHERE (tenant_id = %(tenant_id)s OR tenant_id IS NULL) AND reason <> 'forgotten'
  UNION ALL SELECT address_key, address_key FROM suppression_removals
             WHERE tenant_id = %(tenant_id)s OR tenant_id IS NULL) k
 WHERE said LIKE ANY(%(likely)s::text[]) AND mailbox_of(said, mailbox_rule(%(tenant_id)s)) = ANY(%(mailboxes)s)
 ORDER BY key;

-- name: shared_phones
-- Numbers that other contacts have as well.
SELECT DISTINCT phone FROM contacts
 WHERE tenant_id = %(tenant_id)s AND phone = ANY(%(phones)s) AND id <> ALL(%(ids)s);

-- name: others_numbers
-- Of these keys the numbers that belong to contacts with other keys alone.
SELECT phone FROM contacts WHERE tenant_id = %(tenant_id)s AND phone = ANY(%(keys)s) AND match_key <> ALL(%(keys)s)
EXCEPT SELECT match_key FROM contacts WHERE tenant_id = %(tenant_id)s AND match_key = ANY(%(keys)s);

-- name: messages
SELECT id, address FROM messages
 WHERE tenant_id = %(tenant_id)s AND (contact_id = ANY(%(ids)s) OR address_key = ANY(%(keys)s)) ORDER BY id;

-- name: tenants
SELECT id, slug FROM tenants ORDER BY id;

-- name: known_to
-- Which tenants have this address in any place that is asked by it.
SELECT t.slug FROM tenants t
 WHERE EXISTS (SELECT FROM contacts c WHERE c.tenant_id = t.id AND (c.match_key = %(key)s OR lower(c.email) = %(key)s OR c.phone = %(key)s))
    OR EXISTS (SELECT FROM suppressions s WHERE s.tenant_id = t.id AND s.address_key = %(key)s)
    OR EXISTS (SELECT FROM messages m WHERE m.tenant_id = t.id AND m.address_key = %(key)s)
 ORDER BY t.slug;

-- name: forget
INSERT INTO suppressions (tenant_id, channel, address_key, reason, note)
SELECT %(scope)s, *, 'forgotten', NULL FROM unnest(%(channels)s::text[], %(hashes)s::text[])
ON CONFLICT (tenant_id, channel, address_key, reason, scope_campaign_id) DO NOTHING;

-- name: keep_hashes
INSERT INTO suppressions (tenant_id, channel, address_key, reason)
SELECT %(scope)s, c, h, 'forgotten' FROM unnest(%(channels)s::text[], %(hashes)s::text[]) f (c, h)
 WHERE NOT EXISTS (SELECT FROM suppressions s WHERE s.reason = 'forgotten' AND s.address_key = h
                      AND s.tenant_id IS NOT DISTINCT FROM %(scope)s)
ON CONFLICT (tenant_id, channel, address_key, reason, scope_campaign_id) DO NOTHING;

-- name: blank_messages
-- The row stays and is counted; nothing is sent to nobody. A leased row is in a worker's hands, who learns of it within a
-- second and finds the address gone.
UPDATE messages m SET address = NULL, aliases = NULL, reply = NULL,
       address_key = 'forgotten:' || coalesce((SELECT h.hash FROM unnest(%(keys)s::text[], %(hashes)s::text[]) h (key, hash)
                                                WHERE h.key = m.address_key), (%(hashes)s::text[])[1]),
       state = CASE WHEN queued THEN end_of(doubted, 'suppressed') ELSE state END,
       reason = CASE WHEN queued THEN 'forgotten' ELSE reason END,
       done_at = CASE WHEN queued THEN clock_timestamp() ELSE done_at END, queued = false
 WHERE tenant_id = %(tenant_id)s AND id = ANY(%(message_ids)s) AND address_key NOT LIKE 'forgotten:%%';

-- name: blank_fields
DELETE FROM message_fields WHERE tenant_id = %(tenant_id)s AND message_id = ANY(%(message_ids)s);

-- name: blank_attempts
UPDATE attempts SET reply = '' WHERE tenant_id = %(tenant_id)s AND message_id = ANY(%(message_ids)s) AND reply <> '';

-- name: erase_engagement
DELETE FROM engagement WHERE tenant_id = %(tenant_id)s AND contact_id = ANY(%(ids)s);

-- name: erase_contacts
DELETE FROM contacts WHERE tenant_id = %(tenant_id)s AND id = ANY(%(ids)s);

-- name: erase_consents
DELETE FROM consents WHERE tenant_id = %(tenant_id)s AND address_key = ANY(%(keys)s);

-- name: erase_suppressions
-- A hash tells of the person from now on. With every tenant, the operator's own rows go as well.
DELETE FROM suppressions
 WHERE (tenant_id = %(tenant_id)s OR %(everywhere)s AND tenant_id IS NULL) AND address_key = ANY(%(keys)s)
   AND reason <> 'forgotten';

-- name: erase_removals
DELETE FROM suppression_removals
 WHERE (tenant_id = %(tenant_id)s OR %(everywhere)s AND tenant_id IS NULL) AND address_key = ANY(%(keys)s);

-- name: mask_errors
-- What an import said last, as the name of a file that is called after them: of its source all else is configuration.
UPDATE sources SET last_error = regexp_replace(last_error, %(pattern)s, %(mask)s, 'gi')
 WHERE tenant_id = %(tenant_id)s AND last_error ~* %(pattern)s;

-- name: operators
-- Of the list that is for every tenant, and of what was taken off it.
SELECT (SELECT count(*) FROM suppressions WHERE tenant_id IS NULL AND address_key = ANY(%(keys)s) AND reason <> 'forgotten')
     + (SELECT count(*) FROM suppression_removals WHERE tenant_id IS NULL AND address_key = ANY(%(keys)s));

-- name: columns
-- Every column that can hold text, of every table of a schema; partitions are read through their parent.
SELECT c.relname AS table, a.attname AS column, format_type(a.atttypid, NULL) AS type,
       EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = c.oid AND t.attname = 'tenant_id' AND NOT t.attisdropped) AS of_tenant
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.relnamespace = to_regnamespace(%(schema)s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
   AND format_type(a.atttypid, NULL) IN ('text', 'character varying', 'jsonb', 'text[]', 'bytea')
   AND c.relname <> 'alembic_version'
 ORDER BY c.relname, a.attnum;

-- name: files
SELECT file, dataset, part, batch_id, facts FROM manifest
 WHERE tenant_id = %(tenant_id)s AND dataset <> 'erased' ORDER BY dataset, part, file;

-- name: swap
-- The old file stays listed as erased until it is off the disk, so that a kill in between is made good by the next run.
UPDATE manifest SET dataset = 'erased', part = '', batch_id = NULL, facts = '{}' WHERE tenant_id = %(tenant_id)s AND file = %(file)s
RETURNING file;

-- name: erased_files
SELECT file FROM manifest WHERE tenant_id = %(tenant_id)s AND dataset = 'erased';

-- name: gone
DELETE FROM manifest WHERE tenant_id = %(tenant_id)s AND dataset = 'erased' AND file = ANY(%(files)s);

-- name: renamed_batch
-- A file of a folder was rewritten: it is the same batch, or it would come in a second time.
UPDATE batches SET key = %(new)s WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s AND key = %(old)s
   AND NOT EXISTS (SELECT FROM batches b WHERE b.source_id = %(source_id)s AND b.key = %(new)s);

-- name: every_key
-- Whatever a tenant's people are known by: compared with the hashes after a restore. The number of a contact that has an
-- address is not: others may share it, and were taken in with it after one of them was forgotten.
SELECT match_key FROM contacts WHERE tenant_id = %(tenant_id)s
UNION SELECT lower(email) FROM contacts WHERE tenant_id = %(tenant_id)s AND email IS NOT NULL
UNION SELECT address_key FROM messages WHERE tenant_id = %(tenant_id)s AND address IS NOT NULL
UNION SELECT k FROM messages, unnest(aliases) k WHERE tenant_id = %(tenant_id)s AND aliases IS NOT NULL AND position('@' IN k) > 0
UNION SELECT address_key FROM suppressions WHERE (tenant_id = %(tenant_id)s OR tenant_id IS NULL) AND reason <> 'forgotten'
UNION SELECT address_key FROM suppression_removals WHERE tenant_id = %(tenant_id)s OR tenant_id IS NULL
UNION SELECT address_key FROM consents WHERE tenant_id = %(tenant_id)s AND address_key IS NOT NULL;

-- name: known_hashes
-- Of this tenant (null: of every tenant).
SELECT address_key FROM suppressions WHERE reason = 'forgotten' AND tenant_id IS NOT DISTINCT FROM %(tenant_id)s;
