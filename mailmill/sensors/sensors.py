"""What starts because something happened outside: a file was dropped, the configuration or the contacts changed."""

import json
import time

import dagster as dg

from mailmill.assets import partitions
from mailmill.assets.resources import Mill
from mailmill.io.postgres import control
from mailmill.sensors import jobs

MATERIALIZATIONS_A_TICK = 500
SETTLED_S = 2.0  # a file that changed more recently may still be copied


@dg.sensor(
    job=jobs.ingest,
    minimum_interval_seconds=10,
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
    description="Sources, segments and campaigns that were applied become partitions.",
    job=jobs.segment,
)
def configuration(context: dg.SensorEvaluationContext, mill: dg.ResourceParam[Mill]) -> dg.SensorResult:
    with mill.database.transaction("owner") as conn:
        things = {
            partitions.sources: control.sources(conn),
            partitions.segments: control.segments(conn),
            partitions.campaigns: control.campaigns(conn),
        }
    wanted = []
    for definition, found in things.items():
        have = set(context.instance.get_dynamic_partitions(definition.name or ""))
        if missing := [thing.key for thing in found if thing.key not in have]:
            wanted.append(definition.build_add_request(missing))
    return dg.SensorResult(dynamic_partitions_requests=wanted)


@dg.sensor(
    job=jobs.segment,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="When contacts of a tenant changed, its segments are materialized anew.",
)
def contacts_changed(context: dg.SensorEvaluationContext, mill: dg.ResourceParam[Mill]) -> dg.SensorResult:
    """Reads every materialization since the last tick: an asset sensor would see the latest one only, and so miss a
    tenant whose contacts changed in the same ten seconds as another's."""
    changes = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=dg.AssetKey("contacts"), after_storage_id=int(context.cursor) if context.cursor else None
        ),
        limit=MATERIALIZATIONS_A_TICK,
        ascending=True,
    ).records
    if not changes:
        return dg.SensorResult()
    tenants = {partitions.parts(change.partition_key)[0] for change in changes if change.partition_key}
    with mill.database.transaction("owner") as conn:
        stale = [segment.key for segment in control.segments(conn) if segment.tenant in tenants]
    newest = changes[-1].storage_id
    return dg.SensorResult(
        cursor=str(newest),
        dynamic_partitions_requests=[partitions.segments.build_add_request(stale)] if stale else [],
        run_requests=[
            dg.RunRequest(run_key=f"{key}:{newest}", partition_key=key, tags={"mailmill/segment": key}) for key in stale
        ],
    )


ALL = [inbox, configuration, contacts_changed]
