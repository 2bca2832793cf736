"""`mailmill sandbox`: a mail world to try things in."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailmill.cli.app import app, installation
from mailmill.composition import Installation
from mailmill.errors import MailmillError, Misconfigured

if TYPE_CHECKING:  # quick verbs do without it
    from mailmill.sandbox.reports import Webhook
    from mailmill.sandbox.running import Progress, SandboxConfig


@app.command()
def sandbox(
    port: Annotated[int | None, typer.Option(help="SMTP port; by default MAILMILL_SANDBOX_PORT.")] = None,
    rules: Annotated[Path | None, typer.Option(help="Rules as YAML; by default those that come with mailmill.")] = None,
    log: Annotated[Path | None, typer.Option(help="Where every answer and report is written down.")] = None,
    ingress: Annotated[str | None, typer.Option(help="URL of the ingress; by default the one on this machine.")] = None,
    webhook: Annotated[
        list[str] | None,
        typer.Option(help="TENANT/TRANSPORT=SECRETREF or …=SECRETREF@SENDERS (a glob); by default every applied one."),
    ] = None,
) -> None:
    """Be a relay on loopback that takes, refuses, bounces, opens and clicks by rules, and reports it to the ingress."""
    mill = installation()
    config = sandbox_config(mill, port=port, rules=rules, log=log, ingress=ingress, webhooks=webhook)
    asyncio.run(_serve(config))


def sandbox_config(
    mill: Installation,
    *,
    port: int | None = None,
    rules: Path | None = None,
    log: Path | None = None,
    ingress: str | None = None,
    webhooks: list[str] | None = None,
) -> SandboxConfig:
    """The sandbox of an installation; what is not given comes from its settings and its transports.

    Raises: Misconfigured, also for a secret that is not there.
    """
    from mailmill.sandbox.running import SandboxConfig

    return SandboxConfig(
        port=mill.settings.sandbox_port if port is None else port,
        rules=rules,
        log=log or mill.home / "sandbox" / "log.jsonl",
        ingress=ingress or f"http://{mill.local_host}:{mill.settings.ingress_port}",
        webhooks=_applied(mill) if webhooks is None else tuple(_webhook(mill, text) for text in webhooks),
    )


def _applied(mill: Installation) -> tuple[Webhook, ...]:
    """The webhooks of every transport of type sandbox."""
    from mailmill.io.postgres.sandbox import transports
    from mailmill.sandbox.reports import Webhook

    with mill.database.transaction() as conn:
        found = transports(conn)
    return tuple(
        Webhook(
            path=f"{one.tenant}/{one.transport}",
            secret=mill.secret(one.secret),
            senders=tuple(f"*@{domain}" for domain in one.domains) or ("*",),
        )
        for one in found
    )


def _webhook(mill: Installation, text: str) -> Webhook:
    from mailmill.sandbox.reports import Webhook

    path, equals, rest = text.partition("=")
    reference, _, senders = rest.partition("@")
    if not equals or path.count("/") != 1 or not reference:
        remedy = "Write for instance acme/relay=file:secrets/webhook, and behind an @ whose mail it is about."
        raise Misconfigured("not TENANT/TRANSPORT=SECRETREF", place="--webhook", remedy=remedy)
    return Webhook(path=path, secret=mill.secret(reference), senders=(senders or "*",))


async def _serve(config: SandboxConfig) -> None:
    from mailmill.sandbox.running import run

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def started(port: int, progress: Callable[[], Progress]) -> None:
        print(f"sandbox: SMTP on {config.host}:{port}, log {config.log}", flush=True)
        print(f"sandbox: reports to {config.ingress}, webhooks {len(config.webhooks)}", flush=True)

    try:
        await run(config, started, stop)
    except OSError as error:
        raise MailmillError(f"the sandbox cannot go on: {error.strerror}") from error
