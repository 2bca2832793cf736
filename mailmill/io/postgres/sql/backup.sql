-- name: snapshot
SELECT pg_export_snapshot();

-- name: schema_version
SELECT version_num FROM alembic_version;

-- name: listed_files
SELECT file, bytes FROM manifest WHERE dataset <> 'erased' ORDER BY file;

-- name: counts
SELECT (SELECT count(*) FROM tenants) AS tenants, (SELECT count(*) FROM contacts) AS contacts,
       (SELECT count(*) FROM campaigns) AS campaigns, (SELECT count(*) FROM messages) AS messages,
       (SELECT count(*) FROM suppressions) AS suppressions;

-- name: tenants
SELECT count(*) FROM tenants;

-- name: others
-- Who else of mailmill is connected; their statements are hidden from us, their names are not.
SELECT DISTINCT usename FROM pg_stat_activity
 WHERE datname = current_database() AND usename LIKE 'mailmill\_%' AND pid <> pg_backend_pid() ORDER BY 1;

-- name: keep
-- What a restore over an existing database must not take back: who said no, and what verifies mail that is out.
SET LOCAL lock_timeout = '15s';
CREATE TEMP TABLE kept_suppressions ON COMMIT DROP AS
  SELECT t.slug AS tenant, c.slug AS campaign, s.* FROM public.suppressions s LEFT JOIN public.tenants t ON t.id = s.tenant_id
    LEFT JOIN public.campaigns c ON c.id = s.scope_campaign_id;
CREATE TEMP TABLE kept_tenants ON COMMIT DROP AS SELECT * FROM public.tenants;
CREATE TEMP TABLE kept_keys ON COMMIT DROP AS SELECT * FROM public.signing_keys;
CREATE TEMP TABLE kept_numbers ON COMMIT DROP AS
  SELECT (SELECT n FROM public.change_number) AS change, (SELECT next FROM public.message_ids) AS message,
         (SELECT coalesce(max(id), 0) FROM public.campaigns) AS campaign,
         (SELECT coalesce(max(id), 0) FROM public.tenants) AS tenant, (SELECT last_value FROM public.contacts_id_seq) AS contact;
-- read by `merge`, and dropped there
ALTER SCHEMA public RENAME TO mailmill_replaced;

-- name: keep_nothing
CREATE TEMP TABLE kept_numbers ON COMMIT DROP AS
  SELECT 0::bigint AS change, 0::bigint AS message, 0 AS campaign, 0 AS tenant, 0::bigint AS contact;

-- name: empty
DROP SCHEMA IF EXISTS public CASCADE;
CREATE SCHEMA public;
CREATE TEMP TABLE restored_facts (name text, n bigint) ON COMMIT DROP;

-- name: merge
-- A tenant the backup does not know comes back with its suppressions. A suppression for one campaign that is gone counts
-- for the whole tenant: rather one mail too few than one to somebody who said no.
INSERT INTO tenants (slug, name, postal_address, time_zone, spec, applied_at)
SELECT slug, name, postal_address, time_zone, spec, applied_at FROM kept_tenants ON CONFLICT (slug) DO NOTHING;
WITH kept AS (
  SELECT DISTINCT ON (t.id, k.channel, k.address_key, k.reason, c.id)
         t.id AS tenant_id, k.channel, k.address_key, k.reason, c.id AS campaign_id, k.event_id, k.note, k.created_at, k.expires_at
    FROM kept_suppressions k LEFT JOIN tenants t ON t.slug = k.tenant LEFT JOIN campaigns c ON c.tenant_id = t.id AND c.slug = k.campaign
   ORDER BY t.id, k.channel, k.address_key, k.reason, c.id, k.expires_at DESC NULLS FIRST),
merged AS (
  INSERT INTO suppressions (tenant_id, channel, address_key, reason, scope_campaign_id, event_id, note, created_at, expires_at)
  SELECT * FROM kept
  ON CONFLICT (tenant_id, channel, address_key, reason, scope_campaign_id) DO UPDATE
    SET expires_at = CASE WHEN suppressions.expires_at IS NULL OR excluded.expires_at IS NULL THEN NULL
                          ELSE greatest(suppressions.expires_at, excluded.expires_at) END,
        recorded_at = CASE WHEN suppressions.expires_at <= clock_timestamp() THEN clock_timestamp() ELSE suppressions.recorded_at END
  RETURNING old.id)
