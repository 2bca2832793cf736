"""Quoted-printable: the octets that RFC 2045 asks for, by work that grows as the text does."""

from __future__ import annotations

import quopri
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailmill.pipelines.send import mime

SPECIAL = st.text(st.sampled_from(". =\t\nAя€$\0\x7f😀"), max_size=200)


def slowly(line: bytes) -> bytes:
    """An octet at a time: escaped, then lines of 72 that cut no escape and begin with no dot."""
    units: list[bytes] = []
    for at, octet in enumerate(line):
        doubled = line[at : at + 2] == b"  "
        plain = 32 <= octet < 127 and octet != ord("=") and not doubled
        units.append(bytes([octet]) if plain else b"=%02X" % octet)
    lines = [b""]
    for unit in units:
        if len(lines[-1]) + len(unit) > 72:
            lines.append(b"")
        lines[-1] += unit
    return b"=\r\n".join([b"=2E" + one[1:] if one[:1] == b"." else one for one in lines])


@given(st.binary(max_size=400) | SPECIAL.map(str.encode))
def test_a_value_is_what_an_encoder_of_octets_makes_of_it(value: bytes) -> None:
    assert mime.quoted_value(value) == slowly(value)


@given(st.text(max_size=300) | SPECIAL)
def test_a_text_reads_as_it_was_in_lines_that_no_relay_breaks(text: str) -> None:
    done = mime.quoted_printable(text)
    assert all(len(line) <= 76 and line[:1] != b"." and line[-1:] != b" " for line in done.split(b"\r\n"))
    meant = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace")
    assert quopri.decodestring(done.replace(b"\r\n", b"\n")) == meant


def steps(work: Callable[[], object]) -> int:
    """Calls of Python and C functions: what takes the time, as no clock is needed for."""
    made = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return made


@pytest.mark.parametrize("text", ["Our spring collection is here. ", "Съешь же ещё булок, да выпей чаю = "])
def test_a_long_line_takes_no_more_steps_than_a_short_one(text: str) -> None:
    """Not one for each octet, nor one for each line that it becomes."""
    short, long = (steps(lambda n=n: mime.quoted_printable(text * n)) for n in (10, 10_000))  # type: ignore[misc]
    assert long <= short + 5
