"""A segment in Dagster: a partition each, and what it says of who joined and who left."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import dagster as dg
import polars as pl
import pytest

from mailmill import definitions  # noqa: F401 - its filters silence what Dagster calls preview
from mailmill.assets import segments
from mailmill.cli.recipients import count
from mailmill.cli.segments import compare, preview, refresh
from mailmill.io.postgres import control
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.io.postgres.segments import find
from mailmill.pipelines.target.segments import Change


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


def test_a_segment_that_several_make_anew_at_once_has_one_generation(world):
    mill = SimpleNamespace(database=world.database, lake=world.lake)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: refresh(mill, "acme/all"), range(12)))
    assert [(one.rows, one.left) for one in made] == [(5, 0)] * 12
    assert sum(one.joined for one in made) == 5, "whoever comes later finds what the first has made"
    assert world.rows("SELECT part, rows FROM manifest WHERE dataset = 'segments'") == [("all", 5)]


def test_a_rule_that_is_applied_while_a_segment_is_made_by_the_one_before_makes_it_anew(world, project, monkeypatch):
    mill = SimpleNamespace(database=world.database, lake=world.lake)
    write = world.lake.write.__func__

    def meanwhile(lake, *args, **terms):
        world.apply(*[{**one, "rule": {"country": "AT"}} for one in project() if one["kind"] == "segment"])
        return write(lake, *args, **terms)

    def edited():
        with world.database.transaction() as conn:
            return [(one.key, one.version) for one in control.edited_segments(conn)]

    with monkeypatch.context() as patched:
        patched.setattr(type(world.lake), "write", meanwhile)
        assert refresh(mill, "acme/all").rows == 5
    [(key, version)] = edited()
    assert key == "acme|all" and edited() == [(key, version)], "one run an edit"
    assert refresh(mill, "acme/all").rows == 0 and edited() == []
    world.apply(
        *[{**one, "name": "Everybody", "rule": {"country": "AT"}} for one in project() if one["kind"] == "segment"]
    )
    assert edited() == []


@pytest.mark.parametrize("read", ["refresh", "preview", "overlap", "recipients"])
def test_a_file_of_the_contacts_that_a_forget_takes_away_while_they_are_read_is_looked_up_again(
    world, frame, monkeypatch, read
):
    mill = SimpleNamespace(database=world.database, lake=world.lake)
    refresh(mill, "acme/all")
    real, taken = PostgresContacts.generation, []
    with world.database.transaction() as conn:
        segment = find(conn, "acme/all")

    def generation(store, tenant_id):
        found = real(store, tenant_id)
        if not taken:
            taken.extend(world.lake.path(file) for (file,) in world.rows("SELECT file FROM manifest"))
            world.publish(frame([{"email": "p1@x1.example", "name": "One", "tags": ["vip"]}]))
            world.segments.publish(segment, pl.DataFrame({"contact_id": [1]}), {})
            for path in taken:
                path.unlink()
        return found

    monkeypatch.setattr(PostgresContacts, "generation", generation)
    found = {
        "refresh": lambda: refresh(mill, "acme/all"),
        "preview": lambda: preview(mill, "acme/all", rows=1).contacts,
        "overlap": lambda: compare(mill, "acme/all", "acme/all").both,
        "recipients": lambda: count(mill, "acme/spring").recipients,
    }[read]()
    assert found == (Change(rows=1, joined=0, left=0) if read == "refresh" else 1)


def test_a_segment_whose_file_is_lost_is_made_anew(world):
    mill = SimpleNamespace(database=world.database, lake=world.lake)
    refresh(mill, "acme/all")
    for (file,) in world.rows("SELECT file FROM manifest WHERE dataset = 'segments'"):
        world.lake.path(file).unlink()
    assert refresh(mill, "acme/all").joined == 5
