"""The live objects of one installation, built from its settings. Nobody else builds them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from mailmill.errors import Misconfigured
from mailmill.io.lake import Lake
from mailmill.io.postgres.database import Database, external
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.settings import Settings, read_settings

TOPIC = "delivery-events"
DATA_VERSION = "1"  # of the data folder's layout


class Installation:
    """Where everything of this installation is. Opens nothing until it is asked for."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or read_settings()

    @property
    def home(self) -> Path:
        return self.settings.home_path

    @cached_property
    def server(self) -> EmbeddedServer | None:
        """The embedded PostgreSQL, None when MAILMILL_DATABASE_URL names another one."""
        if self.settings.database_url is not None:
            return None
        options = {}
        for item in self.settings.postgres_options.split():
            name, equals, value = item.partition("=")
            if not equals:
                raise Misconfigured(f"{item!r} is not name=value", place="MAILMILL_POSTGRES_OPTIONS")
            options[name] = value
        return EmbeddedServer(home=self.home, options=options)

    @cached_property
    def database(self) -> Database:
        """PostgreSQL; the embedded server starts when the first connection is made.

        Raises: Misconfigured when the data folder belongs to another version of mailmill.
        """
        if self.server is None:
            assert self.settings.database_url is not None
            return external(self.settings.database_url.get_secret_value())
        self._check_data_version()
        return self.server.database()

    def _check_data_version(self) -> None:
        path = self.home / "version"
        if not path.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            path.write_text(DATA_VERSION + "\n")
        found = path.read_text().strip()
        if found != DATA_VERSION:
            raise Misconfigured(
                f"the data folder has layout {found}, this mailmill works with {DATA_VERSION}",
                place=str(self.home),
                remedy="Use the mailmill that made it, or restore its backup into a new folder.",
            )

    @cached_property
    def lake(self) -> Lake:
        return Lake(root=self.home / "lake")
