"""A backup: one tar with the database, the visible files of the lake, and what they are.

    about.json      format, versions, when, how many of what; first, so that it can be refused without reading on
    database.dump   pg_dump's custom format of the mailmill database: signing keys and the API keys' hashes are in it
    lake/…          every file the manifest lists in the same snapshot
    checksums.json  SHA-256 of each member; last, so that a torn archive is seen

Not in it: the roles' passwords (each installation makes its own), what `file:` and `env:` references name, the
project's YAML, Dagster's history, the DuckDB files (built anew) and what the lake no longer lists. With Kafka, events
that were not folded yet are in Kafka. Keep an archive as secret as the database: it holds addresses and signing keys.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg.rows import dict_row

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.lake import Lake
from mailmill.io.postgres import tools
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.sql import statements

SQL = statements("backup")
FORMAT = 1
Progress = Callable[[str, int, int], None]  # what, done, total; in bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What an archive says of itself."""

    format: int
    schema: str
    mailmill: str
    made_at: str
    lake_files: int
    lake_bytes: int
    counts: dict[str, int] = field(default_factory=dict)


def silent(what: str, done: int, total: int) -> None:
    return None


def backup(
    database: Database, lake: Lake, target: Path, *, version: str, embedded: bool, progress: Progress = silent
) -> About:
    """Write an archive: under a temporary name first, readable by its owner only, complete when it has its name.

    Raises: Misconfigured when there is nothing to back up or the target cannot be written; StoreUnavailable when a
            file of the lake is gone or the disk is full.
    """
    target = target.absolute()
    if target.is_dir() or not target.parent.is_dir():
        raise Misconfigured(
            "no file can be written here", place=str(target), remedy="Name a file in an existing folder."
        )
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with (
            tempfile.TemporaryDirectory(dir=target.parent, prefix=".mailmill-backup-") as folder,
            _private(temporary) as stream,
        ):
            about = _write(database, lake, stream, Path(folder) / "dump", version, embedded, progress)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        raise StoreUnavailable(f"the backup cannot be written to {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return about


def _private(path: Path) -> IO[bytes]:
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _write(
    database: Database, lake: Lake, stream: IO[bytes], dump: Path, version: str, embedded: bool, progress: Progress
) -> About:
    with database.transaction("backup") as connection:
        # one snapshot for the dump and the list of files, so that they fit together
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        about, files = _look(connection, version)
        (snapshot,) = connection.execute(SQL["snapshot"]).fetchone() or ("",)
        progress("database", 0, 0)
        tools.dump(database, dump, snapshot=snapshot, embedded=embedded)
    total = dump.stat().st_size + about.lake_bytes
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        writer = _Writer(archive, progress, total)
        writer.text("about.json", asdict(about))
        writer.file("database.dump", dump)
        for name in files:
            try:
                writer.file(f"lake/{name}", lake.path(name))
            except FileNotFoundError:
                raise StoreUnavailable(f"the lake's file {name} is gone; run the backup again") from None
        writer.text("checksums.json", dict(writer.checksums))
    return about


def _look(connection: psycopg.Connection, version: str) -> tuple[About, list[str]]:
    try:
        row = connection.execute(SQL["schema_version"]).fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    if row is None:
        raise Misconfigured("the database is empty, there is nothing to back up", remedy="Run `mailmill apply` first.")
    files = connection.execute(SQL["listed_files"]).fetchall()
    with connection.cursor(row_factory=dict_row) as cursor:
        counts: dict[str, Any] = cursor.execute(SQL["counts"]).fetchone() or {}
    about = About(
        format=FORMAT,
        schema=row[0],
        mailmill=version,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        lake_files=len(files),
        lake_bytes=sum(size for _, size in files),
        counts={name: int(value) for name, value in counts.items()},
    )
    return about, [name for name, _ in files]


class _Writer:
    """Adds members to a tar and remembers their SHA-256."""

    def __init__(self, archive: tarfile.TarFile, progress: Progress, total: int) -> None:
        self._archive = archive
        self._progress = progress
        self._total = total
        self._done = 0
        self.checksums: dict[str, str] = {}

    def text(self, name: str, value: Any) -> None:
        content = json.dumps(value, indent=1).encode()
        self._add(name, io.BytesIO(content), len(content))

    def file(self, name: str, path: Path) -> None:
        with path.open("rb") as stream:
            self._add(name, stream, os.fstat(stream.fileno()).st_size)

    def _add(self, name: str, stream: IO[bytes], size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        hashed = Hashed(stream)
        self._archive.addfile(info, hashed)
        self.checksums[name] = hashed.hexdigest()
        self._done += size
        self._progress("archive", min(self._done, self._total), self._total)


class Hashed(io.RawIOBase):
    """A stream that hashes what is read through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._stream.read(size)
        self._hash.update(piece)
        return piece

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
