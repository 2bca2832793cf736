"""Connections to PostgreSQL, each under the role of whoever asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mailmill.errors import MailmillError, Misconfigured, StoreUnavailable

Role = Literal["owner", "sender", "listener", "ingress", "stats", "backup"]
ROLES: tuple[Role, ...] = get_args(Role)
# A server whose machine or network is gone without a word is found out within a minute. Unless told so, TCP takes a
# quarter of an hour where something was said to it, and two hours where it is only listened to. A URL may say
# otherwise.
ALIVE = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 50_000}
ABSENT = "Check MAILMILL_DATABASE_URL, and that PostgreSQL runs there."
PRIVILEGES = "Name this process's own user; deploy/postgres/roles.sh and `mailmill migrate`, run again, let it work."


def _no_server() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Where PostgreSQL is and how each role gets in.

    `conninfos` holds one connection string a role (secrets inside, so it has no repr). `wake` starts the embedded
    server again when nobody answers; for a server that others run it does nothing.
    """

    conninfos: dict[Role, str] = field(repr=False)
    wake: Callable[[], None] = field(default=_no_server, repr=False)
    verify: Callable[[psycopg.Connection], None] | None = field(default=None, repr=False)  # of each new connection
    connect_timeout_s: int = 10
    remedy: str = ABSENT  # when nobody answers

    def may(self, role: Role) -> bool:
        """Whether this process has been let in as that role."""
        return role in self.conninfos

    def conninfo(self, role: Role) -> str:
        """Raises: Misconfigured when this process's URL is another role's."""
        if role not in self.conninfos:
            raise Misconfigured(
                f"this URL is for the role {next(iter(self.conninfos))}, and this needs the role {role}",
                place="MAILMILL_DATABASE_URL",
                remedy="Run it with the owner's URL, or with that role's own.",
            )
        return self.conninfos[role]

    def connect(
        self, role: Role = "owner", *, tenant_id: int | None = None, autocommit: bool = False
    ) -> psycopg.Connection:
        """A new connection; the caller owns it and its transactions.

        In:     tenant_id binds the session to one tenant (row-level security of ingress and stats).
        Raises: StoreUnavailable when the server does not answer, Misconfigured when it refuses role or password.
        """
        try:
            connection = self._open(role, autocommit)
        except psycopg.OperationalError as error:
            problem = refused(error, self.conninfo(role), self.remedy)
            if isinstance(problem, Misconfigured):
                raise problem from error
            self.wake()
            try:
                connection = self._open(role, autocommit)
            except psycopg.OperationalError as again:
                raise refused(again, self.conninfo(role), self.remedy) from again
        if self.verify is not None:
            try:
                self.verify(connection)
            except BaseException:
                connection.close()
                raise
        if tenant_id is not None:
            connection.execute("SELECT set_config('mailmill.tenant_id', %s, false)", (str(tenant_id),))
            if not autocommit:
                connection.commit()
        return connection

    def _open(self, role: Role, autocommit: bool) -> psycopg.Connection:
        conninfo = self.conninfo(role)
        given = conninfo_to_dict(conninfo)
        return psycopg.connect(
            conninfo,
            autocommit=autocommit,
            **{name: value for name, value in ALIVE.items() if name not in given},  # type: ignore[arg-type]
            connect_timeout=self.connect_timeout_s,
            application_name=f"mailmill {role}",
        )

    @contextmanager
    def transaction(self, role: Role = "owner", *, tenant_id: int | None = None) -> Iterator[psycopg.Connection]:
        """One transaction on a connection of its own: committed at the end, rolled back when the body raises.

        Raises: StoreUnavailable when the server goes away meanwhile.
        """
        # closed by us: the driver leaves a connection open whose COMMIT fails
        with driver_errors(), closing(self.connect(role, tenant_id=tenant_id)) as connection, connection:
            yield connection


