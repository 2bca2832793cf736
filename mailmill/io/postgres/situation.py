"""What keeps campaigns from sending, gathered for pipelines/send/obstacles.py. The caller owns the transaction."""

from __future__ import annotations

import psycopg
from psycopg.rows import dict_row

from mailmill.errors import Misconfigured
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.send.obstacles import HEARD_S, Situation

SQL = statements("situation")


def situations(conn: psycopg.Connection, name: str | None) -> list[Situation]:
    """Of the campaign `tenant/slug`, or of every one that is scheduled or under way.

    Raises: Misconfigured when there is no campaign of this name.
    """
    ids = [id for (id,) in conn.execute(SQL["running"], {"name": name})]
    if name is not None and not ids:
        raise Misconfigured(f"there is no campaign {name!r}", remedy="`mailmill campaign list` shows them.")
    with conn.cursor(row_factory=dict_row) as cursor:
        found = []
        for id in ids:
            row = cursor.execute(SQL["situation"], {"campaign_id": id, "heard_s": HEARD_S}).fetchone()
            assert row is not None
            found.append(Situation(**row))
    return found