INSERT INTO restored_facts SELECT 'suppressions_kept', count(*) FROM merged WHERE id IS NULL;
-- What has been taken back since counts again: rather one mail too few. But the history tells of it.
WITH kept AS (
  INSERT INTO suppression_removals (tenant_id, channel, address_key, reason, scope_campaign_id, event_id, note, suppressed_at,
    removed_at, removed_by, why)
  SELECT t.id, r.channel, r.address_key, r.reason, c.id, r.event_id, r.note, r.suppressed_at, r.removed_at, r.removed_by, r.why
    FROM mailmill_replaced.suppression_removals r LEFT JOIN kept_tenants o ON o.id = r.tenant_id LEFT JOIN tenants t ON t.slug = o.slug
    LEFT JOIN mailmill_replaced.campaigns oc ON oc.id = r.scope_campaign_id
    LEFT JOIN campaigns c ON c.tenant_id = t.id AND c.slug = oc.slug
   WHERE NOT EXISTS (SELECT FROM suppression_removals k
                      WHERE k.address_key = r.address_key AND k.channel = r.channel AND k.tenant_id IS NOT DISTINCT FROM t.id
                        AND k.reason = r.reason AND k.removed_at = r.removed_at)
  RETURNING 1)
INSERT INTO restored_facts SELECT 'removals_kept', count(*) FROM kept;
UPDATE suppressions s SET recorded_at = clock_timestamp()
  FROM mailmill_replaced.suppression_removals r LEFT JOIN kept_tenants o ON o.id = r.tenant_id LEFT JOIN tenants t ON t.slug = o.slug
 WHERE s.address_key = r.address_key AND s.channel = r.channel AND s.reason = r.reason AND s.tenant_id IS NOT DISTINCT FROM t.id;
-- Each person's own words, and what lists once said of them. What a list vouches for as a whole comes again with the list.
WITH kept AS (
  INSERT INTO consents (tenant_id, channel, address_key, status, basis, proof, source_id, at, recorded_at, recorded_by, of_list)
  SELECT t.id, w.channel, w.address_key, w.status, w.basis, w.proof, s.id, w.at, w.recorded_at, w.recorded_by, w.of_list
    FROM mailmill_replaced.consents w JOIN kept_tenants o ON o.id = w.tenant_id JOIN tenants t ON t.slug = o.slug
    LEFT JOIN mailmill_replaced.sources os ON os.id = w.source_id LEFT JOIN sources s ON s.tenant_id = t.id AND s.slug = os.slug
   WHERE w.address_key IS NOT NULL
     AND NOT EXISTS (SELECT FROM consents k WHERE k.tenant_id = t.id AND k.address_key = w.address_key AND k.channel = w.channel
                        AND k.status = w.status AND k.at = w.at AND k.of_list = w.of_list
                        AND (k.basis, k.proof) IS NOT DISTINCT FROM (w.basis, w.proof))
  ON CONFLICT DO NOTHING RETURNING 1)
INSERT INTO restored_facts SELECT 'consents_kept', count(*) FROM kept;
UPDATE api_keys a SET revoked_at = k.revoked_at FROM mailmill_replaced.api_keys k
 WHERE k.hash = a.hash AND k.revoked_at IS NOT NULL AND a.revoked_at IS NULL;
-- The replaced database went on from this backup, or from the same beginning, where they share a key.
CREATE TEMP TABLE descends ON COMMIT DROP AS
  SELECT EXISTS (SELECT FROM kept_keys k JOIN signing_keys s ON s.id = k.id AND s.secret = k.secret) AS so;
INSERT INTO signing_keys (id, purpose, secret, created_at, retired_at) OVERRIDING SYSTEM VALUE
SELECT id, purpose, secret, created_at, CASE WHEN d.so THEN retired_at ELSE coalesce(retired_at, clock_timestamp()) END
  FROM kept_keys, descends d
ON CONFLICT (id) DO UPDATE SET retired_at = coalesce(signing_keys.retired_at, excluded.retired_at)
  WHERE signing_keys.secret = excluded.secret;

