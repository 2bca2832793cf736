"""A backup put back: the archive is checked as a whole before anything is touched, the database in one transaction."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psycopg

from mailmill.errors import MailmillError, Misconfigured, RestoreUnfinished, StoreUnavailable
from mailmill.io.backup import FORMAT, SQL, About, Hashed, Progress, silent
from mailmill.io.lake import Lake
from mailmill.io.postgres import schema, tools
from mailmill.io.postgres.database import Database, driver_errors

_LAKE_FILE = re.compile(r"^lake/(\d+/[a-z_]+/[A-Za-z0-9._-]+\.parquet)$")
_FACTS = "facts:"
ENDING_S = 5.0  # within which PostgreSQL is rid of a session that was ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did. What is kept or known is of the replaced database, and the backup did not know it."""

    about: About
    schema: str
    lake_files: int
    campaigns_stopped: int = 0
    in_doubt: int = 0
    suppressions_kept: int = 0
    removals_kept: int = 0  # suppressions that had been taken back since: they count again, and the history says both
    consents_kept: int = 0
    messages_known: int = 0  # ledger rows that the sender had written or settled since


def restore(
    database: Database, lake: Lake, source: Path, *, replace: bool, embedded: bool, progress: Progress = silent
) -> Restored:
    """Put a backup back. Campaigns that ran are paused, those that waited become drafts, open rows are in doubt.

    In:     replace allows an installation with data in it; what people said in it, its signing keys, what they were
            revoked by, and what its sender recorded are merged in.
    Raises: Misconfigured when the archive is no whole backup or of a newer mailmill, when the installation is not
            empty, or when mailmill runs over it; StoreUnavailable when the database or the disk fails. Then nothing of
            the database has changed, unless it is RestoreUnfinished.
    """
    about = check(source, progress)
    current = _target(database, replace)
    try:
        lake.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=lake.root.parent, prefix=".mailmill-restore-") as folder:
            dump = Path(folder) / "dump"
            _extract(source, dump, lake, about, progress)
            progress("database", 0, 0)
            before = [SQL["keep_nothing"] if current is None else SQL["keep"], SQL["empty"]]
            after = [*([] if current is None else [SQL["merge"], SQL["merge_ledger"]]), SQL["settle"], SQL["facts"]]
            with (Path(folder) / "psql.log").open("w+b") as log:
                said = tools.replay(database, dump, before=before, after=after, log=log, embedded=embedded)
    except OSError as error:
        raise StoreUnavailable(f"the backup cannot be unpacked into {lake.root}: {error.strerror or error}") from error
    try:
        _, now = schema.migrate(database)
    except MailmillError as error:
        raise RestoreUnfinished(
            f"the database is replaced, but its schema could not be brought up to date: {error}"
        ) from error
    facts = next(line for line in reversed(said.splitlines()) if line.startswith(_FACTS)).removeprefix(_FACTS)
    return Restored(about=about, schema=now, lake_files=about.lake_files, **json.loads(facts))


def check(source: Path, progress: Progress = silent) -> About:
    """Read the whole archive once and compare every checksum. Out: what it says of itself.

    Raises: Misconfigured.
    """
    try:
        total = source.stat().st_size
        with tarfile.open(source, mode="r:") as archive:
            first = archive.next()
            about = _about(_read(archive, first) if first and first.name == "about.json" else {})
            found: dict[str, str] = {}
            promised: dict[str, Any] = {}
            for member in archive:
                if member.name == "checksums.json":
                    promised = _read(archive, member)
                else:
                    found[member.name] = _hash(archive, member)
                progress("check", member.offset_data + member.size, total)
    except FileNotFoundError:
        raise Misconfigured("no such file", place=str(source)) from None
    except (OSError, tarfile.TarError, ValueError, TypeError) as error:
        raise _not_whole(source) from error
    if "database.dump" not in found or promised != found:
        raise _not_whole(source)
    return about


def _not_whole(source: Path) -> Misconfigured:
    return Misconfigured(
        "this is no whole backup of mailmill: it is torn, changed or something else",
        place=str(source),
        remedy="Take another copy or an earlier backup.",
    )


def _about(value: Mapping[str, Any]) -> About:
    if value.get("format") != FORMAT:
        if isinstance(value.get("format"), int):
            raise Misconfigured(
                f"the backup has format {value['format']}, this mailmill reads {FORMAT}",
                remedy="Restore it with the mailmill that made it.",
            )
        raise ValueError("no about.json")
    about = About(**value)
    if about.schema not in schema.known_versions():
        raise Misconfigured(
            f"the backup's schema {about.schema} is newer than this mailmill, which knows {schema.wanted_version()}",
            remedy=f"Restore it with mailmill {about.mailmill} or newer.",
        )
    return about


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo | None) -> dict[str, Any]:
    stream = archive.extractfile(member) if member and member.size < 256 * 2**20 else None
    value = json.load(stream) if stream else None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _hash(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if member.name not in ("about.json", "database.dump") and not _LAKE_FILE.match(member.name):
        raise ValueError(f"{member.name} does not belong into a backup")
    stream = archive.extractfile(member)
    if stream is None:
        raise ValueError(f"{member.name} is no file")
    hashed = Hashed(stream)
    while hashed.read(2**20):
        pass
    return hashed.hexdigest()


def _target(database: Database, replace: bool) -> str | None:
    """The schema's version of what is there, None when it is empty.

    Raises: Misconfigured when it may not be replaced.
    """
    current = schema.current_version(database)
    if current is None:
        return None
    if current not in schema.known_versions():
        schema.check(database)
    with driver_errors(), closing(database.connect(autocommit=True)) as connection:
        (tenants,) = connection.execute(SQL["tenants"]).fetchone() or (0,)
        others = _others(connection) if replace or not tenants else []
    if tenants and not replace:
        raise Misconfigured(
            f"the installation is not empty, it has {tenants} tenant{'s' if tenants > 1 else ''}",
            remedy="Restore into another MAILMILL_HOME, or --replace, which keeps what people said, keys and ledger.",
        )
    if others:
        raise Misconfigured(
            f"mailmill runs over this database ({', '.join(others)} connected)",
            remedy="Stop `mailmill up` and every worker first.",
        )
    return current


def _others(connection: psycopg.Connection) -> list[str]:
    """Who else of mailmill is connected. A session that was ended, our own too, is there for a moment more."""
    deadline = time.monotonic() + ENDING_S
    while (names := [name for (name,) in connection.execute(SQL["others"])]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return names


def _extract(source: Path, dump: Path, lake: Lake, about: About, progress: Progress) -> None:
    """Unpack the dump and the lake's files. These are never changed, so one that is there already is the same."""
    done = 0
    with tarfile.open(source, mode="r:") as archive:
        for member in archive:
            match = _LAKE_FILE.match(member.name)
            path = dump if member.name == "database.dump" else lake.path(match[1]) if match else None
            stream = archive.extractfile(member) if path else None
            if path is None or stream is None or (path.exists() and path.stat().st_size == member.size):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")
            with temporary.open("wb") as target:
                shutil.copyfileobj(stream, target, 2**20)
                _sync(target)
            temporary.replace(path)
            if match:
                done += member.size
                progress("lake", done, about.lake_bytes)


def _sync(target: IO[bytes]) -> None:
    target.flush()
    os.fsync(target.fileno())
