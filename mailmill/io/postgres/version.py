"""Which version of the schema this mailmill works with; apart from schema.py, whose SQLAlchemy is slow to import."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

import psycopg

from mailmill.errors import Misconfigured

_REVISION = re.compile(r"^(\d{4})_\w+\.py$")


@cache
def known_versions() -> tuple[str, ...]:
    """Every revision this mailmill can migrate from, oldest first; the last is the one it works with."""
    folder = resources.files("mailmill.io.postgres.migrations.versions")
    found = (_REVISION.match(path.name) for path in folder.iterdir())
    return tuple(sorted(match[1] for match in found if match))


def wanted_version() -> str:
    return known_versions()[-1]


def refuse_other(current: str | None) -> None:
    """Raises: Misconfigured when the schema is missing, older or newer than this mailmill."""
    wanted = wanted_version()
    if current == wanted:
        return
    if current is None:
        raise Misconfigured(
            "the database has no schema of mailmill yet", remedy="Run `mailmill apply PATH`, or `mailmill migrate`."
        )
    if current < known_versions()[0]:
        raise Misconfigured(
            f"the database was made by a mailmill before its first release (schema {current}), which nothing migrates",
            remedy="Begin with another MAILMILL_HOME or an empty database; files and sources can be read in again.",
        )
    if current in known_versions():
        raise Misconfigured(
            f"the database's schema is at {current}, this mailmill works with {wanted}",
            remedy="Run `mailmill up`, which backs up and migrates, or `mailmill migrate`.",
        )
    raise Misconfigured(
        f"the database's schema {current} is newer than this mailmill, which knows up to {wanted}",
        remedy="Use the newer mailmill, or restore the backup that was made before its migration.",
    )


class SchemaCheck:
    """Refuses a database of another version at the first connection of a process; later ones cost nothing."""

    def __init__(self) -> None:
        self._passed = False

    def __call__(self, conn: psycopg.Connection) -> None:
        if self._passed:
            return
        try:
            row = conn.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.UndefinedTable:
            row = None
        if not conn.autocommit:
            conn.rollback()
        refuse_other(row[0] if row else None)
        self._passed = True