-- name: merge_ledger
-- Mail that went out after the backup has links and a return path that name its row, and whoever got it is not mailed it
-- again: so campaigns keep what the sender recorded of them since. What the fold counted is as of the backup. Of two records
-- the one that is further on stands: a doubt that an earlier restore made takes back no recorded end.
CREATE TEMP TABLE kept_campaigns ON COMMIT DROP AS
  SELECT c.id, t.id AS tenant_id, c.slug, c.spec, c.state::text AS state, c.scheduled_at, c.ends_at, r.id AS transport_id, c.content,
         c.as_of, c.first_message_id, c.planned, c.started_at, c.finished_at
    FROM mailmill_replaced.campaigns c JOIN kept_tenants o ON o.id = c.tenant_id JOIN tenants t ON t.slug = o.slug
    LEFT JOIN transports r ON r.id = c.transport_id AND r.tenant_id = t.id
   WHERE (SELECT so FROM descends) AND c.first_message_id IS NOT NULL;
-- What the backup still has as a draft may have been planned since under the id that an earlier restore gave it (`settle`).
CREATE TEMP TABLE planned_since ON COMMIT DROP AS
  SELECT c.id AS draft, k.id FROM campaigns c JOIN kept_campaigns k ON k.tenant_id = c.tenant_id AND k.slug = c.slug
   WHERE c.id <> k.id AND c.first_message_id IS NULL AND c.state IN ('draft', 'scheduled', 'planning', 'missed', 'failed');
UPDATE campaigns c SET slug = c.slug || ' ' || c.id FROM planned_since p WHERE c.id = p.draft;  -- makes room, and goes below
INSERT INTO campaigns AS c (id, tenant_id, slug, spec, state, scheduled_at, ends_at, transport_id, content, as_of, first_message_id,
                            planned, started_at, finished_at) OVERRIDING SYSTEM VALUE
SELECT id, tenant_id, slug || CASE WHEN EXISTS (SELECT FROM campaigns x WHERE x.tenant_id = k.tenant_id AND x.slug = k.slug AND x.id <> k.id)
                                   THEN '-' || id ELSE '' END,
       spec, state::campaign_state, scheduled_at, ends_at, transport_id, content, as_of, first_message_id, planned, started_at, finished_at
  FROM kept_campaigns k
ON CONFLICT (id) DO UPDATE SET state = excluded.state, transport_id = coalesce(c.transport_id, excluded.transport_id),
  content = excluded.content, as_of = excluded.as_of, first_message_id = excluded.first_message_id, planned = excluded.planned,
  started_at = excluded.started_at, finished_at = excluded.finished_at
  -- what was replaced may itself be an older backup put back, with campaigns that its restore paused
  WHERE c.state NOT IN ('finished', 'cancelled', 'failed', 'missed') OR excluded.state IN ('finished', 'cancelled', 'failed', 'missed');
WITH noted AS (UPDATE campaign_transitions t SET campaign_id = p.id FROM planned_since p WHERE t.campaign_id = p.draft),
named AS (UPDATE campaign_recipients r SET campaign_id = p.id FROM planned_since p WHERE r.campaign_id = p.draft),
scoped AS (UPDATE suppressions s SET scope_campaign_id = p.id FROM planned_since p WHERE s.scope_campaign_id = p.draft),
removed AS (UPDATE suppression_removals s SET scope_campaign_id = p.id FROM planned_since p WHERE s.scope_campaign_id = p.draft)
DELETE FROM campaigns c USING planned_since p WHERE c.id = p.draft;
INSERT INTO campaign_transitions (tenant_id, campaign_id, from_state, to_state, at, by, reason)
SELECT k.tenant_id, k.id, r.from_state::text::campaign_state, r.to_state::text::campaign_state, r.at, r.by, r.reason
  FROM mailmill_replaced.campaign_transitions r JOIN kept_campaigns k ON k.id = r.campaign_id
 WHERE NOT EXISTS (SELECT FROM campaign_transitions x WHERE x.campaign_id = r.campaign_id AND x.at = r.at AND x.by = r.by);
