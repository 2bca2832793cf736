"""The two HTTP sources against the stand-in services, over real sockets."""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from ports import free_port

from mailmill.errors import Misconfigured, SourceUnavailable
from mailmill.io.sources.http_json import RESOURCES, HttpFeed, HttpSource
from mailmill.pipelines.ingest import stage

SERVICES = Path(__file__).parents[3] / "examples" / "services" / "contact_api.py"
KEY = "a-key"


def _contact_api():
    spec = importlib.util.spec_from_file_location("contact_api", SERVICES)
    module = importlib.util.module_from_spec(spec)
    sys.modules["contact_api"] = module
    spec.loader.exec_module(module)
    return module


api = _contact_api()


@contextmanager
def served(kind: str = "scraper_pro", *, count: int = 50, **options) -> Iterator[str]:
    """The stand-in on a free port; its URL."""
    make = api.contact if kind == "scraper_pro" else api.backlink
    app = api.service(RESOURCES[kind][0], make, count=count, seed=3, key=KEY, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join(60)


def feed(url: str, kind: str = "scraper_pro", **settings) -> HttpFeed:
    quick = {"page_size": 10, "timeout_s": 20.0, "backoff_s": 0.01, "attempts": 4, "private": ("127.0.0.1",)}
    return HttpFeed(HttpSource(url=url, type=kind, **({"key": KEY} | quick | settings)))


def source_of(mill, kind: str = "scraper_pro"):
    return mill.source("api", type=kind, url="http://127.0.0.1:1", api_key="env:KEY")


@pytest.mark.parametrize("kind", ["scraper_pro", "backlink_engine"])
def test_every_item_of_every_page_is_read_once(mill, kind):
    source = source_of(mill, kind)
    with served(kind, count=53) as url:
        done = mill.run(source, feed(url, kind))
        assert (done.received.rows, done.received.notes) == (53, ())
        again = mill.run(source, feed(url, kind))
    assert again.received.rows == 0
    assert mill.rows("SELECT cursor->>'page' page, cursor->>'updated_since' since FROM sources")[0]["page"] is None
    assert done.loaded.counts.new == len(mill.contacts()) > 40
    some = next(iter(mill.contacts().values()))
    assert {"page_url", "domain"} <= set(some["fields"])


def test_only_what_is_new_since_the_last_sync_is_asked_for(mill):
    source = source_of(mill)
    with served(count=30) as url:
        mill.run(source, feed(url))
    with served(count=37) as url:
        assert mill.run(source, feed(url)).received.rows == 7


@pytest.mark.parametrize("fault", ["500", "garbage", "slow"])
def test_a_passing_fault_costs_a_retry_and_no_row(mill, fault):
    source = source_of(mill)
    with served(count=30, fault=fault, fault_every=3, slow_s=2.5) as url:
        done = mill.run(source, feed(url, timeout_s=1.0))
    assert done.received.rows == 30


def test_a_429_is_waited_for_as_long_as_it_says(mill):
    source = source_of(mill)
    begun = time.monotonic()
    with served(count=15, fault="429", fault_every=2) as url:
        assert mill.run(source, feed(url)).received.rows == 15
    assert time.monotonic() - begun >= 1.0


def test_a_429_that_asks_for_too_long_is_handed_up_with_its_time(mill):
    with served(fault="429", fault_every=1) as url, pytest.raises(SourceUnavailable) as caught:
        list(feed(url, max_wait_s=0.5).batches(None))
    assert caught.value.retry_after_s == pytest.approx(1.0)


def test_P02_a_sync_that_breaks_half_way_goes_on_from_its_last_stored_page(mill):
    source = source_of(mill)
    with served(count=50) as url:
        one = feed(url, rows_per_batch=20)
        kept = next(iter(one.batches(None)))
        mill.store.keep(source, kept)  # and then the process dies
        assert mill.rows("SELECT cursor->>'page' page FROM sources")[0]["page"] is not None
        done = stage.receive(source, feed(url, rows_per_batch=20), mill.store)
        assert done.rows == 30
    assert mill.rows("SELECT sum(rows_read)::int n FROM batches") == [{"n": 50}]


@pytest.mark.parametrize(("table", "event"), [("sources", "UPDATE"), ("manifest", "INSERT")])
def test_P02_a_cursor_is_stored_with_its_rows_or_neither_is(mill, table, event):
    """What writes one of them fails in its COMMIT."""
    source = source_of(mill)
    with mill.database.transaction() as conn:
        conn.execute(
            "CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trouble'; END $$"
        )
        conn.execute(
            f"CREATE CONSTRAINT TRIGGER trouble AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION trouble()"
        )
    try:
        with served(count=20) as url:
            with pytest.raises(Exception, match="trouble"):
                stage.receive(source, feed(url), mill.store)
            assert mill.rows("SELECT cursor, (SELECT count(*) FROM batches) n FROM sources") == [
                {"cursor": None, "n": 0}
            ]
            with mill.database.transaction() as conn:
                conn.execute("DROP FUNCTION trouble CASCADE")
            assert stage.receive(source, feed(url), mill.store).rows == 20
            assert mill.rows("SELECT cursor IS NULL AS lost FROM sources") == [{"lost": False}]
    finally:
        with mill.database.transaction() as conn:
            conn.execute("DROP FUNCTION IF EXISTS trouble CASCADE")


def test_a_page_cursor_that_is_gone_starts_the_walk_again(mill):
    source = source_of(mill)
    with served(count=50) as url:
        mill.store.keep(source, next(iter(feed(url, rows_per_batch=20).batches(None))))
    with served(count=50, fault="gone", fault_every=1) as url:
        walk = feed(url, page_size=50)
        assert stage.receive(source, walk, mill.store).rows == 50


def test_P04_an_api_whose_columns_changed_says_so_and_loses_nothing(mill):
    source = source_of(mill)
    with served(count=20, fault="columns", fault_every=1) as url, pytest.raises(Misconfigured, match="mailbox"):
        mill.run(source, feed(url))
    assert mill.rows("SELECT cursor FROM sources") == [{"cursor": None}]
    with served(count=20) as url:
        assert mill.run(source, feed(url)).received.rows == 20


def test_a_wrong_key_is_said_without_showing_it():
    with served() as url, pytest.raises(Misconfigured) as caught:
        list(feed(url, key="wrong-secret").batches(None))
    assert "refuses the key" in str(caught.value) and "wrong-secret" not in str(caught.value)


def test_nobody_there_is_said_after_three_attempts():
    port = free_port()
    begun = time.monotonic()
    said: list[str] = []
    away = feed(f"http://127.0.0.1:{port}", name="acme/api", backoff_s=0.5, attempts=6)
    away.report_to(said.append)
    with pytest.raises(SourceUnavailable) as caught:
        list(away.batches(None))
    assert time.monotonic() - begun > 2
    place = f"acme/api (http://127.0.0.1:{port}/v1/contacts)"
    assert str(caught.value).startswith(f"{place}: nobody listens at 127.0.0.1:{port} (tried 3 times)\n  Start that")
    assert len(said) == 2 and all(f"{place}: nobody listens at 127.0.0.1:{port}, again in " in one for one in said)


def test_each_retry_is_told_and_then_what_happens_next(mill):
    source, said = source_of(mill), []
    with served(fault="500", fault_every=1) as url, pytest.raises(SourceUnavailable) as caught:
        stage.receive(source, feed(url, name=source.name), mill.store, progress=said.append)
    assert [one.split(", again in ")[0] for one in said] == [f"{source.name} ({url}/v1/contacts): HTTP 500"] * 3
    assert "HTTP 500 (tried 4 times)\n  What had come before is kept; the next import goes on" in str(caught.value)


def test_a_page_that_is_too_large_is_refused():
    with served() as url, pytest.raises(Misconfigured, match="larger"):
        list(feed(url, max_body=500).batches(None))


def test_the_same_seed_gives_the_same_people():
    with served(count=5) as url:
        answers = [httpx.get(f"{url}/v1/contacts", headers={"X-API-Key": KEY}).json() for _ in range(2)]
    assert answers[0] == answers[1]
