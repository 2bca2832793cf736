-- name: postgres
SELECT true WHERE %(host)s::text IS NOT NULL;

-- name: worker
SELECT exists(SELECT FROM workers WHERE host = %(host)s AND seen_at > clock_timestamp() - interval '1 minute'
              AND ended_at IS NULL);
