"""A segment in Dagster: a partition each, and what it says of who joined and who left."""

from __future__ import annotations

from types import SimpleNamespace

import dagster as dg

from mailmill import definitions  # noqa: F401 - its filters silence what Dagster calls preview
from mailmill.assets import segments


def test_a_segment_is_a_partition_that_says_who_joined_and_left_since_the_time_before(world, frame):
    mill, seen = SimpleNamespace(database=world.database, lake=world.lake), []
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("segments", ["acme|all"])
        for people in ("abcd", "de"):
            world.publish(frame([{"email": f"{name}@x.example", "contact_id": ord(name)} for name in people]))
            done = dg.materialize(
                [segments.segments], selection=[segments.segments], partition_key="acme|all", instance=instance,
                resources={"mill": mill},
            )  # fmt: skip
            [made] = done.asset_materializations_for_node("segments")
            said = [made.metadata[name].value for name in ("dagster/row_count", "joined", "left")]
            seen.append((made.partition, *said))
    assert seen == [("acme|all", 4, 4, 0), ("acme|all", 2, 1, 3)]
    assert world.rows("SELECT part, rows FROM manifest WHERE dataset = 'segments'") == [("all", 2)]
