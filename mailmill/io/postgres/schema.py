"""The schema's version: where the database stands, where this mailmill wants it, and the way there."""

from __future__ import annotations

import logging
from importlib import resources

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from mailmill.io.postgres.database import Database
from mailmill.io.postgres.version import known_versions, refuse_other, wanted_version

__all__ = ["check", "current_version", "known_versions", "migrate", "wanted_version"]
logger = logging.getLogger(__name__)


def _config() -> Config:
    config = Config()
    config.set_main_option(
        "script_location", str(resources.files("mailmill.io.postgres.migrations")).replace("%", "%%")
    )
    return config


def _engine(database: Database) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: database.connect("owner"), poolclass=sqlalchemy.pool.NullPool
    )


def current_version(database: Database) -> str | None:
    """The revision of the database, None when it is empty."""
    with _engine(database).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def check(database: Database) -> None:
    """Refuse a database of another version.

    Raises: Misconfigured when the schema is missing, older or newer than this mailmill.
    """
    refuse_other(current_version(database))


def migrate(database: Database) -> tuple[str | None, str]:
    """Bring the schema to this mailmill's version; a newer one is refused.

    Out: (version before, version after).
    """
    before = current_version(database)
    if before is not None and before not in known_versions():
        refuse_other(before)
    with _engine(database).begin() as connection:
        # two processes may start at once: the second waits here and then finds nothing to do
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('mailmill:migrate', 0))")
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    logger.info("schema migrated", extra={"before": before, "after": wanted_version()})
    return before, wanted_version()
