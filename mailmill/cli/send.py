"""Verbs about sending: send, account, doubts, workers, release."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Annotated, Any, Literal

import typer

from mailmill.cli import logs
from mailmill.cli.app import Json, answer_json, answer_table, app, installation, person
from mailmill.errors import MailmillError, Misconfigured
from mailmill.io.postgres import campaigns, ledger
from mailmill.io.postgres import doubts as ledger_doubts
from mailmill.io.postgres.ledger import SQL
from mailmill.io.postgres.suppressions import raise_change_number
from mailmill.pipelines.send.calls import Report
from mailmill.pipelines.send.loop import Sender

Name = Annotated[str, typer.Argument(help="tenant/campaign", metavar="CAMPAIGN")]
TICK_EVERY_S = 30.0
RESOLVE = {"sent": "resolve_sent", "failed": "resolve_failed", "resend": "resolve_resend"}


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
    logs.start(home.settings.log_level)
    names = frozenset(campaign) if campaign else None
    with home.database.transaction("sender") as conn:
        for name in names or ():
            ledger.campaign(conn, name)
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
    if json:
        answer_json(
            {"worker": done.worker, "replayed": done.replayed, "counts": dict(report.counts), "ended": report.ended,
             "finished": report.finished, "problems": report.problems}
        )  # fmt: skip
    else:
        rows = [{"what": what, "messages": n} for what, n in sorted(report.counts.items()) if n]
        answer_table(rows, title=f"worker {done.worker}: {report.ended}")
        for what, why in report.problems.items():
            print(f"{what}: {why}", file=sys.stderr)
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
        print(f"metrics: http://{settings.bind}:{port}/metrics", file=sys.stderr)
        yield


class _Ticks:
    """The minute tick's work, for whoever sends without Dagster: once now, and again while the worker runs.

    A worker that is let in as sender only has Dagster beside it, which plans.
    """

    def __init__(self, *, forever: bool) -> None:
        self._over = Event()
        if not installation().database.may("owner"):
            return
        self._tick()
        if forever:
            Thread(target=self._go_on, name="ticks", daemon=True).start()

    def close(self) -> None:
        self._over.set()

    def _go_on(self) -> None:
        while not self._over.wait(TICK_EVERY_S):
            try:
                self._tick()
            except MailmillError as error:  # the next one tries again
                print(f"starting due campaigns: {error}", file=sys.stderr)

    @staticmethod
    def _tick() -> None:
        for planned in installation().tick(by="mailmill send"):
            print(f"{planned.name}: {planned.state} {planned.reason or ''}".rstrip(), file=sys.stderr)


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
                print(f"\r{what}: {why}", file=sys.stderr)
        self._said = dict(report.problems)
        if now < self._next:
            return
        self._next = now + (1.0 if self._terminal else 10.0)
        sent = report.counts["sent"]
        rate = (sent - self._sent) / max(0.001, now - self._at)
        self._sent, self._at = sent, now
        told = ", ".join(f"{n:,} {what}" for what, n in report.counts.items() if n) or "nothing yet"
        line = f"{told} ({rate:,.0f} messages/s)"
        print(f"\r{line:<100}" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr)


@app.command()
def account(campaign: Name, json: Json = False) -> None:
    """The ledger of a campaign by state. It has to add up to what was planned; exit 1 when it does not."""
    with installation().database.transaction("owner") as conn:
        known = ledger.campaign(conn, campaign)
        found = ledger.account(conn, known.id)
        why = ledger.reasons(conn, known.id)
        troubles = ledger.troubles(conn, known.id) if found.open and not found.held else []
    if json:
        reasons = [{"state": state, "reason": reason, "messages": n} for state, reason, n in why]
        answer_json(
            {**{name: getattr(found, name) for name in found.__slots__}, "open": found.open, "reasons": reasons,
             "troubles": [{"worker": name, "ended_at": ended, "said": said} for name, ended, said in troubles]}
        )  # fmt: skip
    else:
        rows: list[dict[str, Any]] = [{"state": state, "messages": n} for state, n in found.by_state.items()]
        answer_table([*rows, {"state": "planned", "messages": found.planned}], title=f"{found.campaign}: {found.state}")
        if why:
            answer_table([{"state": s, "reason": r, "messages": n} for s, r, n in why], title="why not sent")
        if found.held:
            print(f"its transport is held: {found.held}")
        for name, ended, said in troubles:
            print(f"the worker {name} {f'ended at {ended:%Y-%m-%d %H:%M:%S %Z}' if ended else 'waits'}: {said}")
    if found.unaccounted:
        raise Misconfigured(f"{found.unaccounted:,} recipients of {found.campaign} are unaccounted for")


@app.command()
def doubts(
    campaign: Annotated[str | None, typer.Argument(help="tenant/campaign", metavar="CAMPAIGN")] = None,
    resolve: Annotated[
        Literal["sent", "failed", "resend"] | None, typer.Option(help="Settle all doubts of this campaign.")
    ] = None,
    declare_lost: Annotated[
        str | None, typer.Option(metavar="WORKER", help="This worker's journal will not come back.")
    ] = None,
    json: Json = False,
) -> None:
    """Messages of which nobody knows whether the relay took them. They are not sent again unless you say so."""
    from mailmill.pipelines.ingest.addresses import mask

    database = installation().database
    if declare_lost is not None:
        with database.transaction("sender") as conn:
            ledger.session(conn)
            n = ledger_doubts.declare_lost(conn, declare_lost)
        answer_json({"worker": declare_lost, "in_doubt": n}) if json else print(f"{n:,} messages are now in doubt")
        return
    with database.transaction("owner") as conn:
        known = ledger.campaign(conn, campaign) if campaign else None
        if resolve is not None:
            if known is None:
                raise Misconfigured("--resolve needs a campaign", place="doubts", remedy="Name it as tenant/campaign.")
            n = _resolve(conn, known.id, resolve)
            answer_json({"campaign": known.name, resolve: n}) if json else print(f"{n:,} doubts settled as {resolve}")
            return
        found = conn.execute(SQL["doubts"], {"campaign_id": known.id if known else None, "limit": 1000}).fetchall()
    names = ("campaign", "message", "attempt", "reason", "reply", "outcome", "since", "address")
    rows = [dict(zip(names, row, strict=True)) for row in found]
    for row in rows:
        row["address"] = mask(row["address"]) if row["address"] else None
    answer_json(rows) if json else answer_table(rows, title="in doubt (the first 1,000)")


def _resolve(conn: Any, campaign_id: int, how: str) -> int:
    n: int = conn.execute(SQL[RESOLVE[how]], {"campaign_id": campaign_id}).rowcount
    if (
        how == "resend"
        and n
        and not campaigns.move(conn, campaign_id, "reopen", by=person(), reason="doubts are sent again")
    ):
        raise_change_number(conn)  # it runs already
    return n


@app.command()
def workers(json: Json = False) -> None:
    """The send workers, what they hold and since when they are silent."""
    with installation().database.transaction("sender") as conn:
        found = conn.execute(SQL["workers"]).fetchall()
    names = (
        "worker", "host", "pid", "started_at", "seen_at", "silent_s", "leases", "expired", "rate", "in_flight",
        "bound_by", "ended_at", "last_error"
    )  # fmt: skip
    rows = [dict(zip(names, row, strict=True)) for row in found]
    for row in rows:
        row["silent_s"] = round(row["silent_s"], 1)
    answer_json(rows) if json else answer_table(rows, title="workers")


@app.command()
def why(
    campaign: Annotated[str | None, typer.Argument(help="tenant/campaign; all under way when not given.")] = None,
    json: Json = False,
) -> None:
    """Why nothing is going out: what keeps each campaign's next message, and what to do. Exit 1 when something does."""
    from mailmill.io.postgres.situation import situations
    from mailmill.pipelines.send.obstacles import Obstacle, obstacles

    with installation().database.transaction("owner") as conn:
        found = [(one, obstacles(one)) for one in situations(conn, campaign)]
    if json:
        answer_json([{"campaign": one.campaign, "state": one.state, "obstacles": kept} for one, kept in found])
    elif not found:
        print("no campaign is scheduled or under way")
    else:
        nothing = [Obstacle(what="nothing")]
        answer_table([
            {"campaign": one.campaign, "state": one.state, "what keeps it": it.what, "until": it.until,
             "what to do": it.remedy}
            for one, kept in found for it in (kept or nothing)
        ])  # fmt: skip
    if any(kept for _, kept in found):
        raise typer.Exit(1)


@app.command()
def release(
    transport: Annotated[str, typer.Argument(help="tenant/transport", metavar="TRANSPORT")], json: Json = False
) -> None:
    """Let a held transport send again, once what it was held for is mended."""
    with installation().database.transaction("owner") as conn:
        tenant, _, slug = transport.partition("/")
        row = conn.execute(SQL["transport"], {"tenant": tenant, "slug": slug}).fetchone()
        if row is None:
            raise Misconfigured(f"there is no transport {transport!r}", remedy="Name it as tenant/transport.")
        n = ledger.release(conn, int(row[0]))
    answer_json({"transport": transport, "released": n}) if json else print(
        f"{transport} is released, {n:,} messages queued"
    )
