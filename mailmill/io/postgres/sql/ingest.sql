-- name: sources
-- Sources by tenant, slug and kind; a null means any.
SELECT s.id, s.tenant_id, t.slug AS tenant, s.slug, s.priority, s.spec, s.last_error_at AS failed_at,
       (SELECT coalesce(jsonb_agg(f.spec ORDER BY f.slug), '[]') FROM fields f WHERE f.tenant_id = s.tenant_id) AS fields
  FROM sources s JOIN tenants t ON t.id = s.tenant_id
 WHERE (%(deleted)s OR s.deleted_at IS NULL)
   AND (%(tenant)s::text IS NULL OR t.slug = %(tenant)s) AND (%(slug)s::text IS NULL OR s.slug = %(slug)s)
   AND (%(kind)s::text IS NULL OR s.kind = %(kind)s)
 ORDER BY t.slug, s.slug;

-- name: of_batch
SELECT t.slug || '/' || s.slug FROM batches b JOIN sources s ON s.id = b.source_id JOIN tenants t ON t.id = s.tenant_id
 WHERE b.id = %(batch_id)s;

-- name: lock_timeout
SELECT set_config('lock_timeout', %(milliseconds)s, false);

-- name: hold_source
-- One import of a source at a time; released with the session, also when its process is killed.
SELECT pg_advisory_lock(hashtextextended('mailmill:source:' || %(source_id)s::text, 0));

-- name: keep_standing
SELECT id FROM sources WHERE tenant_id = %(tenant_id)s AND id = %(source_id)s AND deleted_at IS NULL FOR NO KEY UPDATE;

-- name: cursor
SELECT cursor FROM sources WHERE tenant_id = %(tenant_id)s AND id = %(source_id)s;

-- name: move_cursor
-- What is known of a walk changes with the batches of one alone: an import knows nothing of one that was compared meanwhile.
-- Nor does an import move the cursor of what has another URL since it began.
UPDATE sources SET cursor = %(cursor)s,
  walk_from = CASE WHEN NOT %(compare)s THEN NULL WHEN %(full)s::text IS NULL OR cursor ->> 'full' = 'open' THEN walk_from
    ELSE %(batch_id)s END,
  walk_absent = CASE WHEN %(compare)s AND (%(full)s::text IS NULL OR cursor ->> 'full' = 'open') THEN walk_absent END,
  walk_until = CASE %(full)s::text WHEN 'done' THEN %(batch_id)s WHEN 'open' THEN NULL ELSE walk_until END
 WHERE tenant_id = %(tenant_id)s AND id = %(source_id)s AND deleted_at IS NULL AND spec ->> 'url' IS NOT DISTINCT FROM %(url)s;

-- name: remember
-- Whatever an API asks for, it is tried again within a week. What another import said since this one began stays: it may have
-- waited for this one in vain, and what it was to read was not there when this one looked.
UPDATE sources SET last_error = %(error)s::text, last_error_at = CASE WHEN %(error)s::text IS NOT NULL THEN clock_timestamp() END,
       retry_at = CASE WHEN %(retry_after_s)s::float8 IS NOT NULL
         THEN clock_timestamp() + least(%(retry_after_s)s::float8, 7 * 86400) * interval '1 second'
         WHEN last_error_at IS DISTINCT FROM %(failed_at)s::timestamptz THEN retry_at END
 WHERE tenant_id = %(tenant_id)s AND id = %(source_id)s
   AND (%(error)s::text IS NOT NULL OR last_error IS NOT NULL AND last_error_at IS NOT DISTINCT FROM %(failed_at)s::timestamptz);

-- name: find_batch
SELECT id, rows_read, state = 'discarded' FROM batches WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s AND key = %(key)s;

-- name: find_newest
-- The source's newest batch, where it has this content: what came before it may have been true only until then.
SELECT id, rows_read, state = 'discarded' FROM (
  SELECT id, rows_read, key, state FROM batches WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s
   ORDER BY id DESC LIMIT 1) b
 WHERE state <> 'removed' AND (key = %(key)s OR starts_with(key, %(key)s || ':after:'));

-- name: last_columns
-- The columns of the source's newest batch that has any and is neither held nor discarded.
SELECT m.facts -> 'columns', nullif(m.facts -> 'usual', 'null') FROM batches b JOIN manifest m ON m.batch_id = b.id AND m.dataset = 'raw' AND m.tenant_id = b.tenant_id
 WHERE b.tenant_id = %(tenant_id)s AND b.source_id = %(source_id)s AND b.state NOT IN ('held', 'discarded') AND m.facts -> 'columns' <> '[]'
 ORDER BY b.id DESC LIMIT 1;

-- name: release
UPDATE batches SET state = 'raw' WHERE tenant_id = %(tenant_id)s AND id = ANY (%(batches)s) AND state = 'held';

-- name: discard
-- Compare and set: a load that is under way comes before us, or finds its batch gone.
UPDATE batches SET state = 'discarded'
 WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s AND id = ANY (%(batches)s)
   AND state IN ('held', 'validated', 'discarded') AND loaded_at IS NULL
