-- name: list
SELECT id, topic, part, off, reason, octet_length(val) AS bytes, at, replayed_at
  FROM dead_letters WHERE %(all)s OR replayed_at IS NULL ORDER BY id LIMIT %(limit)s;

-- name: tally
SELECT reason, count(*) AS n, count(*) FILTER (WHERE replayed_at IS NULL) AS waiting
  FROM dead_letters GROUP BY reason ORDER BY reason;

-- name: take
-- The next that were not replayed, up to some bytes; marked, so that each goes back to the log once.
WITH next AS (
  SELECT id FROM (
    SELECT id, sum(octet_length(val)) OVER (ORDER BY id) - octet_length(val) AS before
      FROM (SELECT id, val FROM dead_letters WHERE replayed_at IS NULL AND id <= %(last)s
             ORDER BY id LIMIT %(limit)s FOR UPDATE) waiting) sized
   WHERE before < %(max_bytes)s)
UPDATE dead_letters d SET replayed_at = clock_timestamp() FROM next WHERE d.id = next.id RETURNING d.part, d.val;

-- name: last
SELECT coalesce(max(id), 0) FROM dead_letters;
