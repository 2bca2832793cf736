"""`mailmill apply` over a real database: all or nothing, twice the same."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from mailmill.cli import dagster_home
from mailmill.cli.configuration import Applied, Refused, apply_paths, write_example
from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.io.postgres import keys, manifest
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA
from mailmill.settings import Settings


@pytest.fixture
def project(mill: Installation) -> Path:
    folder = mill.project / "example"
    write_example(folder)
    return folder


def edit(project: Path, *changes: tuple[str, str]) -> None:
    path = project / "mailmill.yaml"
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


def changed(applied: Applied) -> list[str]:
    return [
        f"{change.action} {change.kind} {change.name}" for change in applied.changes if change.action != "unchanged"
    ]


def rows(database: Database, table: str) -> int:
    with database.transaction() as connection:
        query = psycopg.sql.SQL("SELECT count(*) FROM {}").format(psycopg.sql.Identifier(table))
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def state(database: Database) -> tuple[str, object, list[tuple[str, str, str]]]:
    with database.transaction() as connection:
        row = connection.execute("SELECT state::text, scheduled_at FROM campaigns").fetchone()
        steps = connection.execute(
            "SELECT from_state::text, to_state::text, reason FROM campaign_transitions ORDER BY id"
        )
        assert row is not None
        return row[0], row[1], steps.fetchall()


def test_the_example_project_applies_at_once_and_again_without_a_change(mill: Installation, project: Path) -> None:
    first = apply_paths(mill, [project])
    assert len(changed(first)) == 7 and len(first.keys_made) == 4
    again = apply_paths(mill, [project])
    assert changed(again) == [] and again.keys_made == []
    assert rows(mill.database, "signing_keys") == 4


def test_a_dry_run_says_the_same_and_changes_nothing(mill: Installation, project: Path) -> None:
    dry = apply_paths(mill, [project], dry_run=True)
    assert rows(mill.database, "tenants") == 0 and rows(mill.database, "signing_keys") == 0
    done = apply_paths(mill, [project])
    assert (changed(dry), dry.keys_made) == (changed(done), done.keys_made)


def test_a_change_is_stored_and_the_rest_left_alone(mill: Installation, project: Path) -> None:
    apply_paths(mill, [project])
    edit(project, ("name: Example Ltd", "name: Example GmbH"), ("time_zone: UTC ", "time_zone: Europe/Berlin "))
    assert changed(apply_paths(mill, [project])) == ["change tenant example"]
    with mill.database.transaction() as connection:
        row = connection.execute("SELECT name, time_zone, spec->>'name' FROM tenants").fetchone()
    assert row == ("Example GmbH", "Europe/Berlin", "Example GmbH")


def test_a_merge_field_that_no_contact_has_is_warned_of_and_applied(mill: Installation, project: Path) -> None:
    edit(project, ("  No more mails:", "  {{ compnay | default('') }} {{ name | default('') }}\n\n  No more mails:"))
    page = project / "welcome.html"
    page.write_text("{{ nmae | default('') }}\n" + page.read_text())
    assert apply_paths(mill, [project]).warnings == []  # while there are no contacts nothing is known of their fields
    publish(mill, {"fields": '{"company": "B"}', "tags": ["newsletter"]})
    dry, done = apply_paths(mill, [project], dry_run=True), apply_paths(mill, [project])
    assert dry.warnings == done.warnings and rows(mill.database, "templates") == 1
    html, text = sorted(map(str, done.warnings), key=lambda one: "'nmae'" not in one)
    assert html.startswith(f"{page}:1: no contact of example has a field 'nmae'. Did you mean name? Known are email,")
    assert "mailmill.yaml:" in text and "text, line 5: no contact of example has a field 'compnay'" in text
    assert "Did you mean company?" in text


def test_a_tag_that_no_contact_has_is_warned_of_with_its_line_and_applied(mill: Installation, project: Path) -> None:
    edit(project, ("    - tag: newsletter\n", "    - tag: newsleter\n"))
    assert apply_paths(mill, [project]).warnings == []  # while there are no contacts nothing is known of their tags
    publish(mill, {"tags": ["newsletter"]})
    (warning,) = apply_paths(mill, [project]).warnings
    line = (project / "mailmill.yaml").read_text().split("\n").index("    - tag: newsleter") + 1
    said = "rule.all[0].tag: no contact has the tag 'newsleter'; did you mean newsletter? there are newsletter"
    assert str(warning) == f"{project / 'mailmill.yaml'}:{line}: {said}"


def publish(mill: Installation, *contacts: dict[str, object]) -> None:
    """A generation of contacts, as ingest would leave it."""
    plain = dict.fromkeys(CONTACTS_SCHEMA.names()) | {"contact_id": 1, "match_key": "a@x.example", "fields": "{}"}
    frame = pl.DataFrame([{**plain, **one} for one in contacts], schema=CONTACTS_SCHEMA)
    file = mill.lake.write(frame, tenant_id=1, dataset="contacts")
    with mill.database.transaction() as connection:
        facts = {"as_of": "2026-11-01T00:00:00+00:00", "rows": frame.height}
        manifest.replace(connection, [file], tenant_id=1, dataset="contacts", facts=facts)


def test_what_a_file_leaves_out_stays(mill: Installation, project: Path) -> None:
    apply_paths(mill, [project])
    text = (project / "mailmill.yaml").read_text().split("---\n")
    (project / "mailmill.yaml").write_text(text[0])
    apply_paths(mill, [project])
    assert rows(mill.database, "campaigns") == 1


def test_one_problem_in_one_file_stops_all_of_them(mill: Installation, project: Path) -> None:
    (project / "other.yaml").write_text("kind: tenant\nslug: Other\nname: O\npostal_address: x\n")
    with pytest.raises(Refused) as refused:
        apply_paths(mill, [project])
    assert [problem.place for problem in refused.value.problems] == [f"{project}/other.yaml:2"]
    assert rows(mill.database, "tenants") == 0


def test_what_refers_to_a_broken_document_is_no_further_problem(mill: Installation, project: Path) -> None:
    edit(
        project, ("name: Everybody from the newsletter", "nmae: Everybody"), ("transport: relay", "transport: nowhere")
    )
    with pytest.raises(Refused) as refused:
        apply_paths(mill, [project])
    said = [problem.message.partition(":")[0] for problem in refused.value.problems]
    assert said == ["nmae", "transport"]


def test_a_document_may_refer_to_what_was_applied_before(mill: Installation, project: Path) -> None:
    apply_paths(mill, [project])
    (project / "second.yaml").write_text(
        "kind: campaign\ntenant: example\nslug: second\nsegment: readers\ntemplate: welcome\nidentity: news\n"
        "transport: relay\nstart: 2030-01-01T00:00:00Z\n"
    )
    assert changed(apply_paths(mill, [project / "second.yaml"])) == ["create campaign example/second"]


def test_a_start_schedules_and_taking_it_back_makes_a_draft(mill: Installation, project: Path) -> None:
    apply_paths(mill, [project])
    assert state(mill.database) == ("draft", None, [])
    edit(project, ("# start: 2027-01-15T09:00:00+01:00 ", "start: 2030-01-15T09:00:00+01:00 "))
    apply_paths(mill, [project])
    assert (state(mill.database)[0], str(state(mill.database)[1])) == ("scheduled", "2030-01-15 08:00:00+00:00")
    edit(project, ("start: 2030-01-15T09:00:00+01:00 ", "# none "))
    apply_paths(mill, [project])
    assert state(mill.database) == (
        "draft", None, [("draft", "scheduled", "apply"), ("scheduled", "draft", "apply")]
    )  # fmt: skip


def test_a_campaign_that_was_missed_and_gets_another_start_is_not_finished_any_more(
    mill: Installation, project: Path
) -> None:
    apply_paths(mill, [project])
    with mill.database.transaction() as connection:
        connection.execute("UPDATE campaigns SET state = 'missed', finished_at = now()")
    edit(project, ("doubt: hold", "doubt: resend"))
    for start, finished in ((None, False), ("start: 2030-01-15T09:00:00+01:00 ", True)):
        if start:
            edit(project, ("# start: 2027-01-15T09:00:00+01:00 ", start))
        apply_paths(mill, [project])
        with mill.database.transaction() as connection:
            row = connection.execute("SELECT state::text, finished_at IS NULL FROM campaigns").fetchone()
        assert row == ("scheduled" if start else "missed", finished)


def test_a_running_campaign_is_refused_with_the_reason(mill: Installation, project: Path) -> None:
    apply_paths(mill, [project])
    with mill.database.transaction() as connection:
        connection.execute("UPDATE campaigns SET state = 'running'")
    apply_paths(mill, [project])
    edit(project, ("doubt: hold", "doubt: resend"), ("name: Example Ltd", "name: Other"))
    with pytest.raises(Refused, match="campaign example/welcome is running and is not changed any more"):
        apply_paths(mill, [project])
    with mill.database.transaction() as connection:
        assert connection.execute("SELECT name FROM tenants").fetchone() == ("Example Ltd",)


def test_two_applies_at_once_apply_once(mill: Installation, project: Path) -> None:
    results: list[Applied] = []
    threads = [threading.Thread(target=lambda: results.append(apply_paths(mill, [project]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(changed(applied)) for applied in results) == [0, 0, 0, 7]
    assert rows(mill.database, "signing_keys") == 4


def test_verbs_that_are_the_first_at_once_make_dagsters_place_once(server: EmbeddedServer, database: Database) -> None:
    name, together = str(conninfo_to_dict(database.conninfo("owner"))["dbname"]), threading.Barrier(6)
    settings = Settings(database_url=SecretStr(server.conninfo("mailmill_owner", name)))

    def first(mill: Installation) -> str:
        together.wait()
        return dagster_home.storage_url(mill)

    for _ in range(5):
        with database.transaction() as connection:
            connection.execute("DROP SCHEMA IF EXISTS dagster")
        with ThreadPoolExecutor(6) as threads:
            assert len(set(threads.map(first, [Installation(settings) for _ in range(6)]))) == 1


def test_an_empty_database_gets_its_schema(mill: Installation, project: Path, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    assert apply_paths(mill, [project], dry_run=True).schema_made
    with database.transaction() as connection:
        assert connection.execute("SELECT to_regclass('tenants')").fetchone() == (None,)
    assert apply_paths(mill, [project]).schema_made
    assert changed(apply_paths(mill, [project])) == []


@pytest.mark.parametrize(
    ("version", "said"), [("0000", "before its first release"), ("9999", "newer than this mailmill")]
)
def test_a_database_of_another_version_is_refused(mill: Installation, project: Path, version: str, said: str) -> None:
    with mill.database.transaction() as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", (version,))
    with pytest.raises(Misconfigured, match=said):
        apply_paths(mill, [project])


def test_init_refuses_a_folder_that_is_not_empty(project: Path) -> None:
    with pytest.raises(Misconfigured, match="not an empty folder"):
        write_example(project)


def test_init_says_why_a_folder_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise shutil.Error([("from", "to", "[Errno 13] Permission denied: 'to'")])

    monkeypatch.setattr(shutil, "copytree", refused)
    with pytest.raises(Misconfigured, match=r"cannot be written: .*Permission denied"):
        write_example(tmp_path / "shop")


def test_init_keeps_secrets_and_data_out_of_git(project: Path) -> None:
    assert "secrets/" in (project / ".gitignore").read_text() and not (project / "gitignore").exists()
    assert (project / "secrets" / "example-webhook").stat().st_mode & 0o777 == 0o600
    shutil.rmtree(project)


def test_a_rotated_key_signs_and_the_old_one_verifies_for_a_year(mill: Installation) -> None:
    with mill.database.transaction() as connection:
        keys.ensure(connection)
    [old] = mill.signing_keys("unsubscribe")
    with mill.database.transaction() as connection:
        new = keys.rotate(connection, "unsubscribe")
    assert list(mill.signing_keys("unsubscribe", "ingress")) == [new, old]
    with mill.database.transaction() as connection:
        connection.execute("UPDATE signing_keys SET retired_at = now() - interval '366 days' WHERE id = %s", (old,))
    assert list(mill.signing_keys("unsubscribe")) == [new]


def test_a_missing_signing_key_is_said(mill: Installation) -> None:
    with pytest.raises(Misconfigured, match="there is no tracking key yet"):
        mill.signing_keys("tracking")
