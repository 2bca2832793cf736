"""Bytes of a text file -> its lines, whatever program wrote them."""

from __future__ import annotations

import codecs
import io
from dataclasses import dataclass

import polars as pl

from mailmill.errors import Misconfigured

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

BYTE_ORDER_MARKS = tuple(mark for mark, _ in _MARKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """The lines of a file, without their ends, and those that are not in its encoding (as booleans)."""

    text: pl.Series
    undecodable: pl.Series
    encoding: str


def decode(content: bytes, encoding: str | None = None) -> Lines:
    """The lines of `content`. CR, LF and CRLF all end a line, mixed as they may be.

    In:     encoding as the operator names it; None finds it: a byte order mark, UTF-16 by its NULs, UTF-8 where it
            fits, else Windows-1252. A file that is UTF-8 but for a few lines keeps the others; those are marked.
    Raises: Misconfigured when Python knows no such encoding.
    """
    if encoding is not None:
        return _strictly(content, _known(encoding))
    for mark, name in _MARKS:
        if content.startswith(mark):
            return _strictly(content, name)
    guess = wide_without_mark(content)
    return _strictly(content, guess) if guess else _utf8_or_western(_with_lf(content))


def _known(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)  # refuses codecs that are no text encoding, such as base64
    except LookupError:
        raise Misconfigured(
            f"no encoding is called {encoding!r}",
            place="encoding",
            remedy="Write for example utf-8, cp1252 or utf-16, or leave it out.",
        ) from None
    return "utf-8-sig" if name == "utf-8" else name


def _with_lf(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content


def wide_without_mark(content: bytes) -> str | None:
    """UTF-16 without a mark: in western text every other byte is NUL."""
    head = content[: 4096 & ~1]
    if len(head) < 4:
        return None
    even, odd = head[::2].count(0) / len(head[::2]), head[1::2].count(0) / len(head[1::2])
    if odd > 0.4 and even < 0.1:
        return "utf-16-le"
    return "utf-16-be" if even > 0.4 and odd < 0.1 else None


def _strictly(content: bytes, encoding: str) -> Lines:
    """In this encoding; lines with bytes that it does not have are marked."""
    try:
        text, damaged = content.decode(encoding), False
    except UnicodeDecodeError:
        text, damaged = content.decode(encoding, "replace"), True
    lines = _lines(_with_lf(text.encode("utf-8", "replace")))
    marked = lines.str.contains("\ufffd", literal=True) if damaged else None
    return Lines(text=lines, undecodable=_flags(lines, marked), encoding=encoding)


def _utf8_or_western(content: bytes) -> Lines:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return _mixed(content)
    lines = _lines(content)
    return Lines(text=lines, undecodable=_flags(lines, None), encoding="utf-8")


def _mixed(content: bytes) -> Lines:
    """Not all UTF-8. More lines that prove UTF-8 than lines that contradict it: the latter were pasted in."""
    broken, proofs, shown = [], 0, []
    for line in content.split(b"\n"):
        try:
            text, bad = line.decode("utf-8"), False
            proofs += not line.isascii()
        except UnicodeDecodeError:
            text, bad = line.decode("latin-1"), True
        broken.append(bad)
        shown.append(text)
    if proofs > sum(broken):
        return Lines(text=pl.Series("text", shown), undecodable=pl.Series(broken), encoding="utf-8")
    try:
        western, name = content.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:  # five bytes mean nothing in Windows-1252
        western, name = content.decode("latin-1"), "latin-1"
    lines = _lines(western.encode())
    return Lines(text=lines, undecodable=_flags(lines, None), encoding=name)


def _lines(content: bytes) -> pl.Series:
    if not content:
        return pl.Series("text", [], dtype=pl.String)
    return pl.read_lines(io.BytesIO(content)).to_series().alias("text")


def _flags(lines: pl.Series, marked: pl.Series | None) -> pl.Series:
    return marked if marked is not None else pl.repeat(False, len(lines), dtype=pl.Boolean, eager=True)
