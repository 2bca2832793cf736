"""The verb send: one worker on this machine, until idle or for ever."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Annotated

import typer

from mailmill.cli import logs
from mailmill.cli.app import Json, answer_json, answer_table, app, installation
from mailmill.errors import told
from mailmill.io.postgres import accounts
from mailmill.pipelines.send.calls import Report
from mailmill.pipelines.send.loop import Sender

TICK_EVERY_S = 30.0
logger = logging.getLogger(__name__)


@app.command()
def send(
    campaign: Annotated[list[str] | None, typer.Option(help="tenant/campaign; all that run when not given.")] = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle/--forever", help="Stop when nothing is left to send soon, or go on for ever.")
    ] = True,
    worker: Annotated[str | None, typer.Option(help="This worker's name; by default the machine's.")] = None,
    json: Json = False,
) -> None:
    """Send what is due: start due campaigns, claim, hand over, record. Ctrl-C finishes what is in flight."""
    from mailmill.io.send_worker import run_worker

    home = installation()
    logs.start(home.settings.log_level, home.settings.log_format)
    names = frozenset(campaign) if campaign else None
    with home.database.transaction("sender") as conn:
        for name in names or ():
            accounts.campaign(conn, name)
    ticks = _Ticks(forever=not until_idle)
    try:
        done = run_worker(
            home.database,
            home.settings.journal_path,
            home.secret,
            worker=worker,
            campaigns=names,
            until_idle=until_idle,
            progress=_Progress(),
            watch=_metrics,
            own_process=True,
        )
    finally:
        ticks.close()
    report = done.report
    if ticks.trouble:
        report.problems["due campaigns"] = ticks.trouble
    if json:
        answer_json(
            {"worker": done.worker, "replayed": done.replayed, "counts": dict(report.counts), "ended": report.ended,
             "finished": report.finished, "problems": report.problems}
        )  # fmt: skip
    else:
        rows = [{"what": what, "messages": n} for what, n in sorted(report.counts.items()) if n]
        answer_table(rows, title=f"worker {done.worker}: {report.ended}")
        for what, why in report.problems.items():
            _say(f"{what}: {why}")
    if report.failed or report.problems:
        raise typer.Exit(1)


@contextmanager
def _metrics(name: str, sender: Sender) -> Iterator[None]:
    """/metrics beside the worker, where a port is set for it."""
    settings = installation().settings
    if not settings.metrics_port:
        yield
        return
    from mailmill.io.send_metrics import SendMetrics, serving

    metrics = SendMetrics(name, sender.report, lambda: sender.doing)
    with serving(metrics, bind=settings.bind, port=settings.metrics_port) as port:
        _say(f"metrics: http://{settings.bind}:{port}/metrics")
        yield


class _Ticks:
    """The minute tick's work, for whoever sends without Dagster: once now, and again while the worker runs.

    A worker that is let in as sender only has Dagster beside it, which plans.
    """

    def __init__(self, *, forever: bool) -> None:
        self._over = Event()
        self.trouble = ""  # of the last one
        if not installation().database.may("owner"):
            return
        self._tick()
        if forever:
            Thread(target=self._go_on, name="ticks", daemon=True).start()

    def close(self) -> None:
        self._over.set()

    def _go_on(self) -> None:
        while not self._over.wait(TICK_EVERY_S):
            self._tick()

    def _tick(self) -> None:
        """What cannot be started keeps nothing that runs from being sent; the next tick tries it again."""
        try:
            for planned in installation().tick(by="mailmill send"):
                _say(f"{planned.name}: {planned.state} {planned.reason or ''}".rstrip())
            self.trouble = ""
        except Exception as error:
            self.trouble = told(error)
            _say(f"starting due campaigns: {self.trouble}")


def _say(text: str, *, end: str = "\n") -> None:
    """To a person on stderr; a log of JSON gets an object like everything else there."""
    if installation().settings.log_format == "json":
        logger.info(text.strip())
    else:
        print(text, end=end, file=sys.stderr)


class _Progress:
    """A line on the terminal, or one every ten seconds in a log."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = 0.0
        self._sent, self._at = 0, time.monotonic()
        self._said: dict[str, str] = {}

    def __call__(self, report: Report) -> None:
        now = time.monotonic()
        for what, why in report.problems.items():
            if self._said.get(what) != why:
                _say(f"\r{what}: {why}")
        self._said = dict(report.problems)
        if now < self._next:
            return
        self._next = now + (1.0 if self._terminal else 10.0)
        sent = report.counts["sent"]
        rate = (sent - self._sent) / max(0.001, now - self._at)
        self._sent, self._at = sent, now
        told = ", ".join(f"{n:,} {what}" for what, n in report.counts.items() if n) or "nothing yet"
        line = f"{told} ({rate:,.0f} messages/s)"
        _say(f"\r{line:<100}" if self._terminal else line, end="" if self._terminal else "\n")
