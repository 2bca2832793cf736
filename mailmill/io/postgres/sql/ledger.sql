-- The sender's statements. A claimed batch is one campaign's; its rows carry the lease's token and state `leased`.
-- Token and state reach the planner through a subquery with OFFSET 0: as plain constants they look so selective
-- (statistics from before the run know no leased row) that it scans the whole key index instead of probing it.

-- name: session
-- A hash or merge join would read a whole table for each batch; plans are made for the values at hand.
SELECT set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false),
       set_config('enable_seqscan', 'off', false), set_config('plan_cache_mode', 'force_custom_plan', false),
       set_config('synchronous_commit', 'on', false), set_config('statement_timeout', '60s', false),
       set_config('lock_timeout', '20s', false), set_config('idle_in_transaction_session_timeout', '60s', false),
       -- a worker whose machine lost its power has its name again within a minute, not after TCP's two hours
       set_config('tcp_keepalives_idle', '20', false), set_config('tcp_keepalives_interval', '10', false),
       set_config('tcp_keepalives_count', '3', false);

-- name: own_name
-- One process a worker name. Granted only when the server has ended the predecessor's session, and with it a claim that
-- may still commit after its owner was killed; so it is taken before the journal is replayed.
SELECT pg_try_advisory_lock(hashtextextended('mailmill send ' || %(worker)s, 0));

-- name: disown_name
SELECT pg_advisory_unlock(hashtextextended('mailmill send ' || %(worker)s, 0));

-- name: take_role
-- Until this transaction ends; 'none' is whoever logged in. Out: the role before. The owner's URL lets in as the sender by SET
-- ROLE, and a worker may have come by it too: its session is the owner's then, which the sender may not end.
WITH before AS MATERIALIZED (SELECT current_setting('role') AS role)
SELECT role, set_config('role', %(role)s, true) FROM before;

-- name: end_owner
-- End the session that still has this worker's name: of a process that is stopped, or beyond a broken network.
WITH k AS (SELECT hashtextextended('mailmill send ' || %(worker)s, 0) AS key)
SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l, k
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid <> pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.classid = ((k.key >> 32) & 4294967295)::oid AND l.objid = (k.key & 4294967295)::oid;

-- name: register
INSERT INTO workers (name, host, boot_id, pid, campaigns)
VALUES (%(worker)s, %(host)s, %(boot_id)s, %(pid)s, %(campaigns)s::text[])
ON CONFLICT (name) DO UPDATE SET host = excluded.host, boot_id = excluded.boot_id, pid = excluded.pid,
  campaigns = excluded.campaigns, started_at = clock_timestamp(), seen_at = clock_timestamp(), ended_at = NULL, troubles = '{}';

-- name: look
SELECT n, clock_timestamp() FROM change_number;

-- name: running
SELECT c.id, c.tenant_id, t.slug || '/' || c.slug, c.transport_id, c.ends_at
  FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
 WHERE c.state = 'running' AND c.transport_id IS NOT NULL ORDER BY c.id;

-- name: routes
SELECT r.id, r.tenant_id, t.slug || '/' || r.slug, r.kind, r.spec,
       CASE WHEN r.held_at IS NOT NULL THEN coalesce(r.held_reason, 'held') END, r.held_for
  FROM transports r JOIN tenants t ON t.id = r.tenant_id
 WHERE r.id IN (SELECT transport_id FROM campaigns WHERE state = 'running');

-- name: content
SELECT content FROM campaigns WHERE id = %(campaign_id)s;

-- name: suppressed
-- A worker's rows are of few tenants; the rule of each is asked for once.
WITH asked AS MATERIALIZED (
  SELECT m.id, m.tenant_id, m.campaign_id, m.address, m.address_key, m.aliases
    FROM (SELECT unnest(%(ids)s::bigint[]) AS id OFFSET 0) a JOIN messages m ON m.id = a.id),
