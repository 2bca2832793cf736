"""A send worker on this machine: its name, its journal, what earlier ones left behind, and the loop over real parts."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from mailmill.errors import MailmillError, Misconfigured, StoreUnavailable
from mailmill.io.postgres import keys, ledger
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.doubts import Replayed
from mailmill.io.postgres.ledger_ports import PostgresFollower, PostgresLedger, SenderSession
from mailmill.io.recovery import Rescue, journal_of, recover
from mailmill.io.transports.smtp import SmtpRelay
from mailmill.io.transports.smtp_config import SmtpConfig
from mailmill.pipelines.send.calls import Report
from mailmill.pipelines.send.claiming import Terms
from mailmill.pipelines.send.dkim import load
from mailmill.pipelines.send.loop import Sender
from mailmill.pipelines.send.messages import Composer, DkimKey, SigningKeys
from mailmill.pipelines.send.ports import CampaignFacts, RouteFacts
from mailmill.pipelines.send.tokens import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerResult:
    """What a worker did, and what it found of earlier ones."""

    worker: str
    replayed: Replayed
    report: Report


def run_worker(
    database: Database,
    journal_root: Path,
    secret: Callable[[str], str],
    *,
    worker: str | None = None,
    campaigns: frozenset[str] | None = None,
    until_idle: bool = False,
    max_s: float | None = None,
    lease_s: float = 120.0,
    margin_s: float | None = None,
    grace_s: float = 30.0,
    patience_s: float = 30.0,
    progress: Callable[[Report], None] = lambda report: None,
    watch: Callable[[str, Sender], AbstractContextManager[object]] = lambda name, sender: nullcontext(),
    own_process: bool = False,
) -> WorkerResult:
    """Send until idle, out of time, or told to stop (SIGTERM or SIGINT, when this is the main thread).

    In:     campaigns as tenant/slug, None: all; `watch` goes on beside it, given its name; `own_process`: nothing else
            runs here, so tune its garbage collection.
    Raises: Misconfigured (no keys, a name in use, a journal that cannot be written), StoreUnavailable at the start.
    """
    name, journal = journal_of(journal_root, worker)
    session = SenderSession(database, owns=name)
    follow = SenderSession(database)
    try:
        replayed = recover(session, journal, name, journal_root, only=campaigns)
        with session.use() as conn:
            signing_keys(conn)  # without them nothing is begun
        rescue = Rescue(session, journal_root, name)
        sender = Sender(
            Terms(
                worker=name, lease_s=lease_s, margin_s=lease_s / 6 if margin_s is None else margin_s, grace_s=grace_s,
                until_idle=until_idle, patience_s=patience_s, max_s=max_s, only=campaigns,
            ),
            follower=PostgresFollower(follow),
            ledger=PostgresLedger(session, name, rescue=rescue),
            journal=journal,
            relay=lambda route: _relay(route, secret),
            composer=lambda facts, content: composer(content["signing"], facts, content, secret),
            progress=progress,
        )  # fmt: skip
        with watch(name, sender):
            report = _run(sender, own_process=own_process)
        _say_goodbye(session, name, report.troubles)
    except Exception as error:
        _say_goodbye(session, name, {"worker": str(error) if isinstance(error, MailmillError) else repr(error)})
        raise
    finally:
        session.close()
        follow.close()
        journal.close()
    return WorkerResult(worker=name, replayed=replayed, report=report)


def _run(sender: Sender, *, own_process: bool) -> Report:
    async def main() -> Report:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, sender.stop, signal.Signals(number).name)
        return await sender.run()

    if own_process:  # no cycles are made per message; a full pass over the waiting rows would stall every connection
        gc.freeze()
        gc.set_threshold(200_000, 50, 100)
    try:
        import uvloop
    except ImportError:  # not on every platform
        return asyncio.run(main())
    return uvloop.run(main())


def _say_goodbye(session: SenderSession, name: str, troubles: Mapping[str, str]) -> None:
    """One that ended well is forgotten, one in trouble is shown for a day."""
    with suppress(StoreUnavailable), session.use() as conn:
        if not troubles:
            conn.execute(ledger.SQL["forget_worker"], {"worker": name})
        conn.execute(ledger.SQL["note_end"], {"worker": name, "troubles": Jsonb(dict(troubles))})


# ------------------------------------------------------------ parts


def signing_keys(conn: psycopg.Connection) -> SigningKeys:
    """The keys that sign now.

    Raises: Misconfigured when one is missing.
    """
    found = {}
    for purpose in ("tracking", "unsubscribe", "return_path"):
        usable = keys.usable(conn, purpose)
        if not usable:
            raise Misconfigured(f"there is no {purpose} key yet", remedy="Run `mailmill apply`, which makes it.")
        id, value = next(iter(usable.items()))
        found[purpose] = Key(id, value)
    return SigningKeys(**found)


def composer(
    signing: SigningKeys, facts: CampaignFacts, content: Mapping[str, Any], secret: Callable[[str], str]
) -> Composer:
    """What makes a campaign's messages. Raises: Misconfigured when a key of its identity cannot be read."""
    return Composer(
        content,
        tenant=facts.tenant_id,
        campaign=facts.id,
        keys=signing,
        dkim_keys=[
            DkimKey(domain=one["domain"], selector=one["selector"], key=load(secret(one["key"]), place=one["key"]))
            for one in content.get("dkim") or ()
            if one["key"]  # else the relay signs
        ],
    )


def _relay(route: RouteFacts, secret: Callable[[str], str]) -> SmtpRelay:
    return SmtpRelay(SmtpConfig.of(route.kind, route.spec, secret))
