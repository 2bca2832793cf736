"""Runs of the command line whose process is gone: nobody else would ever call them ended.

Dagster watches runs that its daemon started. One that `mailmill ingest` started in its own process and that was killed
would count as at work for ever, and the next run of the same source would wait for it. So such a run holds an advisory
lock as long as it lives; whoever can take the lock knows that nobody does.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from mailmill.io.postgres import control
from mailmill.io.postgres.database import Database

TAG = "mailmill/in-process"
AT_WORK = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


@contextmanager
def alive(run_id: str, database: Database) -> Iterator[None]:
    """Show that this run's process lives, until the block is left or the process ends."""
    with database.connect(autocommit=True) as conn:
        control.hold_run(conn, run_id)
        yield


def end(instance: dg.DagsterInstance, database: Database) -> list[str]:
    """Call the lost runs failed. Out: their ids."""
    runs = instance.get_runs(dg.RunsFilter(statuses=AT_WORK, tags={TAG: "yes"}))
    if not runs:
        return []
    with database.transaction("owner") as conn:
        lost = [run for run in runs if not control.run_is_held(conn, run.run_id)]
    for run in lost:
        instance.report_run_failed(run, "The process that worked at it is gone. Run the same command again to go on.")
    return [run.run_id for run in lost]
