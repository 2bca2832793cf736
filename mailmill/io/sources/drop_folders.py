"""A source's folder without a person: files written anew beside the old ones, which they replace once PostgreSQL has
forgotten; what cannot be written anew is moved out of the folder, for a person to see to."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from mailmill.io.sources.cleaned import Unfit, cleaned
from mailmill.io.sources.contents import shown
from mailmill.io.sources.files import CsvFiles
from mailmill.pipelines.configuration.specs import SourceSpec
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_text import mentioned

SUFFIX = ".forget"  # of a file that waits to take another one's place; hidden, so no import reads it


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A file that is to be replaced. `keys`: of each of its batches, the key it had and the one it will have."""

    path: Path
    keys: tuple[tuple[str, str], ...]

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


def look(spec: SourceSpec, project: Path, who: Person, *, write: bool) -> Looked:
    """Go through a source's folder. In: write, the new files beside the old ones; `replace` or `discard` them then.

    Raises: OSError when the folder cannot be read or written.
    """
    folder = project / spec.folder if spec.folder else None
    found = Looked()
    if spec.type != "csv" or folder is None or not folder.is_dir():
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
            _look(path, spec, who, found, write=write, read=path in read)
        except Unfit as why:
            found.holding.append(Holding(path=path, why=str(why)))
        except FileNotFoundError:
            continue  # taken away meanwhile
    return found


def _look(path: Path, spec: SourceSpec, who: Person, found: Looked, *, write: bool, read: bool) -> None:
    content = path.read_bytes()
    if not read:  # no import reads it, and whose format it is nobody knows
        if mentioned([content], who):
            raise Unfit("is no file that imports read")
        return
    new = cleaned(content, path.name, spec, who)
    if new.content == content:
        return
    done = Rewritten(path=path, keys=tuple(new.keys))
    if write:
        _write(done, new.content)
    found.rewritten.append(done)


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
    """Raises: OSError."""
    for one in found.rewritten:
        one.temporary.replace(one.path)


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
    return origin.removeprefix("from "), why.strip()
