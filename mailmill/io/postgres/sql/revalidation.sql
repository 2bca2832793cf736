-- Examining again what contacts' addresses are.

-- name: outdated
SELECT rules_version <> %(rules)s FROM tenants WHERE id = %(tenant_id)s;

-- name: tenants_due
-- Where nothing is due it walks all contacts with an address: seconds for ten million, which is less than a run takes.
SELECT t.slug AS tenant, '' AS slug FROM tenants t
 WHERE t.rules_version <> %(rules)s AND EXISTS (SELECT 1 FROM contacts c WHERE c.tenant_id = t.id)
    OR %(now)s::timestamptz IS NOT NULL AND EXISTS (
       SELECT 1 FROM contacts c LEFT JOIN domains d ON d.name = substring(c.email FROM '@([^@]*)$')
        WHERE c.tenant_id = t.id AND c.email IS NOT NULL AND (d.name IS NULL OR d.expires_at <= %(now)s))
 ORDER BY t.slug;

-- name: held
COPY (SELECT id, email, verdict, verdict_reason FROM contacts
       WHERE tenant_id = %(tenant_id)s AND id > %(after)s AND email IS NOT NULL ORDER BY id LIMIT %(limit)s
) TO STDOUT (FORMAT csv);

-- name: correct
-- Only where the address is still the one that was examined: a contact may have got another spelling meanwhile.
UPDATE contacts c SET verdict = n.verdict, verdict_reason = n.verdict_reason, updated_at = clock_timestamp()
  FROM unnest(%(ids)s::bigint[], %(emails)s::text[], %(verdicts)s::text[], %(reasons)s::text[]) AS n (id, email, verdict, verdict_reason)
 WHERE c.tenant_id = %(tenant_id)s AND c.id = n.id AND c.email = n.email;

-- name: finish
UPDATE tenants SET rules_version = %(rules)s WHERE id = %(tenant_id)s;