RETURNING id, origin, state, seen_at, rows_read, rows_accepted, rows_rejected;

-- name: held
-- What is held, with its columns and the mapping under which it was, and whether its rows are too few to miss a column.
SELECT DISTINCT ON (b.id) b.id, b.origin, m.facts ->> 'surprise', m.facts -> 'columns', m.facts -> 'mapping',
       coalesce((m.facts ->> 'few')::boolean, false)
  FROM batches b JOIN manifest m ON m.batch_id = b.id AND m.dataset = 'raw' AND m.tenant_id = b.tenant_id
 WHERE b.tenant_id = %(tenant_id)s AND b.source_id = %(source_id)s AND b.state = 'held' ORDER BY b.id;

-- name: hold
-- Compare and set: what is new and cannot be read waits for another mapping.
WITH held AS (
  UPDATE batches SET state = 'held'
   WHERE tenant_id = %(tenant_id)s AND id = %(batch_id)s AND state = %(from)s AND loaded_at IS NULL RETURNING id)
UPDATE manifest m SET facts = jsonb_set(m.facts, '{mapping}', %(mapping)s)
  FROM held WHERE m.tenant_id = %(tenant_id)s AND m.batch_id = held.id AND m.dataset = 'raw';

-- name: add_batch
INSERT INTO batches (tenant_id, source_id, key, origin, seen_at, rows_read, state)
VALUES (%(tenant_id)s, %(source_id)s,
  %(key)s || coalesce(':after:' || (SELECT max(id) FROM batches WHERE %(again)s AND source_id = %(source_id)s), ''), %(origin)s, %(seen_at)s, %(rows)s,
  CASE WHEN %(hold)s THEN 'held' ELSE 'raw' END::batch_state)
ON CONFLICT (source_id, key) DO NOTHING
RETURNING id;

-- name: batches
SELECT id, origin, state, seen_at, rows_read, rows_accepted, rows_rejected,
       coalesce((reject_reasons ->> 'withdrawn')::bigint, 0) AS withdrawn, rules, loaded_at IS NOT NULL AS loaded_before
  FROM batches
 WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s AND (%(state)s::batch_state IS NULL OR state = %(state)s)
 ORDER BY id;

-- name: naming_batches
-- Loaded batches of a source that can hold a row seen between two times (epoch microseconds), and some in any case.
SELECT id, origin, state, seen_at, rows_read, rows_accepted, rows_rejected FROM batches
 WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s AND (id = ANY (%(also)s) OR (loaded_at IS NOT NULL
   AND (extract(epoch FROM seen_at) * 1000000)::bigint >= %(from)s
   AND coalesce((extract(epoch FROM seen_from) * 1000000)::bigint, 0) <= %(until)s))
 ORDER BY id;

-- name: batch_files
-- The visible files of one batch in a dataset.
SELECT file, facts FROM manifest
 WHERE tenant_id = %(tenant_id)s AND dataset = %(dataset)s AND batch_id = %(batch_id)s ORDER BY file;

-- name: withdraw
DELETE FROM manifest WHERE tenant_id = %(tenant_id)s AND batch_id = %(batch_id)s AND dataset = ANY (%(datasets)s);

-- name: validated
-- Compare and set: no row when another process moved the batch on meanwhile.
UPDATE batches SET state = 'validated', rows_accepted = %(accepted)s, rows_rejected = %(rejected)s, reject_reasons = %(reasons)s,
       rules = %(rules)s
 WHERE tenant_id = %(tenant_id)s AND id = %(batch_id)s AND state = %(from)s
RETURNING id;

-- name: loaded
-- Compare and set, in the transaction of the contacts: a batch that was divided by other rules meanwhile waits for the
-- next load, which has its rows. Loading again after a retry of rejects adds to the counts; rows that this batch itself
-- had brought are then no duplicates of another.
UPDATE batches SET state = 'loaded', loaded_at = clock_timestamp(),
       duplicates_within = %(within)s,
       duplicates_across = greatest(0, least(%(across)s, rows_accepted - %(within)s - contacts_new - %(new)s)),
       contacts_new = contacts_new + %(new)s, contacts_changed = contacts_changed + %(changed)s,
       seen_from = least(seen_from, timestamptz 'epoch' + %(seen_from)s::bigint * interval '1 microsecond')
 WHERE tenant_id = %(tenant_id)s AND id = %(batch_id)s AND state = 'validated' AND rules = %(rules)s
RETURNING id;

-- name: rejected_files
-- Files of rejected rows, newest batch first: of a tenant, a source or one batch.
SELECT m.file FROM manifest m JOIN tenants t ON t.id = m.tenant_id
 WHERE m.dataset = 'rejected' AND (%(tenant)s::text IS NULL OR t.slug = %(tenant)s)
   AND (%(source)s::text IS NULL OR m.part = %(source)s) AND (%(batch_id)s::bigint IS NULL OR m.batch_id = %(batch_id)s)
 ORDER BY m.batch_id DESC;