rules AS MATERIALIZED (SELECT tenant_id, mailbox_rule(tenant_id) AS merge FROM (SELECT DISTINCT tenant_id FROM asked) t)
SELECT m.id FROM asked m JOIN rules USING (tenant_id)
 WHERE m.address IS NULL OR EXISTS (
   SELECT FROM suppressions s
    WHERE (s.tenant_id = m.tenant_id OR s.tenant_id IS NULL) AND s.channel = 'email' AND s.address_key = m.address_key
      AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())
      AND (s.scope_campaign_id IS NULL OR s.scope_campaign_id = m.campaign_id))
    OR m.aliases IS NOT NULL AND EXISTS (
   SELECT FROM suppressions s
    WHERE (s.tenant_id = m.tenant_id OR s.tenant_id IS NULL) AND s.channel = ANY('{email,phone}') AND s.address_key = ANY(m.aliases)
      AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())
      AND (s.scope_campaign_id IS NULL OR s.scope_campaign_id = m.campaign_id))
    OR merge IS NOT NULL AND EXISTS (
   SELECT FROM unnest(array_append(m.aliases, m.address_key)) k JOIN suppressions s ON s.near = near_mailbox(k)
    WHERE (s.tenant_id = m.tenant_id OR s.tenant_id IS NULL)
      AND mailbox_of(s.address_key, merge) = mailbox_of(k, merge)
      AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())
      AND (s.scope_campaign_id IS NULL OR s.scope_campaign_id = m.campaign_id));

-- name: reserve
-- Take up to `want` of what a limit has left in its window; with the seconds the window still lasts.
INSERT INTO budgets AS b (transport_id, tenant_id, period, starts_at, used)
VALUES (%(transport_id)s, %(tenant_id)s, %(period)s, date_trunc(%(period)s, clock_timestamp(), 'UTC'),
        least(%(want)s::bigint, %(cap)s::bigint))
ON CONFLICT (transport_id, period, starts_at)
DO UPDATE SET used = greatest(b.used, least(b.used + %(want)s::bigint, %(cap)s::bigint))
RETURNING new.used - coalesce(old.used, 0),
  extract(epoch FROM new.starts_at + ('1 ' || %(period)s)::interval - clock_timestamp())::float8, new.starts_at;

-- name: unreserve
-- What was not used goes back to the window that counted it.
UPDATE budgets SET used = greatest(0, used - %(n)s)
 WHERE transport_id = %(transport_id)s AND period = %(period)s AND starts_at = %(starts_at)s;

-- name: claim
-- Take the next due rows of a running campaign whose transport is not held; other workers skip them. The predicate is on
-- the locked row itself. Who was suppressed since the planning, or has been deferred too long, is settled instead.
-- The tenant's rule is asked for once; without one nothing more is looked up.
WITH rule AS MATERIALIZED (SELECT mailbox_rule(%(tenant_id)s) AS merge),
due AS MATERIALIZED (
  SELECT m.id, m.address_key, m.aliases, m.attempt, m.address IS NULL AS forgotten FROM messages m
   WHERE m.campaign_id = %(campaign_id)s AND m.queued AND m.due_at <= now()
     AND EXISTS (SELECT FROM campaigns c JOIN transports t ON t.id = c.transport_id
                  WHERE c.id = %(campaign_id)s AND c.state = 'running' AND t.held_at IS NULL
                    AND (c.ends_at IS NULL OR c.ends_at > now()))
   ORDER BY m.due_at, m.id LIMIT %(limit)s FOR UPDATE SKIP LOCKED),
