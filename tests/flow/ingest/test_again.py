"""P03: what was taken in by earlier rules becomes what today's rules make of it, whatever happens on the way."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from mailmill.errors import Misconfigured
from mailmill.io.postgres import ingest, sightings
from mailmill.io.postgres.ingest_store import IngestStore
from mailmill.io.sources.files import CsvFiles
from mailmill.pipelines.ingest import columns, stage
from mailmill.pipelines.ingest.ports import SourceRow

# the same people in several batches, with two addresses and two names to choose from
LISTS = (
    "email,second,name,label,found_at\nann@x.org,ann@y.org,Ann,Anna,2026-01-03\nbob@x.org,bob@y.org,Bob,Bo,2026-01-01\n",
    "email,second,name,label,found_at\nann@x.org,ann@y.org,A.,Annie,2026-01-02\ncem@x.org,,Cem,C,2026-03-01\n",
    "email,second,name,label,found_at\nbob@x.org,bob@z.org,Robert,Rob,2026-02-01\nbad,dan@y.org,Dan,D,2026-02-01\n",
)
OTHER = "email,name,city,found_at\nann@y.org,Ann Other,Rome,2026-01-15\nbob@x.org,Bob Other,Oslo,2026-01-15\n"
FIRST: dict[str, Any] = {"columns": {}, "max_reject_share": 1}
LATER: dict[str, Any] = {"columns": {"email": "second", "name": "label"}, "tags": ["late"], "max_reject_share": 1}
PEOPLE = (
    "SELECT c.match_key, c.email, c.name, c.tags, c.fields, c.verdict FROM contacts c"
    " JOIN tenants t ON t.id = c.tenant_id WHERE t.slug = %s ORDER BY match_key"
)
SEEN = (
    "SELECT c.match_key, s.first_seen, s.last_seen FROM contact_sources s JOIN contacts c ON c.id = s.contact_id"
    " JOIN tenants t ON t.id = c.tenant_id WHERE t.slug = %s ORDER BY 1, 2"
)


def held(mill, tenant: str) -> list[list[dict[str, Any]]]:
    return [mill.rows(PEOPLE, tenant), mill.rows(SEEN, tenant)]


def known(mill, tenant: str, rules: dict[str, Any]) -> SourceRow:
    """A tenant whose lists came in by these rules, as did what another source says."""
    source = mill.source("list", tenant=tenant, **rules)
    for text in LISTS:
        mill.read(source, text)
    mill.read(mill.source("other", tenant=tenant), OTHER)
    return source


def batches(mill, source: SourceRow) -> list[int]:
    return [batch.id for batch in mill.store.batches(source, None)]


def again(mill, source: SourceRow, *only: int, progress: stage.Progress = lambda said: None) -> None:
    for batch in only or (None,):
        stage.validate_again(source, mill.store, batch_id=batch, progress=progress)
        stage.load(source, mill.store, mill.store, progress=progress)


def test_P03_old_batches_under_later_rules_give_what_these_rules_give_from_the_start_in_any_order(mill):
    known(mill, "fresh", LATER)
    wanted = held(mill, "fresh")
    assert [row["match_key"] for row in wanted[0]] == ["ann@y.org", "bob@x.org", "bob@y.org", "bob@z.org", "dan@y.org"]
    for tenant, order in {"all": (), "up": (0, 1, 2), "down": (2, 1, 0), "mixed": (1, 2, 0)}.items():
        ids = batches(mill, known(mill, tenant, FIRST))
        assert held(mill, tenant) != wanted
        later = mill.source("list", tenant=tenant, **LATER)
        again(mill, later, *(ids[n] for n in order))
        assert held(mill, tenant) == wanted, tenant
    again(mill, later)
    assert held(mill, tenant) == wanted


def test_P03_interrupted_at_any_point_and_run_again_gives_the_same(mill):
    known(mill, "fresh", LATER)
    wanted = held(mill, "fresh")
    for stop in range(4):
        known(mill, f"stop{stop}", FIRST)
        later = mill.source("list", tenant=f"stop{stop}", **LATER)
        steps = iter(range(stop))

        def interrupt(_: str, steps=steps) -> None:
            if next(steps, None) is None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            again(mill, later, progress=interrupt)
        again(mill, later)
        assert held(mill, f"stop{stop}") == wanted, stop


def test_P03_a_batch_divided_by_other_rules_is_divided_anew_before_it_is_loaded(mill):
    first = mill.source(columns={"name": "label"}, tags=["early"])
    mill.run_until_validated(first, LISTS[0])
    said: list[str] = []
    later = mill.source(columns={"name": "name"}, tags=["late"])
    loaded = stage.load(later, mill.store, mill.store, progress=said.append)
    assert loaded.counts.new == 2
    assert {key: (row["name"], row["tags"]) for key, row in mill.contacts().items()} == {
        "ann@x.org": ("Ann", ["late"]), "bob@x.org": ("Bob", ["late"])}  # fmt: skip
    assert [line.split()[0] for line in said] == ["validated", "loaded"]


def test_P03_a_batch_that_is_divided_anew_while_it_is_loaded_is_loaded_with_the_corrected_rows(mill):
    first = mill.source(columns={"name": "label"})
    mill.run_until_validated(first, LISTS[0])
    later = mill.source(columns={"name": "name"})

    class Corrected(IngestStore):
        def _take_in(self, *args: Any) -> Any:
            taken = super()._take_in(*args)
            assert stage.validate_again(later, mill.store).batches
            return taken

    store = Corrected(database=mill.database, lake=mill.lake)
    assert stage.load(first, store, store).counts.new == 0
    assert mill.contacts() == {}
    assert stage.load(later, mill.store, mill.store).counts.new == 2
    assert [row["name"] for row in mill.contacts().values()] == ["Ann", "Bob"]


def test_P03_batches_that_are_loaded_again_are_so_though_another_import_was_first_with_one_of_them(mill):
    for text in LISTS[:2]:
        mill.read(mill.source(columns={"name": "label"}), text)
    later = mill.source(columns={"name": "name"})
    stage.validate_again(later, mill.store)

    class Overtaken(IngestStore):
        def _load(self, conn: Any, source: SourceRow, batches: Any) -> Any:
            if len(batches) == 2:
                with mill.store.loading(later) as into:
                    into(batches[:1])
            return super()._load(conn, source, batches)

    store = Overtaken(database=mill.database, lake=mill.lake)
    assert stage.load(later, store, store).counts.batches == 1
    assert [batch.state for batch in mill.store.batches(later, None)] == ["loaded", "loaded"]
    assert {row["name"] for row in mill.contacts().values()} == {"Ann", "Bob", "Cem"}


def test_P02_a_batch_that_is_discarded_while_it_is_loaded_or_divided_stays_out(mill):
    source = mill.source()
    mill.run_until_validated(source, LISTS[0])
    [batch] = mill.store.batches(source, "validated")

    class Discarded(IngestStore):
        def _take_in(self, *args: Any) -> Any:
            taken = super()._take_in(*args)
            mill.store.discard(source, [batch.id])
            return taken

    store = Discarded(database=mill.database, lake=mill.lake)
    assert stage.load(source, store, store, force=True).counts.new == 0
    assert mill.store.record(source, batch, []) is None and not mill.store.hold(source, batch)
    assert (mill.contacts(), [one.state for one in mill.store.batches(source, None)]) == ({}, ["discarded"])
    stage.validate_again(source, mill.store, batch_id=batch.id)
    assert stage.load(source, mill.store, mill.store).counts.new == 2
    with pytest.raises(Misconfigured, match="never loaded"):
        mill.store.discard(source, [batch.id])


def test_P03_a_batch_that_waits_and_that_the_rules_of_today_cannot_read_is_not_loaded_by_older_ones(mill):
    mill.run_until_validated(mill.source(), LISTS[0])
    gone = mill.source(columns={"name": "nom"})
    assert stage.load(gone, mill.store, mill.store, force=True).counts.new == 0
    [held] = mill.store.held(gone)
    assert "no column 'nom'" in held.why and mill.contacts() == {}
    assert mill.run(mill.source(), CsvFiles()).loaded.counts.new == 2


def test_P04_what_is_held_and_can_be_read_without_another_mapping_is_let_in_as_it_says(mill, monkeypatch):
    source = mill.source()
    with monkeypatch.context() as other:
        other.setitem(columns.ALIASES, "email", ("kontakt",))
        stage.receive(source, CsvFiles(paths=[mill.file("Kontakt,name\nann@x.org,Ann\n", "1.csv")]), mill.store)
    stage.validate(source, mill.store)
    assert mill.run(source, CsvFiles()).received.held[0].why.startswith("no column holds an e-mail address")
    monkeypatch.setitem(columns.ALIASES, "email", ("kontakt",))
    [one] = mill.store.held(source)
    assert (one.why, one.due) == ("the next import takes it in", True)
    assert mill.run(source, CsvFiles()).loaded.counts.new == 1
    assert list(mill.contacts()) == ["ann@x.org"]


def test_P03_again_changes_accepted_rows_and_says_so(mill, mailmill):
    mill.source(**FIRST)
    for n, text in enumerate(LISTS):
        mailmill("ingest", "acme/list", "--file", str(mill.file(text, f"{n}.csv")))
    assert json.loads(mailmill("ingest", "acme/list", "--again", "--json"))["changed"] == 0
    mill.source(**FIRST | {"columns": {"name": "label"}})
    answer = json.loads(mailmill("ingest", "acme/list", "--again", "--json"))
    assert {name: answer[name] for name in ("read", "accepted", "rejected", "new", "changed", "removed")} == {
        "read": 6, "accepted": 5, "rejected": 1, "new": 0, "changed": 3, "removed": 0}  # fmt: skip
    assert {key: row["name"] for key, row in mill.contacts().items()} == {
        "ann@x.org": "Anna", "bob@x.org": "Rob", "cem@x.org": "C"}  # fmt: skip
    assert set(mill.generation()["name"]) == {"Anna", "Rob", "C"}
    mill.source(**LATER)
    answer = json.loads(mailmill("ingest", "acme/list", "--again", "--json"))
    assert (answer["new"], answer["removed"], answer["contacts"]) == (4, 3, 4)
    assert "ann@y.org" in mill.contacts() and "ann@x.org" not in mill.contacts()


def test_P03_a_batch_that_is_withheld_keeps_what_it_said_until_it_is_loaded(mill):
    """Of two batches that are divided anew one has too many bad rows by the columns of today."""
    texts = (
        "email,mail,found_at\nbob@x.org,bob@y.org,2026-01-01\neva@x.org,eva@y.org,2026-01-01\n",
        "email,mail,found_at\nann@x.org,bad,2026-02-01\nbob@x.org,bad,2026-02-01\ncem@x.org,cem@y.org,2026-02-01\n",
    )
    for text in texts:
        mill.read(mill.source(), text)
    later = mill.source(columns={"email": "mail"})
    stage.validate_again(later, mill.store)
    loaded = stage.load(later, mill.store, mill.store)
    assert [batch.rows_rejected for batch in loaded.withheld] == [2]
    # bob is in both: who says so now is not known before the second batch is loaded
    assert list(mill.contacts()) == ["ann@x.org", "bob@x.org", "bob@y.org", "cem@x.org", "eva@y.org"]
    assert loaded.notes == ("1 contact stays: a batch that may name it cannot be read any more, or waits to be loaded",)
    stage.load(later, mill.store, mill.store, force=True)
    assert list(mill.contacts()) == ["bob@y.org", "cem@y.org", "eva@y.org"]


def test_P03_only_who_may_stand_in_an_unreadable_batch_stays_as_they_are(mill):
    """Of many batches read again the costs that grow with the source come once, whatever their number."""
    source, many = mill.source(), 12
    for n in range(many):  # all of them say when, and over the same time
        mill.read(
            source, f"email,name,label,found_at\np{n}@x.org,N,L{n},2026-01-0{1 + n % 3}\nq{n}@x.org,N,Q,2026-02-01\n"
        )
    mill.read(source, "email,name,nom,found_at\np3@x.org,Old,Vieux,2026-01-15\nz@x.org,Zoe,Zo,2026-01-01\n")
    later = mill.source(columns={"name": "label"})
    executed: list[Any] = []
    real = psycopg.Cursor.execute

    def execute(cursor: psycopg.Cursor[Any], query: Any, *args: Any, **kwargs: Any) -> Any:
        executed.append(query)
        return real(cursor, query, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", execute)
        stage.validate_again(later, mill.store)
        loaded = stage.load(later, mill.store, mill.store)
    assert executed.count(sightings.SQL["read_source"]) == 1
    assert executed.count(ingest.SQL["naming_batches"]) == 1
    names = {key.partition("@")[0]: row["name"] for key, row in mill.contacts().items()}
    assert names == {
        **{f"p{n}": f"L{n}" for n in range(many)}, **{f"q{n}": "Q" for n in range(many)}, "p3": "Old", "z": "Zoe"
    }  # fmt: skip
    assert loaded.counts.left == 1 and loaded.counts.changed == 2 * many - 1


def test_P03_one_batch_alone_is_read_again(mill, mailmill):
    source = mill.source(**FIRST)
    for n, text in enumerate(LISTS):
        mailmill("ingest", "acme/list", "--file", str(mill.file(text, f"{n}.csv")))
    mill.source(**FIRST | {"tags": ["late"]})
    answer = json.loads(mailmill("ingest", "--again", "--batch", str(batches(mill, source)[1]), "--json"))
    assert (answer["source"], answer["read"], answer["accepted"]) == ("acme/list", 2, 2)
    assert mill.contacts()["cem@x.org"]["tags"] == ["late"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("ingest", "--again"), "say which source"),
        (("ingest", "acme/list", "--batch", "1"), "--batch belongs to it"),
        (("ingest", "acme/list", "--again", "--full"), "--again reads nothing"),
        (("ingest", "acme/list", "--again", "--batch", "99"), "there is no batch 99"),
    ],
)
def test_what_cannot_be_read_again_is_answered_in_a_sentence(mill, mailmill, words, says):
    mill.source()
    with pytest.raises(Misconfigured, match=says):
        mailmill(*words)
