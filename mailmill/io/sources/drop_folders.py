"""A source's folder without a person: files written anew beside the old ones, which they replace once PostgreSQL has
forgotten; what cannot be written anew is moved out of the folder, for a person to see to."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailmill.io.sources.cleaned import Unfit, cleaned
from mailmill.io.sources.contents import shown
from mailmill.io.sources.files import CsvFiles
from mailmill.pipelines.configuration.specs import SourceSpec
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_text import mentioned
from mailmill.pipelines.ingest.ports import SourceRow

SUFFIX = ".forget"  # of a file that waits to take another one's place; hidden, so no import reads it


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A file that is to be replaced. `keys`: of each of its batches, the key it had and the one it will have; as_read:
    what tells that nobody has written it since."""

    path: Path
    keys: tuple[tuple[str, str], ...]
    as_read: tuple[int, int, int]

    @property
    def temporary(self) -> Path:
        return self.path.with_name(f".{self.path.name}{SUFFIX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A file that holds the person and cannot be written anew."""

    path: Path
    why: str


@dataclass(slots=True)
class Looked:
    """One folder: how many files were looked at, and which of them hold the person."""

    files: int = 0
    rewritten: list[Rewritten] = field(default_factory=list)
    holding: list[Holding] = field(default_factory=list)


def shared(sources: Iterable[SourceRow], project: Path) -> dict[Path, list[SourceRow]]:
    """Every folder that files are dropped in, with the sources that read it: there may be several."""
    folders: dict[Path, list[SourceRow]] = {}
    for source in sources:
        if source.spec.type == "csv" and source.spec.folder:
            folders.setdefault((project / source.spec.folder).resolve(), []).append(source)
    return folders


def look(folder: Path, specs: Sequence[SourceSpec], who: Person, *, write: bool) -> Looked:
    """Go through a folder as these sources read it; a file that holds the person by one of them is written anew by it.

    In:     write, the new files beside the old ones; `replace` or `discard` them then.
    Raises: OSError when the folder cannot be read or written.
    """
    found = Looked()
    if not folder.is_dir():
        return found
    if write:
        for left in folder.glob(f".*{SUFFIX}"):  # by a run that was killed; it names others
            left.unlink(missing_ok=True)
    read = CsvFiles(folder=folder).dropped()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        found.files += 1
        try:
            if mentioned([os.fsencode(path.name)], who):
                raise Unfit("names the person in its own name")
            _look(path, specs, who, found, write=write, read=path in read)
        except Unfit as why:
            found.holding.append(Holding(path=path, why=str(why)))
        except FileNotFoundError:
            continue  # taken away meanwhile
    return found


def _look(path: Path, specs: Sequence[SourceSpec], who: Person, found: Looked, *, write: bool, read: bool) -> None:
    as_read, content = _written(path), path.read_bytes()
    if not read:  # no import reads it, and whose format it is nobody knows
        if mentioned([content], who):
            raise Unfit("is no file that imports read")
        return
    each = (cleaned(content, path.name, spec, who) for spec in specs)
    new = next((one for one in each if one.content != content), None)
    if new is None:
        return
    done = Rewritten(path=path, keys=tuple(new.keys), as_read=as_read)
    if write:
        _write(done, new.content)
    found.rewritten.append(done)


def _written(path: Path) -> tuple[int, int, int]:
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns


def _write(done: Rewritten, content: bytes) -> None:
    """With the file's times: it is no newer than it was."""
    about = done.path.stat()
    with done.temporary.open("wb") as file:
        os.fchmod(file.fileno(), about.st_mode & 0o777)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.utime(done.temporary, ns=(about.st_atime_ns, about.st_mtime_ns))


def replace(found: Looked) -> None:
    """A file that somebody has written or taken away meanwhile stays so: the search finds what it holds.

    Raises: OSError.
    """
    for one in found.rewritten:
        try:
            same = _written(one.path) == one.as_read
        except FileNotFoundError:
            same = False
        if same:
            one.temporary.replace(one.path)
        else:
            one.temporary.unlink(missing_ok=True)


def discard(found: Looked) -> None:
    for one in found.rewritten:
        one.temporary.unlink(missing_ok=True)


def set_aside(found: Looked, quarantine: Path) -> None:
    """Move what holds the person out of the folder, so that no import reads it. Raises: OSError."""
    import shutil

    for one in found.holding:
        quarantine.mkdir(parents=True, exist_ok=True, mode=0o700)
        target, number = quarantine / one.path.name, 1
        while target.exists():
            number += 1
            target = quarantine / f"{number} {one.path.name}"
        shutil.move(one.path, target)
        note = f"from {one.path.absolute()}\n{one.why}\n"
        target.with_name(f"{target.name}.why").write_text(note, encoding="utf-8", errors="surrogateescape")


def look_aside(quarantine: Path, spec: SourceSpec, who: Person) -> tuple[int, list[str]]:
    """Files that were set aside. Out: how many, and what to do about those that hold the person."""
    files = sorted(path for path in quarantine.iterdir() if path.suffix != ".why") if quarantine.is_dir() else []
    for note in quarantine.glob("*.why"):  # of a file that was put back or removed: it may have been called after them
        if _noted(note)[0] and not note.with_suffix("").exists():
            note.unlink(missing_ok=True)
    said = []
    for path in files:
        note = path.with_name(f"{path.name}.why")
        origin, why = _noted(note)
        try:
            holds = mentioned([os.fsencode(path.name)], who) or cleaned(path.read_bytes(), path.name, spec, who).keys
        except Unfit as found:
            holds, why = True, why or str(found)
        if holds:
            here, back = _quoted(str(path)), _quoted(origin or "FOLDER")
            said.append(f"{shown(path)}: {why}; take the person out of it and put it back (mv {here} {back}), "
                        f"or remove it (rm {here}), and run this again")  # fmt: skip
    return len(files), said


def _quoted(path: str) -> str:
    """For a shell; bytes that are not UTF-8 as $'...' has them."""
    text = shown(path)
    return shlex.quote(path) if text == path else "$'{}'".format(shown(re.sub(r"(['\\])", r"\\\1", path)))


def _noted(note: Path) -> tuple[str, str]:
    try:
        origin, _, why = note.read_text(encoding="utf-8", errors="surrogateescape").partition("\n")
    except OSError:
        return "", ""
    return origin.removeprefix("from ") if origin.startswith("from ") else "", why.strip()
