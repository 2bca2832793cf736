"""Who is mailed and who is not, and why: the first reason counts, and the numbers add up."""

from __future__ import annotations

import polars as pl
import pytest

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA
from mailmill.pipelines.send import mime
from mailmill.pipelines.target.audiences import (
    AUDIENCE_SCHEMA,
    REASONS,
    SUPPRESSION_SCHEMA,
    count,
    freeze,
    judged,
    ledger_rows,
    numbered,
    unknown_fields,
)
from mailmill.pipelines.target.templates import TemplateFacts


def contacts(*rows) -> pl.LazyFrame:
    plain = dict.fromkeys(CONTACTS_SCHEMA.names()) | {"verdict": "valid", "fields": "{}"}
    filled = [
        {**plain, "contact_id": n, "match_key": (row.get("email") or row.get("phone", "")).lower(), **row}
        for n, row in enumerate(rows, start=1)
    ]
    return pl.LazyFrame(filled, schema=CONTACTS_SCHEMA)


def suppressed(*pairs) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema=SUPPRESSION_SCHEMA, orient="row")


def facts(*fields: str, bare: tuple[tuple[str, ...], ...] = ()) -> TemplateFacts:
    return TemplateFacts(merge_fields=fields, bare=frozenset(bare), links=())


def test_P07_each_reason_keeps_its_contacts_out_and_the_first_one_counts():
    members = contacts(
        {"email": "ok@x.example"},
        {"phone": "+491"},
        {"email": "bad@x.example", "verdict": "invalid"},
        {"email": "Gone@x.example"},
        {"email": "both@x.example"},
        {"email": "odd@x.example"},
        {"email": "risky@x.example", "verdict": "risky"},
        {"email": "badgone@x.example", "verdict": "invalid"},
        {"email": "said@x.example", "consent": "withdrawn", "status": "withdrawn"},
        {"email": "both2@x.example", "consent": "withdrawn"},
        {"email": "fair@x.example", "consent": "legitimate_interests"},
    )
    found = judged(
        members,
        suppressed(
            ("gone@x.example", "imported"),
            ("both@x.example", "imported"),
            ("both@x.example", "complained"),
            ("both@x.example", "unsubscribed"),
            ("badgone@x.example", "unsubscribed"),
            ("both2@x.example", "imported"),
            ("odd@x.example", "a reason of a later version"),
            ("elsewhere@x.example", "unsubscribed"),
        ),
    )
    reasons = dict(found.select("email", "excluded").iter_rows())
    assert reasons == {
        "ok@x.example": None,
        None: "no_email",
        "bad@x.example": "invalid",
        "Gone@x.example": "imported",
        "both@x.example": "complained",
        "odd@x.example": "a reason of a later version",
        "risky@x.example": None,
        "badgone@x.example": "invalid",
        "said@x.example": "consent_withdrawn",
        "both2@x.example": "imported",
        "fair@x.example": None,
    }
    assert list(count(found)) == [
        "no_email", "invalid", "complained", "imported", "consent_withdrawn", "a reason of a later version",
    ]  # fmt: skip
    assert sum(count(found).values()) + found["excluded"].null_count() == found.height


def test_P07_of_two_contacts_with_one_address_the_first_is_mailed():
    members = contacts(
        {"email": "A@x.example", "match_key": "+491"},
        {"email": "a@x.example"},
        {"email": "a@x.example", "match_key": "+492", "verdict": "invalid"},
        {"email": "b@x.example"},
    )
    found = judged(members, suppressed())
    assert found["excluded"].to_list() == [None, "duplicate", "invalid", None]
    assert judged(members, suppressed(("a@x.example", "manual")))["excluded"].to_list() == [
        "manual", "manual", "invalid", None,
    ]  # fmt: skip


def test_P07_the_reasons_are_in_their_fixed_order():
    assert REASONS == (
        "no_email", "invalid", "forgotten", "complained", "unsubscribed", "bounced", "manual", "imported",
        "consent_withdrawn", "withdrawn", "removed", "duplicate", "unpublished",
    )  # fmt: skip


