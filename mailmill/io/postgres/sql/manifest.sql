-- name: add
INSERT INTO manifest (file, tenant_id, dataset, part, batch_id, rows, bytes, facts)
VALUES (%(file)s, %(tenant_id)s, %(dataset)s, %(part)s, %(batch_id)s, %(rows)s, %(bytes)s, %(facts)s);

-- name: withdraw
DELETE FROM manifest WHERE tenant_id = %(tenant_id)s AND dataset = %(dataset)s AND part = %(part)s;

-- name: files
-- Every listed file of a dataset, oldest first; a null part means all of them.
SELECT file, part, batch_id, rows, facts, published_at FROM manifest
 WHERE tenant_id = %(tenant_id)s AND dataset = %(dataset)s AND (%(part)s::text IS NULL OR part = %(part)s)
 ORDER BY published_at, file;

-- name: all_files
-- But for what was erased: where a process was killed before it took such a file off the disk, the sweep does.
SELECT file FROM manifest WHERE dataset <> 'erased';
