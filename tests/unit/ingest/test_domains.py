"""How long an answer of DNS holds, and what becomes of a domain while DNS says nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mailmill.pipelines.ingest.domains import Answer, Domain, settled

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SILENT = Answer(domain="x.org", state="unknown", problem="timeout")


def known(state: str, before: timedelta) -> Domain:
    return settled(None, Answer(domain="x.org", state=state), NOW - before)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "ttl_s", "holds"),
    [
        ("mx", 7200, 2 * HOUR),
        ("mx", 0, HOUR),  # many names have some minutes: a list of a million would be asked for all day
        ("mx", 10**9, 7 * DAY),
        ("implicit_mx", 10**9, 7 * DAY),
        ("not_found", 7200, 2 * HOUR),
        ("not_found", 10**9, DAY),  # it may only have lapsed
        ("null_mx", 10**9, DAY),
        ("no_mail", 10**9, DAY),
    ],
)
def test_F17_an_answer_holds_as_long_as_its_ttl_within_bounds(state: str, ttl_s: int, holds: timedelta) -> None:
    found = settled(None, Answer(domain="x.org", state=state, ttl_s=ttl_s), NOW)  # type: ignore[arg-type]
    assert (found.checked_at, found.expires_at, found.tries) == (NOW, NOW + holds, 0)


def test_F17_while_dns_says_nothing_it_is_asked_after_pauses_that_double_up_to_a_day() -> None:
    pauses, found = [], None
    for _ in range(40):
        found = settled(found, SILENT, NOW)
        pauses.append(found.expires_at - NOW)
    minutes = [int(pause.total_seconds() / 60) for pause in pauses]
    assert minutes[:10] == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440] and set(minutes[10:]) == {1440}
    answered = settled(found, Answer(domain="x.org", state="mx", ttl_s=7200), NOW)
    assert (answered.state, answered.tries, answered.problem) == ("mx", 0, None)


@pytest.mark.parametrize("state", ["mx", "not_found"])
def test_F17_what_dns_said_stands_for_fourteen_days_of_silence_and_no_longer(state: str) -> None:
    stands = settled(known(state, 14 * DAY - HOUR), SILENT, NOW)
    assert (stands.state, stands.checked_at, stands.problem) == (state, NOW - 14 * DAY + HOUR, "timeout")
    assert settled(stands, SILENT, NOW).state == state, "asking does not make it younger"
    over = settled(known(state, 14 * DAY), SILENT, NOW)
    assert (over.state, over.checked_at) == ("unknown", NOW)
