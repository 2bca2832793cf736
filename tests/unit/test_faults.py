"""No fault that sending has to survive goes untested: what `make faults` runs names each of them."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
SENDING = {*range(1, 17), *range(18, 22), *range(40, 47)}


def test_each_fault_of_sending_is_shown_survived_over_real_sockets_and_services() -> None:
    named = {
        int(number)
        for room in ("contract", "flow", "faults")
        for file in (TESTS / room).rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))
        for number in re.findall(r"_F(\d\d)(?=_)", name)
    }
    assert SENDING - named == set()
