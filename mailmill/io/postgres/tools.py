"""pg_dump, pg_restore and psql: how they are found and run, with the password in their environment only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mailmill.errors import Misconfigured, RestoreUnfinished, StoreUnavailable
from mailmill.io.postgres.binaries import wheel_binaries
from mailmill.io.postgres.database import Database, Role

MAJOR = 18
_COMMITTING = "committing"
_SCRIPT_FAILED = 3  # psql's exit code: the server refused a statement, and rolled all of it back
_VERSION = re.compile(r"\b(\d+)(?:\.\d+)?\s*$|\b(\d+)(?:\.\d+)? \(")


def tool(name: str, *, embedded: bool) -> Path:
    """A tool of PostgreSQL 18 or newer.

    For a server that others run it is the one in PATH where there is one: the wheel's has no TLS and may be older than
    the server.
    """
    found = None if embedded else shutil.which(name)
    if found and _major(found) >= MAJOR:
        return Path(found)
    return wheel_binaries() / "bin" / name


def _major(path: str) -> int:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
    match = _VERSION.search(said.strip())
    return int(match[1] or match[2]) if match else 0


def environment(conninfo: str) -> tuple[str, dict[str, str]]:
    """A connection string without its password, and the environment that holds it: command lines can be read by all."""
    parts = conninfo_to_dict(conninfo)
    password = parts.pop("password", None)
    env = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PGCONNECT_TIMEOUT": "10", "PGCLIENTENCODING": "UTF8"}
    if password is not None:
        env["PGPASSWORD"] = str(password)
    return make_conninfo("", **parts), env


def dump(database: Database, target: Path, *, snapshot: str, embedded: bool, role: Role = "backup") -> None:
    """Write the mailmill database as one custom-format archive. Dagster's own schema is left out.

    In:     snapshot is of a transaction that stays open meanwhile.
    Raises: StoreUnavailable with what pg_dump said.
    """
    where, env = environment(database.conninfo(role))
    command = [str(tool("pg_dump", embedded=embedded)), "-Fc", "--no-password", f"--snapshot={snapshot}"]
    command += ["--exclude-schema=dagster", "--lock-wait-timeout=30s", "-f", str(target), "-d", where]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        detail = said[0].removeprefix("pg_dump: error: ") if said else f"exit code {done.returncode}"
        if "server version mismatch" in done.stderr:
            raise Misconfigured(
                f"pg_dump is older than the server: {said[-1] if said else ''}",
                remedy="Put the server's own pg_dump, pg_restore and psql into PATH.",
            )
        raise StoreUnavailable(f"pg_dump failed: {detail}")


def replay(
    database: Database,
    archive: Path,
    *,
    before: Sequence[str],
    after: Sequence[str],
    log: IO[bytes],
    embedded: bool,
) -> str:
    """Run `before`, the archive and `after` in one transaction: all of it or nothing.

    pg_restore writes SQL, psql runs it; the COMMIT is only written once pg_restore has ended well.
    Out:    what psql printed.
    Raises: StoreUnavailable with the first error; RestoreUnfinished when the link was lost at the COMMIT.
    """
    where, env = environment(database.conninfo("owner"))
    psql = [str(tool("psql", embedded=embedded)), "-X", "-q", "-At", "--no-password"]
    psql += ["-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-d", where]
    restore = [str(tool("pg_restore", embedded=embedded)), "--no-owner", "-f", "-", str(archive)]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(psql, env=env, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT) as into,
        subprocess.Popen(restore, env=env, stdout=subprocess.PIPE, stderr=complaints) as out,
    ):
        assert into.stdin and out.stdout
        failed = ""
        try:
            into.stdin.write(_script(["BEGIN", *before]))
            shutil.copyfileobj(out.stdout, into.stdin, 2**20)
            if out.wait():
                complaints.seek(0)
                failed = complaints.read().decode(errors="replace").strip() or f"exit code {out.returncode}"
                into.kill()  # without its COMMIT, whatever it was about to read
            else:  # pg_restore leaves its own settings behind: row security off, an empty search path
                into.stdin.write(
                    _script(["RESET ALL", "SET search_path = public", *after, f"SELECT '{_COMMITTING}'", "COMMIT"])
                )
            into.stdin.close()
        except BrokenPipeError:  # psql stopped at an error
            out.kill()
        into.wait()
    log.seek(0)
    said = log.read().decode(errors="replace")
    if failed:
        raise StoreUnavailable(f"pg_restore failed, nothing was restored: {failed.splitlines()[0]}")
    if into.returncode:
        errors = [line for line in said.splitlines() if "ERROR" in line or "FATAL" in line or "error" in line]
        detail = errors[0] if errors else f"exit code {into.returncode}"
        if into.returncode != _SCRIPT_FAILED and (into.returncode < 0 or _COMMITTING in said.splitlines()):
            raise RestoreUnfinished(f"psql failed, and nobody knows whether the database was replaced: {detail}")
        raise StoreUnavailable(f"psql failed, nothing was restored: {detail}")
    return said


def _script(statements: Sequence[str]) -> bytes:
    return "".join(f"{statement.rstrip().rstrip(';')};\n" for statement in statements).encode()