def test_merge_values_stand_in_their_order_and_what_is_missing_is_marked():
    members = contacts(
        {"email": "a@x.example", "name": " Ann\x1f\t ", "fields": '{"company": "A & \\"B\\""}'},
        {"email": "b@x.example", "name": "", "fields": '{"company": "  "}'},
    )
    audience = freeze(judged(members, suppressed()), facts("company", "name", "email"), members)
    assert audience.recipients["merge_values"].to_list() == [
        'A & "B"\x1fAnn\x1fa@x.example',
        "\x02\x1f\x02\x1fb@x.example",
    ]
    assert audience.empty_reason is None


def test_a_merge_value_holds_nothing_that_a_subject_must_not():
    """Or whoever has an apostrophe that a program spoilt, as \\x92, would not be mailed if a subject names them."""
    odd = "".join(character for character in map(chr, range(0x3000)) if mime.breaks_header(character))
    members = contacts({"email": "a@x.example", "name": f"O{odd}Brien", "fields": f'{{"company": "A{odd[32:]}"}}'})
    (values,) = freeze(judged(members, suppressed()), facts("name", "company"), members).recipients["merge_values"]
    assert values == "OBrien\x1fA" and len(odd) == 67


def test_an_audience_without_merge_fields_has_empty_values_and_contiguous_ids():
    members = contacts({"email": "a@X.example", "provider": "google"}, {"phone": "+1"}, {"email": "b@y.example"})
    audience = freeze(judged(members, suppressed()), facts(), members)
    frame = numbered(audience.recipients, 100)
    assert frame.schema == AUDIENCE_SCHEMA
    assert frame["message_id"].to_list() == [100, 101]
    assert frame["merge_values"].to_list() == ["", ""]
    assert frame["address"].to_list() == ["a@X.example", "b@y.example"]
    rows = ledger_rows(frame, tenant_id=1, campaign_id=2)
    assert rows.select("domain", "provider").rows() == [("X.example", "google"), ("y.example", None)]


def test_a_missing_value_counts_among_recipients_only():
    members = contacts({"email": "a@x.example", "name": "Ann"}, {"email": "b@x.example"}, {"email": "c@x.example"})
    template = facts("name", bare=(("name",),))
    with pytest.raises(Misconfigured, match=r"'name' is missing for 2 of 3 recipients"):
        freeze(judged(members, suppressed()), template, members)
    out = suppressed(("b@x.example", "unsubscribed"), ("c@x.example", "bounced"))
    assert freeze(judged(members, out), template, members).recipients.height == 1
    assert freeze(judged(members, suppressed()), facts("name"), members).recipients.height == 3


def test_a_field_that_no_contact_has_is_an_error_and_one_that_others_have_is_not():
    everybody = contacts({"email": "a@x.example"}, {"email": "b@x.example", "fields": '{"company": "B"}'})
    members = judged(everybody.head(1), suppressed())
    assert freeze(members, facts("company"), everybody).recipients.height == 1
    with pytest.raises(Misconfigured, match="no contact has a field 'compnay'"):
        freeze(members, facts("company", "compnay"), everybody)


def test_what_may_be_meant_is_a_name_that_is_known():
    everybody = contacts(
        {"email": "a@x.example", "fields": '{"company": "a \\"quoted\\": text", "plan" : null}'},
        {"email": "b@x.example", "fields": '{"city": "B"}'},
    )
    found = unknown_fields(["email", "city", "nmae", "compnay", "plan", "zzz"], everybody)
    assert list(found) == ["nmae", "compnay", "plan", "zzz"]
    assert found["nmae"].startswith("Did you mean name? Known are email, phone, name,")
    assert found["compnay"].startswith("Did you mean company?") and "city, company, plan." in found["compnay"]
    assert "quoted" not in found["zzz"] and found["zzz"].startswith("Known are")


def test_an_empty_segment_says_so():
    nobody = contacts()
    audience = freeze(judged(nobody, suppressed()), facts(), nobody)
    assert audience.empty_reason == "nobody to mail: the segment is empty"
