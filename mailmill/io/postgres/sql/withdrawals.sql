-- What sources have taken back. Each statement runs in the transaction of what it follows from.

-- name: stage
CREATE TEMP TABLE named (match_key text NOT NULL) ON COMMIT DROP;

-- name: copy_named
COPY named (match_key) FROM STDIN (FORMAT csv);

-- name: any
SELECT EXISTS (SELECT FROM withdrawals WHERE source_id = %(source_id)s);

-- name: take_back
-- The source names these contacts again, in a batch after the one that withdrew them.
DELETE FROM withdrawals w USING named n, contacts c
 WHERE c.tenant_id = %(tenant_id)s AND c.match_key = n.match_key
   AND w.contact_id = c.id AND w.source_id = %(source_id)s AND w.batch_id <= %(batch_id)s;

-- name: withdraw
-- Contacts the source knew; one that it has named in a later batch stays. Who was withdrawn before is so by the later of
-- both batches, so that one between them which is let in afterwards takes nobody back. (how many are newly withdrawn)
WITH said AS (
  INSERT INTO withdrawals (contact_id, source_id, tenant_id, batch_id)
  SELECT c.id, s.source_id, c.tenant_id, %(batch_id)s
    FROM named n JOIN contacts c ON c.tenant_id = %(tenant_id)s AND c.match_key = n.match_key
    JOIN contact_sources s ON s.block = c.id >> 6 AND s.contact_id = c.id
         AND s.source_id = %(source_id)s AND s.last_batch_id <= %(batch_id)s
  ON CONFLICT (contact_id, source_id) DO UPDATE SET batch_id = greatest(withdrawals.batch_id, excluded.batch_id)
  RETURNING old.batch_id IS NULL AS anew)
SELECT count(*) FILTER (WHERE anew) FROM said;

-- name: absent
-- (contacts the source stands for, those of them that are not named)
SELECT count(*), count(*) FILTER (WHERE n.match_key IS NULL)
  FROM contact_sources s JOIN contacts c ON c.id = s.contact_id LEFT JOIN named n ON n.match_key = c.match_key
 WHERE s.tenant_id = %(tenant_id)s AND s.source_id = %(source_id)s
   AND NOT EXISTS (SELECT FROM withdrawals w WHERE w.contact_id = s.contact_id AND w.source_id = s.source_id);

-- name: withdraw_absent
INSERT INTO withdrawals (contact_id, source_id, tenant_id, batch_id)
SELECT s.contact_id, s.source_id, s.tenant_id, w.walk_until
  FROM contact_sources s JOIN contacts c ON c.id = s.contact_id JOIN sources w ON w.id = s.source_id
 WHERE s.tenant_id = %(tenant_id)s AND s.source_id = %(source_id)s
   AND NOT EXISTS (SELECT FROM named n WHERE n.match_key = c.match_key)
ON CONFLICT (contact_id, source_id) DO UPDATE SET batch_id = greatest(withdrawals.batch_id, excluded.batch_id);

-- name: walk
-- The batches of a walk from the beginning that came to its end and was not compared yet, and those loaded since: what
-- the source has said of anybody since the walk began.
SELECT b.id, b.origin, b.state, b.seen_at, b.rows_read, b.rows_accepted, b.rows_rejected, 0::bigint AS withdrawn
  FROM sources s JOIN batches b ON b.source_id = s.id AND b.tenant_id = s.tenant_id
       AND b.id >= s.walk_from AND (b.id <= s.walk_until OR b.loaded_at IS NOT NULL)
 WHERE s.tenant_id = %(tenant_id)s AND s.id = %(source_id)s AND s.walk_until IS NOT NULL
 ORDER BY b.id;

-- name: compared
UPDATE sources SET walk_from = NULL, walk_until = NULL, walk_absent = NULL
 WHERE tenant_id = %(tenant_id)s AND id = %(source_id)s;

-- name: ask
UPDATE sources SET walk_absent = %(absent)s WHERE tenant_id = %(tenant_id)s AND id = %(source_id)s;

-- name: asked
SELECT walk_absent FROM sources WHERE tenant_id = %(tenant_id)s AND id = %(source_id)s;

-- name: of_source
-- The whole source is withdrawn; batch 0 says that a person did it.
INSERT INTO withdrawals (contact_id, source_id, tenant_id, batch_id)
SELECT contact_id, source_id, tenant_id, 0 FROM contact_sources
 WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s
ON CONFLICT (contact_id, source_id) DO NOTHING;
