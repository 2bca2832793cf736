"""What analysts open: DuckDB files, one a tenant and one for the operator."""

import dagster as dg

from mailmill.assets import reports
from mailmill.assets.resources import Mill


@dg.asset(
    deps=["contacts", "segments", "audience", "delivery_events", "statistics"],
    group_name="read",
    kinds={"duckdb", "parquet"},
    owners=["team:data"],
)
def warehouse(mill: dg.ResourceParam[Mill]) -> dg.MaterializeResult:
    """DuckDB files with dimensions and roll-ups as tables and everything large as views, replaced as a whole."""
    published = mill.publish_warehouse()
    return dg.MaterializeResult(
        metadata={
            "files": reports.table([{"file": item.name, "bytes": item.bytes, **item.rows} for item in published]),
            "dagster/row_count": sum(sum(item.rows.values()) for item in published),
        }
    )