INSERT INTO links (campaign_id, ordinal, tenant_id, url)
SELECT l.campaign_id, l.ordinal, k.tenant_id, l.url FROM mailmill_replaced.links l JOIN kept_campaigns k ON k.id = l.campaign_id
ON CONFLICT DO NOTHING;
WITH known AS (
  INSERT INTO messages AS m (id, tenant_id, campaign_id, contact_id, address, address_key, aliases, domain, provider, state, queued, attempt,
                             variant, transport_id, code, reason, reply, done_at)
  SELECT o.id, k.tenant_id, k.id, o.contact_id, o.address, o.address_key, o.aliases, o.domain, o.provider, o.state::text::message_state, o.queued, o.attempt,
         o.variant, o.transport_id, o.code, o.reason, o.reply, o.done_at
    FROM mailmill_replaced.messages o JOIN kept_campaigns k ON k.id = o.campaign_id
  ON CONFLICT (id) DO UPDATE SET state = excluded.state, queued = excluded.queued, attempt = greatest(m.attempt, excluded.attempt),
    transport_id = excluded.transport_id, code = excluded.code, reason = excluded.reason, reply = excluded.reply,
    done_at = excluded.done_at
  WHERE (m.state, m.attempt, m.done_at) IS DISTINCT FROM (excluded.state, excluded.attempt, excluded.done_at)
    AND (excluded.state = 'sent' OR m.queued OR m.state = 'leased'
         OR m.state <> 'sent' AND (excluded.attempt > m.attempt OR excluded.attempt = m.attempt
                                   AND (excluded.state = 'in_doubt' AND excluded.reason = 'restored') IS NOT TRUE))
  RETURNING 1)
INSERT INTO restored_facts SELECT 'messages_known', count(*) FROM known;
-- whoever was forgotten stays so
UPDATE messages m SET address = NULL, address_key = o.address_key, aliases = NULL, reply = NULL
  FROM mailmill_replaced.messages o JOIN kept_campaigns k ON k.id = o.campaign_id
 WHERE o.id = m.id AND o.address IS NULL AND m.address IS NOT NULL;
-- what a doubt is made of that a person has sent again
INSERT INTO message_fields (message_id, tenant_id, merge_values)
SELECT f.message_id, m.tenant_id, f.merge_values
  FROM mailmill_replaced.message_fields f JOIN messages m ON m.id = f.message_id JOIN kept_campaigns k ON k.id = m.campaign_id
ON CONFLICT DO NOTHING;
DELETE FROM message_fields f USING messages m WHERE m.id = f.message_id AND m.address IS NULL;
UPDATE attempts a SET reply = '' FROM messages m WHERE m.id = a.message_id AND m.address IS NULL AND a.reply <> '';
INSERT INTO exclusions (campaign_id, tenant_id, reason, n)
SELECT e.campaign_id, k.tenant_id, e.reason, e.n FROM mailmill_replaced.exclusions e JOIN kept_campaigns k ON k.id = e.campaign_id
ON CONFLICT DO NOTHING;
-- What a relay's limits have counted, and a route that does not work.
INSERT INTO budgets AS b (transport_id, tenant_id, period, starts_at, used)
SELECT r.id, r.tenant_id, o.period, o.starts_at, o.used
  FROM mailmill_replaced.budgets o JOIN mailmill_replaced.transports h ON h.id = o.transport_id
  JOIN kept_tenants k ON k.id = h.tenant_id JOIN tenants t ON t.slug = k.slug JOIN transports r ON r.tenant_id = t.id AND r.slug = h.slug
ON CONFLICT (transport_id, period, starts_at) DO UPDATE SET used = greatest(b.used, excluded.used);
UPDATE transports r SET held_at = coalesce(r.held_at, h.held_at), held_reason = coalesce(r.held_reason, h.held_reason),
       held_for = h.held_for || r.held_for
  FROM mailmill_replaced.transports h JOIN kept_tenants k ON k.id = h.tenant_id JOIN tenants t ON t.slug = k.slug
 WHERE r.tenant_id = t.id AND r.slug = h.slug AND (h.held_at IS NOT NULL OR h.held_for <> '{}');
