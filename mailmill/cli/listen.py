"""Verbs about events: listen, dead-letters."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Annotated

import typer

from mailmill.cli import logs
from mailmill.cli.app import Json, answer_json, answer_table, app, installation, plain


@app.command()
def listen(
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when nothing is left on the log.")] = False,
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="Go on at what Kafka still has where it lost what comes next.")
    ] = False,
    json: Json = False,
) -> None:
    """Fold delivery events into outcomes, suppressions and statistics, until stopped."""
    from mailmill.io.listener import Listener  # imports polars, which quick verbs do without

    here, stop = installation(), threading.Event()
    logs.start(here.settings.log_level, here.settings.log_format)
    if not until_idle:
        for name in (signal.SIGTERM, signal.SIGINT):  # the batch under way is finished, the rest stays on the log
            signal.signal(name, lambda *_: stop.set())
        print("listen: folding events, until Ctrl-C", file=sys.stderr, flush=True)
    listener = Listener(
        database=here.database,
        lake=here.lake,
        kafka_url=here.settings.kafka_url,
        accept_gap=accept_gap,
        dagster_url=here.settings.dagster_url,
    )
    report = listener.run(until_idle=until_idle, stop=stop)
    if json:
        answer_json(report)
    else:
        answer_table([plain(report)], title="folded")


@app.command("dead-letters")
def dead_letters(
    replay: Annotated[bool, typer.Option("--replay", help="Put those that wait back on the event log.")] = False,
    json: Json = False,
) -> None:
    """Show the records of the event log that were no events, by reason."""
    from mailmill.io.postgres import dead_letters as letters

    database = installation().database
    replayed = letters.replay(database) if replay else 0
    with database.transaction("listener") as conn:
        tally = letters.tally(conn)
        waiting = letters.listed(conn)
    if json:
        answer_json({"replayed": replayed, "reasons": tally, "waiting": waiting})
        return
    if replay:
        print(f"{replayed} put back on the event log; `mailmill listen` folds them")
    answer_table([plain(one) for one in tally], title="dead letters")
