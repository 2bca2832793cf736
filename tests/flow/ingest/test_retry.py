"""P01: a row that was rejected for a reason of ours comes in after the reason is gone."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from mailmill.cli.configuration import apply_paths
from mailmill.errors import Misconfigured

TENANT = "kind: tenant\nslug: acme\nname: Acme\npostal_address: Street 1\n"
SOURCE = "---\nkind: source\ntenant: acme\nslug: fair\ntype: csv\n"
PEOPLE = "Kontakt,Ort,phone\nann@x.org,Rome,\nbob@x.org,Oslo,+43 1 5337031\nnobody,Bern,\n"


@pytest.fixture
def applied(installed) -> Callable[[str], None]:
    """Applies the source with these lines more."""

    def apply(more: str) -> None:
        path = installed.project / "acme.yaml"
        path.write_text(TENANT + SOURCE + more)
        apply_paths(installed, [path])

    return apply


@pytest.fixture
def said(mailmill) -> Callable[..., dict]:
    return lambda *words: json.loads(mailmill(*words, "--json"))


def test_P01_rows_rejected_under_a_wrong_column_come_in_after_the_column_is_corrected(mill, applied, said) -> None:
    applied("columns: {email: Ort}\n")
    for words in (("ingest", "acme/fair", "--file", str(mill.file(PEOPLE, "people.csv"))),
                  ("rejects", "retry", "acme/fair")):  # fmt: skip
        with pytest.raises(Misconfigured, match=r"too many rows of people\.csv"):  # nothing was corrected yet
            said(*words)
        assert mill.rows("SELECT rows_accepted AS a, rows_rejected AS r FROM batches") == [{"a": 0, "r": 3}]
        assert mill.contacts() == {}
    applied("columns: {email: Kontakt}\n")
    again = said("rejects", "retry", "acme/fair", "--force")
    assert {key: again[key] for key in ("read", "accepted", "rejected", "new", "contacts")} == {
        "read": 3, "accepted": 2, "rejected": 1, "new": 2, "contacts": 2,
    }  # fmt: skip
    assert list(mill.contacts()) == ["ann@x.org", "bob@x.org"]
    assert list(mill.generation()["email"]) == ["ann@x.org", "bob@x.org"]
    assert [row["line"] for row in said("rejects", "acme/fair")["rows"]] == [4]
    once_more = said("rejects", "retry", "acme/fair", "--force")
    assert (once_more["new"], once_more["contacts"], once_more["rejected"]) == (0, 2, 1)


def test_P01_after_a_retry_each_accepted_row_of_the_batch_is_still_counted_once(mill, applied, said) -> None:
    applied("columns: {email: Ort}\nmax_reject_share: 1\n")
    mixed = "Kontakt,Ort\nann@x.org,ann@x.org\nbob@x.org,Oslo\nbob@x.org,Bern\n"
    said("ingest", "acme/fair", "--file", str(mill.file(mixed, "mixed.csv")))
    applied("columns: {email: Kontakt}\nmax_reject_share: 1\n")
    assert said("rejects", "retry", "acme/fair")["new"] == 1
    assert mill.rows("SELECT rows_accepted, contacts_new, duplicates_within, duplicates_across FROM batches") == [
        {"rows_accepted": 3, "contacts_new": 2, "duplicates_within": 1, "duplicates_across": 0}
    ]


def test_P01_too_many_bad_rows_are_withheld_in_a_retry_as_in_an_import(mill, applied, said) -> None:
    applied("columns: {email: Ort}\nmax_reject_share: 0.01\n")
    with pytest.raises(Misconfigured, match="again with --force"):
        said("ingest", "acme/fair", "--file", str(mill.file(PEOPLE, "people.csv")))
    applied("columns: {email: Kontakt}\nmax_reject_share: 0.01\n")
    with pytest.raises(Misconfigured, match="again with --force"):
        said("rejects", "retry", "acme/fair")
    assert mill.contacts() == {}
    assert said("rejects", "retry", "acme/fair", "--force")["new"] == 2


def test_P01_a_batch_with_the_columns_of_another_time_holds_up_no_other(mill, applied, said) -> None:
    applied("max_reject_share: 1\n")
    said("ingest", "acme/fair", "--file", str(mill.file("email\nx\n", "old.csv")))
    applied("columns: {email: Ort}\nmax_reject_share: 1\n")
    said("ingest", "acme/fair", "--file", str(mill.file(PEOPLE, "people.csv")))
    applied("columns: {email: Kontakt}\nmax_reject_share: 1\n")
    again = said("rejects", "retry", "acme/fair")
    assert again["new"] == 2
    assert "left as it is: old.csv: there is no column 'Kontakt'" in again["notes"][0]
    assert len(said("rejects", "acme/fair")["rows"]) == 2
