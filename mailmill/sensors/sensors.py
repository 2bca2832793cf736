"""What starts because something happened: a file was dropped, the configuration changed, an asset's condition holds."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg

from mailmill.assets import partitions
from mailmill.assets.resources import Mill
from mailmill.io.postgres import control
from mailmill.io.sources.contents import shown
from mailmill.sensors import jobs, lost_runs

SETTLED_S = 2.0  # a file that changed more recently may still be copied


@dg.sensor(
    job=jobs.ingest,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Files dropped into the folder of a CSV source are ingested, and again after a passing failure, or "
    "when the source was applied with a change.",
)
def inbox(context: dg.SensorEvaluationContext, mill: dg.ResourceParam[Mill]) -> dg.SensorResult:
    with mill.database.transaction("owner") as conn:
        sources = [source for source in control.sources(conn) if source.kind == "csv" and source.folder]
    known: dict[str, list[float]] = json.loads(context.cursor or "{}")
    found: dict[str, list[float]] = {}
    requests = {one.key: _requested(one.key, f"{one.key}:again:{one.failed}") for one in sources if one.failed}
    folders = {one.key: _listed(mill.project / str(one.folder)) for one in sources}
    for one in sources:  # what its old columns could not read lies there yet, or is held
        found[one.key] = [float(one.version), float(folders[one.key] is not None)]
        if known.get(one.key, found[one.key])[:1] != found[one.key][:1]:
            requests[one.key] = _requested(one.key, f"{one.key}:applied:{one.version}")
    for key, path, status in _settled(folders):
        name = f"{key}:{shown(path.name)}"
        # not when it was written: a file may be put back, or take the place of one of the same date and length
        found[name] = [status.st_ctime, status.st_size]
        if known.get(name) != found[name]:
            requests[key] = _requested(key, f"{name}:{status.st_ctime_ns}")
    for one in sources:  # the run says what is wrong with the folder, or that nothing is any more
        if known.get(one.key, found[one.key])[1:] != found[one.key][1:]:
            requests[one.key] = _requested(one.key, f"{one.key}:folder:{time.time_ns()}")
    return dg.SensorResult(
        run_requests=list(requests.values()),
        cursor=json.dumps(found),
        dynamic_partitions_requests=[partitions.sources.build_add_request(list(requests))] if requests else [],
    )


def _requested(key: str, run_key: str) -> dg.RunRequest:
    return dg.RunRequest(run_key=run_key, partition_key=key, tags={"mailmill/source": key})


def _listed(folder: Path) -> list[Path] | None:
    """What lies in a folder; None where that cannot be seen, as of a disk that is not mounted."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return None


def _settled(folders: Mapping[str, Sequence[Path] | None]) -> Iterator[tuple[str, Path, os.stat_result]]:
    """The files of sources' folders, less those that are still growing. One that has just changed is looked at twice:
    until the next tick it would wait for five seconds more."""
    young = []
    for key, paths in folders.items():
        for path in paths or ():
            status = _file(path)
            if status is not None and 0 <= time.time() - status.st_mtime < SETTLED_S:
                young.append((key, path, status))
            elif status is not None:
                yield key, path, status
    if young:
        time.sleep(SETTLED_S)
    for key, path, before in young:
        status = _file(path)
        if status is not None and (status.st_mtime_ns, status.st_size) == (before.st_mtime_ns, before.st_size):
            yield key, path, status


def _file(path: Path) -> os.stat_result | None:
    """None of what is no file, hidden, or gone meanwhile."""
    try:
        return path.stat() if path.is_file() and not path.name.startswith(".") else None
    except OSError:
        return None


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sources, segments and campaigns that were applied become partitions; an edited segment is made anew.",
    job=jobs.segment,
)
def configuration(context: dg.SensorEvaluationContext, mill: dg.ResourceParam[Mill]) -> dg.SensorResult:
    lost_runs.end(context.instance, mill.database)
    with mill.database.transaction("owner") as conn:
        things = {
            partitions.sources: control.sources(conn),
            partitions.tenants: control.tenants(conn),
            partitions.segments: control.segments(conn),
            partitions.campaigns: control.campaigns(conn),
        }
        edited = control.edited_segments(conn)
    wanted: list[dg.AddDynamicPartitionsRequest] = []
    deleted: list[dg.DeleteDynamicPartitionsRequest] = []
    for definition, found in things.items():
        have = set(context.instance.get_dynamic_partitions(definition.name or ""))
        if missing := [thing.key for thing in found if thing.key not in have]:
            wanted.append(definition.build_add_request(missing))
        if gone := sorted(have - {thing.key for thing in found}) if definition is partitions.sources else []:
            deleted.append(definition.build_delete_request(gone))
    requests = [
        dg.RunRequest(run_key=f"{one.key}:{one.version}", partition_key=one.key, job_name=jobs.segment.name)
        for one in edited
    ]
    return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=[*wanted, *deleted])


@dg.sensor(
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Contacts that were published anew, by a run or by a verb, are reported for what follows them.",
)
def publications(context: dg.SensorEvaluationContext, mill: dg.ResourceParam[Mill]) -> dg.SensorResult:
    with mill.database.transaction("owner") as conn:
        found = {one.key: one.version for one in control.published_contacts(conn)}
    known: dict[str, str] = json.loads(context.cursor or "{}")
    changed = [key for key, version in found.items() if known.get(key) != version]
    partitions.add(context.instance, partitions.tenants, changed)  # before what is said of them
    return dg.SensorResult(
        asset_events=[dg.AssetMaterialization("published_contacts", partition=key) for key in changed],
        cursor=json.dumps(found),
    )


segments_follow_contacts = dg.AutomationConditionSensorDefinition(
    name="segments_follow_contacts",
    target=dg.AssetSelection.assets("segments"),
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    use_user_code_server=True,
    emit_backfills=False,
    description="When contacts of a tenant changed, its segments are materialized anew; so is a new segment.",
)
ALL = [inbox, configuration, publications, segments_follow_contacts]
