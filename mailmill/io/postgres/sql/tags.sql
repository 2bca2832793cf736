-- name: described
SELECT slug, spec ->> 'description' AS description, deleted_at FROM tags WHERE tenant_id = %(tenant_id)s ORDER BY slug;

-- name: delete
INSERT INTO tags (tenant_id, slug, deleted_at) VALUES (%(tenant_id)s, %(slug)s, clock_timestamp())
ON CONFLICT (tenant_id, slug) DO UPDATE SET deleted_at = coalesce(tags.deleted_at, excluded.deleted_at), spec = '{}';

-- name: take_off
-- In the contacts of one tenant, all at once; under the tenant's lock, as every change of contacts.
UPDATE contacts SET tags = array_remove(tags, %(slug)s), provenance = provenance - ('tags.' || %(slug)s), updated_at = clock_timestamp()
 WHERE tenant_id = %(tenant_id)s AND tags @> ARRAY[%(slug)s];
