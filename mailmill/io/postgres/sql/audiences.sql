-- name: suppressions
-- Who of a tenant may not be mailed now, by its own word or the operator's; what is suppressed for one campaign only
-- counts for that one.
COPY (SELECT address_key, reason FROM suppressions
       WHERE (tenant_id = %(tenant_id)s OR tenant_id IS NULL) AND channel = 'email'
         AND (scope_campaign_id IS NULL OR scope_campaign_id = %(campaign_id)s)
         AND (expires_at IS NULL OR expires_at > clock_timestamp())) TO STDOUT (FORMAT csv);

-- name: reserve_ids
-- A block of its own for each campaign, in a transaction of its own: nobody waits here while a ledger is filled.
UPDATE message_ids SET next = next + %(n)s RETURNING next - %(n)s;

-- name: stage_table
-- Row-level security forbids COPY into the ledger itself.
CREATE TEMP TABLE staged (message_id bigint, contact_id bigint, address text, address_key text, domain text,
  merge_values text, variant smallint, aliases text) ON COMMIT DROP;

-- name: stage
COPY staged (message_id, contact_id, address, address_key, domain, merge_values, variant, aliases) FROM STDIN
  (FORMAT csv, FORCE_NOT_NULL (address, address_key, domain, merge_values));

-- name: no_nested_loops
-- Without statistics the planner takes the suppressions for a handful and would read the whole audience for each.
SET LOCAL enable_nestloop = off;

-- name: overtaken
-- Somebody of the audience was suppressed since it was taken, or forgotten: then the contact is gone. Which takes a look
-- at the contacts only where somebody was forgotten lately.
SELECT EXISTS (
  SELECT FROM staged a JOIN suppressions s ON s.address_key = a.address_key
   WHERE (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL) AND s.channel = 'email'
     AND (s.scope_campaign_id IS NULL OR s.scope_campaign_id = %(campaign_id)s)
     AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp()))
  OR EXISTS (
  SELECT FROM staged a CROSS JOIN LATERAL string_to_table(a.aliases, E'\x1f') k (alias)
    JOIN suppressions s ON s.address_key = k.alias
   WHERE a.aliases IS NOT NULL AND (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL) AND s.channel = 'email'
     AND (s.scope_campaign_id IS NULL OR s.scope_campaign_id = %(campaign_id)s)
     AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp()))
  OR EXISTS (
  SELECT FROM suppressions f
   WHERE f.reason = 'forgotten' AND (f.tenant_id = %(tenant_id)s OR f.tenant_id IS NULL)
     AND f.created_at > clock_timestamp() - interval '1 day')
 AND EXISTS (SELECT FROM staged a LEFT JOIN contacts c ON c.id = a.contact_id WHERE c.id IS NULL);

-- name: fill_ledger
INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address, address_key, domain, variant, aliases)
SELECT message_id, %(tenant_id)s, %(campaign_id)s, contact_id, address, address_key, domain, variant,
       string_to_array(aliases, E'\x1f') FROM staged;

-- name: fill_fields
INSERT INTO message_fields (message_id, tenant_id, merge_values)
SELECT message_id, %(tenant_id)s, merge_values FROM staged;

-- name: fill_links
INSERT INTO links (campaign_id, ordinal, tenant_id, url)
SELECT %(campaign_id)s, place - 1, %(tenant_id)s, url FROM unnest(%(urls)s::text[]) WITH ORDINALITY l (url, place);

-- name: fill_exclusions
INSERT INTO exclusions (campaign_id, tenant_id, reason, n)
SELECT %(campaign_id)s, %(tenant_id)s, reason, n FROM unnest(%(reasons)s::text[], %(counts)s::bigint[]) x (reason, n);
