"""Calls of the ledger while PostgreSQL is away."""

from __future__ import annotations

import asyncio

import pytest

from mailmill.errors import StoreUnavailable
from mailmill.pipelines.send.calls import Calls, Report


async def test_F18_a_database_that_is_away_is_asked_more_and_more_slowly_and_its_return_ends_the_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report, pauses = Report(), list[float]()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        assert "away" in str(report.troubles)

    def call() -> str:
        if len(pauses) < 9:
            raise StoreUnavailable("away")
        return "written"

    monkeypatch.setattr(asyncio, "sleep", sleep)
    calls = Calls(report)
    assert await calls.until_written(call) == "written"
    calls.close()
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0] and not report.troubles
