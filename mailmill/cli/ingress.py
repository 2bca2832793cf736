"""`mailmill ingress`: pixel, clicks, unsubscribes and webhooks over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from mailmill.cli import logs
from mailmill.cli.app import app, installation
from mailmill.cli.ports import refuse_taken
from mailmill.composition import Installation
from mailmill.pipelines.listen.ports import EventLog

if TYPE_CHECKING:  # quick verbs do without FastAPI
    from fastapi import FastAPI

    from mailmill.api.ingress.directory import KeyPurpose
    from mailmill.io.event_log.kafka import KafkaEventLog
    from mailmill.io.event_log.postgres import PostgresEventLog


@app.command()
def ingress(
    port: Annotated[int | None, typer.Option(help="Port to listen on; by default MAILMILL_INGRESS_PORT.")] = None,
) -> None:
    """Serve pixel, clicks, unsubscribes and webhooks."""
    from mailmill.api.ingress.app import serve

    mill = installation()
    logs.start(mill.settings.log_level, mill.settings.log_format)
    host, chosen = mill.settings.bind, mill.settings.ingress_port if port is None else port
    refuse_taken(host, chosen, setting="MAILMILL_INGRESS_PORT")
    log = event_log(mill)
    try:
        print(f"ingress: HTTP on {host}:{chosen}, until Ctrl-C", file=sys.stderr, flush=True)
        serve(ingress_app(mill, log), host=host, port=chosen)
    finally:
        log.close()


def ingress_app(mill: Installation, log: EventLog) -> FastAPI:
    """The application over this installation's stores; the caller closes the log."""
    from mailmill.api.ingress.app import create_app
    from mailmill.io.postgres import keys

    def load(purpose: KeyPurpose) -> Mapping[int, bytes]:
        with mill.database.transaction("ingress") as conn:
            return keys.usable(conn, purpose)

    return create_app(mill.database, log, keys=load, secret=mill.secret, spool=mill.home / "spool")


def event_log(mill: Installation) -> PostgresEventLog | KafkaEventLog:
    """Kafka where MAILMILL_KAFKA_URL names it, else the table in PostgreSQL."""
    if mill.settings.kafka_url is None:
        from mailmill.io.event_log.postgres import PostgresEventLog

        return PostgresEventLog(mill.database, "ingress")
    from mailmill.io.event_log.kafka import KafkaEventLog

    return KafkaEventLog(mill.settings.kafka_url)
