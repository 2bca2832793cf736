-- name: bury_ended
-- Those that ended are history before they are said again.
WITH ended AS (
  DELETE FROM suppressions s
   USING unnest(%(address_keys)s::text[], %(channels)s::text[], %(reasons)s::text[]) a (key, channel, reason)
   WHERE s.tenant_id IS NOT DISTINCT FROM %(tenant_id)s AND s.channel = a.channel AND s.address_key = a.key
     AND s.reason = a.reason AND s.scope_campaign_id IS NOT DISTINCT FROM %(scope_campaign_id)s AND s.expires_at <= clock_timestamp()
  RETURNING s.*)
INSERT INTO suppression_removals (tenant_id, channel, address_key, reason, scope_campaign_id, event_id, note, suppressed_at,
  removed_at, removed_by)
SELECT tenant_id, channel, address_key, reason, scope_campaign_id, event_id, note, created_at, expires_at, 'its end' FROM ended;

-- name: prolong
-- An end is put off or lifted by a later word, and never brought nearer.
UPDATE suppressions s SET expires_at = a.until, note = coalesce(a.note, s.note)
  FROM unnest(%(address_keys)s::text[], %(channels)s::text[], %(reasons)s::text[], %(ends)s::timestamptz[], %(notes)s::text[])
       a (key, channel, reason, until, note)
 WHERE s.tenant_id IS NOT DISTINCT FROM %(tenant_id)s AND s.channel = a.channel AND s.address_key = a.key
   AND s.reason = a.reason AND s.scope_campaign_id IS NOT DISTINCT FROM %(scope_campaign_id)s
   AND s.expires_at < coalesce(a.until, 'infinity');

-- name: suppress
-- One row per address that is not suppressed for this reason; of whom the ledger has forgotten there is no address.
WITH added AS (
  INSERT INTO suppressions (tenant_id, channel, address_key, reason, scope_campaign_id, event_id, note, created_at, expires_at)
  SELECT %(tenant_id)s, a.channel, a.key, a.reason, %(scope_campaign_id)s, %(event_id)s, a.note,
         coalesce(%(at)s::timestamptz, clock_timestamp()), a.until
    FROM unnest(%(address_keys)s::text[], %(channels)s::text[], %(reasons)s::text[], %(ends)s::timestamptz[], %(notes)s::text[])
         a (key, channel, reason, until, note) WHERE a.key NOT LIKE 'forgotten:%%' ORDER BY a.key
  ON CONFLICT (tenant_id, channel, address_key, reason, scope_campaign_id) DO NOTHING
  RETURNING 1)
SELECT count(*) FROM added;

-- name: raise_change_number
-- Locks its one row until the commit, so do this last.
UPDATE change_number SET n = n + 1;

-- name: change_number
SELECT n FROM change_number;

-- name: list
-- A tenant's (null: every tenant's) and the operator's, newest first; of a forgotten person there is a hash and no address.
SELECT t.slug AS tenant, s.channel, CASE WHEN s.reason <> 'forgotten' THEN s.address_key END AS address, s.reason,
       CASE WHEN s.tenant_id IS NULL THEN 'all' WHEN s.scope_campaign_id IS NULL THEN 'tenant' ELSE 'campaign' END AS scope,
       c.slug AS campaign, s.created_at, s.expires_at, s.note
  FROM suppressions s LEFT JOIN tenants t ON t.id = s.tenant_id LEFT JOIN campaigns c ON c.id = s.scope_campaign_id
 WHERE (%(tenant_id)s::int IS NULL OR s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL)
   AND (%(reason)s::text IS NULL OR s.reason = %(reason)s)
   AND (%(address_keys)s::text[] IS NULL OR s.address_key = ANY(%(address_keys)s))
 ORDER BY s.id DESC LIMIT %(limit)s;

-- name: of_mailboxes
-- What is or was suppressed of the mailboxes of these addresses, by the tenant's rule; without one nothing is looked up.
WITH asked AS MATERIALIZED (
  SELECT k, near_mailbox(k) AS near, merge FROM (SELECT mailbox_rule(%(tenant_id)s) AS merge OFFSET 0) r, unnest(%(keys)s::text[]) k
   WHERE merge IS NOT NULL)
SELECT s.address_key FROM asked JOIN suppressions s ON s.near = asked.near
 WHERE (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL) AND mailbox_of(s.address_key, merge) = mailbox_of(k, merge)
UNION
SELECT s.address_key FROM asked JOIN suppression_removals s ON near_mailbox(s.address_key) = asked.near
 WHERE (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL) AND mailbox_of(s.address_key, merge) = mailbox_of(k, merge);

-- name: own_words
-- What a person said themselves; it is taken back only with a reason.
SELECT count(*) FROM suppressions
 WHERE tenant_id IS NOT DISTINCT FROM %(tenant_id)s AND address_key = ANY(%(address_keys)s)
   AND (%(campaign_id)s::int IS NULL OR scope_campaign_id = %(campaign_id)s)
   AND reason IN ('unsubscribed', 'complained');

-- name: remove
-- Of what a person said themselves nothing without a reason.
WITH removed AS (
  DELETE FROM suppressions
   WHERE tenant_id IS NOT DISTINCT FROM %(tenant_id)s AND address_key = ANY(%(address_keys)s)
     AND (%(campaign_id)s::int IS NULL OR scope_campaign_id = %(campaign_id)s) AND reason <> 'forgotten'
     AND (%(why)s::text IS NOT NULL OR reason NOT IN ('unsubscribed', 'complained'))
  RETURNING *)
INSERT INTO suppression_removals (tenant_id, channel, address_key, reason, scope_campaign_id, event_id, note, suppressed_at,
  removed_by, why)
SELECT tenant_id, channel, address_key, reason, scope_campaign_id, event_id, note, created_at, %(by)s, %(why)s FROM removed;
