"""A segment in Dagster: a partition each, and what it says of who joined and who left."""

from __future__ import annotations

from people_world import People

from mailmill.cli.runs import run_job


def test_a_segment_is_a_partition_that_says_who_joined_and_left_since_the_time_before(people: People) -> None:
    people.tenant("acme")
    people.do("ingest", "acme/inbox")
    yaml = people.mill.project / "acme.yaml"
    seen = []
    for rule in ("{all: []}", "{tag: vip}", "{none: [{tag: vip}]}"):
        yaml.write_text(yaml.read_text().partition("rule: ")[0] + f"rule: {rule}\n")
        people.do("apply", str(yaml))
        said = run_job("segment", "acme|everyone", mill=people.mill)["segments"]
        seen.append((said["dagster/row_count"], said["joined"], said["left"]))
    assert seen == [(4, 4, 0), (2, 0, 2), (2, 2, 2)]
    assert people.rows("SELECT part, rows FROM manifest WHERE dataset = 'segments'") == [("everyone", 2)]
