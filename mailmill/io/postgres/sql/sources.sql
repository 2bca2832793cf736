-- Sources as an operator sees them.

-- name: overview
-- held and withheld: how many batches are held, and how many wait to be loaded; which of these for a person, rules say.
SELECT t.slug || '/' || s.slug AS source, s.kind AS type,
       (SELECT count(*) FROM contact_sources c WHERE c.tenant_id = s.tenant_id AND c.source_id = s.id
           AND NOT EXISTS (SELECT FROM withdrawals w WHERE w.contact_id = c.contact_id AND w.source_id = c.source_id)) AS contacts,
       coalesce(b.batches, 0) AS batches, coalesce(b.rows_read, 0)::bigint AS rows_read,
       coalesce(b.rows_rejected, 0)::bigint AS rows_rejected, b.last_batch, b.last_batch_at,
       coalesce(b.held, 0) AS held, coalesce(b.validated, 0) AS withheld,
       CASE WHEN s.spec ->> 'on_delete' = 'withdraw' THEN s.walk_absent END AS absent, s.last_error, s.last_error_at
  FROM sources s JOIN tenants t ON t.id = s.tenant_id
  LEFT JOIN LATERAL (
    SELECT count(*) AS batches, sum(b.rows_read) AS rows_read, sum(b.rows_rejected) AS rows_rejected,
           (array_agg(b.origin ORDER BY b.id DESC))[1] AS last_batch,
           (array_agg(coalesce(b.loaded_at, b.seen_at) ORDER BY b.id DESC))[1] AS last_batch_at,
           count(*) FILTER (WHERE b.state = 'held') AS held, count(*) FILTER (WHERE b.state = 'validated') AS validated
      FROM batches b WHERE b.source_id = s.id AND b.state <> 'removed') b ON true
 WHERE s.deleted_at IS NULL
 ORDER BY t.slug, s.slug;

-- name: hold
SELECT pg_try_advisory_xact_lock(hashtextextended('mailmill:source:' || %(source_id)s::text, 0));

-- name: contacts_of
SELECT count(*) FROM contact_sources s
 WHERE s.tenant_id = %(tenant_id)s AND s.source_id = %(source_id)s
   AND NOT EXISTS (SELECT FROM withdrawals w WHERE w.contact_id = s.contact_id AND w.source_id = s.source_id);

-- name: delete
UPDATE sources SET deleted_at = clock_timestamp(), cursor = NULL, walk_from = NULL, walk_until = NULL, walk_absent = NULL,
       last_error = NULL, last_error_at = NULL, retry_at = NULL
 WHERE tenant_id = %(tenant_id)s AND id = %(source_id)s;

-- name: remove_words
-- What it vouched for, once nothing of it names the person any more: its words of whole batches count no more then either.
DELETE FROM consents k
 WHERE k.tenant_id = %(tenant_id)s AND k.source_id = %(source_id)s AND k.of_list AND k.address_key IS NOT NULL
   AND NOT EXISTS (SELECT FROM contact_sources s JOIN contacts c ON c.id = s.contact_id
                    WHERE s.tenant_id = %(tenant_id)s AND s.source_id = %(source_id)s AND c.match_key = k.address_key
                      AND c.tenant_id = %(tenant_id)s);

-- name: remove_batches
-- Should the source come back, the same content is to be taken in again.
UPDATE batches SET key = key || ':removed:' || id, state = 'removed'
 WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s AND state <> 'removed';

-- name: free_keys
UPDATE batches SET key = 'withdrawn:' || id || ':' || key
 WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s AND state <> 'removed';

-- name: remove_files
-- Their rows: listed as erased until they are off the disk.
UPDATE manifest m SET dataset = 'erased', part = '', batch_id = NULL, facts = '{}' FROM batches b
 WHERE m.tenant_id = %(tenant_id)s AND m.dataset IN ('raw', 'validated', 'rejected') AND b.id = m.batch_id
   AND b.source_id = %(source_id)s;
