"""What a source takes back: deletions an API tells, contacts it shows no more, and a source that is deleted."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import polars as pl
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from mailmill.cli import imports
from mailmill.cli.configuration import apply_paths
from mailmill.cli.sources import waiting
from mailmill.errors import Misconfigured, SourceUnavailable, StoreUnavailable
from mailmill.io.postgres import batch_files, contacts, control, ingest, manifest, sources
from mailmill.io.postgres.ingest_store import IngestStore
from mailmill.io.sources import http_answers
from mailmill.io.sources.files import CsvFiles
from mailmill.io.sources.http_json import HttpFeed, HttpSource
from mailmill.pipelines.ingest import stage

ANN, BOB, CY, DEE = ({"email": f"{name}@x.org", "name": name} for name in ("ann", "bob", "cy", "dee"))


class Api:
    """A contact API that answers with what a test puts into it; a walk sees `items`, a later one `changed`."""

    def __init__(self) -> None:
        self.items: list[dict] = []
        self.changed: list[dict] = []  # since the last walk
        self.headers: dict[str, str] = {}
        self.asked: list[dict] = []
        self.redirect = ""
        self.statuses: list[int] = []  # of the next answers, before all others are 200
        self.url = ""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/contacts")
        def page(request: Request, limit: int, cursor: int = 0, updated_since: str | None = None) -> Response:
            self.asked.append(dict(request.query_params))
            if self.redirect:
                return Response(status_code=302, headers={"location": self.redirect})
            if (status := self.statuses.pop(0) if self.statuses else 200) != 200:
                return Response(status_code=status, headers=self.headers)
            items = self.changed if updated_since else self.items
            end = cursor + limit
            following = str(end) if end < len(items) else None
            body = {"items": items[cursor:end], "next_cursor": following, "as_of": f"t{len(self.asked)}"}
            return Response(json.dumps(body), headers=self.headers)

        return app


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(made.app(), log_level="error", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        made.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield made
        server.should_exit = server.force_exit = True
        thread.join(60)


@pytest.fixture
def source(mill, api):
    return mill.source("api", type="scraper_pro", url=api.url, api_key="env:KEY", on_delete="withdraw")


def sync(mill, source, api, *, full: bool = False, **settings):
    chosen = {"page_size": 2, "private": ("127.0.0.1",), "backoff_s": 0.01} | settings
    config = HttpSource(url=api.url, type="scraper_pro", key="k", **chosen)
    return mill.run(source, HttpFeed(config, full=full))


def standing(mill) -> dict[str, tuple[str, tuple[str, ...]]]:
    """match key -> (status, sources) in the generation."""
    rows = mill.generation().select("match_key", "status", "sources").iter_rows()
    return {key: (status, tuple(sources)) for key, status, sources in rows}


@pytest.mark.parametrize("tombstone", [{"deleted": True}, {"deleted_at": "2026-11-01T00:00:00Z"}, {"deleted": "true"}])
def test_P03_what_an_api_says_it_has_deleted_loses_that_source_and_comes_back_when_it_is_named_again(
    mill, source, api, tombstone
) -> None:
    mill.read(mill.source("list"), "email\nbob@x.org\n")
    api.items = [ANN, BOB, CY]
    sync(mill, source, api)
    api.changed = [ANN | tombstone, BOB | tombstone]
    done = sync(mill, source, api)
    assert (done.loaded.counts.withdrawn, done.loaded.withheld) == (2, ())
    assert standing(mill) == {
        "ann@x.org": ("withdrawn", ()), "bob@x.org": ("active", ("list",)), "cy@x.org": ("active", ("api",)),
    }  # fmt: skip
    assert [(row["reason"], json.loads(row["raw"])["email"]) for row in mill.rejected()] == [
        ("withdrawn", "ann@x.org"), ("withdrawn", "bob@x.org"),
    ]  # fmt: skip
    api.changed = [ANN | {"deleted": False, "deleted_at": None}]
    sync(mill, source, api)
    assert standing(mill)["ann@x.org"] == ("active", ("api",))
    assert "deleted" not in mill.contacts()["ann@x.org"]["fields"]


def test_P03_what_an_api_says_again_counts_again_though_it_had_said_the_same_before(mill, source, api) -> None:
    api.items = [ANN, BOB]
    sync(mill, source, api)
    api.changed = [ANN | {"name": "other"}]
    sync(mill, source, api)
    api.changed = [ANN, BOB]  # word for word the first answer
    assert sync(mill, source, api).received.rows == 2
    assert mill.contacts()["ann@x.org"]["name"] == "ann"
    assert (done := sync(mill, source, api)).received.known == 1 and done.received.rows == 0, "said twice in a row"
    api.changed = [ANN | {"deleted": True}]
    sync(mill, source, api)
    assert standing(mill)["ann@x.org"] == ("withdrawn", ())
    api.changed = [ANN, BOB]
    sync(mill, source, api)
    assert standing(mill)["ann@x.org"] == ("active", ("api",))
    api.changed = [ANN | {"deleted": True}]
    sync(mill, source, api)
    sync(mill, source, api, full=True)
    assert standing(mill)["ann@x.org"] == ("active", ("api",))


def test_P03_a_full_sync_withdraws_what_is_there_no_more_and_only_that(mill, source, api) -> None:
    api.items = [ANN, BOB, CY, DEE, *({"email": f"p{n}@x.org"} for n in range(6))]
    sync(mill, source, api)
    api.items = [one for one in api.items if one not in (ANN, BOB)]
    api.changed = []
    assert sync(mill, source, api).loaded.counts.withdrawn == 0
    assert sync(mill, source, api, full=True).loaded.counts.withdrawn == 2
    assert {key for key, (status, _) in standing(mill).items() if status == "withdrawn"} == {"ann@x.org", "bob@x.org"}
    api.items = [*api.items, ANN]
    sync(mill, source, api, full=True)  # content that had come before counts as shown too
    assert {key for key, (status, _) in standing(mill).items() if status == "withdrawn"} == {"bob@x.org"}


def test_P03_the_last_word_about_a_contact_counts_in_a_walk_as_in_an_answer(mill, source, api) -> None:
    gone = ANN | {"deleted": True}
    api.items = [ANN, BOB, CY, DEE, gone]
    for pages in (2, 20_000):  # in three batches, in one
        sync(mill, source, api, full=True, rows_per_batch=pages)
        assert standing(mill)["ann@x.org"][0] == "withdrawn"
    api.changed = [gone, ANN | {"name": "Ann again"}]
    sync(mill, source, api)
    assert standing(mill)["ann@x.org"][0] == "active"
    api.items = [ANN]
    assert "3 contacts no more" in sync(mill, source, api, full=True).loaded.notes[0]
    api.changed = [gone, BOB | {"name": "b"}]  # while that walk waits for a person
    assert "3 contacts no more" in sync(mill, source, api).loaded.notes[0]
    assert standing(mill)["ann@x.org"][0] == "withdrawn"
    assert stage.load(source, mill.store, mill.store, force=True).counts.withdrawn == 2
    assert {key for key, (status, _) in standing(mill).items() if status == "active"} == {"bob@x.org"}


@pytest.mark.parametrize("walked", [False, True])
def test_P03_a_deletion_holds_against_an_older_batch_that_is_let_in_later(mill, source, api, walked: bool) -> None:
    api.items, api.changed = [ANN, BOB, CY], [ANN | {"deleted": True}]
    sync(mill, source, api)
    sync(mill, source, api)
    api.changed = [ANN, *({"email": f"bad{n}@@x"} for n in range(3))]
    assert sync(mill, source, api).loaded.withheld
    api.items, api.changed = [BOB, CY, DEE], [ANN | {"deleted": True}, DEE]
    assert sync(mill, source, api, full=walked).loaded.counts.withdrawn == 0, "she was before"
    assert stage.load(source, mill.store, mill.store, force=True).withheld == ()
    assert mill.rows("SELECT state FROM batches WHERE state <> 'loaded'") == []
    assert standing(mill)["ann@x.org"][0] == "withdrawn"
    api.changed = [ANN]
    sync(mill, source, api)
    assert standing(mill)["ann@x.org"][0] == "active"


def test_P03_who_is_shown_is_not_withdrawn_though_the_row_is_rejected(mill, source, api) -> None:
    long = ANN | {"bio": "x" * 10_001}
    api.items = [ANN, BOB, CY, DEE]
    sync(mill, source, api)
    api.items = [long, BOB, CY]
    done = sync(mill, source, api, full=True)
    assert (done.validated.reasons, done.loaded.counts.withdrawn) == ({"value_too_long": 1}, 1)
    assert {key for key, (status, _) in standing(mill).items() if status == "withdrawn"} == {"dee@x.org"}
    for api.changed, status in (([ANN | {"deleted": True}], "withdrawn"), ([long, CY], "active")):
        sync(mill, source, api)
        assert standing(mill)["ann@x.org"][0] == status


def test_P03_a_deletion_that_is_read_again_does_not_hold_against_who_was_shown_later(mill, source, api) -> None:
    long = {"bio": "x" * 10_001}
    api.items = [ANN, BOB, CY]
    sync(mill, source, api)
    for api.changed in ([ANN | {"deleted": True}, BOB | {"deleted": True}], [ANN | long, BOB | long, CY, DEE],
                        [BOB | {"deleted": True}]):  # fmt: skip
        sync(mill, source, api)
    before = standing(mill)
    assert {key for key, (status, _) in before.items() if status == "withdrawn"} == {"bob@x.org"}
    for batch in (2, None):
        stage.validate_again(source, mill.store, batch_id=batch)
        stage.load(source, mill.store, mill.store)
        assert standing(mill) == before
    (told,) = mill.rows("SELECT file FROM manifest WHERE dataset = 'raw' AND batch_id = 4")
    mill.lake.path(told["file"]).unlink()
    gone = pl.DataFrame({"match_key": ["ann@x.org", "cid@x.org"], "there": [False, False]})
    with mill.database.transaction() as conn:
        (second,) = [batch for batch in mill.store.batches(source, None) if batch.id == 2]
        left = batch_files.still_gone(conn, mill.lake, source, second, gone, set())
    assert left["match_key"].to_list() == ["cid@x.org"], "what tells deletions alone is not read for that"


def test_P02_a_walk_is_compared_with_all_that_was_loaded_meanwhile_or_not_at_all(mill, source, api) -> None:
    api.items = [ANN, BOB, CY, DEE]
    sync(mill, source, api)
    api.items = [ANN]
    sync(mill, source, api, full=True)  # it waits for a person, who says --force; another import comes in between
    [walk] = mill.store.walk(source)
    present = pl.Series("match_key", ["ann@x.org"])
    api.changed = [{"email": "eve@x.org"}]
    sync(mill, source, api)
    assert mill.store.withdraw_absent(source, [walk], present, max_share=1.0) is None
    assert {status for status, _ in standing(mill).values()} == {"active"}
    api.changed = [{"email": "fay@x.org"}]
    config = HttpSource(url=api.url, type="scraper_pro", key="k", private=("127.0.0.1",))
    with mill.store.importing(source) as (_, cursor):
        [batch] = HttpFeed(config).batches(cursor)
        both = mill.store.walk(source)
        with mill.database.transaction() as conn:
            contacts.lock(conn, source.tenant_id)
            with pytest.raises(StoreUnavailable):
                replace(mill.store, patience_s=0.1).withdraw_absent(source, both, present, max_share=1.0)
        assert stage.load(source, mill.store, mill.store, force=True).counts.withdrawn == 3
        mill.store.keep(source, batch)
    assert mill.store.walk(source) == [], "what was compared is not brought back"


def test_a_full_sync_that_shows_less_than_half_withdraws_nobody_until_a_person_says_so(mill, source, api) -> None:
    api.items = [ANN, BOB, CY, DEE]
    sync(mill, source, api)
    api.items = [ANN]
    done = sync(mill, source, api, full=True)
    assert "3 contacts no more" in done.loaded.notes[0]
    assert {status for status, _ in standing(mill).values()} == {"active"}
    with mill.database.transaction() as conn:
        [line] = waiting(sources.overview(conn)[0])
    assert "showed 3 contacts no more" in line and "`mailmill ingest acme/api --force`" in line
    assert stage.load(source, mill.store, mill.store, force=True).counts.withdrawn == 3
    assert stage.load(source, mill.store, mill.store, force=True).counts.withdrawn == 0


def test_a_walk_that_waits_for_a_person_is_not_read_again_before_force_or_another_walk(mill, source, api) -> None:
    class Watched(IngestStore):
        def raw(self, source, batch):
            read.append(batch.id)
            return super().raw(source, batch)

    read: list[int] = []
    watched = Watched(database=mill.database, lake=mill.lake)
    everybody = [ANN, BOB, CY, DEE]
    api.items = everybody
    sync(mill, source, api)
    api.items = [ANN]
    sync(mill, source, api, full=True)
    assert "3 contacts no more" in stage.load(source, watched, watched).notes[0] and read == []
    api.items = everybody  # the API is right again
    assert sync(mill, source, api, full=True).loaded.notes == ()
    api.items = [ANN]
    sync(mill, source, api, full=True)
    assert "--force" in stage.load(source, watched, watched).notes[0] and read == []
    assert stage.load(source, watched, watched, force=True).counts.withdrawn == 3 and len(read) == 1
    with mill.database.transaction() as conn:
        assert waiting(sources.overview(conn)[0]) == []


@pytest.mark.parametrize("times", [1, 2])
def test_P02_a_person_who_says_force_is_heeded_or_told_though_imports_come_in_between(
    mill, source, api, times: int
) -> None:
    others = iter(["email\neve@x.org\n", "email\nfay@x.org\n"][:times])

    class Busy(IngestStore):
        def walk(self, source):
            found = super().walk(source)
            for content in others:  # loaded after this one has read what there is
                assert mill.read(source, content).loaded.counts.new == 1
                break
            return found

    api.items = [ANN, BOB, CY, DEE]
    sync(mill, source, api)
    api.items = [ANN]
    sync(mill, source, api, full=True)
    busy = Busy(database=mill.database, lake=mill.lake)
    done = stage.load(source, busy, busy, force=True)
    assert done.counts.withdrawn == (3 if times == 1 else 0)
    assert ["--force" in note for note in done.notes] == [True] * (times - 1)


def test_P02_a_walk_that_waits_does_not_stop_imports_whose_columns_are_others_since(mill, source, api) -> None:
    api.items = [ANN, BOB, CY, DEE]
    sync(mill, source, api)
    api.items = [ANN]
    sync(mill, source, api, full=True)  # waits for --force; then the API calls its column otherwise
    kontakt = [{"kontakt": f"{name}@x.org"} for name in ("ann", "eve", "bob", "fay")]
    now = mill.source("api", type="scraper_pro", url=api.url, api_key="env:KEY", on_delete="withdraw",
                      columns={"email": "kontakt"})  # fmt: skip
    api.changed = kontakt[1:2]
    done = sync(mill, now, api)
    assert (done.loaded.counts.new, done.loaded.counts.withdrawn) == (1, 0)
    assert "--full" in done.loaded.notes[-1] and standing(mill)["eve@x.org"][0] == "active"
    api.items = kontakt
    done = sync(mill, now, api, full=True)
    assert (done.loaded.counts.withdrawn, done.loaded.notes) == (2, ())


def test_P02_a_full_sync_that_broke_goes_on_as_one_and_still_sees_what_is_absent(mill, source, api) -> None:
    api.items = [ANN, BOB, CY, DEE, *({"email": f"p{n}@x.org"} for n in range(6))]
    sync(mill, source, api)
    api.items = api.items[1:]
    config = HttpSource(url=api.url, type="scraper_pro", key="k", private=("127.0.0.1",), page_size=2,
                        rows_per_batch=2)  # fmt: skip
    first = next(iter(HttpFeed(config, full=True).batches({"updated_since": "t1"})))
    mill.store.keep(source, first)  # and then the process dies
    before = len(api.asked)
    assert sync(mill, source, api, rows_per_batch=2).loaded.counts.withdrawn == 1  # no --full: it goes on
    assert [query.get("cursor") for query in api.asked[before:]] == ["2", "4", "6", "8"]
    assert standing(mill)["ann@x.org"][0] == "withdrawn"
    assert sum(status == "active" for status, _ in standing(mill).values()) == 9


def test_P03_a_full_sync_of_an_api_that_has_nobody_any_more_is_seen_and_waits_for_a_person(mill, source, api) -> None:
    api.items = [ANN, BOB, CY]
    sync(mill, source, api)
    api.items = []
    assert sync(mill, source, api).received.notes == (), "nothing new is no news"
    done = sync(mill, source, api, full=True)
    assert "has no item" in done.received.notes[0] and "3 contacts no more" in done.loaded.notes[0]
    assert stage.load(source, mill.store, mill.store, force=True).counts.withdrawn == 3


def test_P02_a_walk_that_broke_ends_though_nothing_of_its_rest_is_left(mill, source, api) -> None:
    api.items = [ANN, BOB, CY]
    config = HttpSource(url=api.url, type="scraper_pro", key="k", private=("127.0.0.1",), page_size=2, rows_per_batch=2)
    mill.store.keep(source, next(iter(HttpFeed(config).batches(None))))  # and then the process dies
    api.items, before = [ANN, BOB], len(api.asked)
    for _ in range(2):
        sync(mill, source, api)
    assert [(one.get("cursor"), one.get("updated_since")) for one in api.asked[before:]] == [("2", None), (None, "t1")]


def test_F17_page_cursors_that_never_hold_end_the_import_and_cost_no_row_twice(mill, source, api) -> None:
    api.items, api.statuses = [ANN, BOB, CY], [200, 410] * 4
    said: list[str] = []
    config = HttpSource(url=api.url, type="scraper_pro", key="k", private=("127.0.0.1",), page_size=2, backoff_s=0.01)
    feed = HttpFeed(config)
    feed.report_to(said.append)
    with pytest.raises(SourceUnavailable, match="begun 4 times"):
        list(feed.batches(None))
    assert len(api.asked) == 8 and len(said) == 3 and "from its beginning again in 0.0" in said[0]
    api.statuses = [200, 410]
    [batch] = HttpFeed(config).batches(None)
    assert batch.table.frame["col:email"].to_list() == ["ann@x.org", "bob@x.org", "cy@x.org"]


def test_F17_an_answer_that_asks_to_come_again_is_no_wrong_url(mill, source, api) -> None:
    api.items, api.statuses = [ANN], [408, 425]
    assert sync(mill, source, api).received.rows == 1


def test_P04_an_api_whose_columns_come_go_or_are_renamed_is_held_where_its_source_says_so(mill, api) -> None:
    source = mill.source("api", type="scraper_pro", url=api.url, api_key="env:KEY", on_change="hold")
    many = [BOB | {"page": n} for n in range(20)]
    api.items = [one | {"town": "Rome"} for one in many] + [ANN | {"town": "Rome", "rare": 1}]
    sync(mill, source, api, page_size=50)
    api.changed = [one | {"town": "Rome"} for one in many]
    assert sync(mill, source, api, page_size=50).received.held == (), "most never had it"
    changes = (
        ([CY | {"town": "Rome", "room": 7}], "the last time; new: room"), ([CY | {"city": "Rome"}], "time; new: city"),
        ([one | {"city": "Rome"} for one in many], "gone: town; new: city"),
    )  # fmt: skip
    for api.changed, says in changes:
        assert sync(mill, source, api, page_size=50).received.held[-1].why.endswith(says)
        assert "cy@x.org" not in mill.contacts()
    assert mill.store.release(source, accept=True) == 3
    stage.validate(source, mill.store)
    stage.load(source, mill.store, mill.store)
    assert mill.contacts()["cy@x.org"]["fields"].keys() == {"town", "room", "city"}
    api.changed = many
    assert "gone: city" in sync(mill, source, api, page_size=50).received.held[0].why


def test_P03_a_full_read_of_which_a_part_was_discarded_withdraws_nobody(mill, source, api) -> None:
    api.items = [ANN, BOB, CY, DEE]
    sync(mill, source, api)
    api.items = [BOB, CY, *({"email": f"bad{n}@@x"} for n in range(3)), DEE]
    done = sync(mill, source, api, full=True, page_size=3, rows_per_batch=3)
    assert "once batch 3 is loaded" in done.loaded.notes[0]
    mill.store.discard(source, [3])
    for again in (False, True):
        api.changed = [{"email": "eve@x.org"}]
        notes = sync(mill, source, api).loaded.notes
        assert ["batch 3" in note and "--full" in note for note in notes] == [True], again
    assert {status for status, _ in standing(mill).values()} == {"active"}
    api.items = [BOB, CY, DEE]
    assert sync(mill, source, api, full=True).loaded.notes == ()
    assert standing(mill)["ann@x.org"][0] == "withdrawn"


def test_P04_a_batch_that_is_withheld_is_listed_though_most_of_it_are_deletions(mill, api) -> None:
    source = mill.source("api", type="scraper_pro", url=api.url, api_key="env:KEY", max_reject_share=0.2)
    api.items = [{"email": f"p{n}@x.org"} for n in range(12)] + [{"email": f"bad{n}@@x"} for n in range(8)]
    api.items += [{"email": f"q{n}@x.org", "deleted": True} for n in range(80)]
    assert sync(mill, source, api, page_size=100).loaded.withheld
    with mill.database.transaction() as conn:
        [line] = waiting(sources.overview(conn)[0])
    assert "is withheld: 8 of 20 rows were rejected" in line


@pytest.mark.parametrize("spec", [{"columns": {"city": "town"}}, {"on_change": "hold"}], ids=["mapped", "hold"])
def test_P04_a_field_that_an_answer_just_lacks_stops_no_sync_and_no_deletion(mill, api, spec) -> None:
    source = mill.source("api", type="scraper_pro", url=api.url, api_key="env:KEY", on_delete="withdraw", **spec)
    many = [{"email": f"p{n}@x.org", "town": "Rome"} for n in range(25)]
    api.items = [ANN | {"town": "Rome"}, *many]
    sync(mill, source, api, page_size=50)
    for api.changed in ([BOB], [ANN | {"deleted": True}], [DEE | {"town": "Bern"}]):
        done = sync(mill, source, api)
        assert (done.received.held, done.received.notes) == ((), ())
    assert {key: standing(mill)[f"{key}@x.org"][0] for key in ("ann", "bob", "dee")} == {
        "ann": "withdrawn", "bob": "active", "dee": "active"}  # fmt: skip
    assert mill.contacts()["dee@x.org"]["fields"] == {next(iter(spec.get("columns", {"town": "town"}))): "Bern"}
    stage.validate_again(source, mill.store)  # what is kept is read so too
    assert stage.load(source, mill.store, mill.store).counts.left == 0
    api.changed = [{"email": one["email"]} for one in many] + [CY | {"deleted": True}]
    if "columns" in spec:
        with pytest.raises(Misconfigured, match="no column 'town'"):
            sync(mill, source, api, page_size=50)
    else:
        assert "gone: town" in sync(mill, source, api, page_size=50).received.held[0].why


def test_a_source_is_shown_with_as_many_contacts_as_it_stands_for_though_it_had_withdrawn_others(mill, api) -> None:
    def read(**spec):
        return mill.source("api", type="scraper_pro", url=api.url, api_key="env:KEY", on_delete="withdraw", **spec)

    mill.read(mill.source("list"), "email\nann@x.org\n")
    api.items = [ANN | {"mail": "dee@x.org"}, BOB | {"mail": "eve@x.org"}]
    sync(mill, read(), api)
    api.changed = [ANN | {"deleted": True}]
    sync(mill, read(), api)
    source = read(columns={"email": "mail"})  # names ann no more, whom it has withdrawn and the list still has
    stage.validate_again(source, mill.store)
    stage.load(source, mill.store, mill.store)
    assert sorted(mill.contacts()) == ["ann@x.org", "dee@x.org", "eve@x.org"]
    with mill.database.transaction() as conn:
        assert sources.contacts_of(conn, source) == sources.overview(conn)[0]["contacts"] == 2


def test_on_delete_keep_keeps(mill, api) -> None:
    source = mill.source("api", type="scraper_pro", url=api.url, api_key="env:KEY")
    api.items, api.changed = [ANN, BOB, CY], [ANN | {"deleted": True}]
    sync(mill, source, api)
    sync(mill, source, api)
    api.items = [BOB, CY]
    sync(mill, source, api, full=True)
    assert {status for status, _ in standing(mill).values()} == {"active"}


def test_a_walk_whose_last_page_is_empty_still_ends(mill, source, api) -> None:
    api.items = [ANN, BOB]
    app_page = {"items": [], "next_cursor": None, "as_of": "t9"}
    config = HttpSource(url=api.url, type="scraper_pro", key="k", rows_per_batch=2)
    feed = HttpFeed(config)
    pages = [{"items": [ANN, BOB], "next_cursor": "2", "as_of": "t1"}, app_page]
    feed._page = lambda client, state: http_answers.page(json.dumps(pages.pop(0)).encode(), place="")
    [batch] = feed.batches(None)
    assert isinstance(batch.cursor, dict) and (batch.cursor["updated_since"], batch.cursor["page"]) == ("t1", None)


TENANT = "kind: tenant\nslug: acme\nname: Acme\npostal_address: Street 1\n---\nkind: source\ntenant: acme\nslug: api\n"


def test_P02_a_source_with_another_url_is_read_from_its_beginning_and_one_of_another_type_as_that(
    mill, api, mailmill, installed
) -> None:
    def applied(text: str):
        path = installed.project / "acme.yaml"
        path.write_text(TENANT + text)
        apply_paths(installed, [path])
        with mill.database.transaction() as conn:
            return ingest.source(conn, "acme/api")

    spec = "type: scraper_pro\nurl: https://{}.example\napi_key: env:KEY\non_delete: withdraw\npriority: {}\n"
    api.items, api.changed = [ANN, BOB], [CY]
    old = applied(spec.format("old", 0))
    sync(mill, old, api)
    sync(mill, applied(spec.format("old", 1)), api)
    assert api.asked[-1].get("updated_since"), "nothing but the priority was changed"
    [late] = HttpFeed(HttpSource(url=api.url, type="scraper_pro", key="k", private=("127.0.0.1",))).batches(None)
    new = applied(spec.format("new", 1))
    assert mill.store.keep(old, late).new, "an import that began before; it knows nothing of the new one"
    assert mill.rows("SELECT cursor FROM sources") == [{"cursor": None}]
    sync(mill, new, api)
    assert not api.asked[-1].get("updated_since")
    mailmill("sources", "delete", "acme/api", "--contacts", "keep")
    applied("type: manual\n")
    mailmill("contacts", "add", "--tenant", "acme", "--email", "dee@x.org")


# ---------------------------------------------------------------- limits and places


def test_a_used_up_rate_limit_is_waited_for_before_the_next_page(mill, source, api) -> None:
    api.items = [ANN, BOB, CY]
    api.headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "0.2"}
    begun = time.monotonic()
    assert sync(mill, source, api).received.rows == 3
    assert time.monotonic() - begun >= 0.2
    api.headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 3600)}
    api.items = [DEE, BOB, CY]
    done = sync(mill, source, api, full=True)
    assert re.search(r"rate limit is used up for 3[56]\d\d s", str(done.received.broken_off))
    assert done.received.broken_off.retry_after_s > 3000
    # the page that had come is taken in: an API that gives one an hour is read to its end, whenever that is
    assert "dee@x.org" in mill.contacts()
    before = len(api.asked)
    assert sync(mill, source, api).received.rows == 1
    assert [one.get("cursor") for one in api.asked[before:]] == ["2"]
    assert mill.rows("SELECT sum(rows_read)::int n FROM batches") == [{"n": 6}]


def test_P02_what_had_come_before_an_api_fails_is_taken_in(mill, source, api) -> None:
    api.items, api.statuses = [ANN, BOB, CY], [200, 500, 500]
    assert "HTTP 500 (tried 2 times)" in str(sync(mill, source, api, attempts=2).received.broken_off)
    assert sorted(mill.contacts()) == ["ann@x.org", "bob@x.org"]
    api.statuses, before = [500, 500], len(api.asked)
    with pytest.raises(SourceUnavailable):
        sync(mill, source, api, attempts=2)
    assert mill.rows("SELECT rows_read FROM batches") == [{"rows_read": 2}], "nothing new is no batch"
    assert sync(mill, source, api).received.rows == 1
    assert {one.get("cursor") for one in api.asked[before:]} == {"2"}


def test_what_an_api_asks_to_wait_is_kept_for_the_schedule_and_a_good_import_ends_it(
    mill, source, api, monkeypatch, request
) -> None:
    monkeypatch.setenv("MAILMILL_PRIVATE_SOURCES", "127.0.0.1")
    monkeypatch.setenv("KEY", "k")
    installed = request.getfixturevalue("installed")
    api.items, api.statuses, api.headers = [ANN], [429], {"Retry-After": "86400"}
    assert "asks to wait 86400 s" in imports.take_in(installed, source)["error"]
    due = "SELECT extract(epoch FROM retry_at - clock_timestamp())::int AS seconds FROM sources"
    assert 80_000 < mill.rows(due)[0]["seconds"] <= 86_400
    with mill.database.transaction() as conn:
        assert control.apis_due(conn) == []
    assert imports.take_in(installed, source)["new"] == 1, "a person may ask at any time"
    assert mill.rows(due) == [{"seconds": None}]
    mill.source("api", type="scraper_pro", url=api.url, api_key="env:KEY", page_size=1)
    api.changed, api.statuses = [BOB, CY], [200, 429]
    done = imports.take_in(installed, source)
    assert (done["new"], "asks to wait 86400 s" in done["error"]) == (1, True), "what had come is taken in"
    assert 80_000 < mill.rows(due)[0]["seconds"] <= 86_400
    held = mill.source("api", type="scraper_pro", url=api.url, api_key="env:KEY", on_change="hold")
    api.changed, api.statuses = [BOB, DEE | {"room": "7"}], [200, 429]  # it goes on behind the first
    assert sync(mill, held, api).received.held
    done = imports.take_in(installed, source, accept_columns=True)
    assert (done["new"], "asks to wait" in done["error"]) == (1, True), "what was let in has not to wait for the API"
    mill.store.remember(source, "later", retry_after_s=1e30)
    assert mill.rows(due)[0]["seconds"] <= 7 * 86_400


def test_F17_a_redirect_is_not_followed(mill, source, api) -> None:
    api.redirect = "http://169.254.169.254/latest/meta-data/"
    with pytest.raises(Misconfigured, match="HTTP 302"):
        sync(mill, source, api)


def test_F17_a_private_address_is_refused_unless_the_operator_allowed_it(mill, source, api) -> None:
    for private in ((), ("10.0.0.0/8",), ("localhost",)):
        with pytest.raises(Misconfigured, match=r"127\.0\.0\.1 is private"):
            sync(mill, source, api, private=private)
    assert api.asked == []


# ---------------------------------------------------------------- deleting a source


def test_a_source_with_contacts_is_not_deleted_without_saying_what_becomes_of_them(mill, mailmill) -> None:
    mill.read(mill.source("list"), "email\nann@x.org\nbob@x.org\n")
    mill.read(mill.source("other"), "email\nbob@x.org\n")
    with pytest.raises(Misconfigured, match="stands for 2 contacts"):
        mailmill("sources", "delete", "acme/list")
    assert json.loads(mailmill("sources", "delete", "acme/list", "--contacts", "withdraw", "--json"))["withdrawn"] == 2
    assert standing(mill) == {"ann@x.org": ("withdrawn", ()), "bob@x.org": ("active", ("other",))}
    with pytest.raises(Misconfigured, match=r"no source 'acme/list'.*"):
        mailmill("ingest", "acme/list")
    assert [row["source"] for row in json.loads(mailmill("sources", "--json"))] == ["acme/other"]
    mill.rows("UPDATE sources SET deleted_at = NULL WHERE slug = 'list' RETURNING id")  # as applying it does
    mill.read(mill.source("list"), "email\nann@x.org\nbob@x.org\n")  # what it names again is back, though it is known
    assert standing(mill)["ann@x.org"] == ("active", ("list",))
    mailmill("sources", "delete", "acme/list", "--contacts", "withdraw")
    mailmill("sources", "delete", "acme/other", "--contacts", "keep")
    assert standing(mill)["bob@x.org"] == ("active", ("other",))
    assert "nothing" in mailmill("sources")


def test_P03_an_api_that_is_back_after_it_was_withdrawn_brings_back_whom_it_shows(mill, source, api) -> None:
    for api.items in ([ANN], [ANN, BOB]):
        sync(mill, source, api, full=True)
    with mill.database.transaction() as conn:
        sources.hold(conn, source)
        assert sources.withdraw_all(conn, source) == 2
        sources.delete(conn, source)
        conn.execute("UPDATE sources SET deleted_at = NULL")  # as applying it does
    assert {status for status, _ in standing(mill).values()} == {"withdrawn"}
    sync(mill, source, api)  # word for word its last answer
    assert {status for status, _ in standing(mill).values()} == {"active"}


def test_P01_rejects_of_a_source_that_was_deleted_are_shown(mill, mailmill) -> None:
    mill.read(mill.source("list"), "email\nann@x.org\nbad@@x\n")
    mailmill("sources", "delete", "acme/list", "--contacts", "keep")
    for what in ("acme/list", "1", "acme/"):
        assert [row["raw"] for row in json.loads(mailmill("rejects", what, "--json"))["rows"]] == ["bad@@x"]
    for what in ("acme/list", "1"):
        with pytest.raises(Misconfigured, match="no source 'acme/list'"):
            mailmill("rejects", "retry", what)


def test_P02_an_import_that_waited_while_its_source_was_deleted_brings_nothing_back(mill, mailmill) -> None:
    source = mill.source("list")
    mill.read(source, "email,name\nann@x.org,Ann\n")
    mill.run_until_validated(source, "email,name\nbob@x.org,Bob\n")  # not loaded yet
    [late] = CsvFiles(paths=[mill.file("email,name\ncy@x.org,Cy\n", "late.csv")]).batches(None)
    mailmill("sources", "delete", "acme/list", "--contacts", "withdraw")
    for step in (  # each goes on with the source as it was before
        lambda: stage.receive(source, CsvFiles(paths=[]), mill.store),
        lambda: mill.store.keep(source, late),
        lambda: stage.load(source, mill.store, mill.store),
    ):
        with pytest.raises(Misconfigured, match="no source 'acme/list'"):
            step()
    assert standing(mill) == {"ann@x.org": ("withdrawn", ())}
    assert mill.rows("SELECT count(*) n FROM batches") == [{"n": 2}]


def test_P02_a_batch_that_is_divided_while_its_source_is_removed_leaves_no_row(mill, monkeypatch) -> None:
    source = mill.source("list")
    text = "email,name\nann@x.org,Ann\nbad,Bad\n"
    stage.receive(source, CsvFiles(paths=[mill.file(text)]), mill.store)

    def remove() -> None:
        with mill.database.transaction() as conn:
            sources.hold(conn, source)
            sources.remove_contacts(conn, mill.lake, source)
            sources.delete(conn, source)

    removing = threading.Thread(target=remove)
    real, waits = ingest.withdraw, "SELECT FROM pg_locks WHERE NOT granted"

    def withdraw(conn, **batch) -> None:  # the batch is marked as divided, in a transaction that goes on
        removing.start()
        deadline = time.monotonic() + 60
        while not mill.rows(waits) and time.monotonic() < deadline:
            time.sleep(0.01)
        real(conn, **batch)

    monkeypatch.setattr(ingest, "withdraw", withdraw)
    stage.validate(source, mill.store)
    removing.join(60)
    with mill.database.transaction() as conn:  # and a kill before its files are off the disk leaves them to the sweep
        assert manifest.all_files(conn) == set()


def in_files(mill) -> set[str]:
    """What stands in raw rows and rejects on the disk, word by word; what nobody lists is swept a day later."""
    kinds = ("raw", "rejected")
    files = [path for path in mill.lake.root.rglob("*.parquet") if any(kind in path.parts for kind in kinds)]
    texts = [str(row) for path in files for row in pl.read_parquet(path).rows()]
    return set(re.findall(r"\w+", " ".join(texts)))


def test_removing_what_a_source_gave_leaves_what_others_say_and_the_file_may_come_again(mill, mailmill) -> None:
    mill.read(mill.source("list", priority=5), "email,name\nann@x.org,Ann\nbob@x.org,Robert\nbad,Bad\n")
    mill.read(mill.source("other"), "email,name\nbob@x.org,Bob\n")
    assert {"Ann", "Robert", "Bad"} <= in_files(mill)
    answer = json.loads(mailmill("sources", "delete", "acme/list", "--contacts", "remove", "--json"))
    assert (answer["removed"], answer["changed"]) == (1, 1)
    assert {key: row["name"] for key, row in mill.contacts().items()} == {"bob@x.org": "Bob"}
    assert standing(mill) == {"bob@x.org": ("active", ("other",))}
    assert in_files(mill) & {"Ann", "Robert", "Bad"} == set(), "neither the rows as they came nor the rejects stay"
    assert mill.rejected() == []
    mill.rows("UPDATE sources SET deleted_at = NULL WHERE slug = 'list' RETURNING id")
    mill.read(mill.source("list", priority=5), "email,name\nann@x.org,Ann\nbob@x.org,Robert\n")
    assert {key: row["name"] for key, row in mill.contacts().items()} == {"ann@x.org": "Ann", "bob@x.org": "Robert"}
    assert json.loads(mailmill("ingest", "acme/list", "--again", "--json"))["read"] == 2, "what was removed stays so"
