-- name: suppress
-- One row per address that was not suppressed for this reason yet; an earlier end is lifted by a later word.
WITH added AS (
  INSERT INTO suppressions (tenant_id, channel, address_key, reason, scope_campaign_id, event_id, note, expires_at)
  SELECT %(tenant_id)s, %(channel)s, key, %(reason)s, %(scope_campaign_id)s, %(event_id)s, %(note)s, %(expires_at)s
    FROM unnest(%(address_keys)s::text[]) key ORDER BY key
  ON CONFLICT (tenant_id, channel, address_key, reason, scope_campaign_id) DO NOTHING
  RETURNING 1)
SELECT count(*) FROM added;

-- name: raise_change_number
-- Locks its one row until the commit, so do this last.
UPDATE change_number SET n = n + 1;

-- name: change_number
SELECT n FROM change_number;
