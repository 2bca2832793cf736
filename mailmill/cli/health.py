"""The verb that a container's health check runs; the image has no curl."""

from __future__ import annotations

import socket
from typing import Annotated
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psycopg
import typer

from mailmill.cli.app import app, installation
from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.postgres.database import PRIVILEGES, refused
from mailmill.io.postgres.sql import statements

TIMEOUT_S = 5


@app.command()
def health(
    what: Annotated[
        str, typer.Argument(help="A URL that answers 200, `postgres`, `worker` (a send worker here) or `sources`.")
    ],
) -> None:
    """Exit 0 when it is well, 1 with the reason when it is not."""
    if what.startswith(("http://", "https://")):
        _answers(what)
    elif what in ("postgres", "worker"):
        _connects(worker=what == "worker")
    elif what == "sources":
        _nothing_waits()
    else:
        raise Misconfigured(f"{what!r} is nothing to check", place="WHAT", remedy="A URL, postgres, worker or sources.")
    print("well")


def _answers(url: str) -> None:
    try:
        with urlopen(url, timeout=TIMEOUT_S) as answer:
            status = answer.status
    except HTTPError as error:
        status = error.code
    except (URLError, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise StoreUnavailable(f"{url} does not answer: {reason}") from None
    if status != 200:
        raise StoreUnavailable(f"{url} answers {status}")


def _nothing_waits() -> None:
    """No source has an error, and nothing of any waits for a person to look at it."""
    from mailmill.cli.sources import waiting
    from mailmill.io.postgres import sources

    with installation().database.transaction() as conn:
        found = sources.overview(conn)
    lines = [f"{row['source']}: {row['last_error']}" for row in found if row["last_error"]]
    lines += [line for row in found for line in waiting(row)]
    if lines:
        raise Misconfigured("\n".join(lines))


def _connects(*, worker: bool) -> None:
    """As whoever the URL names, without taking another role; an embedded server is not started by a check."""
    mill = installation()
    url = mill.settings.database_url
    conninfo = url.get_secret_value() if url else mill.server.conninfo("mailmill_sender") if mill.server else ""
    try:
        with psycopg.connect(conninfo, connect_timeout=TIMEOUT_S, application_name="mailmill health") as connection:
            row = connection.execute(statements("health")["worker" if worker else "postgres"],
                                     {"host": socket.gethostname()}).fetchone()  # fmt: skip
    except psycopg.OperationalError as error:
        raise refused(error, conninfo) from None
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable) as error:
        raise Misconfigured(
            str(error).strip().split("\n")[0],
            place="MAILMILL_DATABASE_URL",
            remedy=PRIVILEGES,
        ) from None
    if not row or not row[0]:
        raise StoreUnavailable("no send worker of this machine has been seen in the last minute")
