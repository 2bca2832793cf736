-- name: stage
CREATE TEMP TABLE IF NOT EXISTS staged_sightings (LIKE sightings) ON COMMIT DROP;

-- name: read
-- Arrays as they go over the wire: the driver would make a Python number of each element.
SELECT block, source_id, array_send(ids), array_send(first_seen), array_send(last_seen), array_send(first_batch),
       array_send(last_batch), array_send(said_seen), array_send(said_batch), array_send(digest)
  FROM sightings WHERE tenant_id = %(tenant_id)s AND block = ANY(%(blocks)s);

-- name: read_source
SELECT block, source_id, array_send(ids), array_send(first_seen), array_send(last_seen), array_send(first_batch),
       array_send(last_batch), array_send(said_seen), array_send(said_batch), array_send(digest)
  FROM sightings WHERE tenant_id = %(tenant_id)s AND source_id = %(source_id)s;

-- name: copy
COPY staged_sightings (block, source_id, tenant_id, ids, first_seen, last_seen, first_batch, last_batch, said_seen, said_batch, digest)
FROM STDIN (FORMAT binary);

-- name: write
INSERT INTO sightings SELECT * FROM staged_sightings
ON CONFLICT (block, source_id) DO UPDATE SET
  ids = excluded.ids, first_seen = excluded.first_seen, last_seen = excluded.last_seen, first_batch = excluded.first_batch,
  last_batch = excluded.last_batch, said_seen = excluded.said_seen, said_batch = excluded.said_batch, digest = excluded.digest;

-- name: clear
TRUNCATE staged_sightings;

-- name: remove
DELETE FROM sightings WHERE tenant_id = %(tenant_id)s AND block = ANY(%(blocks)s);