-- A complaint or unsubscription that waits for the fold, about a message. Bytes that are no text must not stop a restore.
INSERT INTO suppressions (tenant_id, address_key, reason, event_id)
SELECT DISTINCT ON (t.id, m.address_key, e.kind) t.id, m.address_key, e.kind, substring(v.val FROM '"event_id":"([^"]+)"')
  FROM mailmill_replaced.log l
  LEFT JOIN mailmill_replaced.offsets f ON f.consumer = 'fold' AND f.topic = l.topic AND f.part = l.part
 CROSS JOIN LATERAL (SELECT encode(l.val, 'escape') AS val) v
 CROSS JOIN LATERAL (SELECT substring(v.val FROM '"kind":"(complained|unsubscribed)"') AS kind) e
  JOIN mailmill_replaced.messages m ON m.id = substring(v.val FROM '"message":(\d{1,18})')::bigint
  JOIN kept_tenants o ON o.id = m.tenant_id JOIN tenants t ON t.slug = o.slug
 WHERE l.off >= coalesce(f.next, 0) AND e.kind IS NOT NULL AND m.address IS NOT NULL
 ORDER BY t.id, m.address_key, e.kind, l.off
ON CONFLICT DO NOTHING;
DROP SCHEMA mailmill_replaced CASCADE;

-- name: settle
-- Nothing is mailed because a database was put back. What had no campaign's plan yet waits for a person, what was running
-- is paused, and every message without a recorded end is in doubt: it may have been sent after the backup was made.
WITH before AS (
  SELECT id, tenant_id, state, CASE WHEN state = 'running' THEN 'paused' ELSE 'draft' END::campaign_state AS wanted
    FROM campaigns WHERE state IN ('running', 'scheduled', 'planning')),
moved AS (
  UPDATE campaigns c SET state = b.wanted FROM before b WHERE c.id = b.id RETURNING c.id),
noted AS (
  INSERT INTO campaign_transitions (tenant_id, campaign_id, from_state, to_state, by, reason)
  SELECT tenant_id, id, state, wanted, 'restore', 'restored from a backup' FROM before)
INSERT INTO restored_facts SELECT 'campaigns_stopped', count(*) FROM moved;
WITH doubtful AS (
  UPDATE messages SET state = 'in_doubt', reason = 'restored', lease_token = NULL, queued = false, done_at = clock_timestamp()
   WHERE state IN ('queued', 'leased', 'deferred', 'held') RETURNING id)
INSERT INTO restored_facts SELECT 'in_doubt', count(*) FROM doubtful;
DELETE FROM leases;
DELETE FROM workers;
-- Ids stand in links and return paths of mail that went out after the backup: none is given a second time.
UPDATE message_ids SET next = greatest(next, (SELECT message FROM kept_numbers)) + 1000000000;
SELECT setval(pg_get_serial_sequence('campaigns', 'id'), greatest((SELECT coalesce(max(id), 0) FROM campaigns), (SELECT campaign FROM kept_numbers)) + 10000);
-- Nor is that of a campaign without a plan: it may have been planned after the backup, and a newer backup that knows this plan
-- may be put back over a second one. One campaign has one range of message ids.
WITH moved AS (
  UPDATE campaigns SET id = DEFAULT WHERE first_message_id IS NULL AND state IN ('draft', 'missed', 'failed')
  RETURNING old.id AS was, new.id),
noted AS (UPDATE campaign_transitions t SET campaign_id = m.id FROM moved m WHERE t.campaign_id = m.was),
named AS (UPDATE campaign_recipients r SET campaign_id = m.id FROM moved m WHERE r.campaign_id = m.was),
scoped AS (UPDATE suppressions s SET scope_campaign_id = m.id FROM moved m WHERE s.scope_campaign_id = m.was)
UPDATE suppression_removals s SET scope_campaign_id = m.id FROM moved m WHERE s.scope_campaign_id = m.was;
SELECT setval(pg_get_serial_sequence('tenants', 'id'), greatest((SELECT coalesce(max(id), 0) FROM tenants), (SELECT tenant FROM kept_numbers)) + 1000);
-- messages and engagement also name contacts that are gone
SELECT setval('contacts_id_seq', greatest((SELECT last_value FROM contacts_id_seq), (SELECT contact FROM kept_numbers)));
SELECT setval(pg_get_serial_sequence('signing_keys', 'id'), (SELECT coalesce(max(id), 0) FROM signing_keys) + 100);
UPDATE change_number SET n = greatest(n, (SELECT change FROM kept_numbers)) + 1;
-- Dagster's sensor knows the files that came in after the backup, and we do not: a source that was applied is read again.
UPDATE sources SET applied_at = clock_timestamp();

-- name: facts
SELECT 'facts:' || coalesce(json_object_agg(name, n), '{}') FROM restored_facts;
