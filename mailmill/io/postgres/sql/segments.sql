-- name: find
SELECT s.tenant_id, t.slug AS tenant, s.slug, s.spec->'rule' AS rule
  FROM segments s JOIN tenants t ON t.id = s.tenant_id
 WHERE t.slug = %(tenant)s AND (%(slug)s::text IS NULL OR s.slug = %(slug)s) ORDER BY s.slug;

-- name: lock
-- Two at once would each put a generation of theirs in the place of the last. Held by the session.
SELECT pg_advisory_lock(hashtextextended('mailmill:segment:' || %(name)s, 0));
