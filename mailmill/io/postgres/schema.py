"""The schema's version: where the database stands, where this mailmill wants it, and the way there."""

from __future__ import annotations

import logging
from importlib import resources

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from mailmill.errors import Misconfigured
from mailmill.io.postgres.database import Database

logger = logging.getLogger(__name__)


def _config() -> Config:
    config = Config()
    config.set_main_option(
        "script_location", str(resources.files("mailmill.io.postgres.migrations")).replace("%", "%%")
    )
    return config


def wanted_version() -> str:
    """The revision this mailmill was written for."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def known_versions() -> set[str]:
    """Every revision this mailmill can migrate from."""
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


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
    current = current_version(database)
    if current == wanted_version():
        return
    if current is None or current in known_versions():
        raise Misconfigured(
            f"the database's schema is at {current or 'nothing'}, this mailmill works with {wanted_version()}",
            remedy="Run `mailmill migrate` (or `mailmill up`, which backs up first).",
        )
    raise Misconfigured(
        f"the database's schema {current} is newer than this mailmill, which knows up to {wanted_version()}",
        remedy="Use the newer mailmill, or restore the backup that was made before its migration.",
    )


def migrate(database: Database) -> tuple[str | None, str]:
    """Bring the schema to this mailmill's version; a newer one is refused.

    Out: (version before, version after).
    """
    before = current_version(database)
    if before is not None and before not in known_versions():
        check(database)
    with _engine(database).begin() as connection:
        # two processes may start at once: the second waits here and then finds nothing to do
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('mailmill:migrate', 0))")
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    logger.info("schema migrated", extra={"before": before, "after": wanted_version()})
    return before, wanted_version()
