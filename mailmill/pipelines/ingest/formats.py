"""What a file is that is no text: found by its first bytes, or by control characters that no text holds so many of."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterable

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest.decoding import BYTE_ORDER_MARKS, wide_without_mark

# of the files that a folder is read for; whoever drops one of the second line is told why it is not read
FILES = ("csv", "tsv", "txt", "tab", "gz", "zip", "xlsx", "xlsm",
         "xls", "xlsb", "ods", "numbers")  # fmt: skip
ENDINGS = ("", *(f".{suffix}{packed}" for suffix in FILES for packed in ("", ".gz")))  # of their names
_BEGINNINGS = (
    (b"\x89PNG\r\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"%PDF-", "PDF"),
    (b"{\\rtf", "RTF"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "XLS, a workbook with a password, or another file of an old Office"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"PAR1\x15", "Parquet"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x7fELF", "a program"),
)
# in small letters, without white space: what programs that promise a table for a spreadsheet write in its place
_MARKUP = (
    (b"<!doctypehtml", "HTML"),
    (b"<html", "HTML"),
    (b"<table", "HTML"),
    (b"<?xml", "XML"),
    (b"begin:vcard", "vCard"),
    (b"[{", "JSON"),
    (b'{"', "JSON"),
)
_INSIDE = (("word/", "DOCX"), ("ppt/", "PPTX"), ("content.xml", "ODS, or another OpenDocument file"))
# TAB, LF, VT, FF, CR, DOS's end of file and ESC do occur in what people export
_CONTROL = bytes(set(range(0x20)) - {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1A, 0x1B})
_LOOKED_AT = 65_536  # bytes
_KINDS, _SHARE, _NULS = 6, 0.01, 0.2  # a text with a fault has one kind of them, or few


def refuse_other_formats(content: bytes, encoding: str | None = None) -> None:
    """Let text pass.

    In:     encoding as the operator names it: then control characters prove nothing.
    Raises: Misconfigured that says what the file looks like.
    """
    for beginning, name in _BEGINNINGS:
        if content.startswith(beginning):
            raise _no_text(name)
    if content[257:262] == b"ustar":  # its first line would be that of the file in it, behind a name and its sizes
        raise _no_text("TAR")
    start = b"".join(content[:_LOOKED_AT].removeprefix(BOM_UTF8).split()[:20]).lower()
    for beginning, name in _MARKUP:
        if start.startswith(beginning):
            raise Misconfigured(f"this is no table with a line a contact (it looks like {name}); export it as CSV")
    if encoding is None and _binary(content):
        raise Misconfigured(
            "this is no text file (it is full of control characters); export it as CSV",
            remedy="If it is text in a rare encoding, name that as `encoding` of the source.",
        )


def refuse_office_files(members: Iterable[str]) -> None:
    """Let every archive pass but those that are one document.

    In:     names of what the archive holds.
    Raises: Misconfigured that says what it looks like.
    """
    names = list(members)
    if "[Content_Types].xml" in names or "META-INF/manifest.xml" in names:
        for beginning, name in _INSIDE:
            if any(member.startswith(beginning) for member in names):
                raise _no_text(name)


def _no_text(name: str) -> Misconfigured:
    return Misconfigured(f"this is no text file (it looks like {name}); export it as CSV")


def _binary(content: bytes) -> bool:
    head = content[:_LOOKED_AT]
    if not head or head.startswith(BYTE_ORDER_MARKS):
        return False
    wide = wide_without_mark(head)
    if wide is not None:  # of western text in UTF-16 the other half is the text
        head = head[::2] if wide == "utf-16-le" else head[1::2]
    control = len(head) - len(head.translate(None, _CONTROL))
    kinds = sum(byte in head for byte in _CONTROL)
    return head.count(0) > _NULS * len(head) or (kinds >= _KINDS and control > _SHARE * len(head))
