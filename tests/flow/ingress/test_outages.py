"""What the ingress promises while PostgreSQL, the event log, the disk or all of them are down, and after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import free_port

from mailmill.errors import StoreUnavailable
from mailmill.io.event_log.postgres import PostgresEventLog
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.pipelines.listen.webhooks import signature

ONE_CLICK = {"List-Unsubscribe": "One-Click"}


class SwitchedLog:
    """An event log that can be switched off, and that hangs when asked to."""

    def __init__(self) -> None:
        self.events: list[tuple[int, bytes]] = []
        self.down = False
        self.go_on = threading.Event()
        self.go_on.set()

    def append(self, events: Sequence[tuple[int, bytes]]) -> None:
        assert self.go_on.wait(60)
        if self.down:
            raise StoreUnavailable("switched off")
        self.events.extend(events)


@pytest.fixture(scope="module")
def absent(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A database whose server is not there, and which nobody can start."""
    conninfos = {role: f"host={tempfile.gettempdir()}/no-such-folder user=x" for role in ("owner", "ingress")}
    return replace(server.database(), conninfos=conninfos, wake=lambda: None)


@pytest.fixture
def log() -> SwitchedLog:
    return SwitchedLog()


def a_report(world: Any, message: int) -> dict[str, Any]:
    return {"message": world.message_id(message), "type": "delivered", "at": "2026-11-20T10:00:00Z", "id": str(message)}


def test_F30_a_webhook_burst_with_the_log_down_is_asked_to_come_again(serve: Any, log: SwitchedLog) -> None:
    log.down = True
    with serve(log) as ingress:
        answers = [ingress.post_events([a_report(ingress.world, n)]) for n in range(1, 20)]
        assert {answer.status_code for answer in answers} == {503}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
        assert log.events == []
        log.down = False
        answers = [ingress.post_events([a_report(ingress.world, n)]) for n in range(1, 20)]
        assert {answer.status_code for answer in answers} == {200}
        assert len(log.events) == 19


def test_F30_without_PostgreSQL_nobody_is_told_success_by_its_log(world: Any, serve: Any, absent: Any) -> None:
    with serve(PostgresEventLog(absent, "ingress"), database=absent) as ingress:
        began = time.monotonic()
        assert ingress.post_events([a_report(world, 1)]).status_code == 503
        assert ingress.client.get(f"/o/{world.token('open')}").status_code == 200
        assert ingress.client.get(f"/c/{world.token('click')}").status_code == 503
        assert ingress.client.post(f"/u/{world.token('unsubscribe')}", data=ONE_CLICK).status_code == 503  # no keys yet
        assert ingress.health()["status"] == "degraded"
        assert time.monotonic() - began < 60


def test_P16_an_unsubscribe_is_durable_by_the_log_alone(world: Any, serve: Any, log: SwitchedLog) -> None:
    with serve(log) as ingress, paused(ingress):
        assert ingress.client.post(f"/u/{world.token('unsubscribe', 3)}", data=ONE_CLICK).status_code == 200
        assert [key for key, _ in log.events] == [3]
        assert world.suppressed() == []


def test_P16_an_unsubscribe_that_no_store_takes_is_spooled_and_replayed(
    world: Any, serve: Any, log: SwitchedLog, until: Any, tmp_path: Path
) -> None:
    log.down = True
    with serve(log) as ingress:
        with paused(ingress):
            for _ in range(2):
                assert ingress.client.post(f"/u/{world.token('unsubscribe', 4)}", data=ONE_CLICK).status_code == 200
            assert len(list((tmp_path / "spool").iterdir())) == 1
            assert ingress.health()["unsubscribes_spooled"] == 1
            assert "@" not in next((tmp_path / "spool").iterdir()).read_text()
        log.down = False
        until(lambda: log.events)
        until(lambda: not list((tmp_path / "spool").iterdir()))
        ((key, event),) = log.events  # from which the listener suppresses
        assert (key, b'"unsubscribed"' in event) == (4, True)


def test_P16_a_spool_outlives_its_process(world: Any, serve: Any, log: SwitchedLog, until: Any, tmp_path: Path) -> None:
    log.down = True
    with serve(log) as ingress, paused(ingress):
        assert ingress.client.post(f"/u/{world.token('unsubscribe', 4)}", data=ONE_CLICK).status_code == 200
    log.down = False
    (tmp_path / "spool" / "damaged.json").write_text('{"tenant": ')
    with serve(log):
        until(lambda: world.suppressed() == [(1, "m4@acme", "unsubscribed")])
        until(lambda: len(log.events) == 1)
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["damaged.unreadable"]


def test_P16_with_every_store_and_the_disk_down_nobody_is_told_success(
    world: Any, serve: Any, log: SwitchedLog, tmp_path: Path
) -> None:
    log.down = True
    (tmp_path / "spool").write_text("a file where the folder should be")
    with serve(log) as ingress, paused(ingress):
        answer = ingress.client.post(f"/u/{world.token('unsubscribe', 4)}", data=ONE_CLICK)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0


