-- Sightings by block of 64 contacts, and the lone ones over them. Arrays go over the wire as they are: the driver would make
-- a Python number of each element.

-- name: by_index
-- What follows costs in proportion to what is asked for, whatever the planner believes about tables that have just grown.
SELECT set_config(name, %(on)s, true) FROM unnest(ARRAY['enable_hashjoin', 'enable_mergejoin', 'enable_bitmapscan',
  'enable_seqscan', 'enable_material']) name;

-- name: stage
CREATE TEMP TABLE IF NOT EXISTS staged_sightings (LIKE sightings) ON COMMIT DROP;
CREATE TEMP TABLE IF NOT EXISTS staged_lone (LIKE lone_sightings) ON COMMIT DROP;
TRUNCATE staged_sightings, staged_lone;

-- name: read_blocks
SELECT source_id, array_send(ids), array_send(first_seen), array_send(last_seen), array_send(first_batch),
       array_send(last_batch), array_send(said_seen), array_send(said_batch), array_send(digest)
  FROM sightings WHERE tenant_id = %(tenant_id)s AND block = ANY(%(blocks)s);

-- name: read_source
SELECT source_id, array_send(ids), array_send(first_seen), array_send(last_seen), array_send(first_batch),
       array_send(last_batch), array_send(said_seen), array_send(said_batch), array_send(digest)
  FROM sightings WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s;

-- name: read_elements
-- Of these contacts alone. A block that has all of its 64 contacts need not be searched for one. OFFSET 0, here and below,
-- keeps each look-up one of its own: of a tenant that is newer than the statistics the planner expects no row, and would go
-- through all that tenant has for each one asked.
SELECT array_send(array_agg(a.id)), array_send(array_agg(s.source_id::bigint)),
       array_send(array_agg(coalesce(l.first_seen, s.first_seen[p], s.first_seen[1]))),
       array_send(array_agg(coalesce(l.last_seen, s.last_seen[p], s.last_seen[1]))),
       array_send(array_agg(coalesce(l.first_batch, s.first_batch[p], s.first_batch[1]))),
       array_send(array_agg(coalesce(l.last_batch, s.last_batch[p], s.last_batch[1]))),
       array_send(array_agg(coalesce(l.said_seen, s.said_seen[p], s.said_seen[1]))),
       array_send(array_agg(coalesce(l.said_batch, s.said_batch[p], s.said_batch[1]))),
       array_send(array_agg(coalesce(l.digest, s.digest[p], s.digest[1])))
  FROM unnest(%(ids)s::bigint[]) a (id) CROSS JOIN LATERAL (
    SELECT *, CASE WHEN ids[(a.id & 63) + 1] = a.id THEN (a.id & 63)::int + 1 ELSE array_position(ids, a.id) END AS p
      FROM sightings
     WHERE block = a.id >> 6 AND tenant_id = %(tenant_id)s OFFSET 0) s
  LEFT JOIN LATERAL (
    SELECT * FROM lone_sightings WHERE contact_id = a.id AND source_id = s.source_id OFFSET 0) l ON true
 WHERE p IS NOT NULL;

-- name: read_lone
SELECT array_send(array_agg(contact_id)), array_send(array_agg(source_id::bigint)), array_send(array_agg(first_seen)),
       array_send(array_agg(last_seen)), array_send(array_agg(first_batch)), array_send(array_agg(last_batch)),
       array_send(array_agg(said_seen)), array_send(array_agg(said_batch)), array_send(array_agg(digest))
  FROM unnest(%(blocks)s::bigint[]) block CROSS JOIN LATERAL (
    SELECT * FROM lone_sightings
     WHERE contact_id >= block << 6 AND contact_id < (block + 1) << 6 AND tenant_id = %(tenant_id)s OFFSET 0) l;

-- name: read_source_lone
SELECT array_send(array_agg(contact_id)), array_send(array_agg(source_id::bigint)), array_send(array_agg(first_seen)),
       array_send(array_agg(last_seen)), array_send(array_agg(first_batch)), array_send(array_agg(last_batch)),
       array_send(array_agg(said_seen)), array_send(array_agg(said_batch)), array_send(array_agg(digest))
  FROM lone_sightings WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s;

-- name: copy_blocks
COPY staged_sightings (block, source_id, tenant_id, ids, first_seen, last_seen, first_batch, last_batch, said_seen, said_batch, digest)
FROM STDIN (FORMAT binary);

-- name: write_blocks
INSERT INTO sightings SELECT * FROM staged_sightings
ON CONFLICT (block, source_id) DO UPDATE SET
  ids = excluded.ids, first_seen = excluded.first_seen, last_seen = excluded.last_seen, first_batch = excluded.first_batch,
  last_batch = excluded.last_batch, said_seen = excluded.said_seen, said_batch = excluded.said_batch, digest = excluded.digest;

-- name: take_in_lone
-- A block that was written anew holds what was said of its contacts apart from it.
DELETE FROM lone_sightings WHERE ctid = ANY(ARRAY(
  SELECT l.ctid FROM staged_sightings s CROSS JOIN LATERAL (
    SELECT ctid FROM lone_sightings
     WHERE contact_id >= s.block << 6 AND contact_id < (s.block + 1) << 6 AND source_id = s.source_id OFFSET 0) l));

-- name: copy_lone
COPY staged_lone (contact_id, source_id, tenant_id, first_seen, last_seen, first_batch, last_batch, said_seen, said_batch, digest)
FROM STDIN (FORMAT binary);

-- name: write_lone
INSERT INTO lone_sightings SELECT * FROM staged_lone
ON CONFLICT (contact_id, source_id) DO UPDATE SET
  first_seen = excluded.first_seen, last_seen = excluded.last_seen, first_batch = excluded.first_batch,
  last_batch = excluded.last_batch, said_seen = excluded.said_seen, said_batch = excluded.said_batch, digest = excluded.digest;

-- name: remove_blocks
DELETE FROM sightings WHERE tenant_id = %(tenant_id)s AND block = ANY(%(blocks)s);

-- name: remove_lone
DELETE FROM lone_sightings WHERE ctid = ANY(ARRAY(
  SELECT l.ctid FROM unnest(%(blocks)s::bigint[]) block CROSS JOIN LATERAL (
    SELECT ctid FROM lone_sightings
     WHERE contact_id >= block << 6 AND contact_id < (block + 1) << 6 AND tenant_id = %(tenant_id)s OFFSET 0) l));

-- name: seen_between
-- The earliest and the latest row that a loaded batch can have held, in epoch microseconds.
SELECT coalesce((extract(epoch FROM seen_from) * 1000000)::bigint, 0), (extract(epoch FROM seen_at) * 1000000)::bigint
  FROM batches WHERE tenant_id = %(tenant_id)s AND id = %(batch_id)s;
