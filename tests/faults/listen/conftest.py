"""The event log of a test's database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailmill.io.event_log.postgres import PostgresEventLog
from mailmill.io.postgres.database import Database


@pytest.fixture
def log(database: Database) -> Iterator[PostgresEventLog]:
    log = PostgresEventLog(database)
    yield log
    log.close()
