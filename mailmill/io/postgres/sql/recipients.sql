-- name: lock
-- A planner takes this row first, so a change is seen by it or refused.
SELECT state::text FROM campaigns WHERE id = %(campaign_id)s FOR UPDATE;

-- name: change
-- By address: 'new', 'same' when it was so already, else why it is not taken. Whoever is to be added may be mailed.
WITH asked AS MATERIALIZED (SELECT DISTINCT key FROM unnest(%(keys)s::text[]) k (key)),
known AS MATERIALIZED (
  SELECT a.key, c.id, c.verdict FROM asked a JOIN contacts c ON c.tenant_id = %(tenant_id)s AND c.match_key = a.key
  UNION                                         -- some were first known by their phone
  SELECT a.key, c.id, c.verdict FROM contacts c JOIN asked a ON a.key = lower(c.email)
   WHERE c.tenant_id = %(tenant_id)s AND c.match_key <> lower(c.email)),
judged AS MATERIALIZED (
  SELECT a.key, k.id,
         CASE WHEN k.id IS NULL THEN 'unknown'
              WHEN NOT %(added)s THEN NULL
              WHEN k.verdict = 'invalid' THEN 'invalid'
              WHEN EXISTS (SELECT FROM suppressions s
                            WHERE s.near = near_mailbox(a.key)  -- itself, or by the tenant's rule the same mailbox
                              AND s.channel = 'email' AND (s.address_key = a.key
                                OR mailbox_of(s.address_key, mailbox_rule(%(tenant_id)s)) = mailbox_of(a.key, mailbox_rule(%(tenant_id)s)))
                              AND (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL)
                              AND (s.scope_campaign_id IS NULL OR s.scope_campaign_id = %(campaign_id)s)
                              AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())) THEN 'suppressed' END AS refused
    FROM asked a LEFT JOIN known k USING (key)),
written AS (
  INSERT INTO campaign_recipients (campaign_id, contact_id, tenant_id, added)
  SELECT DISTINCT %(campaign_id)s, id, %(tenant_id)s, %(added)s FROM judged WHERE refused IS NULL
  ON CONFLICT (campaign_id, contact_id) DO UPDATE SET added = excluded.added
   WHERE campaign_recipients.added <> excluded.added
  RETURNING contact_id)
SELECT what, array_agg(key) FROM (
  SELECT DISTINCT ON (j.key) j.key,
         coalesce(j.refused, CASE WHEN w.contact_id IS NULL THEN 'same' ELSE 'new' END) AS what
    FROM judged j LEFT JOIN written w ON w.contact_id = j.id ORDER BY j.key, what) each
 GROUP BY what ORDER BY what;

-- name: chosen
COPY (SELECT c.match_key, r.added FROM campaign_recipients r JOIN contacts c ON c.id = r.contact_id
       WHERE r.campaign_id = %(campaign_id)s) TO STDOUT (FORMAT csv);
