"""What an operator sees of a worker while it runs: its row, /metrics, and a log in which a message can be followed."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from send_world import Sink, World, by_address, thread, until
from verbs import Verb

from mailmill.errors import Misconfigured
from mailmill.io.send_metrics import SendMetrics, serving
from mailmill.io.send_worker import run_worker
from mailmill.pipelines.send.calls import Report
from mailmill.pipelines.send.gauges import Gauges, RouteGauge
from mailmill.pipelines.send.loop import Sender


def test_a_running_worker_says_its_pace_what_is_in_flight_and_what_binds_it(
    world: World, mailmill: Verb, tmp_path: Path
) -> None:
    ports: list[int] = []

    @contextmanager
    def watch(name: str, sender: Sender) -> Iterator[None]:
        with serving(SendMetrics(name, sender.report, lambda: sender.doing), bind="127.0.0.1", port=0) as port:
            ports.append(port)
            yield

    def work() -> object:
        return run_worker(world.database, tmp_path / "journal", lambda reference: "", worker="w1", until_idle=True,
                          patience_s=0, grace_s=5, watch=watch, campaigns=frozenset({"acme/spring"}))  # fmt: skip

    def scraped() -> dict[tuple[str, str], float]:
        text = httpx.get(f"http://127.0.0.1:{ports[0]}/metrics", timeout=60).text
        return {
            (sample.name, sample.labels.get("by") or sample.labels.get("result") or ""): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    with Sink(by_address({"dot r7": "wait"})) as sink:
        world.campaign(30, port=sink.port, transport={"connections": 1})
        with thread(work) as done:
            until(lambda: len(sink.taken) >= 7 and ports, what="the worker sends")
            row = until(
                lambda: world.sql("SELECT doing FROM workers WHERE doing ->> 'in_flight' > '0'"), what="its row"
            )
            assert row[0][0]["bound_by"] == "connections"
            (shown,) = json.loads(mailmill("workers", "--json").out)
            assert (shown["worker"], shown["leases"], shown["expired"], shown["bound_by"]) == (
                "w1",
                1,
                0,
                "connections",
            )
            assert shown["in_flight"] >= 1 and shown["rate"] >= 0 and shown["silent_s"] < 60 and not shown["last_error"]
            assert shown["campaigns"] == ["acme/spring"] and "acme/spring" in mailmill("workers").out
            assert scraped()["mailmill_send_results_total", "failed"] == 0  # there before the first one
            found = until(lambda: scraped() if scraped().get(("mailmill_send_results_total", "sent")) else None)
            assert found["mailmill_send_results_total", "sent"] >= 7
            assert found["mailmill_send_bound", "connections"] == 1 and found["mailmill_send_connections", ""] == 1
            sink.go()
            done()
    assert world.sql("SELECT count(*) FROM workers") == [(0,)]


def test_each_metric_says_what_it_counts_and_in_what() -> None:
    gauges = Gauges(routes=(RouteGauge(transport="a/b", connections=1, waiting=2, in_flight=3, bound_by="limit"),))
    found = list(SendMetrics("w", Report(), lambda: gauges).collect())
    assert len({one.name for one in found}) == len(found) == 11
    for one in found:
        assert one.name.startswith("mailmill_send_") and one.name.isascii() and one.name.islower(), one.name
        assert one.samples and len(one.documentation) > 10 and one.documentation.isascii(), one.name
        assert all("worker" in sample.labels for sample in one.samples)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(Misconfigured, match="cannot be listened on"),
            serving(SendMetrics("w", Report(), Gauges), bind="127.0.0.1", port=taken.getsockname()[1]),
        ):
            raise AssertionError("it listens")


def test_a_message_can_be_followed_in_the_log_and_nobody_is_named(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mailmill.pipelines.send")
    with Sink(by_address({"rcpt r1": "550 5.1.1 r1@example.org who?"})) as sink:
        campaign = world.campaign(2, port=sink.port)
        run_worker(world.database, tmp_path / "journal", lambda reference: "", until_idle=True, patience_s=0)
    ids = dict(world.sql("SELECT id, contact_id FROM messages"))
    told = {record.message: record for record in caplog.records if hasattr(record, "contact_id")}
    sent, failed = told["sent"], told["failed"]
    assert sent.levelno == logging.DEBUG and failed.levelno == logging.INFO
    for record in (sent, failed):
        assert ids[record.__dict__["message_id"]] == record.__dict__["contact_id"]
        assert (record.__dict__["campaign"], record.__dict__["campaign_id"]) == (
            "acme/spring",
            campaign,
        ) and record.__dict__["attempt"] == 1
    assert failed.__dict__["reason"] == "bad_mailbox" and failed.__dict__["code"] == 550
    assert "example.org" not in caplog.text and not any("example.org" in str(r.__dict__) for r in told.values())