judged AS MATERIALIZED (
  SELECT d.id,
         CASE WHEN d.forgotten THEN 'forgotten' ELSE coalesce((SELECT s.reason FROM suppressions s
           WHERE (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL) AND s.channel = 'email' AND s.address_key = d.address_key
             AND (s.expires_at IS NULL OR s.expires_at > now())
             AND (s.scope_campaign_id IS NULL OR s.scope_campaign_id = %(campaign_id)s) LIMIT 1),
           -- few have aliases, and for all others this costs nothing
           CASE WHEN d.aliases IS NOT NULL THEN (SELECT s.reason FROM suppressions s
             WHERE (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL) AND s.channel = ANY('{email,phone}') AND s.address_key = ANY(d.aliases)
               AND (s.expires_at IS NULL OR s.expires_at > now())
               AND (s.scope_campaign_id IS NULL OR s.scope_campaign_id = %(campaign_id)s) LIMIT 1) END,
           CASE WHEN (SELECT merge FROM rule) IS NOT NULL THEN (
             SELECT s.reason FROM unnest(array_append(d.aliases, d.address_key)) k JOIN suppressions s ON s.near = near_mailbox(k)
              WHERE (s.tenant_id = %(tenant_id)s OR s.tenant_id IS NULL)
                AND mailbox_of(s.address_key, (SELECT merge FROM rule)) = mailbox_of(k, (SELECT merge FROM rule))
                AND (s.expires_at IS NULL OR s.expires_at > now())
                AND (s.scope_campaign_id IS NULL OR s.scope_campaign_id = %(campaign_id)s) LIMIT 1) END) END AS suppressed,
         -- Of who was tried: whether the time is up, and the attempts that ended at MAIL, for those said nothing of the
         -- recipient. Who was not tried lately, for a hold, a pause, an outage or a doubt, is tried once more whenever that
         -- ended. One array, so that it is one look-up by the key, and none for a first attempt.
         CASE WHEN d.attempt > 0 THEN (
           SELECT ARRAY[(min(a.at) < now() - make_interval(secs => %(give_up_after_s)s)
                         AND max(a.at) > now() - make_interval(secs => %(lately_s)s))::int,
                        count(*) FILTER (WHERE a.stage = 'mail')]
             FROM attempts a WHERE a.message_id = d.id) ELSE '{0,0}' END AS tries
    FROM due d),
taken AS (
  UPDATE messages m
     SET state = end_of(m.doubted, CASE WHEN j.suppressed IS NOT NULL THEN 'suppressed'::message_state
                                        WHEN j.too_old THEN 'expired' ELSE 'leased' END),
         queued = false,
         attempt = m.attempt + CASE WHEN j.suppressed IS NULL AND NOT j.too_old THEN 1 ELSE 0 END,
         lease_token = CASE WHEN j.suppressed IS NULL AND NOT j.too_old THEN %(token)s::bigint END,
         reason = coalesce(j.suppressed, CASE WHEN j.too_old THEN coalesce(m.reason, 'too_old') END, m.reason),
         done_at = CASE WHEN j.suppressed IS NOT NULL OR j.too_old THEN clock_timestamp() END
    FROM (SELECT id, suppressed, coalesce(tries[1] = 1, false) AS too_old, tries[2] AS unheard FROM judged OFFSET 0) j
   WHERE m.id = j.id
  RETURNING m.id, m.contact_id, m.state, m.attempt, m.attempt - j.unheard AS tried, m.variant, m.provider, m.address),
lease AS (
  INSERT INTO leases (token, worker, campaign_id, tenant_id, first_id, last_id, until, reserved)
  SELECT %(token)s, %(worker)s, %(campaign_id)s, %(tenant_id)s, min(id), max(id),
         clock_timestamp() + make_interval(secs => %(lease_s)s), %(reserved)s
    FROM taken WHERE state = 'leased' HAVING count(*) > 0)
SELECT convert_to(string_agg(
         concat_ws(E'\x1f', t.id, t.contact_id, t.attempt, t.tried, t.variant, coalesce(t.provider, ''),
                   translate(coalesce(t.address, ''), E'\x1e\x1f', ''),
                   translate(coalesce(f.merge_values, ''), E'\x1e', '')), E'\x1e' ORDER BY t.id)
         FILTER (WHERE t.state = 'leased'), 'UTF8'),
       count(*) FILTER (WHERE t.state = 'leased'), count(*) FILTER (WHERE t.state <> 'leased')
  FROM taken t LEFT JOIN message_fields f ON f.message_id = t.id;

-- name: renew
UPDATE leases SET until = clock_timestamp() + make_interval(secs => %(lease_s)s)
 WHERE token = ANY(%(tokens)s::bigint[]) RETURNING token;

-- name: beat
UPDATE workers SET seen_at = clock_timestamp() WHERE name = %(worker)s;

