"""A PostgreSQL that does not answer is named by its place, without who asks and by which password."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from ports import free_port

from mailmill.errors import StoreUnavailable
from mailmill.io.postgres.database import external, place_of
from mailmill.io.postgres.ingress_pool import IngressPool
from mailmill.io.postgres.read_pool import ReadPool
from mailmill.io.postgres.server import EmbeddedServer


@pytest.fixture
def port() -> int:
    return free_port()


def said_by(url: str) -> str:
    with pytest.raises(StoreUnavailable) as raised:
        external(url).connect("owner")
    return str(raised.value)


def test_a_server_that_does_not_answer_is_named_with_what_to_do(port: int, tmp_path: Path) -> None:
    said = said_by(f"postgresql://somebody:hunter2@127.0.0.1:{port}/mailmill")
    assert f"does not answer at 127.0.0.1:{port}\n" in said and "MAILMILL_DATABASE_URL" in said
    assert "somebody" not in said and "hunter2" not in said
    assert f"at {tmp_path}\n" in said_by(f"postgresql://x@/x?host={quote(str(tmp_path))}")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:p@db.example/x", "db.example:5432"),
        ("postgresql://u:p@a:1,b:2/x", "a:1, b:2"),
        ("postgresql://u:p@a,b/x?port=7", "a:7, b:7"),
        ("postgresql://u:p@[::1]:5433/x", "[::1]:5433"),
        ("dbname=x", "the local socket"),
    ],
)
def test_each_server_of_a_url_is_named(url: str, place: str) -> None:
    assert place_of(url) == place


def test_the_ingress_names_the_place_also_while_it_does_not_try(port: int) -> None:
    pool = IngressPool(external(f"postgresql://mailmill_ingress:hunter2@127.0.0.1:{port}/mailmill"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=f"at 127.0.0.1:{port}"), pool.transaction():
            raise AssertionError("nobody listens")


def test_the_stats_pool_says_in_our_words_why_it_has_no_connection(port: int, caplog: pytest.LogCaptureFixture) -> None:
    url = f"postgresql://mailmill_stats:hunter2@127.0.0.1:{port}/mailmill"
    with ReadPool(external(url), timeout_s=0.5) as pool:
        with pytest.raises(StoreUnavailable, match="no connection to PostgreSQL in time"), pool.transaction():
            raise AssertionError("nobody listens")
        deadline = time.monotonic() + 60
        while not (told := [one for one in caplog.records if one.levelno >= logging.WARNING]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert {one.name for one in told} == {"mailmill.io.postgres.read_pool"}
    assert f"127.0.0.1:{port}" in told[0].why and "hunter2" not in told[0].why  # type: ignore[attr-defined]


def test_the_embedded_server_names_its_logs(tmp_path: Path) -> None:
    server = EmbeddedServer(home=tmp_path)
    assert str(server.base / "log") in server.database().remedy