def test_P16_a_log_that_hangs_holds_up_no_pixel_and_an_unsubscribe_for_seconds_only(
    world: Any, serve: Any, log: SwitchedLog, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailmill.api.ingress.services.STORE_TIMEOUT_S", 0.5)
    with serve(log) as ingress:
        log.go_on.clear()
        began = time.monotonic()
        assert ingress.post_events([a_report(world, 1)]).status_code == 503
        assert ingress.client.get(f"/o/{world.token('open')}").status_code == 200
        assert ingress.client.post(f"/u/{world.token('unsubscribe', 4)}", data=ONE_CLICK).status_code == 200
        assert time.monotonic() - began < 30  # it hangs for 60
        until(lambda: world.suppressed() == [(1, "m4@acme", "unsubscribed")])
        log.go_on.set()


def test_opens_wait_for_the_log_in_bounded_memory_and_what_is_dropped_is_counted(until: Any) -> None:
    from mailmill.api.ingress.appender import Appender

    log = SwitchedLog()
    log.down = True
    appender = Appender(log, interval_s=0.01, max_waiting=100)
    appender.start()
    for number in range(150):
        appender.offer([(number, b"x")])
    until(lambda: appender.failing)
    assert (appender.waiting + appender.dropped, appender.dropped) == (150, 50)
    log.down = False
    until(lambda: len(log.events) == 100)
    assert [key for key, _ in log.events] == list(range(100))
    appender.close()


class paused:
    """The ingress without PostgreSQL: every connection it would make fails at once."""

    def __init__(self, ingress: Any) -> None:
        self._pool = ingress.app.state.services.pool

    def __enter__(self) -> None:
        self._database, self._pool._database = self._pool._database, replace(
            self._pool._database, conninfos={"ingress": f"host={tempfile.gettempdir()}/no-such-folder user=x"}
        )  # fmt: skip
        self._pool.close()

    def __exit__(self, *_: object) -> None:
        self._pool._database = self._database


@pytest.fixture
def process(world: Any, server: EmbeddedServer, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`mailmill ingress` as a process of its own."""
    port = free_port()
    name = world.database.conninfo("owner").rpartition("dbname=")[2].split()[0]
    environment = {
        **os.environ, "MAILMILL_HOME": str(tmp_path), "MAILMILL_DATABASE_URL": server.conninfo("postgres", name),
        "acme": "secret", "beta": "secret",
    }  # fmt: skip
    command = [sys.executable, "-m", "mailmill", "ingress", "--port", str(port)]
    child = subprocess.Popen(command, env=environment)
    yield child, f"http://127.0.0.1:{port}"
    child.kill()
    child.wait()


def test_P16_after_a_kill_every_webhook_answered_with_success_is_on_the_log(
    world: Any, process: tuple[subprocess.Popen[bytes], str], until: Any
) -> None:
    child, url = process
    until(lambda: healthy(url))
    answered: list[tuple[str, float]] = []
    held: list[float] = []  # how long webhooks waited for their answers, which come when the log has their events
    starts = (1, 10_000, 20_000)
    threads = [threading.Thread(target=report, args=(world, url, answered, held, start)) for start in starts]
    threads.append(threading.Thread(target=open_pixels, args=(world, url, answered)))
    for thread in threads:
        thread.start()

    def early(now: float) -> set[str]:
        """Opens that have to be on the log: older than the second a kill may cost, and what a busy machine adds."""
        opens = [(name, at) for name, at in list(answered) if name.startswith("o")]
        busy = max([*held, *(later - at for (_, at), (_, later) in pairwise(opens))], default=now)
        return {name for name, at in opens if at < now - 1 - busy}

    until(lambda: len(answered) > 200 and early(time.time()))
    child.send_signal(signal.SIGKILL)
    killed = time.time()
    for thread in threads:
        thread.join(120)
    events = world.events()
    reported = {f"d{event['message']}" for event in events if event["kind"] == "delivered"}
    assert {name for name, _ in answered if name.startswith("d")} <= reported
    opened = {f"o{event['message']}" for event in events if event["kind"] == "opened"}
    assert early(killed) <= opened


def healthy(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health").status_code == 200
    return False


def report(world: Any, url: str, answered: list[tuple[str, float]], held: list[float], start: int) -> None:
    """Webhooks of one event each, until nobody answers any more."""
    import json

    with httpx.Client(base_url=url, timeout=60) as client, suppress(httpx.HTTPError):
        for number in range(start, start + 9_000):
            body = json.dumps([a_report(world, number)]).encode()
            headers = {
                "Content-Type": "application/json",
                "X-Mailmill-Signature": signature("secret", body, int(time.time())),
            }
            began = time.time()
            try:
                answer = client.post("/webhooks/acme/relay", content=body, headers=headers)
            finally:
                held.append(time.time() - began)
            if answer.status_code == 200:
                answered.append((f"d{number}", time.time()))


def open_pixels(world: Any, url: str, answered: list[tuple[str, float]]) -> None:
    agent = {"User-Agent": "Mozilla/5.0 Thunderbird/128.0"}
    with httpx.Client(base_url=url, headers=agent, timeout=60) as client, suppress(httpx.HTTPError):
        for number in range(1, 50_000):
            if client.get(f"/o/{world.token('open', number)}").status_code == 200:
                answered.append((f"o{number}", time.time()))
