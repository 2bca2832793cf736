"""The verbs about contacts: what a person sees, and that bad input is answered in a sentence."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from datetime import UTC, datetime

import polars as pl
import pytest

from mailmill.cli import imports
from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.io.sources.files import CsvFiles
from mailmill.io.sources.manual import Typed
from mailmill.pipelines.ingest import stage


def test_ingest_says_what_became_of_every_row(mill, mailmill, capsys):
    mill.source()
    path = mill.file("email,name\na@x.org,Ann\nA@x.org,Ann\nbad,Bob\n")
    answer = json.loads(mailmill("ingest", "acme/list", "--file", str(path), "--json"))
    assert {key: answer[key] for key in ("read", "accepted", "rejected", "new", "duplicates_within", "contacts")} == {
        "read": 3, "accepted": 2, "rejected": 1, "new": 1, "duplicates_within": 1, "contacts": 1,
    }  # fmt: skip
    assert answer["reasons"] == {"address_without_at": 1}
    assert "known before" in mailmill("ingest", "acme/list", "--file", str(path))
    later = mill.file("email,name\na@x.org,Anna\nb@x.org,Bea\nc@x.org,Cem\nc@x.org\nd@,\n", "later.csv")
    answer = json.loads(mailmill("ingest", "acme/list", "--file", str(later), "--json"))
    assert {name: answer[name] for name in ("accepted", "new", "changed", "duplicates_across", "contacts")} == {
        "accepted": 3, "new": 2, "changed": 1, "duplicates_across": 1, "contacts": 3,
    }  # fmt: skip
    assert answer["reasons"] == {"ragged_line": 1, "domain_without_dot": 1}
    capsys.readouterr()
    imports.show([answer], json=False)
    table = capsys.readouterr().out
    assert all(word in table for word in ("read", "changed", "duplicates", "rejected, by reason", "ragged_line"))


def test_P02_a_partition_that_is_run_again_adds_nothing(mill, mailmill):
    mill.source(folder="in")
    (mill.folder / "in").mkdir()
    (mill.folder / "in" / "a.csv").write_text("email\na@x.org\n")
    assert json.loads(mailmill("ingest", "acme/list", "--json"))["new"] == 1
    before = [mill.contacts(), *(mill.rows(f"SELECT * FROM {table}") for table in ("batches", "contact_sources"))]
    assert json.loads(mailmill("ingest", "acme/list", "--json"))["known_before"] == 1
    assert [
        mill.contacts(),
        *(mill.rows(f"SELECT * FROM {table}") for table in ("batches", "contact_sources")),
    ] == before
    runs = mill.rows("SELECT pipeline_name, status, partition FROM dagster.runs")
    assert [tuple(run.values()) for run in runs] == [("ingest", "SUCCESS", "acme|list")] * 2


def test_a_file_that_cannot_be_read_fails_the_verb_after_the_others_are_in(mill, mailmill):
    mill.source()
    good, bad = mill.file("email\na@x.org\n", "good.csv"), mill.file("Ort\nRom\n", "bad.csv")
    with pytest.raises(Misconfigured, match=r"bad\.csv"):
        mailmill("ingest", "acme/list", "--file", str(bad), "--file", str(good))
    assert list(mill.contacts()) == ["a@x.org"]


def test_P01_a_file_whose_name_is_not_utf_8_is_taken_in(mill, mailmill):
    mill.source()
    path = mill.file("email\na@x.org\n", os.fsdecode(b"caf\xe9.csv"))
    assert json.loads(mailmill("ingest", "acme/list", "--file", str(path), "--json"))["contacts"] == 1


def test_what_could_not_be_read_is_said_once_and_of_a_rest_only_where_there_was_one(mill, mailmill, capfd):
    mill.source()
    good, bad = mill.file("email\na@x.org\n", "good.csv"), mill.file("Ort\nRom\n", "bad.csv")
    cut = mill.file(b"\x1f\x8b\x08", "cut.gz")
    with pytest.raises(Misconfigured) as alone:
        mailmill("ingest", "acme/list", "--file", str(bad))
    assert str(alone.value).startswith("bad.csv: no column holds")
    with pytest.raises(Misconfigured) as neither:
        mailmill("ingest", "acme/list", "--file", str(bad), "--file", str(cut))
    assert str(neither.value).startswith("2 could not be read:\n") and "the rest" not in str(neither.value)
    assert (str(neither.value).count("bad.csv"), str(neither.value).count("cut.gz")) == (1, 1)
    with pytest.raises(Misconfigured, match=r"1 could not be read; the rest is taken in:\n  bad\.csv: no column holds"):
        mailmill("ingest", "acme/list", "--file", str(bad), "--file", str(good))
    assert "no column" not in capfd.readouterr().err


def test_a_batch_that_is_withheld_hides_no_failure_of_another_import(mill, mailmill):
    mill.source()
    bad, gone = mill.file("email\na@x.org\nbad\nworse\n", "bad.csv"), mill.folder / "gone.csv"
    with pytest.raises(Misconfigured) as withheld:
        mailmill("ingest", "acme/list", "--file", str(bad))
    assert str(withheld.value).startswith("too many rows of bad.csv")
    with pytest.raises(Misconfigured, match=r"gone\.csv: there is no such file(.|\n)*too many rows of bad\.csv"):
        mailmill("ingest", "acme/list", "--file", str(gone))


def test_P01_a_file_of_which_every_row_is_rejected_is_no_success(mill, mailmill):
    mill.source()
    with pytest.raises(Misconfigured, match=r"too many rows of wrong\.csv"):
        mailmill("ingest", "acme/list", "--file", str(mill.file("email\nbad\nworse\n", "wrong.csv")))
    assert "(wrong.csv) is withheld: 2 of 2 rows were rejected" in mailmill("sources")
    mailmill("ingest", "acme/list", "--force")  # a person has looked
    assert "is withheld" not in mailmill("sources")


def test_an_empty_file_is_an_answer_with_a_note(mill, mailmill):
    mill.source()
    path = mill.file("", "empty.csv")
    for _ in range(2):
        assert "note: empty.csv: the file is empty" in mailmill("ingest", "acme/list", "--file", str(path))
        assert json.loads(mailmill("ingest", "acme/list", "--file", str(path), "--json"))["notes"]


def test_contacts_add_goes_the_same_way_as_every_source(mill, mailmill):
    mill.source("desk", type="manual", tags=["desk"])
    words = [
        "--email",
        "Zoë <zoe@bücher.example>",
        "--field",
        "city=Rome",
        "--field",
        "country=Austria",
        "--tag",
        "VIP",
    ]
    mailmill("contacts", "add", "--tenant", "acme", *words)
    contact = mill.contacts()["zoe@xn--bcher-kva.example"]
    assert (contact["name"], contact["fields"], contact["country"]) == ("Zoë", {"city": "Rome"}, "AT")
    assert contact["tags"] == ["desk", "vip"]
    runs = mill.rows("SELECT pipeline_name, status, partition, run_body FROM dagster.runs")
    assert [(run["pipeline_name"], run["status"], run["partition"]) for run in runs] == [
        ("ingest", "SUCCESS", "acme|desk")]  # fmt: skip
    said = [*runs, *mill.rows("SELECT event FROM dagster.event_logs")]
    assert not any("zoe" in str(row).lower() for row in said), "Dagster keeps no address"


def test_contacts_add_speaks_of_its_own_row_and_not_of_one_that_was_left(mill, mailmill):
    desk = mill.source("desk", type="manual")
    stage.receive(desk, Typed(rows=[{"email": "bad"}], at=datetime(2026, 11, 1, tzinfo=UTC)), mill.store)
    mailmill("contacts", "add", "--tenant", "acme", "--email", "zoe@x.org")
    assert list(mill.contacts()) == ["zoe@x.org"]
    assert len(mill.rejected()) == 1
    assert "is withheld" not in mailmill("sources"), "whoever typed it was told"


def test_contacts_add_says_that_its_own_row_is_held_and_not_that_another_is(mill, mailmill):
    mill.source("desk", type="manual", on_change="hold")
    mailmill("contacts", "add", "--tenant", "acme", "--email", "zoe@x.org", "--field", "city=Rome")
    with pytest.raises(Misconfigured, match=r"1 held(.|\n)*new: town"):
        mailmill("contacts", "add", "--tenant", "acme", "--email", "yan@x.org", "--field", "town=Rome")
    mailmill("contacts", "add", "--tenant", "acme", "--email", "xia@x.org")
    assert list(mill.contacts()) == ["xia@x.org", "zoe@x.org"]
    mailmill("ingest", "acme/desk", "--accept-columns")  # as it says
    assert list(mill.contacts()) == ["xia@x.org", "yan@x.org", "zoe@x.org"]


def test_a_raw_file_that_is_lost_is_named_with_its_batch(mill, mailmill):
    source = mill.source()
    mill.read(source, "email\na@x.org\n")
    (row,) = mill.rows("SELECT file FROM manifest WHERE dataset = 'raw'")
    mill.lake.path(row["file"]).unlink()
    with pytest.raises(StoreUnavailable, match=rf"list-0.csv: its raw file {row['file']} is not in the lake"):
        stage.validate_again(source, mill.store)
    with pytest.raises(Misconfigured, match="is not in the lake"):
        mailmill("ingest", "acme/list", "--again")
    due = "SELECT extract(epoch FROM retry_at - last_error_at)::int AS seconds FROM sources"
    assert mill.rows(due) == [{"seconds": 300}], "it may pass"
    (row,) = mill.rows("SELECT file FROM manifest WHERE dataset = 'rejected'")
    mill.lake.path(row["file"]).unlink()
    with pytest.raises(StoreUnavailable, match="a file of rejected rows is gone"):
        mailmill("rejects", "acme/list")


def test_an_import_that_goes_well_leaves_to_its_time_what_waited_for_it_in_vain(mill):
    early = mill.source()
    mill.store.remember(early, "another import of acme/list is still running", retry_after_s=300)
    kept = "SELECT last_error IS NOT NULL AS told, retry_at > now() AS waits FROM sources"
    mill.store.remember(early, None)
    assert mill.rows(kept) == [{"told": True, "waits": True}], "what was dropped meanwhile is read then"
    mill.store.remember(early, "a.csv cannot be read")
    assert mill.rows(kept) == [{"told": True, "waits": True}]
    mill.store.remember(mill.source(), None)  # of an import that began after that
    assert mill.rows(kept) == [{"told": False, "waits": None}]


CUT = """
CREATE SEQUENCE cuts;  -- what it has given stays given when its transaction ends with the connection
CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN IF nextval(''cuts'') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NEW; END';
CREATE TRIGGER cut BEFORE UPDATE ON batches FOR EACH ROW WHEN (NEW.state = 'validated') EXECUTE FUNCTION cut();
"""


def test_P02_a_dropped_file_whose_run_lost_its_connection_is_tried_again_by_the_sensor(mill, mailmill, installed):
    folder = mill.folder / "inbox"
    folder.mkdir()
    (folder / "people.csv").write_text("email\n" + "".join(f"user{n}@x.org\n" for n in range(500)))
    os.utime(folder / "people.csv", (1_700_000_000, 1_700_000_000))  # nobody writes on
    mill.source(folder="inbox")

    import dagster as dg

    from mailmill.definitions import sensors  # which knows the warnings of what they import

    def tick(cursor: str | None = None) -> dg.SensorResult:
        context = dg.build_sensor_context(cursor=cursor, resources={"mill": installed})
        return sensors.inbox(context)

    seen = tick()
    assert [one.partition_key for one in seen.run_requests or ()] == ["acme|list"]
    with mill.database.transaction() as conn:
        conn.execute(CUT)
    try:
        with pytest.raises(Misconfigured, match="PostgreSQL is shutting down"):
            mailmill("ingest", "acme/list")  # what the sensor asked for, in this process
        assert mill.rows("SELECT state::text FROM batches") == [{"state": "raw"}]
        assert not tick(seen.cursor).run_requests, "at once would be no use"
        with mill.database.transaction() as conn:
            conn.execute("UPDATE sources SET retry_at = clock_timestamp()")  # the pause is over
        again = tick(seen.cursor)
        assert [one.partition_key for one in again.run_requests or ()] == ["acme|list"]
        mailmill("ingest", "acme/list")
    finally:
        with mill.database.transaction() as conn:
            conn.execute("DROP FUNCTION cut CASCADE; DROP SEQUENCE cuts")
    assert len(mill.contacts()) == 500
    assert mill.rows("SELECT state::text, retry_at FROM batches, sources") == [{"state": "loaded", "retry_at": None}]
    assert not tick(again.cursor).run_requests


def test_rejects_retry_says_that_it_changes_accepted_contacts_too(mailmill):
    assert "contacts from accepted rows" in " ".join(mailmill("rejects", "retry", "--help").replace("│", "").split())


def test_contacts_publish_shows_segments_at_once_what_changed_without_a_batch(mill, mailmill):
    mill.read(mill.source(), "email,name\na@x.org,Ann\nb@x.org,Bob\n")
    first = json.loads(mailmill("contacts", "publish", "acme", "--json"))
    assert (first["contacts"], first["files_written"], first["files_kept"]) == (2, 1, 0)
    again = json.loads(mailmill("contacts", "publish", "acme", "--json"))
    assert (again["contacts"], again["files_written"], again["files_kept"]) == (2, 0, 1)
    tenant_id = mill.tenant()
    mill.rows("UPDATE contacts SET name = 'Anna' WHERE match_key = 'a@x.org' RETURNING id")
    mill.rows(
        "INSERT INTO suppressions (tenant_id, address_key, reason) VALUES (%s, 'b@x.org', 'manual') RETURNING id",
        tenant_id,
    )
    assert json.loads(mailmill("contacts", "publish", "acme", "--json"))["files_written"] == 1
    shown = PostgresContacts(database=mill.database, lake=mill.lake).generation(tenant_id)
    assert shown is not None
    assert shown.contacts.select("match_key", "name", "status").sort("match_key").collect().rows() == [
        ("a@x.org", "Anna", "active"), ("b@x.org", "Bob", "manual")]  # fmt: skip
    with pytest.raises(Misconfigured, match="nobody"):
        mailmill("contacts", "publish", "nobody")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ingest", "acme/nope"], "acme/list"),
        (["ingest", "nope"], "tenant/source"),
        (["ingest", "acme/list"], "no folder"),
        (["ingest", "acme/list", "--file", "no.csv"], "no such file"),
        (["ingest", "acme/desk"], "filled by hand"),
        (["rejects", "99999999999999999999"], "there is no batch 99999999999999999999"),
        (["rejects", "12"], "there is no batch 12"),
        (["rejects", "acme/nope"], "acme/list"),
        (["rejects", "nobody"], "there is no tenant"),
        (["rejects", "retry", "acme"], "tenant/source"),
        (["rejects", "retry", "12"], "there is no batch 12"),
        (["rejects", "retry", "acme/nope"], "acme/list"),
        (["rejects", "--reason", "nope"], "no_address"),
        (["ingest", "acme/list", "--full"], "no HTTP API"),
        (["ingest"], "no source has a folder"),
        (["contacts", "add", "--tenant", "acme"], "--email or --phone"),
        (["contacts", "add", "--tenant", "acme", "--email", "bad"], "no @"),
        (["contacts", "add", "--tenant", "acme", "--email", "a@x.org", "--field", "city"], "name=value"),
        (["contacts", "add", "--tenant", "other", "--email", "a@x.org"], "no source of type manual"),
    ],
)
def test_bad_input_is_answered_in_a_sentence(mill, mailmill, words, says):
    mill.source()
    mill.source("desk", type="manual")
    with pytest.raises(Misconfigured, match=says):
        mailmill(*words)
    assert mill.contacts() == {}


def test_F39_formulas_stay_as_they_came_and_rejects_are_shown_and_exported_without_them(mill, mailmill, tmp_path):
    mill.source(max_reject_share=1)
    cells = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)"]
    lines = "".join(f"p{n}@x.org,{cell}\n" for n, cell in enumerate(cells))
    path = mill.file('email,name\n=cmd,"[/b]\x1b[31m"\n' + lines)
    mailmill("ingest", "acme/list", "--file", str(path))
    assert [contact["name"] for contact in mill.contacts().values()] == cells
    [file] = mill.rows("SELECT file FROM manifest WHERE dataset = 'raw'")
    assert pl.read_parquet(mill.lake.path(file["file"]))["col:email"][0] == "=cmd"
    assert "address_without_at" in mailmill("rejects", "acme/list")
    rows = json.loads(mailmill("rejects", "acme", "--json"))["rows"]
    assert (rows[0]["source"], rows[0]["line"], rows[0]["field"]) == ("list", 2, "email")
    out = tmp_path / "rejects.csv"
    mailmill("rejects", str(rows[0]["batch_id"]), "--csv", str(out))
    row = next(csv.DictReader(io.StringIO(out.read_bytes().decode("utf-8-sig"), newline="")))
    assert row["raw"].startswith("'=cmd")
    mill.source("other")
    assert "nothing" in mailmill("rejects", "acme/other")


def test_P04_a_batch_whose_columns_changed_is_held_until_somebody_agrees(mill, mailmill):
    mill.source(on_change="hold")
    first, second = mill.file("email,name\na@x.org,Ann\n", "1.csv"), mill.file("email,room\nb@x.org,7\n", "my 2.csv")
    mailmill("ingest", "acme/list", "--file", str(first))
    with pytest.raises(Misconfigured, match=r"1 held.*\n.*my 2\.csv.*gone: name; new: room"):
        mailmill("ingest", "acme/list", "--file", str(second))
    assert list(mill.contacts()) == ["a@x.org"]
    [row] = json.loads(mailmill("sources", "--json"))
    assert [(held["origin"], held["why"].rpartition("; ")[2]) for held in row["held"]] == [("my 2.csv", "new: room")]
    assert "is held" in mailmill("sources")
    mailmill("ingest", "acme/list", "--accept-columns")  # as it says: no file is named again
    assert mill.contacts()["b@x.org"]["fields"] == {"room": "7"}
    third = mill.file("email,room\nc@x.org,8\n", "3.csv")  # what was let in is what is known now
    assert json.loads(mailmill("ingest", "acme/list", "--file", str(third), "--json"))["held"] == []


def test_P04_what_waits_for_a_person_and_is_wrong_is_discarded_and_stays_out(mill, mailmill):
    source = mill.source(on_change="hold")
    texts = ("email,name\na@x.org,A\n", "email,room\nb@x.org,7\n", "email,name\nc@x.org,C\n1,\n2,\n")
    good, held, bad = (mill.file(text, f"{n}.csv") for n, text in enumerate(texts, 1))
    mailmill("ingest", "acme/list", "--file", str(good))
    with pytest.raises(Misconfigured, match=r"--discard BATCH(.|\n)*--discard BATCH"):
        mailmill("ingest", "acme/list", "--file", str(held), "--file", str(bad))
    assert "`mailmill ingest acme/list --discard 2`" in (said := mailmill("sources")) and "--discard 3`" in said
    with pytest.raises(Misconfigured, match="no batch 1, 9 of acme/list is held or withheld"):
        mailmill("ingest", "acme/list", *(word for n in "129" for word in ("--discard", n)))
    assert "is held" in mailmill("sources"), "all of them or none"
    words = ("ingest", "acme/list", "--discard", "2", "--discard", "3", "--json")
    (note,) = json.loads(mailmill(*words))["notes"]
    assert note.startswith("discarded batch 2 (2.csv), batch 3 (3.csv): kept") and "--again --batch" in note
    assert "--discard" not in mailmill("sources")
    checks = mill.rows(
        "SELECT DISTINCT ON (check_name) execution_status FROM dagster.asset_check_executions"
        " WHERE check_name IN ('columns_are_known', 'rejects_are_few') ORDER BY check_name, id DESC"
    )
    assert {row["execution_status"] for row in checks} == {"SUCCEEDED"}, "what Dagster shows is no older state"
    words = ("--discard", "3", "--accept-columns", "--force", "--file", str(held), "--file", str(bad))
    notes = json.loads(mailmill("ingest", "acme/list", *words, "--json"))["notes"]  # --discard: as who was killed does
    assert [note.split(";")[0] for note in notes[1:]] == [f"{n}.csv: the same was discarded" for n in (2, 3)]
    for bad_ones in (False, True):
        assert set(stage.validate_again(source, mill.store, rejected=bad_ones).batches) <= {1}
    assert list(mill.contacts()) == ["a@x.org"]
    assert mill.store.columns(source)[0] == ("email", "name"), "they are those of what is in"
    assert len(mill.rejected()) == 2, "what was rejected is still to be seen"
    mailmill("ingest", "--again", "--batch", "2")
    assert list(mill.contacts()) == ["a@x.org", "b@x.org"]


def test_P04_a_corrected_mapping_lets_in_what_was_held(mill, mailmill):
    source = {"columns": {"name": "name"}, "on_change": "hold", "folder": "in"}
    mill.source(on_change="hold", folder="in")
    (mill.folder / "in").mkdir()
    (mill.folder / "in" / "1.csv").write_text("email,name\na@x.org,Ann\n")
    mailmill("ingest", "acme/list")
    (mill.folder / "in" / "2.csv").write_text("email,nom\nb@x.org,Bea\n")
    with pytest.raises(Misconfigured, match="1 held"):
        mailmill("ingest")
    mill.source(**source | {"columns": {"name": "nom"}})
    with pytest.raises(Misconfigured, match=r"1\.csv: there is no column 'nom'"):  # the other file has the old one
        mailmill("ingest")
    assert mill.contacts()["b@x.org"]["name"] == "Bea"


def test_P04_a_batch_that_todays_columns_cannot_read_is_held_and_stops_no_other(mill, mailmill):
    texts = ("email,town\na@x.org,A\n", "email,city\nb@x.org,B\n", "email,ort\nc@x.org,C\n", "email,ort\nd@x.org,D\n")
    first, city, ort, later = (mill.file(text, f"w{n}.csv") for n, text in enumerate(texts, 1))
    held = mill.source(on_change="hold")
    mailmill("ingest", "acme/list", "--file", str(first))
    stage.receive(held, CsvFiles(paths=[city, ort]), mill.store)
    mill.source(on_change="hold", columns={"place": "ort"})
    for words in ("--file", str(later)), ("--accept-columns",):
        with pytest.raises(Misconfigured, match=r"1 held.*\n.*w2\.csv .*no column 'ort'") as caught:
            mailmill("ingest", "acme/list", *words)
        assert "--accept-columns" not in str(caught.value), "it would change nothing"
        assert list(mill.contacts()) == ["a@x.org", "c@x.org", "d@x.org"]
    assert "no column 'ort'" in mailmill("sources")
    mill.source(on_change="hold", columns={"place": "city"})
    mailmill("ingest", "acme/list", "--accept-columns")
    assert mill.contacts()["b@x.org"]["fields"] == {"place": "B"}


def test_P04_a_batch_left_by_a_kill_that_todays_columns_cannot_read_is_held_and_stops_no_other(mill, mailmill):
    left, next_one = mill.file("email,town\na@x.org,A\n", "left.csv"), mill.file("email,ort\nb@x.org,B\n", "next.csv")
    stage.receive(mill.source(), CsvFiles(paths=[left]), mill.store)
    mill.source(columns={"place": "ort"})
    with pytest.raises(Misconfigured, match=r"1 held.*\n.*left\.csv .*no column 'ort'"):
        mailmill("ingest", "acme/list", "--file", str(next_one))
    assert list(mill.contacts()) == ["b@x.org"]
    mill.source()
    mailmill("ingest", "acme/list", "--accept-columns")
    assert list(mill.contacts()) == ["a@x.org", "b@x.org"]


def test_a_run_whose_process_is_gone_is_called_failed(mill, installed, mailmill):
    import dagster as dg

    from mailmill.cli import dagster_home
    from mailmill.sensors import lost_runs

    dagster_home.prepare(installed)
    with dg.DagsterInstance.get() as instance:
        for run_id in ("lost", "alive"):
            run = dg.DagsterRun(job_name="ingest", run_id=run_id, tags={lost_runs.TAG: "yes"})
            instance.add_run(run.with_status(dg.DagsterRunStatus.STARTED))
        with lost_runs.alive("alive", installed.database):
            assert lost_runs.end(instance, installed.database) == ["lost"]
            assert lost_runs.end(instance, installed.database) == []


def test_what_nobody_foresaw_is_told_with_its_batch_and_its_run_and_no_row(mill, mailmill, capfd):
    mill.source()
    file, other = mill.file("email,name\nann@x.org,Ann\n"), mill.file("email\n", "b.csv")
    with mill.database.transaction() as conn:
        conn.execute("ALTER TABLE contacts ADD CONSTRAINT nobody CHECK (name <> 'Ann')")
    try:
        with pytest.raises(Misconfigured) as told:
            mailmill("ingest", "acme/list", "--file", str(file), "--file", str(other))
    finally:
        with mill.database.transaction() as conn:
            conn.execute("ALTER TABLE contacts DROP CONSTRAINT nobody")
    first, second = str(told.value).splitlines()
    assert re.fullmatch(r"an unexpected error, CheckViolation, at batch 1 \(list\.csv\): see run [-0-9a-f]{36}", first)
    assert "Dagster" in second and "ann@x.org" not in capfd.readouterr().err
    assert json.loads(mailmill("sources", "--json"))[0]["last_error"] == first


def test_an_error_that_quotes_what_postgresql_cannot_hold_is_remembered(mill):
    mill.store.remember(mill.source(), "a\x00b\udce9.csv: no")
    assert mill.rows("SELECT last_error FROM sources") == [{"last_error": "a\ufffdb\\udce9.csv: no"}]
