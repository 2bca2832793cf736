"""P01: a row that was rejected for a reason of ours comes in after the reason is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mailmill.cli import ingest as ingest_verbs
from mailmill.cli import rejects as rejects_verb
from mailmill.cli.app import app
from mailmill.cli.configuration import apply_paths
from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.settings import Settings

TENANT = "kind: tenant\nslug: acme\nname: Acme\npostal_address: Street 1\n"
SOURCE = "---\nkind: source\ntenant: acme\nslug: fair\ntype: csv\n"
PEOPLE = "Kontakt,Ort,phone\nann@x.org,Rome,\nbob@x.org,Oslo,+43 1 5337031\nnobody,Bern,\n"


@pytest.fixture
def acme(mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """An installation whose YAML can be applied."""
    made = Installation(Settings(home=tmp_path / "home", project=tmp_path))
    made.__dict__.update(database=mill.database, any_database=mill.database, lake=mill.lake)
    for module in (ingest_verbs, rejects_verb):
        monkeypatch.setattr(module, "installation", lambda: made)
    return made


def applied(acme: Installation, columns: str) -> None:
    path = acme.project / "acme.yaml"
    path.write_text(TENANT + SOURCE + columns)
    apply_paths(acme, [path])


def said(*words: str) -> dict:
    result = CliRunner().invoke(app, [*words, "--json"])
    if isinstance(result.exception, Misconfigured):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_P01_rows_rejected_under_a_wrong_column_come_in_after_the_column_is_corrected(mill, acme) -> None:
    applied(acme, "columns: {email: Ort}\n")
    first = said("ingest", "acme/fair", "--file", str(mill.file(PEOPLE, "people.csv")))
    assert (first["accepted"], first["rejected"], mill.contacts()) == (0, 3, {})
    assert said("rejects", "--retry", "acme/fair")["rejected"] == 3  # nothing was corrected yet
    applied(acme, "columns: {email: Kontakt}\n")
    again = said("rejects", "--retry", "acme/fair", "--force")
    assert {key: again[key] for key in ("read", "accepted", "rejected", "new", "contacts")} == {
        "read": 3, "accepted": 2, "rejected": 1, "new": 2, "contacts": 2,
    }  # fmt: skip
    assert list(mill.contacts()) == ["ann@x.org", "bob@x.org"]
    assert list(mill.generation()["email"]) == ["ann@x.org", "bob@x.org"]
    assert [row["line"] for row in said("rejects", "acme/fair")["rows"]] == [4]
    once_more = said("rejects", "--retry", "acme/fair", "--force")
    assert (once_more["new"], once_more["contacts"], once_more["rejected"]) == (0, 2, 1)


def test_P01_after_a_retry_each_accepted_row_of_the_batch_is_still_counted_once(mill, acme) -> None:
    applied(acme, "columns: {email: Ort}\nmax_reject_share: 1\n")
    mixed = "Kontakt,Ort\nann@x.org,ann@x.org\nbob@x.org,Oslo\nbob@x.org,Bern\n"
    said("ingest", "acme/fair", "--file", str(mill.file(mixed, "mixed.csv")))
    applied(acme, "columns: {email: Kontakt}\nmax_reject_share: 1\n")
    assert said("rejects", "--retry", "acme/fair")["new"] == 1
    assert mill.rows("SELECT rows_accepted, contacts_new, duplicates_within, duplicates_across FROM batches") == [
        {"rows_accepted": 3, "contacts_new": 2, "duplicates_within": 1, "duplicates_across": 0}
    ]


def test_P01_too_many_bad_rows_are_withheld_in_a_retry_as_in_an_import(mill, acme) -> None:
    applied(acme, "columns: {email: Ort}\nmax_reject_share: 0.01\n")
    said("ingest", "acme/fair", "--file", str(mill.file(PEOPLE, "people.csv")))
    applied(acme, "columns: {email: Kontakt}\nmax_reject_share: 0.01\n")
    with pytest.raises(Misconfigured, match="again with --force"):
        said("rejects", "--retry", "acme/fair")
    assert mill.contacts() == {}
    assert said("rejects", "--retry", "acme/fair", "--force")["new"] == 2


def test_P01_a_batch_with_the_columns_of_another_time_holds_up_no_other(mill, acme) -> None:
    applied(acme, "max_reject_share: 1\n")
    said("ingest", "acme/fair", "--file", str(mill.file("email\nx\n", "old.csv")))
    applied(acme, "columns: {email: Ort}\nmax_reject_share: 1\n")
    said("ingest", "acme/fair", "--file", str(mill.file(PEOPLE, "people.csv")))
    applied(acme, "columns: {email: Kontakt}\nmax_reject_share: 1\n")
    again = said("rejects", "--retry", "acme/fair")
    assert again["new"] == 2
    assert "left as it is: old.csv: there is no column 'Kontakt'" in again["notes"][0]
    assert len(said("rejects", "acme/fair")["rows"]) == 2
