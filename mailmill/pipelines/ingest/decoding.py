"""Bytes of a text file -> its lines, chunk by chunk, whatever program wrote them."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest.line_ends import Cutter, with_lf

CHUNK = 16 * 2**20  # bytes of text that are looked at together: some 250,000 rows
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNDEFINED = bytes([0x81, 0x8D, 0x8F, 0x90, 0x9D])  # mean nothing in Windows-1252

# What no word of Windows-1252 has: four bytes in a row that are no ASCII, or a symbol within it. Words of other scripts
# have the one (Windows-1251, KOI8, Shift-JIS, GBK), Polish (Windows-1250), and what a Mac or DOS wrote, the other.
_STRANGE = re.compile(
    rb"[\x80-\xff]{4}"
    rb"|[A-Za-z\xc0-\xff][\x81\x82\x84\x87\x88\x8a\x8d-\x90\x94\x9d\x9f\xa7\xb3\xb9\xbc\xbe\xbf][a-z\xe0-\xff]"
)
_UMLAUTS = bytes.maketrans("äöüÄÖÜß".encode("cp1252"), b"aouAOUs")  # who tries a program types them in a row
_STRANGE_SHARE = 0.25  # of the lines that are no UTF-8

BYTE_ORDER_MARKS = tuple(mark for mark, _ in _MARKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Lines of a file that follow each other, without their ends, and which are not in its encoding (booleans)."""

    text: pl.Series
    undecodable: pl.Series
    last: bool  # the file ends here

    def __add__(self, other: Lines) -> Lines:
        return Lines(
            text=pl.concat([self.text, other.text]),
            undecodable=pl.concat([self.undecodable, other.undecodable]),
            last=other.last,
        )

    def since(self, index: int) -> Lines:
        return Lines(text=self.text[index:], undecodable=self.undecodable[index:], last=self.last)


class Survey:
    """Finds a file's encoding while its bytes pass by: a byte order mark, UTF-16 by its NULs, UTF-8 where it fits,
    else Windows-1252. A file with more lines that prove UTF-8 than lines that contradict it is UTF-8."""

    def __init__(self) -> None:
        self._sure: str | None = None
        self._begun = False
        self._cutter = Cutter()
        self._proofs = self._breaks = self._strange = 0
        self._undefined = False

    def update(self, block: bytes) -> None:
        if not self._begun and block:
            self._begun = True
            marked = (name for mark, name in _MARKS if block.startswith(mark))
            self._sure = next(marked, None) or wide_without_mark(block)
        if self._sure is None:
            self._count(self._cutter.push(block))

    def encoding(self) -> str:
        """What was found, as Python calls it."""
        self._count(self._cutter.rest())
        if self._sure is not None:
            return self._sure
        if self._breaks == 0 or self._proofs > self._breaks:
            return "utf-8"
        return "latin-1" if self._undefined else "cp1252"

    def refuse_strange(self) -> None:
        """Raises: Misconfigured where only Windows-1252 is left, and the letters make no words in it."""
        if self.encoding() in ("cp1252", "latin-1") and self._strange > _STRANGE_SHARE * self._breaks:
            raise Misconfigured(
                "its encoding cannot be found: this is neither Unicode nor Windows-1252",
                remedy="Save it as CSV UTF-8, or name its encoding in the source, for example `encoding: cp1251`.",
            )

    def _count(self, lines: bytes) -> None:
        if lines.isascii():
            return
        if self._breaks == 0 and _is_utf8(lines):
            text = _sound(with_lf(lines)).text
            self._proofs += int((text.str.len_bytes() != text.str.len_chars()).sum())
            return
        for line in with_lf(lines).split(b"\n"):
            if not line.isascii():
                fits = _is_utf8(line)
                self._proofs += fits
                self._breaks += not fits
                self._strange += not fits and _STRANGE.search(line.translate(_UMLAUTS)) is not None
        self._undefined = self._undefined or len(lines.translate(None, _UNDEFINED)) < len(lines)


def surveyed(blocks: Iterable[bytes]) -> str:
    """The encoding of these bytes."""
    survey = Survey()
    for block in blocks:
        survey.update(block)
    return survey.encoding()


def known(encoding: str) -> str:
    """Python's name of an encoding that a person wrote.

    Raises: Misconfigured when there is none of that name.
    """
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


def decode(blocks: Iterable[bytes], encoding: str) -> Iterator[Lines]:
    """The lines in chunks of some CHUNK bytes. CR, LF and CRLF all end a line, mixed as they may be.

    In:     blocks of any length; encoding as Survey found it, or as `known` gives it.
    Out:    at least one; what is not in the encoding is marked, never guessed at.
    """
    utf8 = encoding.startswith("utf-8")
    before: Lines | None = None
    for text in _whole_lines(blocks if utf8 else _decoded(blocks, encoding)):
        if before is not None:
            yield before
        elif utf8:
            text = text.removeprefix(codecs.BOM_UTF8)
        before = _sound(text) if _is_utf8(text) else _damaged(text, shown="latin-1" if utf8 else "utf-8")
    before = before or _sound(b"")
    yield Lines(text=before.text, undecodable=before.undecodable, last=True)


def _decoded(blocks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """As UTF-8, with the byte FF, which UTF-8 does not have, in the place of what cannot be decoded."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    for block, last in _with_last(blocks):
        state = decoder.getstate()
        try:
            text = decoder.decode(block, last).encode("utf-8", "replace")
        except UnicodeDecodeError:
            lenient = codecs.getincrementaldecoder(encoding)("mailmill.marked")
            lenient.setstate(state)
            text = lenient.decode(block, last).encode("utf-8", "surrogatepass").replace(b"\xed\xb3\xbf", b"\xff")
            decoder.setstate(lenient.getstate())
        yield text


# a lone surrogate, which no text holds
def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error("mailmill.marked", _mark)


def _with_last(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    before = b""
    for block in blocks:
        if before:
            yield before, False
        before = block
    yield before, True


def _whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces of some CHUNK bytes that end where a line ends, with LF as the only end of a line."""
    cutter = Cutter(least=CHUNK)
    for block in blocks:
        if whole := cutter.push(block):
            yield with_lf(whole)
    if last := with_lf(cutter.rest()):
        yield last


def _sound(text: bytes) -> Lines:
    lines = pl.read_lines(io.BytesIO(text)).to_series().alias("text") if text else pl.Series("text", [], pl.String)
    return Lines(text=lines, undecodable=pl.repeat(False, len(lines), dtype=pl.Boolean, eager=True), last=False)


def _damaged(text: bytes, *, shown: str) -> Lines:
    """Line by line; what cannot be decoded is shown as Latin-1, in which every byte means something, or with U+FFFD."""
    lines = text.removesuffix(b"\n").split(b"\n")
    bad = [not _is_utf8(line) for line in lines]
    texts = [line.decode(shown if broken else "utf-8", "replace") for line, broken in zip(lines, bad, strict=True)]
    return Lines(text=pl.Series("text", texts, pl.String), undecodable=pl.Series(bad, dtype=pl.Boolean), last=False)


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def wide_without_mark(content: bytes) -> str | None:
    """UTF-16 without a mark: in western text every other byte is NUL."""
    head = content[: 4096 & ~1]
    if len(head) < 4:
        return None
    even, odd = head[::2].count(0) / len(head[::2]), head[1::2].count(0) / len(head[1::2])
    if odd > 0.4 and even < 0.1:
        return "utf-16-le"
    return "utf-16-be" if even > 0.4 and odd < 0.1 else None