-- name: give_back
-- Never started: back to the queue, as if it had not been claimed.
UPDATE messages m SET state = 'queued', queued = true, attempt = m.attempt - 1, lease_token = NULL
  FROM (SELECT unnest(%(ids)s::bigint[]) AS id, %(token)s::bigint AS token, 'leased'::message_state AS was OFFSET 0) r
 WHERE m.id = r.id AND m.lease_token = r.token AND m.state = r.was;

-- name: hold_back
-- As `give_back`, to providers that are held: out of the way of the others until a person releases them (`unhold`). The
-- lock keeps a release from passing between our look at the hold and our write; where one is under way, or the hold is not
-- written yet, they are claimed once more in a minute.
WITH route AS MATERIALIZED (
  SELECT held_for FROM transports WHERE id = %(transport_id)s FOR SHARE SKIP LOCKED)
UPDATE messages m SET state = 'held', queued = true, attempt = m.attempt - 1, lease_token = NULL, reason = 'provider_held',
       due_at = CASE WHEN EXISTS (SELECT FROM route WHERE held_for ? r.provider)
                     THEN 'infinity' ELSE clock_timestamp() + interval '1 min' END
  FROM (SELECT *, %(token)s::bigint AS token, 'leased'::message_state AS was
          FROM unnest(%(ids)s::bigint[], %(providers)s::text[]) h (id, provider) OFFSET 0) r
 WHERE m.id = r.id AND m.lease_token = r.token AND m.state = r.was;

-- name: give_back_all
-- The rest of a lease, found by its range.
UPDATE messages m SET state = 'queued', queued = true, attempt = m.attempt - 1, lease_token = NULL
  FROM (SELECT first_id, last_id, token, campaign_id, 'leased'::message_state AS was FROM leases
         WHERE token = %(token)s OFFSET 0) l
 WHERE m.id BETWEEN l.first_id AND l.last_id AND m.lease_token = l.token AND m.state = l.was
   AND m.campaign_id = l.campaign_id;

-- name: doubt_all
-- The rest of a lease whose journal is lost or may be incomplete: each of them may have been sent. Out: their ids.
UPDATE messages m SET state = 'in_doubt', lease_token = NULL, reason = %(reason)s, done_at = clock_timestamp()
  FROM (SELECT first_id, last_id, token, campaign_id, 'leased'::message_state AS was FROM leases
         WHERE token = %(token)s OFFSET 0) l
 WHERE m.id BETWEEN l.first_id AND l.last_id AND m.lease_token = l.token AND m.state = l.was
   AND m.campaign_id = l.campaign_id
RETURNING m.id;

-- name: end_lease
DELETE FROM leases WHERE token = %(token)s;

-- name: record
-- Results, attempts and events in one statement: an event exists exactly for a row that was really changed, so a worker
-- that lost its lease writes nothing. A doubt that is refused stays one and has no event of an end; but that nobody has
-- this mailbox is told as a bounce, so that it suppresses. The heads of the log are locked in the order of part, like
-- everywhere.
WITH r AS MATERIALIZED (
  SELECT f[1]::bigint AS id, f[2]::message_state AS state, f[3] AS reason, f[4]::int AS retry_s, f[5] AS stage,
         f[6]::smallint AS code, nullif(f[7], '') AS enhanced, f[8]::int AS latency_ms, f[9]::bigint AS at_ms,
         f[10] AS connection, f[11] AS reply
    FROM (SELECT string_to_array(line, E'\x1f') AS f FROM string_to_table(%(lines)s, E'\x1e') AS line
          OFFSET 0) s),  -- without it the line is split anew for each column
