"""No promise and no fault that ingest, targeting and sending answer for goes untested over real services."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
SENDING = {*range(1, 17), *range(18, 22), 33, *range(40, 47), 51}  # what `make faults` has to run
INGEST = {17, *range(36, 40)}
LISTENING = {53}
PROMISES = {*range(1, 11), *range(12, 16)}


def named(letter: str) -> set[int]:
    """The numbers in the names of tests over real sockets and services."""
    return {
        int(number)
        for room in ("contract", "flow", "faults")
        for file in (TESTS / room).rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))
        for number in re.findall(rf"_{letter}(\d\d)(?=_)", name)
    }


def test_each_fault_is_shown_survived_over_real_sockets_and_services() -> None:
    assert (SENDING | INGEST | LISTENING) - named("F") == set()


def test_each_promise_is_shown_kept_over_real_sockets_and_services() -> None:
    assert PROMISES - named("P") == set()
