"""What the page of a run shows while it sends: every some seconds how far the campaign is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import dagster as dg

from mailmill.assets import reports
from mailmill.assets.resources import Mill
from mailmill.errors import MailmillError
from mailmill.io.postgres import accounts
from mailmill.pipelines.send.progress import Progress, spell

EVERY_S = 10.0  # an event a look stays in Dagster's storage for ever
SHARE = 50  # of the time at most one part goes into looking: a large ledger is looked at less often


@contextmanager
def followed(context: dg.AssetExecutionContext, mill: Mill, campaign_id: int) -> Iterator[None]:
    """Report the campaign's progress beside the block: an observation of the asset, which triggers nothing."""
    over = Event()
    thread = Thread(target=_follow, args=(context, mill, campaign_id, over), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(context: dg.AssetExecutionContext, mill: Mill, campaign_id: int, over: Event) -> None:
    wait_s = EVERY_S
    while not over.wait(wait_s):
        began = time.monotonic()
        try:
            found = look(mill, campaign_id)
        except MailmillError as error:  # who sends has to deal with it; here nothing is lost
            context.log.warning(f"the ledger could not be read: {error}")
            continue
        wait_s = max(EVERY_S, SHARE * (time.monotonic() - began))
        context.log_event(
            dg.AssetObservation(
                context.asset_key,
                partition=context.partition_key,
                description=str(found),
                metadata=facts(found),
            )
        )


def look(mill: Mill, campaign_id: int) -> Progress:
    with mill.database.transaction() as conn:
        return accounts.progress(conn, campaign_id)


def facts(found: Progress) -> dict[str, dg.MetadataValue[Any]]:
    """Progress as it fits into the row of a run's log, the ledger by state in words."""
    left = f", in {spell(found.ends_about - found.now)}" if found.ends_about else ""
    ends = f"{found.ends_about:%Y-%m-%d %H:%M:%S %Z}{left}" if found.ends_about else "unknown" if found.open else "over"
    states = sorted(found.by_state.items(), key=lambda item: -item[1])
    planned = max(1, found.planned)
    told = {
        "progress": f"{found.done:,} of {found.planned:,} ({100 * found.done / planned:.1f} %), {found.state}",
        "rate": f"{found.rate:,.1f} messages/s over the last minute",
        "estimated_end": ends,
        "by_state": ", ".join(f"{state} {n:,}" for state, n in states) or "nothing is planned",
    }
    return {name: dg.MetadataValue.text(text) for name, text in told.items()}


def metadata(found: Progress) -> dict[str, dg.MetadataValue[Any]]:
    """Progress as the page of the asset has room for it: with the ledger by state as a table."""
    states, planned = sorted(found.by_state.items(), key=lambda item: -item[1]), max(1, found.planned)
    rows = [{"state": state, "messages": n, "share": f"{100 * n / planned:.1f} %"} for state, n in states]
    return {**facts(found), "ledger": reports.table(rows)}
