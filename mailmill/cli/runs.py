"""Jobs run in this process on the persistent Dagster instance, so that the UI shows them afterwards."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from mailmill.cli import dagster_home
from mailmill.errors import MailmillError, TerminalError


def run_job(
    job: str, partition_key: str = "", *, config: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Run a job of `sensors/jobs.py` here and now.

    In:     partition_key as `tenant|slug`, empty for a job without partitions; config is Dagster's run config.
    Out:    asset -> its metadata as plain values, of this run.
    Raises: TerminalError naming what failed; what the pipelines raised comes through as it is.
    """
    dagster_home.prepare()
    warnings.simplefilter("ignore")
    import dagster as dg  # 1.6 s, so only the verbs that run a job pay for it

    from mailmill.definitions import defs

    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    definition = defs.resolve_job_def(job)
    with dg.DagsterInstance.get() as instance:
        partitions = definition.partitions_def
        if partition_key and isinstance(partitions, dg.DynamicPartitionsDefinition):
            instance.add_dynamic_partitions(partitions.name or "", [partition_key])
        result = definition.execute_in_process(
            instance=instance,
            partition_key=partition_key or None,
            run_config={**(config or {}), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags=dict(tags or {}),
            raise_on_error=False,
        )
        if not result.success:
            raise _failure(result, job, partition_key)
        found: dict[str, dict[str, Any]] = {}
        for event in result.get_asset_materialization_events():
            materialization = event.step_materialization_data.materialization
            found[materialization.asset_key.to_user_string()] = {
                name: value.value for name, value in materialization.metadata.items()
            }
        return found


def _failure(result: Any, job: str, partition_key: str) -> Exception:
    """What stopped the run, in the words of whoever raised it."""
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error.cause is not None:
                error = error.cause
            return TerminalError(f"{job} {partition_key.replace('|', '/')}: {error.message.strip()}")
        if event.event_type_value == "ASSET_CHECK_EVALUATION" and not event.asset_check_evaluation_data.passed:
            check = event.asset_check_evaluation_data
            return TerminalError(f"{job} {partition_key.replace('|', '/')}: the check {check.check_name} did not pass")
    return MailmillError(f"{job} {partition_key.replace('|', '/')} failed")
