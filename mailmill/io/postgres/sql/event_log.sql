-- name: append
-- Append to one partition. Its head stays locked until the commit: offsets have no gaps and become visible in order,
-- so a reader never passes over an append that commits late. Whoever appends to several takes them in order of part.
WITH head AS (
  UPDATE log_heads SET next = next + cardinality(%(vals)s::bytea[]) WHERE topic = %(topic)s AND part = %(part)s
  RETURNING next - cardinality(%(vals)s::bytea[]) AS first)
INSERT INTO log (topic, part, off, val)
SELECT %(topic)s, %(part)s, head.first + v.n - 1, v.val FROM head, unnest(%(vals)s::bytea[]) WITH ORDINALITY v (val, n);

-- name: read
-- The next records of several partitions. `before` bounds the bytes of one answer; it never splits a partition's order.
SELECT p.part, l.off, l.val
  FROM unnest(%(parts)s::smallint[], %(nexts)s::bigint[]) p (part, next)
 CROSS JOIN LATERAL (
   SELECT off, val, sum(octet_length(val)) OVER (ORDER BY off) - octet_length(val) AS before
     FROM (SELECT off, val FROM log WHERE topic = %(topic)s AND log.part = p.part AND off >= p.next
            ORDER BY off LIMIT %(limit)s) first) l
 WHERE l.before < %(max_bytes)s;

-- name: ends
SELECT part, next FROM log_heads WHERE topic = %(topic)s;

-- name: beginnings
-- The first offset that is still there; the head's where nothing is.
SELECT h.part, coalesce(l.off, h.next)
  FROM log_heads h
  LEFT JOIN LATERAL (SELECT off FROM log WHERE log.topic = h.topic AND log.part = h.part ORDER BY off LIMIT 1) l ON true
 WHERE h.topic = %(topic)s;

-- name: expire
-- Remove what this consumer has passed and what is old, the oldest first and not too much at once.
WITH old AS (
  SELECT l.part, l.off, l.at
    FROM offsets o
   CROSS JOIN LATERAL (SELECT part, off, at FROM log WHERE topic = o.topic AND part = o.part AND off < o.next
                        ORDER BY off LIMIT %(limit)s) l
   WHERE o.consumer = %(consumer)s AND o.topic = %(topic)s)
DELETE FROM log USING old
 WHERE log.topic = %(topic)s AND log.part = old.part AND log.off = old.off
   AND old.at < clock_timestamp() - make_interval(hours => %(hours)s);
