"""What assets and sensors are handed: the live objects of the installation, built by definitions.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mailmill.io.lake import Lake
from mailmill.io.postgres.database import Database


class Mill(Protocol):
    """The installation as assets see it. Nothing is opened before it is asked for."""

    @property
    def home(self) -> Path: ...

    @property
    def database(self) -> Database: ...

    @property
    def lake(self) -> Lake: ...

    @property
    def public_url(self) -> str: ...

    @property
    def secret(self) -> Callable[[str], str]: ...
