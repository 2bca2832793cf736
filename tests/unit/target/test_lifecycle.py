"""The states as data: every one can be left or is an end, and a start is early, due or missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from mailmill.pipelines.target.lifecycle import (
    TRANSITIONS,
    CampaignState,
    Move,
    timeliness,
)

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now_s", "grace_s", "ends_s", "when"),
    [
        (-1, 60, None, "early"),
        (0, 60, None, "due"),
        (60, 60, None, "due"),
        (61, 60, None, "missed"),
        (0, 0, None, "due"),
        (1, 0, None, "missed"),
        (5, 60, 10, "due"),
        (10, 60, 10, "missed"),  # nothing starts after the campaign's own end
    ],
)
def test_F35_a_start_is_early_due_or_missed(now_s, grace_s, ends_s, when):
    ends_at = None if ends_s is None else AT + timedelta(seconds=ends_s)
    now = AT + timedelta(seconds=now_s)
    assert timeliness(scheduled_at=AT, now=now, misfire_grace_s=grace_s, ends_at=ends_at) == when


def test_every_move_and_every_state_is_in_the_table():
    assert set(TRANSITIONS) == set(get_args(Move))
    assert {step.target for step in TRANSITIONS.values()} == set(get_args(CampaignState)) - {"draft"}


def test_cancelled_is_an_end_and_finished_is_left_for_doubts_only_and_nothing_planned_is_scheduled_again():
    left = {state for step in TRANSITIONS.values() for state in step.sources}
    assert set(get_args(CampaignState)) - left == {"cancelled"}
    assert [name for name, step in TRANSITIONS.items() if "finished" in step.sources] == ["reopen"]
    assert not {"planning", "running", "paused", "finished", "cancelled"} & set(TRANSITIONS["schedule"].sources)
