"""What counts as what, and shares with what they were computed from."""

from __future__ import annotations

from mailmill.pipelines.listen.events import KINDS
from mailmill.pipelines.read.rates import counts, rate, rates


def test_rows_of_a_kind_are_added_up_and_what_is_missing_is_zero() -> None:
    counted = counts([("opened", 2, 3), ("opened", 1, 4), ("deferred", 5, 9), ("accepted", 7, 7)])
    assert (counted.opened.messages, counted.opened.events) == (3, 7)
    assert counted.deferred_attempts == 9  # attempts, not messages
    assert counted.accepted == 7 and counted.delivered == 0


def test_every_kind_of_event_is_shown() -> None:
    shown = counts((kind, 1, 1) for kind in KINDS).model_dump()
    machine = shown.pop("machine")
    values = [*shown.values(), *machine.values()]
    assert len(values) == len(KINDS)
    assert all(value in (1, {"messages": 1, "events": 1}) for value in values)


def test_machines_are_in_no_rate() -> None:
    counted = counts([("accepted", 10, 10), ("machine_opened", 9, 90), ("machine_clicked", 9, 9), ("opened", 1, 1)])
    assert rates(counted).opened.numerator == 1 and rates(counted).clicked.numerator == 0
    assert counted.machine.opened.events == 90


def test_accepted_is_a_share_of_planned_for_a_campaign_and_of_answers_for_a_tenant() -> None:
    counted = counts([("accepted", 60, 60), ("failed", 20, 20), ("delivered", 30, 30)])
    assert rates(counted, planned=100).accepted.model_dump() == {
        "numerator": 60, "denominator": 100, "of": "planned", "value": 0.6}  # fmt: skip
    assert rates(counted).accepted.value == 0.75 and rates(counted).accepted.of == "answered"
    assert rates(counted).delivered.value == 0.5  # of accepted: sent is not delivered


def test_a_share_of_nothing_is_unknown_and_not_zero() -> None:
    assert rate(0, 0, "accepted").value is None
