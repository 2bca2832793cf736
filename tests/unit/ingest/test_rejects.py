"""F39: formulas stay data, and are harmless in what we hand out."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from mailmill.errors import Misconfigured
from mailmill.io.postgres import consents
from mailmill.io.sources.http_items import items_table
from mailmill.pipelines.configuration import words
from mailmill.pipelines.ingest import addresses, cells, columns, decoding, validation, verdicts
from mailmill.pipelines.ingest import csv as reader
from mailmill.pipelines.ingest.rejects import REASONS, REJECTED_SCHEMA, as_csv, defused
from mailmill.pipelines.ingest.validation import BatchFacts, validate

FACTS = BatchFacts(batch_id=1, source="s", seen_at=datetime(2026, 11, 20, tzinfo=UTC), columns={}, origin="f.csv")


def checked(text: str, **facts):
    return validate(reader.read_csv(text.encode()).frame, BatchFacts(**{**vars_of(FACTS), **facts}))


def vars_of(facts: BatchFacts):
    return {name: getattr(facts, name) for name in BatchFacts.__dataclass_fields__}


@pytest.mark.parametrize("cell", ['=HYPERLINK("http://evil","x")', "+1+1", "-2+3", "@SUM(A1)"])
def test_F39_a_formula_is_kept_as_data(cell):
    quoted = '"' + cell.replace('"', '""') + '"'
    assert checked(f"email,note\na@x.org,{quoted}\n").accepted["fields.note"].to_list() == [cell]


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_F39_an_export_defuses_formulas(cell):
    rejected = pl.DataFrame([[1, "s", 2, None, "ragged_line", cell]], schema=REJECTED_SCHEMA, orient="row")
    text = as_csv(rejected).decode("utf-8-sig")
    row = next(csv.DictReader(io.StringIO(text, newline="")))
    assert row["raw"] == "'" + cell
    assert row["explanation"] == REASONS["ragged_line"]


@pytest.mark.parametrize("cell", ["bad;=1+1;b", 'a;"=1+1"', "a\r\n+1", "a\tb\t-1", "x|@SUM(A1)", ";=1;=2"])
def test_F39_an_export_defuses_formulas_also_for_a_program_that_divides_lines_at_semicolons(cell):
    rejected = pl.DataFrame([[1, "s", 2, None, "ragged_line", cell]], schema=REJECTED_SCHEMA, orient="row")
    text = as_csv(rejected).decode("utf-8-sig")
    for delimiter in ";\t|":
        cells = [
            cell for row in csv.reader(io.StringIO(text), delimiter=delimiter, quoting=csv.QUOTE_NONE) for cell in row
        ]
        assert not [cell for cell in cells if cell.lstrip('"')[:1] in tuple("=+-@")]


def test_F39_a_number_in_a_line_that_commas_divide_stays_as_it_is():
    assert pl.select(defused(pl.lit("a@x.org,+12025550123"))).item() == "a@x.org,+12025550123"


def test_every_reason_that_code_gives_is_explained():
    given = set()
    for module in (addresses, decoding, reader, validation):
        given |= set(re.findall(r'pl\.lit\("([a-z]+_[a-z_]+)"\)', Path(module.__file__).read_text()))
    known = {**REASONS, **verdicts.RISKS}
    assert {reason for reason in given if not reason.startswith("role")} <= known.keys() | {"role_address"}


def test_an_unreadable_language_country_or_phone_does_not_cost_the_contact():
    done = checked("email,language,country,phone\na@x.org,Klingon,Atlantis,12\n")
    row = done.accepted.row(0, named=True)
    assert (row["language"], row["country"], row["phone"]) == (None, None, None)
    assert (row["fields.language_as_given"], row["fields.country_as_given"], row["fields.phone_as_given"]) == (
        "Klingon", "Atlantis", "12",
    )  # fmt: skip


@pytest.mark.parametrize("field", ["phone", "country", "language", "time_zone", "seen_at"])
def test_P01_a_column_named_like_what_is_kept_aside_is_kept_with_it(field):
    name = f"{field}_as_given"
    done = checked(f"email,{field},{name}\na@x.org,,UK\nb@x.org,??,UK\nc@x.org,??,\nd@x.org,??,??\n").accepted
    assert done[f"fields.{name}"].to_list() == ["UK", "??; UK", "??", "??"]
    mapped = checked(
        f"email,{field},Other\na@x.org,??,UK\n", columns={name: "Other"}
    ).accepted  # by its source's own words
    assert mapped[f"fields.{name}"].to_list() == ["??; UK"]


def test_languages_countries_and_zones_are_read_as_people_write_them():
    done = checked(
        "E-Mail,Sprache,Land,Zeitzone\na@x.org,de-AT,Österreich,europe/vienna\nb@x.org,German,GERMANY,\nc@x.org,EN,uk,\n"
    )
    assert done.accepted.select("language", "country", "time_zone").rows() == [
        ("de", "AT", "Europe/Vienna"), ("de", "DE", None), ("en", "GB", None),
    ]  # fmt: skip


def test_control_characters_become_a_space():
    done = checked('email,name\na@x.org,"Ann\r\nBcc: b@x.org\u2028x\x07"\n')
    assert done.accepted["name"].to_list() == ["Ann Bcc: b@x.org x"]


def test_a_time_in_the_future_does_not_win_for_ever():
    done = checked("email,found_at\na@x.org,2999-01-01\nb@x.org,2026-01-02T10:00:00+02:00\nc@x.org,2026-01-02 10:00\n")
    assert [seen.isoformat() for seen in done.accepted["seen_at"]] == [
        "2026-11-20T00:00:00+00:00", "2026-01-02T08:00:00+00:00", "2026-01-02T10:00:00+00:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "moment"),
    [("2026-01-02T10:00:00+02", "08:00:00"), ("2026-01-02 10:00:00.5-0130", "11:30:00.500000"),
     ("2026-01-02T10:00Z", "10:00:00"), ("2026-01-02 10:00:00 UTC", "10:00:00"), ("2026-01-02", "00:00:00"),
     ("2026-01-02 10:00 PM", None), ("2026-01-02 whatever", None), ("2026-01-02T10:00:00+2", None),
     ("0000-01-01", None), ("0001-01-01 00:00:00", None), ("1900-01-01", None), ("1970-01-01T00:00:00Z", None),
     ("1970-01-01T00:00:01Z", "00:00:01"), ("-001-01-01", None), ("99999-1-01", None)],
)  # fmt: skip
def test_a_time_is_read_as_a_whole_or_not_at_all(text, moment):
    (read,) = cells.time(pl.Series([text]))
    assert (read and str(read.time())) == moment
    rows = {"match_key": ["b@x.org", "a@x.org"], "fields.consent_at": ["2026-01-02", text]}
    said = consents.said(pl.DataFrame(rows), "consent", datetime(2026, 11, 20, tzinfo=UTC))
    assert said["at"].to_list()[1:] == [read] * (moment is not None)


def test_a_time_by_which_a_program_says_that_it_knows_none_is_kept_aside():
    done = checked("email,created_at\na@x.org,1900-01-01\nb@x.org,2026-01-02\n").accepted
    assert [seen.isoformat()[:10] for seen in done["seen_at"]] == [
        "2026-11-20",
        "2026-01-02",
    ]  # that of the file, and its own
    assert done["fields.seen_at_as_given"].to_list() == ["1900-01-01", None]


def test_first_and_last_name_make_a_name_and_stay_as_fields():
    row = checked("email,Vorname,Nachname\na@x.org,Ann,Lee\n").accepted.row(0, named=True)
    assert (row["name"], row["fields.first_name"], row["fields.last_name"]) == ("Ann Lee", "Ann", "Lee")


def test_P01_an_item_without_any_field_is_rejected_as_one_without_an_address():
    done = validate(items_table([{}, {"deleted": False}, {"id": 7, "deleted": True}]).frame.drop("col:id"), FACTS)
    assert done.rejected["reason"].to_list() == ["no_address", "no_address", "withdrawn"]


def test_an_empty_batch_is_an_answer():
    done = checked("")
    assert (done.accepted.height, done.rejected.height) == (0, 0)


@pytest.mark.parametrize(
    "header", ["E-Mail", "email address", "EMAIL", "e_mail", "Mail", "Adresse e-mail", "E-mail 1 - Value"]
)
def test_the_usual_names_of_a_column_are_known(header):
    assert columns.mapped([header], {}, place="f").known == {"email": header}


@pytest.mark.parametrize(
    ("text", "emails", "streets"),
    [
        ("Name,Address,City,Work Email\nAnn,1 Main Street,Rome,s1@x.org\n", ["s1@x.org"], ["1 Main Street"]),
        ("name,phone,address\nAnn,+4930123456,Main Street 1\n", [None], ["Main Street 1"]),
        ("address,name\na@x.org,Ann\n Bea <b@x.org> ,\n", ["a@x.org", "b@x.org"], None),
        ("Mail address,phone\na＠x.org,\nStreet 1,+4930123456\n", ["a@x.org", None], [None, "Street 1"]),
    ],
)
def test_P01_a_column_of_addresses_is_of_streets_or_of_mail_as_its_cells_say(text, emails, streets):
    done = checked(text)
    assert done.rejected.is_empty() and done.accepted["email"].to_list() == emails
    found = [done.accepted[name].to_list() for name in done.accepted.columns if name.endswith("address")]
    assert found == ([] if streets is None else [streets])


def test_P01_a_column_that_the_source_calls_email_holds_nothing_else():
    wrong = checked("Address,phone\nStreet 1,+4930123456\n", columns={"email": "address"}).rejected
    assert wrong["reason"].to_list() == ["address_without_at"]


def test_P04_a_file_without_an_address_column_names_those_it_has():
    with pytest.raises(Misconfigured, match="Kontakt"):
        columns.mapped(["Kontakt", "Ort"], {}, place="f.csv")
    assert columns.mapped(["Kontakt", "Ort"], {"email": "kontakt"}, place="f").known == {"email": "Kontakt"}


@pytest.mark.parametrize(
    ("first", "second"),
    [("Имя", "Город"), ("Όνομα", "Πόλη"), ("الاسم", "المدينة"), ("姓名", "城市"), ("की", "का"), ("☎", "✉"),
     ("№ 1 Имя", "№ 1 Город"), ("Fax (Дом)", "Fax (Офис)")],
)  # fmt: skip
def test_P04_a_header_in_any_script_is_the_one_that_is_named(first, second):
    for names in (["Email", first, second], ["Email", second, first]):
        found = columns.mapped(names, {"email": "email", "city": second.upper(), "name": first}, place="f")
        assert found == columns.ColumnMap(known={"email": "Email", "name": first}, custom={"city": second})
    with pytest.raises(Misconfigured, match="there is no column"):
        columns.mapped(["Email", first], {"city": second}, place="f")


def test_P04_a_field_follows_its_header_and_not_its_place_whatever_the_script():
    here = columns.mapped(["Email", "Имя", "Город", "Płeć", "Straße"], {}, place="f")
    there = columns.mapped(["Straße", "Город", "Имя", "Płeć", "Email"], {}, place="f")
    assert here.custom == there.custom
    assert {name: field for field, name in here.custom.items()}.items() >= {"Płeć": "plec", "Straße": "strasse"}.items()
    assert [name for name in ("Имя", "Город") if any(f"'{name}'" in note for note in here.notes)] == ["Имя", "Город"]
    assert all(re.fullmatch(words.FieldName.__metadata__[0].pattern, field) for field in here.custom)


def test_a_column_under_its_very_name_is_not_another_one_like_it():
    assert columns.mapped(["E-MAIL", "E-Mail"], {"email": "E-Mail"}, place="f").known["email"] == "E-Mail"


def test_P04_long_headers_that_begin_alike_are_fields_that_templates_can_name():
    questions = [f"{'How content are you with what we sent you in these ' * 2}[{number}]" for number in range(1_500)]
    found = columns.mapped(["email", *questions], {}, place="f").custom
    assert list(found.values()) == questions
    assert all(re.fullmatch(words.FieldName.__metadata__[0].pattern, field) for field in found)


@pytest.mark.parametrize("other", ["email", "Mail", "address"])
@pytest.mark.parametrize("further", [[], [{"contact_mail": "ann@x.org"}]], ids=["all lack it", "one has it"])
def test_P04_another_column_is_not_the_address_where_few_items_lack_the_one_that_is_mapped(other, further):
    facts = BatchFacts(**vars_of(FACTS) | {"columns": {"email": "contact_mail", "name": "owner"}, "sparse": True})
    items = [{other: "abuse@registrar.example", "name": f"host {n}"} for n in range(3)]
    done = validate(items_table(items + further).frame, facts)
    assert done.accepted["match_key"].to_list() == [item["contact_mail"] for item in further]
    assert done.rejected["reason"].to_list() == ["no_address"] * 3
    gone = items_table([{other: "bob@x.org", "deleted": True}]).frame
    assert validation.match_keys(gone, facts).to_list() == [None], "nobody is withdrawn by it"


def test_P04_few_items_that_lack_a_mapped_field_have_no_other_in_its_place():
    found = columns.mapped(["email", "name"], {"name": "owner"}, place="f", few=True)
    assert (found.known, found.custom) == ({"email": "email"}, {"name_2": "name"})
    assert found.custom == columns.mapped(["email", "name", "owner"], {"name": "owner"}, place="f").custom
