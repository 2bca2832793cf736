"""No verb and no job writes an address into Dagster's storage, a worker's journal or a log, whatever the data say."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from people_world import ANN, PEOPLE, PHONE, People
from psycopg import sql

from mailmill.cli.app import installation
from mailmill.cli.runs import RunFailed, run_job
from mailmill.errors import MailmillError, Misconfigured
from mailmill.io import person_search
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.pipelines.ingest.erasure import Person

NEEDLES = (ANN, PHONE, "5337031", "bob@people", "cid@people", "zoe@people", "eve@people")


def dagster(url: str, schema: str = "dagster") -> str:
    """Every row of every table of Dagster's, as text, in lower case."""
    found = []
    with psycopg.connect(url) as conn:
        tables = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)).fetchall()
        for (table,) in tables:
            rows = sql.SQL("SELECT r::text FROM {} r").format(sql.Identifier(schema, table))
            found += [row for (row,) in conn.execute(rows)]
    assert len(found) > 50, "it was written to"
    return "\n".join(found).lower()


def test_what_the_data_say_of_people_never_reaches_dagster_or_a_journal(people: People) -> None:
    people.tenant("acme")
    folder = people.mill.project / "acme"
    (folder / "no header.csv").write_text(f"{ANN},Ann\nzoe@people.example,Zoe\n")
    (folder / "one column.csv").write_text("zoe@people.example\nbroken eve@people.example@\n")
    (folder / "twice.csv").write_text(f"email,email,{ANN}\nzoe@people.example,eve@people.example,x\n")
    (folder / "torn.csv").write_bytes(
        b"email,name\n\xff\xfe" + ANN.encode() + b",\x00\neve@people.example,E,too,many\n"
    )
    (folder / "kept.xlsx").write_bytes(b"PK\x03\x04 " + ANN.encode())
    with pytest.raises(Misconfigured, match="3 could not be read"):
        people.do("ingest", "acme/inbox")
    with pytest.raises(Misconfigured, match="not the names of the columns"):
        people.do("ingest", "acme/inbox", "--file", str(folder / "no header.csv"))
    people.do("rejects", "retry", "acme/inbox")
    people.do("contacts", "add", "--tenant", "acme", "--email", "zoe@people.example", "--name", "Zoe")
    people.do("suppress", "add", "cid@people.example", "--tenant", "acme", "--note", "said cid@people.example")
    people.do("contacts", "consent", "bob@people.example", "withdraw", "--tenant", "acme")
    with pytest.raises(RunFailed, match="no DNS can be asked"):
        people.do("revalidate", "acme", "--domain", "People.example")
    with pytest.raises(Misconfigured, match="'no domain' is no domain"):
        people.do("revalidate", "acme", "--domain", "no domain")
    people.do("revalidate", "acme")
    named = json.dumps({"none": [{"email": [ANN]}, {"phone": PHONE}]})
    people.rows("UPDATE segments SET spec = jsonb_set(spec, '{rule}', %s::jsonb)", named)
    run_job("segment", "acme|everyone")
    people.rows("UPDATE segments SET spec = jsonb_set(spec, '{rule}', '{\"all\": []}')")
    people.do("campaign", "start", "acme/spring")
    run_job("campaign", "acme|spring")
    people.do("forget", "zoe@people.example", code=1)  # what cannot be read as a table was set aside
    said = dagster(os.environ["MAILMILL_DATABASE_URL"])
    kept = "\n".join(
        path.read_bytes().decode("latin-1").lower()
        for top in ("dagster", "journal")
        for path in (people.mill.home / top).rglob("*")
        if path.is_file()
    )
    for needle in NEEDLES:
        assert needle not in said, needle
        assert needle not in kept, needle