changed AS (
  UPDATE messages m
     SET state = end_of(m.doubted, r.state), queued = r.state IN ('queued', 'deferred', 'held'),
         due_at = CASE WHEN r.state = 'deferred' THEN clock_timestamp() + make_interval(secs => r.retry_s)
                       ELSE m.due_at END,
         lease_token = NULL, transport_id = %(transport_id)s, code = nullif(r.code, 0), reason = r.reason,
         reply = nullif(r.reply, ''),
         done_at = CASE WHEN r.state IN ('queued', 'deferred', 'held') THEN NULL ELSE clock_timestamp() END
    FROM (SELECT r.*, %(token)s::bigint AS token, 'leased'::message_state AS was FROM r OFFSET 0) r
   WHERE m.id = r.id AND m.lease_token = r.token AND m.state = r.was
  RETURNING m.id, m.tenant_id, m.campaign_id, m.attempt, m.state, r.reason, r.stage, r.code, r.enhanced, r.latency_ms,
            r.at_ms, r.connection, r.reply),
attempted AS (
  INSERT INTO attempts (message_id, attempt, tenant_id, at, transport_id, connection, stage, code, enhanced, reply,
                        latency_ms)
  SELECT id, attempt, tenant_id, to_timestamp(at_ms / 1000.0), %(transport_id)s, connection, stage, code, enhanced,
         reply, latency_ms
    FROM changed WHERE stage <> ''),
told AS MATERIALIZED (
  SELECT c.*, (c.id %% 4)::smallint AS part,
         CASE c.state WHEN 'sent' THEN 'accepted' WHEN 'failed' THEN 'failed' WHEN 'in_doubt' THEN 'bounced_hard'
                      ELSE 'deferred' END AS kind
    FROM changed c WHERE c.state IN ('sent', 'failed', 'deferred')
                      OR c.state = 'in_doubt' AND c.code >= 500 AND c.reason = ANY(%(hard)s::text[])),
per_part AS MATERIALIZED (SELECT part, count(*) AS n FROM told GROUP BY part),
locked AS MATERIALIZED (
  SELECT h.part FROM log_heads h WHERE h.topic = 'delivery-events' AND h.part IN (SELECT part FROM per_part)
   ORDER BY h.part FOR UPDATE),
heads AS (
  UPDATE log_heads h SET next = h.next + p.n FROM per_part p JOIN locked l ON l.part = p.part
   WHERE h.topic = 'delivery-events' AND h.part = p.part RETURNING h.part, h.next - p.n AS first),
logged AS (
  INSERT INTO log (topic, part, off, val)
  SELECT 'delivery-events', t.part, h.first + row_number() OVER (PARTITION BY t.part ORDER BY t.id) - 1, convert_to(
         '{"event_id":"' || md5(t.kind || ':' || t.id || ':' || t.attempt) || '","tenant":' || t.tenant_id
         || ',"campaign":' || t.campaign_id || ',"message":' || t.id || ',"kind":"' || t.kind || '","at":' || t.at_ms
         || ',"link":null,"user_agent":null,"ip":null,"code":' || t.code || ',"reason":' || to_json(t.reason)
         || ',"attempt":' || t.attempt || ',"transport":' || %(transport_id)s::int || '}', 'UTF8')
    FROM told t JOIN heads h ON h.part = t.part)
SELECT count(*), coalesce(array_agg(id) FILTER (WHERE state = 'in_doubt'), '{}') FROM changed;

-- name: recorded_before
-- Of results whose commit was not acknowledged: those that were written all the same.
SELECT count(*) FROM (SELECT unnest(%(ids)s::bigint[]) AS id, unnest(%(stages)s::text[]) AS stage,
                             unnest(%(ats)s::bigint[]) AS at_ms OFFSET 0) r
  JOIN attempts a ON a.message_id = r.id AND a.stage = r.stage AND a.at = to_timestamp(r.at_ms / 1000.0);

-- name: resend
-- The campaign's policy for doubts, wherever they come from: the same message again, under the same Message-ID, unless it was
-- tried too often. Only what a restore leaves in doubt waits for a person, for a restore mails nobody.
-- A doubt may be a copy in the inbox, an attempt that a relay refused or put off is none: 8 is the most that were none such.
UPDATE messages m SET state = 'queued', queued = true, doubted = true, done_at = NULL,
       due_at = clock_timestamp() + make_interval(secs => %(after_s)s)
  FROM (SELECT unnest(%(ids)s::bigint[]) AS id, 'in_doubt'::message_state AS was OFFSET 0) r, campaigns c
 WHERE m.id = r.id AND m.state = r.was AND c.id = m.campaign_id AND c.content ->> 'doubt' = 'resend'
   AND m.attempt < (c.content ->> 'max_attempts')::int
   AND m.attempt - (SELECT count(*) FROM attempts a WHERE a.message_id = m.id
                       AND (a.stage <> 'dot' OR a.code BETWEEN 400 AND 599)) < 8;

