"""The content of a dropped file without a person: a text, what a .gz packs, each member of a .zip, a workbook."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
from dataclasses import dataclass, field

from mailmill.errors import Misconfigured
from mailmill.io.sources.contents import BROKEN, MAX_BYTES, MAX_WORKBOOK, is_text, is_workbook
from mailmill.io.sources.files import batch_key, workbook_key
from mailmill.pipelines.configuration.specs import SourceSpec
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_text import mentioned, without_lines
from mailmill.pipelines.ingest.erasure_workbook import without_rows

DEEPEST = 3  # archives in archives


class Unfit(Exception):
    """Holds the person and cannot be written anew; its text says why."""


@dataclass(slots=True)
class Cleaned:
    """A content without the person. `keys`: of each batch in it, the key it had and the one it has now."""

    content: bytes
    keys: list[tuple[str, str]] = field(default_factory=list)


def cleaned(content: bytes, name: str, spec: SourceSpec, who: Person, *, depth: int = 0) -> Cleaned:
    """Out: the same bytes where they do not hold the person. What cannot be unpacked is looked at as it is.

    Raises: Unfit.
    """
    try:
        if content[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                inner = packed.read(MAX_BYTES + 1)
            if len(inner) > MAX_BYTES or depth == DEEPEST:
                raise Unfit("is packed too deep or too large to be looked into")
            done = cleaned(inner, name.removesuffix(".gz"), spec, who, depth=depth + 1)
            same = done.content == inner
            return Cleaned(content if same else gzip.compress(done.content, mtime=0), done.keys)
        if content[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return _archive(content, archive, spec, who, depth)
    except BROKEN:
        pass
    if depth == 0 or is_text(name) or content[:2] == b"\x1f\x8b":
        return _text(content, spec, who)
    if mentioned([content], who):
        raise Unfit(f"{name} in it is no table")
    return Cleaned(content)


def _archive(content: bytes, archive: zipfile.ZipFile, spec: SourceSpec, who: Person, depth: int) -> Cleaned:
    infos = archive.infolist()
    book = is_workbook(archive)
    if sum(info.file_size for info in infos) > (MAX_WORKBOOK if book else MAX_BYTES) or depth == DEEPEST:
        raise Unfit("is packed too deep or too large to be looked into")
    if mentioned((f"{info.filename}\n".encode() + info.comment for info in infos), who):
        raise Unfit("names the person in the names of its members")
    if book:
        return _workbook(content, archive, spec, who)
    done = Cleaned(content)
    members: list[tuple[zipfile.ZipInfo, bytes]] = []
    changed = damaged = False
    for info in infos:
        try:
            old = archive.read(info)
        except BROKEN:  # imports read the others
            damaged = True
            continue
        new = Cleaned(old) if info.is_dir() else cleaned(old, info.filename, spec, who, depth=depth + 1)
        changed |= new.content != old
        done.keys += new.keys
        members.append((info, new.content))
    if changed and damaged:
        raise Unfit("has a damaged member, so it cannot be packed anew")
    if changed:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as target:
            for info, member in members:
                target.writestr(info, member, compress_type=info.compress_type)
        done.content = packed.getvalue()
    return done


def _workbook(content: bytes, archive: zipfile.ZipFile, spec: SourceSpec, who: Person) -> Cleaned:
    try:
        new = without_rows(content, who, spec.columns, spec.sheet)
    except Misconfigured:
        if mentioned((archive.read(info) for info in archive.infolist()), who):
            raise Unfit("is a workbook that cannot be read") from None
        return Cleaned(content)
    if new is None:
        raise Unfit("is a workbook that would not be the same without the row")
    keys = [workbook_key(text, spec.sheet) for text in (content, new)]
    return Cleaned(new, [] if new == content else [(keys[0], keys[1])])


def _text(content: bytes, spec: SourceSpec, who: Person) -> Cleaned:
    try:
        new = without_lines(content, who, spec.columns, encoding=spec.encoding, delimiter=spec.delimiter)
    except (Misconfigured, ValueError):
        if mentioned([content], who):
            raise Unfit("cannot be read as a table") from None
        return Cleaned(content)
    if new is None:
        raise Unfit("would not be the same table without the line")
    keys = [batch_key(hashlib.sha256(text), spec.encoding, spec.delimiter) for text in (content, new)]
    return Cleaned(new, [] if new == content else [(keys[0], keys[1])])