@pytest.mark.parametrize("who", [ANN, "ünal+news@people.example"])
def test_a_file_called_after_a_person_is_masked_in_dagster_and_in_logs_too(people: People, who: str) -> None:
    people.tenant("acme", people="email\n")
    file, written = people.mill.project / f"{who}.csv", json.dumps(who)[1:-1]
    file.write_text(f"email\n{who.title()}\n", encoding="utf-8")
    people.do("ingest", "acme/inbox", "--file", str(file))
    log = people.mill.home / "sandbox" / "relay.jsonl"
    log.parent.mkdir()
    log.write_text(f'{{"to": "jo{who}"}}\n{{"to": "{who.title()}"}}\n{{"to": "{who}"}}\n', encoding="utf-8")
    captured = people.mill.home / "dagster" / "logs" / "a-run" / "compute_logs" / "step.err"
    captured.parent.mkdir(parents=True)
    captured.write_text(f"received {who}.csv: 5 rows\n", encoding="utf-8")
    letter = f'{{"to": "{written}"}} {who}'.encode()
    people.rows("INSERT INTO dead_letters (topic, part, off, reason, val) VALUES ('t', 0, 0, 'x', %s)", letter)
    assert written in dagster(os.environ["MAILMILL_DATABASE_URL"])
    said = people.ask("forget", who)
    stars = "*" * len(who.encode())
    left = f'{{"to": "jo{who}"}}\n{{"to": "{stars}"}}\n{{"to": "{stars}"}}\n'
    assert log.read_text(encoding="utf-8") == left, "no byte moved"
    assert captured.read_text(encoding="utf-8") == f"received {stars}.csv: 5 rows\n"
    assert said["proved"] and "Dagster" in [found["store"] for found in said["tenants"][0]["searched"]]
    told = dagster(os.environ["MAILMILL_DATABASE_URL"])
    assert who not in told and written not in told
    assert people.rows("SELECT val FROM dead_letters") == [(b'{"to": "***"} ***',)]


def test_a_storage_of_dagsters_services_takes_the_runs_of_verbs_and_is_searched(
    people: People, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = server.dagster_url()
    monkeypatch.setenv("MAILMILL_DAGSTER_STORAGE_URL", storage)
    installation.cache_clear()
    people.tenant("acme", people="email\n")
    file = people.mill.project / f"{ANN}.csv"
    file.write_text(PEOPLE)
    people.do("ingest", "acme/inbox", "--file", str(file))
    with psycopg.connect(os.environ["MAILMILL_DATABASE_URL"]) as conn:
        assert conn.execute("SELECT to_regnamespace('dagster')").fetchone() == (None,)
    plain = storage.replace("+psycopg2", "")
    assert ANN in dagster(plain, "public")
    for wrong, said in ((storage.replace(":5432", ":1").replace("port=5432", "port=1"), "does not answer"),
                        (re.sub(r":[^:@]+@", ":wrong@", storage), "refuses this role or password"),
                        ("here", "not a PostgreSQL URL")):  # fmt: skip
        monkeypatch.setenv("MAILMILL_DAGSTER_STORAGE_URL", wrong)
        installation.cache_clear()
        for verb in (("forget", ANN), ("ingest", "acme/inbox")):
            with pytest.raises(MailmillError, match=said) as told:
                people.do(*verb)
            assert "MAILMILL_DAGSTER_STORAGE_URL" in str(told.value), "what was not searched is not proved"
    monkeypatch.setenv("MAILMILL_DAGSTER_STORAGE_URL", storage)
    installation.cache_clear()
    assert people.ask("forget", ANN)["proved"]
    assert ANN not in dagster(plain, "public")


def test_a_hit_in_a_workers_journal_is_named_wherever_it_lies(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people.tenant("acme")
    left = tmp_path / "elsewhere" / "w1" / "7.j"
    left.parent.mkdir(parents=True)
    left.write_text("H boot 1\nR 5\x1fsent\x1fno such user Ann@people.example\n")
    places = replace(people.mill.forgetter.places, journal=left.parent.parent)
    found = places.search(1, "acme", Person(keys=(ANN,)), [])
    assert [hit for one in found for hit in one.hits] == [str(left)]

    def refused(path: Path, who: Person, *, folded: bool = False) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(person_search, "bytes_hold", refused)
    found = places.search(1, "acme", Person(keys=(ANN,)), [])
    assert f"{left}: cannot be read (Permission denied), so nobody knows" in [hit for one in found for hit in one.hits]