-- name: hold
UPDATE transports SET held_at = clock_timestamp(), held_reason = %(reason)s
 WHERE id = %(transport_id)s AND held_at IS NULL;

-- name: hold_for
UPDATE transports SET held_for = held_for || jsonb_build_object(%(provider)s::text, %(reason)s::text)
 WHERE id = %(transport_id)s AND NOT held_for ? %(provider)s::text;

-- name: release
UPDATE transports SET held_at = NULL, held_reason = NULL, held_for = '{}'
 WHERE id = %(transport_id)s AND (held_at IS NOT NULL OR held_for <> '{}');

-- name: transport
SELECT r.id FROM transports r JOIN tenants t ON t.id = r.tenant_id WHERE t.slug = %(tenant)s AND r.slug = %(slug)s;

-- name: unhold
-- The messages a route fault had stopped are queued again; the index finds them, they are still marked as queued.
UPDATE messages m SET state = 'queued', due_at = CASE WHEN m.reason = 'provider_held' THEN '-infinity' ELSE m.due_at END
  FROM campaigns c
 WHERE c.transport_id = %(transport_id)s AND m.campaign_id = c.id AND m.queued AND m.state = 'held';

-- name: sweep
-- What can no longer be sent ends: with its campaign's cancel, or at its end; 20,000 messages at most, for a worker records
-- nothing meanwhile. What somebody has locked is being claimed or given back: the next sweep takes it, or whoever claimed it.
UPDATE messages m SET state = end_of(m.doubted, q.ends), queued = false, done_at = clock_timestamp(), reason = q.reason
  FROM (SELECT r.id, o.ends, o.reason
          FROM (SELECT id, CASE state WHEN 'cancelled' THEN 'cancelled' ELSE 'expired' END::message_state AS ends,
                       CASE state WHEN 'cancelled' THEN 'campaign_cancelled' ELSE 'campaign_ended' END AS reason
                  FROM campaigns
                 WHERE (%(campaign_id)s::int IS NULL OR id = %(campaign_id)s)
                   AND (state = 'cancelled' AND finished_at IS NULL
                        OR state IN ('running', 'paused') AND ends_at <= clock_timestamp())) o
         CROSS JOIN LATERAL (SELECT id FROM messages WHERE campaign_id = o.id AND queued LIMIT 20000
                             FOR UPDATE SKIP LOCKED) r LIMIT 20000) q
 WHERE m.id = q.id;

-- name: next_due
SELECT extract(epoch FROM min(d.due_at) - clock_timestamp())::float8
  FROM unnest(%(campaign_ids)s::int[]) c (id)
 CROSS JOIN LATERAL (SELECT due_at FROM messages m WHERE m.campaign_id = c.id AND m.queued
                      ORDER BY m.due_at, m.id LIMIT 1) d;

-- name: leases_of
SELECT token, transport_id, l.tenant_id, l.campaign_id, until < clock_timestamp() AS expired
  FROM leases l JOIN campaigns c ON c.id = l.campaign_id WHERE l.worker = %(worker)s;

-- name: lease_of
SELECT c.transport_id, l.reserved FROM leases l JOIN campaigns c ON c.id = l.campaign_id WHERE l.token = %(token)s;

-- name: account
-- The ledger by state; what is missing from `planned` would be unaccounted for.
SELECT m.state, count(*) FROM campaigns c
  JOIN messages m ON m.id >= c.first_message_id AND m.id < c.first_message_id + c.planned AND m.campaign_id = c.id
 WHERE c.id = %(campaign_id)s GROUP BY m.state ORDER BY m.state;