@contextmanager
def driver_errors() -> Iterator[None]:
    """Give the driver's errors our names; what is no fault of the wire passes as it is."""
    try:
        yield
    except MailmillError:
        raise
    except (
        psycopg.errors.AdminShutdown,
        psycopg.errors.CrashShutdown,
        psycopg.errors.CannotConnectNow,
    ) as error:
        raise StoreUnavailable("PostgreSQL is shutting down or restarting") from error
    except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure) as error:
        raise StoreUnavailable("PostgreSQL asks to run this transaction again") from error
    except psycopg.errors.UndefinedTable as error:
        raise Misconfigured(
            "the database has no schema of mailmill yet", remedy="Run `mailmill apply PATH`, or `mailmill migrate`."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise Misconfigured(
            f"PostgreSQL does not let this user do what is needed: {error.diag.message_primary}", remedy=PRIVILEGES
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:  # after a failover; the next connection may find a primary
        raise StoreUnavailable("PostgreSQL only reads now: a standby, or set to read-only") from error
    except psycopg.errors.DiskFull as error:
        raise StoreUnavailable("PostgreSQL has no space left on its disk") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        if error.sqlstate is None:
            raise StoreUnavailable("the connection to PostgreSQL broke") from error
        raise


# libpq gives no SQLSTATE for a connection that was not made, so here, and only here, the server's words decide. One
# that speaks another language than English counts as not answering: that is tried again, never taken for an answer.
_REFUSALS = (
    (
        re.compile(r"password authentication failed|no password supplied|no pg_hba\.conf entry|role .* does not exist"),
        "PostgreSQL refuses this role or password",
        "Check user, password and pg_hba.conf of the server.",
    ),
    (
        re.compile(r'permission denied to set role "(\w+)"|role ".*" is not permitted to log in'),
        "PostgreSQL does not let this user become the role that is needed here",
        "Use the URL of a user that may (docs/production.md), or GRANT it the role.",
    ),
    (
        re.compile(r'database ".*" does not exist'),
        "PostgreSQL has no database of this name",
        "Create it first, owned by mailmill_owner.",
    ),
)


def place_of(conninfo: str) -> str:
    """host:port or the socket's folder, of each server it names; never the user or the password."""
    parts = conninfo_to_dict(conninfo)
    hosts = str(parts.get("host") or parts.get("hostaddr") or "the local socket").split(",")
    ports = str(parts.get("port") or 5432).split(",")
    if len(ports) < len(hosts):
        ports = ports[:1] * len(hosts)
    return ", ".join(
        host if host.startswith("/") or " " in host else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for host, port in zip(hosts, ports, strict=False)
    )


def refused(
    error: psycopg.OperationalError, conninfo: str, absent: str = ABSENT, place: str = "MAILMILL_DATABASE_URL"
) -> MailmillError:
    """The error of a failed connection in our words, without the driver's connection string.

    In: absent, what to do about a server that does not answer; place, the setting that names it.
    """
    for pattern, message, remedy in _REFUSALS:
        if match := pattern.search(str(error)):
            role = match[1] if pattern.groups else None
            return Misconfigured(f"{message}: {role}" if role else message, place=place, remedy=remedy)
    return StoreUnavailable(f"PostgreSQL does not answer at {place_of(conninfo)}\n  {absent}")


def external(url: str) -> Database:
    """A server that others run. The owner's URL lets every role in, each under its own name by SET ROLE.

    A process that may only be one role (the stats API, a send worker) gets a URL with that role's user.
    """
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise Misconfigured(
            "not a PostgreSQL URL",
            place="MAILMILL_DATABASE_URL",
            remedy="Write postgresql://user:password@host:5432/name.",
        ) from error
    names: dict[Role, str] = {role: f"mailmill_{role}" for role in ROLES}
    for role, name in names.items():
        if role != "owner" and parts.get("user") == name:
            return Database(conninfos={role: url})
    return Database(
        conninfos={
            role: url if parts.get("user") == name else make_conninfo(url, options=f"-c role={name}")
            for role, name in names.items()
        }
    )
