"""Why a contact has no message in a campaign."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailmill.pipelines.read.explanation import CampaignFacts, LastWord, Suppression, mailed, not_mailed, values

FROZEN = datetime(2026, 11, 20, 9, tzinfo=UTC)
DAY = timedelta(days=1)


def a_contact(**facts: Any) -> dict[str, Any]:
    return {"created_at": FROZEN - DAY, "email": "p@example.org", "verdict": "valid", **facts}


def a_campaign(**facts: Any) -> CampaignFacts:
    known = {"as_of": FROZEN, "started_at": FROZEN, "planned": 10, "in_segment": True, **facts}
    return CampaignFacts(id=7, campaign="c", state="finished", segment="s", **known)


def a_suppression(reason: str, **facts: Any) -> Suppression:
    known = {"campaign_id": None, "created_at": FROZEN - DAY, "expires_at": None, "note": None, **facts}
    return Suppression(reason=reason, **known)


@pytest.mark.parametrize(
    ("contact", "suppressions", "campaign", "code"),
    [
        (a_contact(), [], a_campaign(planned=None), "not_planned"),
        (a_contact(created_at=FROZEN + DAY), [], a_campaign(), "came_later"),
        (a_contact(), [], a_campaign(in_segment=False), "not_in_segment"),
        (None, [], a_campaign(in_segment=None), "not_in_segment"),
        (a_contact(email=None), [], a_campaign(), "no_email"),
        (a_contact(verdict="invalid"), [], a_campaign(), "invalid"),
        (a_contact(), [a_suppression("manual"), a_suppression("complained")], a_campaign(), "complained"),
        (a_contact(), [a_suppression("bounced", campaign_id=7)], a_campaign(), "bounced"),
        # what does not count: another campaign's, a later one, one that had ended
        (a_contact(), [a_suppression("bounced", campaign_id=8)], a_campaign(), "not_in_audience"),
        (a_contact(), [a_suppression("bounced", created_at=FROZEN + DAY)], a_campaign(), "not_in_audience"),
        (a_contact(), [a_suppression("manual", expires_at=FROZEN - DAY / 2)], a_campaign(), "not_in_audience"),
    ],
)
def test_the_first_reason_that_applies_is_given(contact, suppressions, campaign, code: str) -> None:
    found, sentence = not_mailed(contact, suppressions, campaign)
    assert found == code and sentence


def test_a_withdrawn_consent_is_the_reason_where_no_suppression_is() -> None:
    assert not_mailed(a_contact(), [], a_campaign(), consent="withdrawn")[0] == "consent_withdrawn"
    assert not_mailed(a_contact(), [a_suppression("bounced")], a_campaign(), consent="withdrawn")[0] == "bounced"


def test_every_exclusion_of_target_has_a_sentence() -> None:
    from mailmill.pipelines.read.explanation import NOT_MAILED
    from mailmill.pipelines.target.audiences import REASONS

    assert set(REASONS) - {"duplicate"} <= set(NOT_MAILED)


def test_what_became_of_a_message_is_a_sentence() -> None:
    message = {"state": "failed", "code": 550, "reason": "bad_mailbox", "outcome": "none", "facts": {}}
    assert mailed(message) == "the relay refused it for good (550 bad_mailbox)"
    message = {"state": "sent", "code": 250, "reason": None, "outcome": "delivered", "facts": {"opened": "…"}}
    assert mailed(message) == "a relay took it (250); reported delivered; opened"


SEEN = int(FROZEN.timestamp() * 1_000_000)


def test_each_value_says_whose_word_it_is() -> None:
    provenance = {
        "name": [5, SEEN, 1, 9],
        "fields.shoe_size": [0, SEEN, 2, 8],
        "tags.vip": [0, SEEN, 2, 8],
        "phone": [0, SEEN, 2, 8],
    }
    contact = a_contact(name="Ann", fields={"shoe_size": "41"}, tags=["vip"], phone=None, provenance=provenance)
    found = {value.field: value for value in values(contact, {}, {1: "csv", 2: "crawl"}, {9: "a.csv"})}
    assert set(found) == {"email", "name", "fields.shoe_size", "tags.vip"}
    assert (found["name"].value, found["name"].source, found["name"].origin, found["name"].seen_at) == (
        "Ann", "csv", "a.csv", FROZEN)  # fmt: skip
    assert found["fields.shoe_size"].value == "41" and found["fields.shoe_size"].origin is None
    assert (found["email"].source, found["email"].seen_at) == (None, None)  # nobody is known to have said it


def test_P03_a_value_counts_as_of_the_last_time_its_source_said_it() -> None:
    contact = a_contact(name="Ann", provenance={"*": [0, SEEN, 1, 3], "name": [0, SEEN - 7, 1, 2]})
    words = {1: LastWord(SEEN, 3, SEEN + 1_000_000, 5)}
    found = {value.field: value for value in values(contact, words, {1: "csv"}, {2: "old.csv", 5: "new.csv"})}
    assert (found["email"].origin, found["email"].batch_id) == ("new.csv", 5)
    assert found["email"].seen_at == FROZEN + timedelta(seconds=1)
    assert found["name"].origin == "old.csv"  # it says that no longer