-- name: progress
-- As `account`, with what came to its end in the last minute, by the database's clock.
SELECT c.state::text, coalesce(c.planned, 0), clock_timestamp() AS now,
       coalesce(jsonb_object_agg(l.state, l.n ORDER BY l.state) FILTER (WHERE l.state IS NOT NULL), '{}') AS by_state,
       coalesce(sum(l.recent), 0)::bigint AS recent, min(l.since) AS since
  FROM campaigns c
  LEFT JOIN LATERAL (
    SELECT m.state, count(*) AS n, count(*) FILTER (WHERE m.done_at > statement_timestamp() - interval '60 s') AS recent,
           min(m.done_at) FILTER (WHERE m.done_at > statement_timestamp() - interval '60 s') AS since
      FROM messages m WHERE m.campaign_id = c.id
       AND m.id >= c.first_message_id AND m.id < c.first_message_id + c.planned GROUP BY m.state) l ON true
 WHERE c.id = %(campaign_id)s GROUP BY c.id;

-- name: campaign
SELECT c.id, c.tenant_id, t.slug || '/' || c.slug AS name, c.state::text, coalesce(c.planned, 0) AS planned,
       c.scheduled_at, c.started_at, c.finished_at, r.held_reason AS held
  FROM campaigns c JOIN tenants t ON t.id = c.tenant_id LEFT JOIN transports r ON r.id = c.transport_id
                                                               AND r.held_at IS NOT NULL
 WHERE (t.slug = %(tenant)s::text AND c.slug = %(slug)s::text) OR c.id = %(campaign_id)s::int;

-- name: reasons
SELECT m.state::text, coalesce(m.reason, ''), count(*) FROM campaigns c
  JOIN messages m ON m.id >= c.first_message_id AND m.id < c.first_message_id + c.planned AND m.campaign_id = c.id
 WHERE c.id = %(campaign_id)s AND m.state NOT IN ('sent', 'queued', 'leased')
 GROUP BY 1, 2 ORDER BY 3 DESC;

-- name: doubts
SELECT t.slug || '/' || c.slug, m.id, m.attempt, m.reason, m.reply, m.outcome, m.done_at, m.address, c.tenant_id, c.id,
       c.content ->> 'return_path_domain'
  FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
  JOIN messages m ON m.id >= c.first_message_id AND m.id < c.first_message_id + c.planned AND m.campaign_id = c.id
 WHERE m.state = 'in_doubt' AND (%(campaign_id)s::int IS NULL OR c.id = %(campaign_id)s)
 ORDER BY m.id LIMIT %(limit)s;

-- name: resolve_ended
-- A doubt that a person settles as sent or failed. (message, the event that its worker would have written: under the same id
-- and of the time of the doubt, so that it counts once whoever tells it)
WITH told AS (
  UPDATE messages m SET state = %(state)s::message_state, reason = 'settled_by_hand' FROM campaigns c
   WHERE c.id = %(campaign_id)s AND m.id >= c.first_message_id AND m.id < c.first_message_id + c.planned
     AND m.campaign_id = c.id AND m.state = 'in_doubt' AND (%(ids)s::bigint[] IS NULL OR m.id = ANY(%(ids)s))
  RETURNING m.id, m.tenant_id, m.campaign_id, m.attempt, m.transport_id, coalesce(m.done_at, clock_timestamp()) AS at,
            CASE m.state WHEN 'sent' THEN 'accepted' ELSE 'failed' END AS kind)
SELECT t.id, convert_to(
       '{"event_id":"' || md5(t.kind || ':' || t.id || ':' || t.attempt) || '","tenant":' || t.tenant_id
       || ',"campaign":' || t.campaign_id || ',"message":' || t.id || ',"kind":"' || t.kind || '","at":'
       || floor(extract(epoch FROM t.at) * 1000)::bigint || ',"link":null,"user_agent":null,"ip":null,"code":null'
       || ',"reason":"settled_by_hand","attempt":' || t.attempt
       || ',"transport":' || coalesce(t.transport_id::text, 'null') || '}', 'UTF8')
  FROM told t ORDER BY t.id;

