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

-- name: fill_links
INSERT INTO links (campaign_id, ordinal, tenant_id, url)
SELECT %(campaign_id)s, place - 1, %(tenant_id)s, url FROM unnest(%(urls)s::text[]) WITH ORDINALITY l (url, place);

-- name: fill_exclusions
INSERT INTO exclusions (campaign_id, tenant_id, reason, n)
SELECT %(campaign_id)s, %(tenant_id)s, reason, n FROM unnest(%(reasons)s::text[], %(counts)s::bigint[]) x (reason, n);
