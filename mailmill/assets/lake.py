"""The lake's housekeeping: what nobody lists any more goes."""

from datetime import UTC, datetime

import dagster as dg

from mailmill.assets.resources import Mill
from mailmill.io.postgres import manifest


@dg.asset(deps=["warehouse"], group_name="read", kinds={"parquet"}, owners=["team:data"])
def swept_lake(mill: dg.ResourceParam[Mill]) -> dg.MaterializeResult:
    """Files of generations that were replaced a day ago, and what killed attempts left, are removed."""
    with mill.database.transaction() as conn:
        listed = manifest.all_files(conn)
    swept = mill.lake.sweep(listed | mill.pinned(datetime.now(UTC)))
    return dg.MaterializeResult(
        metadata={
            "removed_files": swept.files,
            "removed_bytes": swept.bytes,
            "waiting_files": swept.waiting,
            "waiting_bytes": swept.waiting_bytes,
            "listed_files": swept.listed,
        }
    )
