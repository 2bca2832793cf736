"""A person forgotten while something else holds them in hand: nothing brings them back, and nobody mails them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from people_world import ANN, PHONE, People
from send_world import thread, until

from mailmill.errors import StoreUnavailable
from mailmill.io import lake_erasure, person_search
from mailmill.io.postgres.audiences import PostgresCampaigns
from mailmill.io.postgres.ingest_store import IngestStore
from mailmill.pipelines.ingest import stage
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.ports import BatchRow, Cursor, RawBatch, SourceRow
from mailmill.pipelines.ingest.raw import CELL, RawTable
from mailmill.pipelines.target.ports import Frozen

pytestmark = pytest.mark.faults
BLOCKED = (
    "SELECT 1 FROM pg_locks WHERE NOT granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
ROWS = [(2, "Ann@People.example", "Ann", PHONE), (3, "bob@people.example", "Bob", None)]


class Gate:
    """Where something waits until it may go on."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(120)


def frame() -> pl.DataFrame:
    rows = [(line, None, None, *cells) for line, *cells in ROWS]
    texts = ("problem", "raw", f"{CELL}email", f"{CELL}name", f"{CELL}phone")
    schema = {"line": pl.Int64(), **dict.fromkeys(texts, pl.String())}
    return pl.DataFrame(rows, schema=schema, orient="row")


@dataclass
class Feed:
    """A file that is read slowly."""

    gate: Gate

    def batches(self, cursor: Cursor | None) -> Iterator[RawBatch]:
        def frames() -> Iterator[pl.DataFrame]:
            yield frame()
            self.gate()

        table = RawTable(frames=frames(), columns=("email", "name", "phone"))
        yield RawBatch(key="slow", origin="slow.csv", seen_at=datetime.now(UTC), table=table)


class Gated(IngestStore):
    """A validation that is held once it has read the batch."""

    def raw(self, source: SourceRow, batch: BatchRow) -> Iterator[pl.DataFrame]:
        yield from super().raw(source, batch)
        gates[0]()


gates: list[Gate] = []


def gone(people: People) -> None:
    assert people.rows("SELECT count(*) FROM contacts WHERE match_key IN (%s, %s)", ANN, PHONE) == [(0,)]
    text = people.texts(1).replace("joann@people.example", "")
    for needle in (ANN, PHONE, "'ann'"):
        assert needle not in text, needle


def source(people: People) -> SourceRow:
    people.tenant("acme", people="email\n")
    return people.mill.source("acme/inbox")


def run_through(people: People, slow: SourceRow, read: Callable[[], Any]) -> None:
    """The next run, of whatever step was left."""
    read()
    stage.validate(slow, people.mill.ingest)
    stage.load(slow, people.mill.ingest, people.mill.ingest)
    stage.publish_contacts(slow.tenant_id, people.mill.ingest, now=datetime.now(UTC))
    assert people.rows("SELECT match_key FROM contacts") == [("bob@people.example",)]
    gone(people)


def interrupted(people: People, gate: Gate, step: Callable[[], Any]) -> None:
    """A step that stands at the gate while somebody is forgotten, and must not go on with what it has read."""
    with thread(step) as done:
        assert gate.reached.wait(60)
        assert people.ask("forget", ANN)["proved"]
        gate.open.set()
        with pytest.raises(StoreUnavailable, match="next run goes on"):
            done(120)
    gone(people)


def test_P02_a_file_that_is_being_received_when_somebody_in_it_is_forgotten_comes_in_without_them(
    people: People,
) -> None:
    slow, gate = source(people), Gate()
    interrupted(people, gate, lambda: stage.receive(slow, Feed(gate), people.mill.ingest))
    run_through(people, slow, lambda: stage.receive(slow, Feed(gate), people.mill.ingest))
    assert people.rows("SELECT reject_reasons FROM batches") == [({"forgotten": 1},)]


def test_P02_a_batch_that_is_being_validated_when_somebody_in_it_is_forgotten_comes_in_without_them(
    people: People,
) -> None:
    slow, ready = source(people), Gate()
    ready.open.set()
    stage.receive(slow, Feed(ready), people.mill.ingest)
    gates[:] = [Gate()]
    store = Gated(database=people.mill.database, lake=people.mill.lake)
    interrupted(people, gates[0], lambda: stage.validate(slow, store))
    run_through(people, slow, lambda: None)


@pytest.mark.parametrize("holding", [None, "contacts"], ids=["waits to be loaded", "is being loaded"])
def test_P02_a_batch_that_was_validated_when_somebody_in_it_is_forgotten_comes_in_without_them(
    people: People, holding: str | None
) -> None:
    slow, ready = source(people), Gate()
    ready.open.set()
    stage.receive(slow, Feed(ready), people.mill.ingest)
    stage.validate(slow, people.mill.ingest)
    if holding is None:
        assert people.ask("forget", ANN)["proved"]
    else:
        store = people.mill.ingest
        with people.mill.database.connect() as holder:
            holder.execute("LOCK TABLE contacts IN SHARE MODE")
            with thread(lambda: stage.load(slow, store, store)) as loaded:
                until(lambda: people.rows(BLOCKED), 120)
                with thread(lambda: people.mill.forgetter.forget(1, "acme", [ANN])) as forgot:
                    until(lambda: len(people.rows(BLOCKED)) == 2, 120)
                    holder.rollback()
                    loaded(120)
                    assert forgot(120).proved
    run_through(people, slow, lambda: None)


