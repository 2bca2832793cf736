"""Table `log` forgets what was folded long ago, and nothing else."""

from __future__ import annotations

from mailmill.io.event_log.postgres import PostgresEventLog, expire
from mailmill.io.postgres.database import Database


def test_only_what_is_both_passed_and_old_is_removed(database: Database) -> None:
    log = PostgresEventLog(database)
    log.append([(part, b"%d" % n) for part in range(2) for n in range(10)])
    log.close()
    with database.transaction() as conn:
        conn.execute("UPDATE log SET at = now() - interval '4 days' WHERE off < 7")
        conn.execute("INSERT INTO offsets VALUES ('fold', 'delivery-events', 0, 5), ('fold', 'delivery-events', 1, 9)")
    with database.transaction("listener") as conn:
        assert expire(conn, consumer="fold", hours=72) == 5 + 7
        assert expire(conn, consumer="fold", hours=72) == 0
    with database.transaction() as conn:
        left = conn.execute("SELECT part, min(off), max(off) FROM log GROUP BY part ORDER BY part").fetchall()
    assert left == [(0, 5, 9), (1, 7, 9)]
