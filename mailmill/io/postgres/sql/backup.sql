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
         (SELECT coalesce(max(id), 0) FROM public.tenants) AS tenant;

-- name: keep_nothing
CREATE TEMP TABLE kept_numbers ON COMMIT DROP AS SELECT 0::bigint AS change, 0::bigint AS message, 0 AS campaign, 0 AS tenant;

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
                          ELSE greatest(suppressions.expires_at, excluded.expires_at) END
  RETURNING old.id)
INSERT INTO restored_facts SELECT 'suppressions_kept', count(*) FROM merged WHERE id IS NULL;
INSERT INTO signing_keys (id, purpose, secret, created_at, retired_at) OVERRIDING SYSTEM VALUE
SELECT id, purpose, secret, created_at, coalesce(retired_at, clock_timestamp()) FROM kept_keys ON CONFLICT (id) DO NOTHING;

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
SELECT setval(pg_get_serial_sequence('tenants', 'id'), greatest((SELECT coalesce(max(id), 0) FROM tenants), (SELECT tenant FROM kept_numbers)) + 1000);
SELECT setval(pg_get_serial_sequence('signing_keys', 'id'), (SELECT coalesce(max(id), 0) FROM signing_keys) + 100);
UPDATE change_number SET n = greatest(n, (SELECT change FROM kept_numbers)) + 1;

-- name: facts
SELECT 'facts:' || coalesce(json_object_agg(name, n), '{}') FROM restored_facts;
