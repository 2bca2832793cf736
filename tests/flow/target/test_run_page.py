"""What the page of a run shows while it sends, in a real instance of Dagster's: progress, rate, end, ledger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from people_world import People
from send_world import Sink, by_address, thread, until

from mailmill.assets import progress
from mailmill.definitions import definitions


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("campaigns", ["acme|spring"])
        yield instance


def plain(metadata: Any) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


def test_a_run_shows_its_progress_while_it_sends(
    people: People, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.2)
    people.planned("acme")
    job = definitions(people.mill).resolve_job_def("campaign")

    def observed() -> list[dict[str, Any]]:
        records = instance.fetch_observations(dg.AssetKey("deliveries"), limit=100).records
        return [plain(one.asset_observation.metadata) for one in records if one.asset_observation is not None]

    refused = {"rcpt cid": "550 5.1.1 nobody"}
    with Sink(by_address({"dot": "wait", **refused})) as sink:
        people.rows("UPDATE transports SET spec = spec || jsonb_build_object('port', %s::int)", sink.port)
        with thread(lambda: job.execute_in_process(instance=instance, partition_key="acme|spring")) as result:
            until(lambda: sink.taken, what="it sends")
            seen = until(observed, what="its progress is shown")
            sink.script = by_address(refused)  # whose turn may come now only
            sink.go()
            done = result()
    assert done.success
    first = seen[-1]
    assert first["progress"].endswith("running") and " of 4 (" in first["progress"]
    assert {"rate", "estimated_end", "by_state"} <= first.keys()
    assert sum(int(part.rpartition(" ")[2]) for part in first["by_state"].split(", ")) == 4
    [made] = done.asset_materializations_for_node("deliveries")
    last = plain(made.metadata)
    assert (last["progress"], last["estimated_end"], last["by_state"]) == (
        "4 of 4 (100.0 %), finished", "over", "sent 3, failed 1",
    )  # fmt: skip
    assert sum(row.data["messages"] for row in last["ledger"].records) == 4
    assert "people.example" not in str(seen) + str(last), "nobody is named in what Dagster keeps"
