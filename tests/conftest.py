"""Real services for the tests, started once per test process on loopback. A service that cannot start fails the run."""

from __future__ import annotations

import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import uuid4

import hypothesis
import psycopg
import pytest
from psycopg import sql

from mailmill.io.lake import Lake
from mailmill.io.postgres import schema
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.server import EmbeddedServer, create_database

NUMBERED = re.compile(r"_F\d\d_")  # a fault of the list that has to be survived
# a process takes whole files (--dist loadfile): a long one that came late would be waited for by all others
LONGEST = ("test_whole_way.py", "test_docs.py", "test_server.py", "test_forget.py")


def pytest_configure() -> None:
    """As from a terminal: a shell that starts them in the background has them ignore Ctrl-C. A run of Dagster's in this
    process then leaves SIGTERM ignored as well, and with it every process that a later test starts and ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; `make faults` runs what shows a fault survived over real services, wherever it lies."""
    for item in items:
        if NUMBERED.search(item.name) and not {"unit", "faults"} & set(item.path.parts):
            item.add_marker("numbered")
    items.sort(key=lambda item: item.path.name not in LONGEST)


pytest_plugins = ["kafka_service", "send_fixtures", "verbs"]


# deadline: the machines that run this are shared and noisy, how long an example takes says nothing. derandomize: a test
# that fails was broken by a change, and fails again; `make explore` is for what nobody has drawn yet
_PROFILE = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("mailmill", _PROFILE, derandomize=True)
hypothesis.settings.register_profile("explore", _PROFILE)
hypothesis.settings.load_profile("mailmill")


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """A real PostgreSQL of this test process. fsync is off: no test here cuts the power."""
    home = Path(tempfile.mkdtemp(prefix="mm"))
    server = EmbeddedServer(home=home, options={"fsync": "off", "shared_buffers": "128MB"})
    server.start()
    yield server
    server.stop()
    base = server.base
    shutil.rmtree(base, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def template(server: EmbeddedServer) -> str:
    """A migrated database that tests clone."""
    schema.migrate(server.database())
    return "mailmill"


@pytest.fixture(scope="session")
def cloned(server: EmbeddedServer, template: str) -> Iterator[Callable[[], AbstractContextManager[Database]]]:
    """Makes a fresh migrated database that lives as long as its block."""
    # dropped beside the next test: PostgreSQL waits a tenth of a second for sessions that have just ended
    drops = ThreadPoolExecutor(1)
    dropped: list[Future[None]] = []

    def drop(name: str) -> None:
        with psycopg.connect(server.conninfo("postgres", "postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextmanager
    def clone() -> Iterator[Database]:
        name = f"t_{uuid4().hex[:12]}"
        with psycopg.connect(server.conninfo("postgres", "postgres"), autocommit=True) as connection:
            create_database(connection, name, template=template)
        try:
            yield server.database(name)
        finally:
            dropped.append(drops.submit(drop, name))

    yield clone
    drops.shutdown()
    for one in dropped:
        one.result()


@pytest.fixture
def database(cloned: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    """A fresh migrated database of this test alone."""
    with cloned() as database:
        yield database


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(root=tmp_path / "lake")
