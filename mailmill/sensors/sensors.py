"""What starts because something happened: a file was dropped, the configuration changed, an asset's condition holds."""

import json
import time

import dagster as dg

from mailmill.assets import partitions
from mailmill.assets.resources import Mill
from mailmill.io.postgres import control
from mailmill.sensors import jobs, lost_runs

SETTLED_S = 2.0  # a file that changed more recently may still be copied


@dg.sensor(
    job=jobs.ingest,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Files dropped into the folder of a CSV source are ingested.",
)
def inbox(context: dg.SensorEvaluationContext, mill: dg.ResourceParam[Mill]) -> dg.SensorResult:
    with mill.database.transaction("owner") as conn:
        sources = [source for source in control.sources(conn) if source.kind == "csv" and source.folder]
    known: dict[str, list[float]] = json.loads(context.cursor or "{}")
    found: dict[str, list[float]] = {}
    requests: dict[str, dg.RunRequest] = {}
    for source in sources:
        folder = mill.project / str(source.folder)
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            status = path.stat()
            if not path.is_file() or path.name.startswith(".") or time.time() - status.st_mtime < SETTLED_S:
                continue
            name = f"{source.key}:{path.name}"
            found[name] = [status.st_mtime, status.st_size]
            if known.get(name) != found[name]:
                requests[source.key] = dg.RunRequest(
                    run_key=f"{name}:{status.st_mtime_ns}",
                    partition_key=source.key,
                    tags={"mailmill/source": source.key},
                )
    return dg.SensorResult(
        run_requests=list(requests.values()),
        cursor=json.dumps(found),
        dynamic_partitions_requests=[partitions.sources.build_add_request(list(requests))] if requests else [],
    )


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


segments_follow_contacts = dg.AutomationConditionSensorDefinition(
    name="segments_follow_contacts",
    target=dg.AssetSelection.assets("segments"),
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    use_user_code_server=True,
    emit_backfills=False,
    description="When contacts of a tenant changed, its segments are materialized anew; so is a new segment.",
)
ALL = [inbox, configuration, segments_follow_contacts]
