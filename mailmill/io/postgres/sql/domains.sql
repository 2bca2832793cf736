-- What DNS said of domains: kept once for all tenants.

-- name: table
-- DOMAINS_SCHEMA: all that was ever asked.
COPY (SELECT name, state, provider, (extract(epoch FROM changed_at) * 1000000)::bigint FROM domains) TO STDOUT (FORMAT csv);

-- name: find
SELECT name AS domain, state, provider, exchangers, checked_at, expires_at, tries, problem
  FROM domains WHERE name = ANY (%(names)s);

-- name: due
-- Domains of a tenant's contacts that were never asked for, or whose answer has run out; the oldest answer first.
WITH used AS (
  SELECT DISTINCT substring(email FROM '@([^@]*)$') AS name FROM contacts WHERE tenant_id = %(tenant_id)s AND email IS NOT NULL)
SELECT u.name FROM used u LEFT JOIN domains d USING (name)
 WHERE d.name IS NULL OR d.expires_at <= %(now)s ORDER BY d.expires_at NULLS FIRST, u.name;

-- name: unknown
-- Which of these names are no domain of a tenant's contacts.
SELECT n FROM unnest(%(names)s::text[]) n
 WHERE n NOT IN (SELECT substring(email FROM '@([^@]*)$') FROM contacts WHERE tenant_id = %(tenant_id)s AND email IS NOT NULL);

-- name: ask_again
-- What DNS said stands until it says something else; a null means every domain of the tenant's contacts. What it may have
-- refused to say before is no reason to wait long for the next time.
UPDATE domains SET expires_at = least(expires_at, %(now)s), tries = 0
 WHERE CASE WHEN %(names)s::text[] IS NOT NULL THEN name = ANY(%(names)s) ELSE name IN (
   SELECT substring(email FROM '@([^@]*)$') FROM contacts WHERE tenant_id = %(tenant_id)s AND email IS NOT NULL) END;

-- name: keep
-- In order of the name, so that two look-ups at once never wait for each other in a circle.
INSERT INTO domains AS d (name, state, provider, exchangers, checked_at, expires_at, tries, problem)
SELECT r.name, r.state, r.provider, r.exchangers, r.checked_at, r.expires_at, r.tries, r.problem
  FROM jsonb_to_recordset(%(rows)s) AS r (name text, state text, provider text, exchangers text[], checked_at timestamptz,
       expires_at timestamptz, tries smallint, problem text)
 ORDER BY r.name
ON CONFLICT (name) DO UPDATE SET state = excluded.state, provider = excluded.provider, exchangers = excluded.exchangers,
  checked_at = excluded.checked_at, expires_at = excluded.expires_at, tries = excluded.tries, problem = excluded.problem,
  changed_at = CASE WHEN (d.state, d.provider) IS DISTINCT FROM (excluded.state, excluded.provider)
                    THEN clock_timestamp() ELSE d.changed_at END
  -- of two look-ups at once the later answer stands
  WHERE excluded.checked_at >= d.checked_at
RETURNING (old.state, old.provider) IS DISTINCT FROM (new.state, new.provider) AS changed;
