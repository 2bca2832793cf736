-- name: suppressions
-- Who of a tenant may not be mailed now, by its own word or the operator's; what is suppressed for one campaign only
-- counts for that one. A number keeps out whoever is known by it (contacts.aliases).
COPY (SELECT address_key, reason FROM suppressions
       WHERE (tenant_id = %(tenant_id)s OR tenant_id IS NULL) AND (channel = 'email' OR position('@' IN address_key) = 0)
         AND (scope_campaign_id IS NULL OR scope_campaign_id = %(campaign_id)s)
         AND (expires_at IS NULL OR expires_at > clock_timestamp())) TO STDOUT (FORMAT csv);

-- name: reserve_ids
-- A block of its own for each campaign, in a transaction of its own: nobody waits here while a ledger is filled.
UPDATE message_ids SET next = next + %(n)s RETURNING next - %(n)s;

-- name: fill_ledger
COPY messages (id, tenant_id, campaign_id, contact_id, address, address_key, domain, provider, variant, aliases) FROM STDIN
  (FORMAT csv, FORCE_NOT_NULL (address, address_key, domain));

-- name: fill_fields
COPY message_fields (message_id, tenant_id, merge_values) FROM STDIN (FORMAT csv, FORCE_NOT_NULL (merge_values));

-- name: no_nested_loops
-- Without statistics the planner takes the audience for a handful of rows and would look up each contact by itself.
SET LOCAL enable_nestloop = off;

-- name: somebody_is_gone
-- Who was forgotten since the audience was taken has no contact any more. Looked for only where somebody was forgotten
-- lately.
SELECT EXISTS (
  SELECT FROM suppressions f
   WHERE f.reason = 'forgotten' AND (f.tenant_id = %(tenant_id)s OR f.tenant_id IS NULL)
     AND f.created_at > clock_timestamp() - interval '1 day')
 AND EXISTS (
  SELECT FROM messages m LEFT JOIN contacts c ON c.id = m.contact_id
   WHERE m.id BETWEEN %(first_id)s AND %(last_id)s AND m.tenant_id = %(tenant_id)s
     AND m.campaign_id = %(campaign_id)s AND c.id IS NULL);

-- name: fill_links
INSERT INTO links (campaign_id, ordinal, tenant_id, url)
SELECT %(campaign_id)s, place - 1, %(tenant_id)s, url FROM unnest(%(urls)s::text[]) WITH ORDINALITY l (url, place);

-- name: fill_exclusions
INSERT INTO exclusions (campaign_id, tenant_id, reason, n)
SELECT %(campaign_id)s, %(tenant_id)s, reason, n FROM unnest(%(reasons)s::text[], %(counts)s::bigint[]) x (reason, n);
