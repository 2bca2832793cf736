"""Runs whose process is gone: nobody else would ever call them ended.

Dagster hears of a run's end from the code server that started it. One that was at work when the machine, the code
server or a verb's own process ended would count as at work for ever, and the next run of the same source, segment or
campaign would wait for it. So a run holds an advisory lock as long as it lives; whoever can take the lock knows that
nobody does.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import dagster as dg

from mailmill.assets.resources import Mill
from mailmill.errors import StoreUnavailable
from mailmill.io.postgres import control
from mailmill.io.postgres.database import Database

TAG = "mailmill/in-process"  # of a verb's run, which holds its lock from before it exists
AT_WORK = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
BEGINS_S = 60.0  # within which a run that Dagster started has taken its lock
ENDS_S = 2.0  # between a run's giving up its lock and its saying how it ended


@contextmanager
def alive(run_id: str, database: Database) -> Iterator[None]:
    """Show that this run's process lives, until the block is left or the process ends."""
    with database.connect(autocommit=True) as conn:
        control.hold_run(conn, run_id)
        yield


def shown(mill: Mill) -> dg.ResourceDefinition:
    """The installation as it is handed out; a run that Dagster started shows by it that its process lives."""

    def handed(context: dg.InitResourceContext) -> Iterator[Mill]:
        with ExitStack() as held:
            if context.run is not None and TAG not in context.run.tags:
                with suppress(StoreUnavailable):  # the run says that in its own words
                    held.enter_context(alive(context.run.run_id, mill.database))
            yield mill

    return dg.ResourceDefinition(resource_fn=handed)


def end(instance: dg.DagsterInstance, database: Database) -> list[str]:
    """Call the lost runs failed. Out: their ids."""
    at_work = instance.get_run_records(dg.RunsFilter(statuses=AT_WORK))
    lost = _unheld(database, [one.dagster_run for one in at_work if _holds(one)])
    if any(TAG not in run.tags for run in lost):
        time.sleep(ENDS_S)
    ended = []
    for run in lost:
        now = instance.get_run_by_id(run.run_id)  # it may have ended meanwhile
        if now is not None and now.status in AT_WORK:
            instance.report_run_failed(now, "The process that worked at it is gone; another run goes on from there.")
            ended.append(run.run_id)
    return ended


def _holds(record: dg.RunRecord) -> bool:
    """Whether this run has its lock, if it lives. One that has not started Dagster itself gives up in the end."""
    if TAG in record.dagster_run.tags:
        return True
    began = record.start_time if record.dagster_run.status is dg.DagsterRunStatus.STARTED else None
    return began is not None and time.time() - began > BEGINS_S


def _unheld(database: Database, runs: Sequence[dg.DagsterRun]) -> list[dg.DagsterRun]:
    if not runs:
        return []
    with database.transaction("owner") as conn:
        return [run for run in runs if not control.run_is_held(conn, run.run_id)]
