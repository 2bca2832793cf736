"""P03 and P01: an old batch under a later rule, and a source taken away, leave what the others say."""

from __future__ import annotations

import polars as pl

from mailmill.io.postgres import contacts, sightings
from mailmill.io.postgres.recompute import recompute
from mailmill.pipelines.ingest import stage

CRAWL = "email,label,place,found_at\nann@x.org,Anna,Rome,2026-06-01\nbob@x.org,Bob,Oslo,2026-06-01\nbad,x,y,\n"
LIST = "email,name,city,found_at\nann@x.org,Ann,Bern,2026-01-01\n"
VALUES = (
    "SELECT match_key, name, fields ->> 'city' AS city, fields ->> 'place' AS place FROM contacts ORDER BY match_key"
)


def again(mill, source) -> None:
    """The crawl's batch read again by the source's columns as they are applied now."""
    stage.validate_again(source, mill.store, rejected=True)
    stage.load(source, mill.store, mill.store, force=True)


def test_P03_what_an_old_batch_claims_no_longer_gives_way_to_the_runner_up_in_any_order(mill):
    found = []
    for tenant, order in (("one", ("crawl", "list")), ("two", ("list", "crawl"))):
        texts = {"crawl": CRAWL, "list": LIST}
        for slug in order:
            columns = {"name": "label"} if slug == "crawl" else {}
            mill.read(mill.source(slug, tenant=tenant, columns=columns, max_reject_share=1), texts[slug])
        before = mill.rows(VALUES.replace(" ORDER", " WHERE tenant_id = %s ORDER"), mill.tenant(tenant))
        assert [row["name"] for row in before] == ["Anna", "Bob"]
        again(mill, mill.source("crawl", tenant=tenant, columns={"city": "place"}, max_reject_share=1))
        found.append(mill.rows(VALUES.replace(" ORDER", " WHERE tenant_id = %s ORDER"), mill.tenant(tenant)))
    assert found[0] == found[1]
    assert [(row["match_key"], row["name"], row["place"]) for row in found[0]] == [
        ("ann@x.org", "Ann", None), ("bob@x.org", None, None)]  # fmt: skip
    assert [row["city"] for row in found[0]] == ["Rome", "Oslo"]


def test_P03_without_a_source_the_others_word_counts_and_who_only_it_knew_is_gone(mill):
    crawl, other = mill.source("crawl", max_reject_share=1), mill.source("list")
    mill.read(crawl, CRAWL.replace("label", "name").replace("place", "city"))
    mill.read(other, LIST)
    with mill.database.transaction() as conn:
        seen = sightings.of_source(conn, crawl.tenant_id, crawl.id)
        done = recompute(conn, mill.lake, crawl.tenant_id, seen["id"], without=crawl.id)
    assert (done.contacts, done.changed, done.removed, done.left) == (2, 1, 1, 0)
    assert [(row["match_key"], row["name"], row["city"]) for row in mill.rows(VALUES)] == [("ann@x.org", "Ann", "Bern")]
    assert mill.rows("SELECT source_id FROM contact_sources") == [{"source_id": other.id}]


def test_a_contact_that_is_removed_leaves_no_sighting_and_its_neighbours_keep_theirs(mill):
    source = mill.source()
    mill.read(source, "email\n" + "".join(f"p{n}@x.org\n" for n in range(200)))
    ids = pl.Series([row["id"] for row in mill.rows("SELECT id FROM contacts ORDER BY id LIMIT 70")])
    with mill.database.transaction() as conn:
        contacts.lock(conn, source.tenant_id)
        assert contacts.remove(conn, source.tenant_id, ids) == 70
    assert mill.rows("SELECT count(*) n, count(DISTINCT contact_id) ids FROM contact_sources") == [
        {"n": 130, "ids": 130}
    ]


def test_a_list_that_comes_again_unchanged_writes_no_contact(mill):
    source = mill.source()
    text = "email,name,found_at\n" + "".join(f"p{n}@x.org,N {n},2026-0%d-01\n" for n in range(300))
    mill.read(source, text % ((1,) * 300))
    before = mill.rows("SELECT id, xmin::text, provenance FROM contacts ORDER BY id")
    counts = mill.read(source, text % ((2,) * 300)).loaded.counts
    assert (counts.new, counts.changed, counts.duplicates_across) == (0, 0, 300)
    assert mill.rows("SELECT id, xmin::text, provenance FROM contacts ORDER BY id") == before
    (seen,) = mill.rows(
        "SELECT min(extract(month FROM first_seen)) f, max(extract(month FROM last_seen)) l FROM contact_sources"
    )
    assert (int(seen["f"]), int(seen["l"])) == (1, 2)