def test_P02_a_file_that_names_somebody_forgotten_before_is_read_anew_when_a_forget_removed_it_on_its_way(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, ready, gate = source(people), Gate(), Gate()
    ready.open.set()
    people.ask("forget", ANN)  # so that no hash is new when they are forgotten again
    real = lake_erasure.taking_in

    def taking_in(*args: Any) -> Any:
        gate()
        return real(*args)

    monkeypatch.setattr(lake_erasure, "taking_in", taking_in)
    # the file is written, and nobody lists it
    interrupted(people, gate, lambda: stage.receive(slow, Feed(ready), people.mill.ingest))
    run_through(people, slow, lambda: stage.receive(slow, Feed(ready), people.mill.ingest))


def test_P02_a_file_that_is_listed_while_a_forget_searches_it_stays_without_them(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, ready, written, searched = source(people), Gate(), Gate(), Gate()
    ready.open.set()
    people.mill.forgetter.forget(1, "acme", [ANN])
    taking_in, holds = lake_erasure.taking_in, person_search.holds

    def listing(*args: Any) -> Any:
        written()
        return taking_in(*args)

    def search(path: Path, who: Person) -> bool:
        found = holds(path, who)
        if found:
            searched()
        return found

    monkeypatch.setattr(lake_erasure, "taking_in", listing)
    monkeypatch.setattr(person_search, "holds", search)
    with thread(lambda: stage.receive(slow, Feed(ready), people.mill.ingest)) as received:
        assert written.reached.wait(60)
        with thread(lambda: people.mill.forgetter.forget(1, "acme", [ANN])) as forgot:
            assert searched.reached.wait(60)  # as a file that nobody lists
            written.open.set()
            received(120)
            searched.open.set()
            assert forgot(120).proved
    names = [name for (name,) in people.rows("SELECT file FROM manifest WHERE dataset = 'raw'")]
    assert names and all(people.mill.lake.path(name).exists() for name in names)
    run_through(people, slow, lambda: None)


def test_two_people_forgotten_at_once_are_both_gone_from_a_file_that_held_both(people: People) -> None:
    people.tenant("acme")
    people.do("ingest", "acme/inbox")
    with thread(lambda: people.mill.forgetter.forget(1, "acme", [ANN])) as one:
        assert people.mill.forgetter.forget(1, "acme", ["bob@people.example"]).proved
        assert one(120).proved
    text = (people.mill.project / "acme" / "people.csv").read_text().lower()
    assert "bob@" not in text and ANN not in text.replace(f"jo{ANN}", "") and "cid@people.example" in text
    assert people.ask("ingest", "acme/inbox")["known_before"] == 1


@pytest.mark.parametrize("before", [True, False], ids=["before it is written", "while it is written"])
def test_P07_an_audience_that_is_being_frozen_when_somebody_in_it_is_forgotten_is_without_them(
    people: People, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    people.tenant("acme")
    people.do("ingest", "acme/inbox")
    real, frozen, gate = PostgresCampaigns.freeze, [], Gate()

    def freeze(store: PostgresCampaigns, plan: Frozen, *, by: str) -> str:
        if before and not frozen:
            gate()
        frozen.append(real(store, plan, by=by))
        return frozen[-1]

    monkeypatch.setattr(PostgresCampaigns, "freeze", freeze)
    with people.mill.database.connect() as holder:
        holder.execute("LOCK TABLE messages IN SHARE MODE") if not before else None
        with thread(lambda: people.do("campaign", "start", "acme/spring")) as planned:
            if before:
                assert gate.reached.wait(60)
                assert people.ask("forget", ANN)["proved"]
                gate.open.set()
                planned(120)
            else:
                until(lambda: people.rows(BLOCKED), 120)
                with thread(lambda: people.mill.forgetter.forget(1, "acme", [ANN])) as forgot:
                    until(lambda: len(people.rows(BLOCKED)) == 2, 120)
                    holder.rollback()
                    planned(120)
                    assert forgot(120).proved
    assert frozen == (["stale", "running"] if before else ["running"])
    gone(people)
    open_rows = "SELECT count(*) FROM messages WHERE state = 'queued' AND address IS NOT NULL"
    assert people.rows(open_rows) == [(3,)]


MENTIONED = """
UPDATE segments SET spec = jsonb_set(spec, '{rule}', '{"none": [{"name": "Ann"}]}');
UPDATE templates SET spec = jsonb_set(spec, '{text}', to_jsonb(
  '{{ referred_by | default("") }} {{ unsubscribe_url }} {{ postal_address }}'::text));
"""
SHARED = """UPDATE tenants SET spec = spec || '{"merge": {"phone": true}}'"""
OF_ONE_NUMBER = f"email,name,phone\naaa@people.example,Abe,{PHONE}\n{ANN},Ann,{PHONE}\ncid@people.example,Cid,\n"


@pytest.mark.parametrize(
    ("terms", "rows"),
    [(MENTIONED, None), (SHARED, OF_ONE_NUMBER)],
    ids=["named in another's merge value", "shown in one with who shares their number"],
)
def test_P06_an_audience_that_was_taken_before_a_forget_brings_nobody_back(
    people: People, monkeypatch: pytest.MonkeyPatch, terms: str, rows: str | None
) -> None:
    people.tenant("acme", **({"people": rows} if rows else {}))
    people.rows(terms)
    people.do("ingest", "acme/inbox")
    real, frozen = PostgresCampaigns.freeze, []

    def freeze(store: PostgresCampaigns, plan: Frozen, *, by: str) -> str:
        if not frozen:
            assert ANN in str(plan.audience.recipients.rows()).lower() and people.ask("forget", ANN)["proved"]
        frozen.append(real(store, plan, by=by))
        return frozen[-1]

    monkeypatch.setattr(PostgresCampaigns, "freeze", freeze)
    people.do("campaign", "start", "acme/spring")
    assert ANN not in people.texts(1).replace("joann@people.example", "")
    assert frozen == ["stale", "running"]
