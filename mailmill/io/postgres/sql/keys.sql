-- name: lock
SELECT pg_advisory_xact_lock(hashtextextended('mailmill:keys', 0));

-- name: purposes
SELECT DISTINCT purpose FROM signing_keys WHERE retired_at IS NULL;

-- name: retire
UPDATE signing_keys SET retired_at = clock_timestamp() WHERE purpose = %(purpose)s AND retired_at IS NULL;

-- name: add
INSERT INTO signing_keys (purpose, secret) VALUES (%(purpose)s, %(secret)s) RETURNING id;

-- name: listed
SELECT id, purpose, created_at, retired_at FROM signing_keys ORDER BY purpose, id;

-- name: of_campaign
-- The keys that signed when the campaign started, so that each of its messages keeps its Message-ID over all attempts,
-- whichever worker makes them and whatever was rotated since.
SELECT DISTINCT ON (k.purpose) k.purpose, k.id, k.secret
  FROM signing_keys k JOIN campaigns c ON c.id = %(campaign_id)s
 WHERE k.purpose <> 'suppression'
 ORDER BY k.purpose, k.created_at > c.started_at, CASE WHEN k.created_at > c.started_at THEN k.id ELSE -k.id END;

-- name: usable
-- The keys that still verify, newest first: the first one signs. A retired one verifies for a year, since mail is read
-- late; what it named as suppressed stays so for ever.
SELECT id, secret FROM signing_keys
 WHERE purpose = %(purpose)s
   AND (retired_at IS NULL OR purpose = 'suppression' OR retired_at > clock_timestamp() - interval '1 year')
 ORDER BY retired_at IS NULL DESC, id DESC;
