"""Jobs run in this process on the persistent Dagster instance, so that the UI shows them afterwards."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

from mailmill.cli import dagster_home
from mailmill.cli.app import installation
from mailmill.composition import Installation
from mailmill.errors import MailmillError, TerminalError

Found = dict[str, dict[str, Any]]  # asset -> its metadata as plain values; a table is a list of mappings


class RunFailed(TerminalError):
    """A run stopped before its end. `found` is what it had reported until then, `check` the check that stopped it."""

    def __init__(self, message: str, found: Found, *, check: str | None = None) -> None:
        super().__init__(message)
        self.found, self.check = found, check


def run_job(
    job: str,
    partition_key: str = "",
    *,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    tags: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    mill: Installation | None = None,
) -> Found:
    """Run a job of `sensors/jobs.py` here and now; what its assets log goes to stderr.

    In:     partition_key as `tenant|slug`, empty for a job without partitions; config: asset or check -> its config;
            only: these assets of the job.
    Raises: RunFailed naming what failed, in the words of whoever raised it.
    """
    mill = mill or installation()
    dagster_home.prepare(mill)
    warnings.simplefilter("ignore")
    import dagster as dg  # 1.6 s, so only the verbs that run a job pay for it

    from mailmill.definitions import definitions
    from mailmill.sensors import lost_runs

    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    definition = definitions(mill).resolve_job_def(job)
    with ExitStack() as stack:
        instance = stack.enter_context(dg.DagsterInstance.get())
        # by default each of some 130 statements makes a connection of its own (measured: 1.1 s of 2.6 s)
        instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=4)
        lost_runs.end(instance, mill.database)
        partitions = definition.partitions_def
        if partition_key and isinstance(partitions, dg.DynamicPartitionsDefinition):
            instance.add_dynamic_partitions(partitions.name or "", [partition_key])
        run_id = str(uuid4())
        stack.enter_context(lost_runs.alive(run_id, mill.database))
        ops = {name: {"config": dict(values)} for name, values in (config or {}).items()}
        result = definition.execute_in_process(
            instance=instance,
            run_id=run_id,
            partition_key=partition_key or None,
            asset_selection=[dg.AssetKey(name) for name in only] or None,
            run_config={"ops": ops, "loggers": {"lines": {}}},
            tags={**(tags or {}), lost_runs.TAG: "yes"},
            raise_on_error=False,
        )
        found = _found(result)
        if not result.success:
            raise _failure(result, found)
        return found


def _found(result: Any) -> Found:
    found: Found = {}
    for event in result.get_asset_materialization_events():
        materialization = event.step_materialization_data.materialization
        found[materialization.asset_key.to_user_string()] = {
            name: _plain(value.value) for name, value in materialization.metadata.items()
        }
    return found


def _plain(value: Any) -> Any:
    records = getattr(value, "records", None)
    return value if records is None else [dict(record.data) for record in records]


def _failure(result: Any, found: Found) -> BaseException:
    """What stopped the run, in the words of whoever raised it where that was one of us."""
    for event in result.all_events:
        if event.is_step_failure:
            errors = [event.step_failure_data.error]
            while errors[-1].cause is not None:
                errors.append(errors[-1].cause)
            if _interrupted(errors[-1]):
                return KeyboardInterrupt()
            if errors[-1].cls_name == "DagsterAssetCheckFailedError":
                break
            return RunFailed(_words(event, errors, result.run_id), found)
    for event in result.all_events:
        if event.event_type_value == "ASSET_CHECK_EVALUATION" and not event.asset_check_evaluation_data.passed:
            check = event.asset_check_evaluation_data
            return RunFailed(f"the check {check.check_name} did not pass", found, check=check.check_name)
        if event.is_job_failure and event.job_failure_data.error and _interrupted(event.job_failure_data.error):
            return KeyboardInterrupt()
    return MailmillError("the run failed")


def _words(event: Any, errors: Sequence[Any], run_id: str) -> str:
    """Of what nobody foresaw the kind alone, as its own words may hold a row. In: errors, each before its cause."""
    failure = event.step_failure_data.user_failure_data
    ours = [error.message.partition(": ")[2].strip() for error in errors if error.message.startswith(_OURS)]
    said = failure.description if failure is not None else next(iter(ours), None)
    if said and (ours or len(errors) == 1):
        return str(said)
    said = said or f"an unexpected error, {errors[-1].cls_name}, in {event.step_key}: see run {run_id}"
    return f"{said}\n  Its stack trace is kept with that run, in Dagster's user interface (`mailmill up`)."


_OURS = f"{MailmillError.__module__}."  # begins what Dagster keeps of an error of this module


def _interrupted(error: Any) -> bool:
    return error.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt")


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
