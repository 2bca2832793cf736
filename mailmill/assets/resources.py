"""What assets and sensors are handed: the live objects of the installation, built by definitions.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mailmill.pipelines.ingest.ports import BatchStore, ContactStore, Feed, RawStore, SourceRow

if TYPE_CHECKING:  # every run is a process that imports this: it pays for what its assets use
    from mailmill.io.lake import Lake
    from mailmill.io.postgres.accounts import Account
    from mailmill.io.postgres.database import Database
    from mailmill.io.warehouse import Publication
    from mailmill.pipelines.ingest.domains import Resolver
    from mailmill.pipelines.target.planning import Planned


class IngestStore(RawStore, BatchStore, ContactStore, Protocol):
    """Everything ingest keeps."""

    def remember(self, source: SourceRow, error: str | None, *, retry_after_s: float | None = None) -> None:
        """What was wrong with the source's last import, None where nothing was; how long it asked to be left alone."""
        ...


class Mill(Protocol):
    """The installation as assets see it. Nothing is opened before it is asked for."""

    @property
    def project(self) -> Path: ...

    @property
    def database(self) -> Database: ...

    @property
    def lake(self) -> Lake: ...

    @property
    def ingest(self) -> IngestStore: ...

    @property
    def resolver(self) -> Resolver | None: ...

    def source(self, name: str) -> SourceRow: ...

    def feed(self, source: SourceRow, files: Sequence[Path] = (), *, full: bool = False) -> Feed: ...

    def start_due(self, campaign_id: int, *, by: str) -> Planned | None: ...

    def plan(self, campaign_id: int, *, by: str) -> Planned | None: ...

    def settle(self, *, by: str) -> list[str]: ...

    def send_slice(self, campaign: str, *, max_seconds: float, progress: Callable[[str], None]) -> dict[str, int]: ...

    def account(self, campaign_id: int) -> Account: ...

    def pinned(self, now: datetime) -> set[str]: ...

    def publish_warehouse(self) -> Sequence[Publication]: ...