-- name: sends_no_more
-- What keeps a campaign from sending a doubt again, for good. Locks it, so that it is not cancelled or finished meanwhile;
-- no more than that: a claim, whose lease names the campaign, must not wait for many doubts.
SELECT words FROM (
  SELECT CASE WHEN state = 'cancelled' THEN 'was cancelled' WHEN ends_at <= clock_timestamp() THEN 'has ended'
              WHEN (content ->> 'sandbox')::boolean <> (SELECT kind = 'sandbox' FROM transports WHERE id = transport_id)
              THEN 'was planned for a transport of another type' END AS words
    FROM campaigns WHERE id = %(campaign_id)s FOR NO KEY UPDATE) c
 WHERE words IS NOT NULL;

-- name: resolve_resend
UPDATE messages m SET state = 'queued', queued = true, doubted = true, done_at = NULL, due_at = '-infinity' FROM campaigns c
 WHERE c.id = %(campaign_id)s AND m.id >= c.first_message_id AND m.id < c.first_message_id + c.planned
   AND m.campaign_id = c.id AND m.state = 'in_doubt' AND (%(ids)s::bigint[] IS NULL OR m.id = ANY(%(ids)s));

-- name: workers
-- Why a worker had paused a campaign is no trouble once that is resumed or over.
SELECT w.name, w.host, w.pid, w.started_at, w.seen_at,
       extract(epoch FROM clock_timestamp() - w.seen_at)::float8 AS silent_s,
       (SELECT count(*) FROM leases l WHERE l.worker = w.name) AS leases,
       (SELECT count(*) FROM leases l WHERE l.worker = w.name AND l.until < clock_timestamp()) AS expired,
       (w.doing ->> 'rate')::float8 AS rate, (w.doing ->> 'in_flight')::int AS in_flight, w.doing ->> 'bound_by' AS bound_by,
       w.ended_at,
       (SELECT string_agg(said.key || ': ' || said.value, '; ' ORDER BY said.key) FROM jsonb_each_text(w.troubles) said
         WHERE NOT starts_with(said.value, 'paused: ') OR EXISTS (
           SELECT FROM campaigns c JOIN tenants t ON t.id = c.tenant_id
            WHERE c.state = 'paused' AND said.key = 'campaign ' || t.slug || '/' || c.slug)) AS last_error,
       w.campaigns
  FROM workers w
 WHERE w.ended_at IS NULL OR w.ended_at > clock_timestamp() - interval '1 day'
    OR EXISTS (SELECT FROM leases l WHERE l.worker = w.name)
 ORDER BY w.name;

-- name: troubles
-- What workers say of a campaign or its transport.
SELECT w.name, w.ended_at, said.key || ': ' || said.value
  FROM campaigns c JOIN tenants t ON t.id = c.tenant_id JOIN transports r ON r.id = c.transport_id
 CROSS JOIN workers w CROSS JOIN LATERAL jsonb_each_text(w.troubles) said
 WHERE c.id = %(campaign_id)s AND coalesce(w.ended_at, w.seen_at) > clock_timestamp() - interval '1 day'
   AND said.key IN (t.slug || '/' || r.slug, 'campaign ' || t.slug || '/' || c.slug)
   AND (c.state = 'paused' OR NOT starts_with(said.value, 'paused: '))
 ORDER BY coalesce(w.ended_at, w.seen_at) DESC, w.name;

-- name: forget_worker
DELETE FROM workers WHERE name = %(worker)s AND NOT EXISTS (SELECT FROM leases WHERE worker = %(worker)s);

-- name: forget_ended
-- Also one that was killed, and never came back under its name.
DELETE FROM workers w
 WHERE (w.ended_at < clock_timestamp() - interval '1 day' OR w.seen_at < clock_timestamp() - interval '7 days')
   AND NOT EXISTS (SELECT FROM leases l WHERE l.worker = w.name);

-- name: note
UPDATE workers SET troubles = %(troubles)s, doing = %(doing)s, seen_at = clock_timestamp() WHERE name = %(worker)s;

-- name: note_end
UPDATE workers SET troubles = %(troubles)s, doing = '{}', ended_at = clock_timestamp() WHERE name = %(worker)s;
