"""Verbs about the way out: which transports there are, whether one works, whether an identity may send in bulk."""

from __future__ import annotations

from typing import Annotated

import typer

from mailmill.cli.app import Json, answer_json, answer_table, app, installation
from mailmill.errors import Misconfigured
from mailmill.io.postgres import campaigns, transports

transport_app = typer.Typer(no_args_is_help=True, help="Transports: list them, and try one.")
app.add_typer(transport_app, name="transport")


@transport_app.command("list")
def list_transports(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's.")] = None, json: Json = False
) -> None:
    """Every transport, and why it is held if it is."""
    with installation().database.transaction() as conn:
        if tenant is not None:
            campaigns.tenant_id(conn, tenant)  # that there is one: "nothing" would be no answer
        rows = transports.overview(conn, tenant)
    answer_json(rows) if json else answer_table(rows, title="transports")


@transport_app.command("test")
def try_transport(
    name: Annotated[str, typer.Argument(help="tenant/transport", metavar="TRANSPORT")],
    to: Annotated[str | None, typer.Option(help="Hand over one message to this address.")] = None,
    json: Json = False,
) -> None:
    """Look its host up, connect, secure, log in, with --to hand over one message; say what is wrong (then exit 1)."""
    from mailmill.io.transports.smtp_check import check
    from mailmill.io.transports.smtp_config import SmtpConfig
    from mailmill.pipelines.ingest import addresses

    mill = installation()
    recipient = addresses.check(to) if to is not None else None
    if recipient is not None and recipient.address is None:
        raise Misconfigured(f"{to!r} is no address: {recipient.verdict_reason}", place="--to")
    with mill.database.transaction() as conn:
        found = transports.find(conn, name)
        if recipient is not None and transports.suppressed(conn, found.tenant_id, recipient.address_key or ""):
            raise Misconfigured("this address is suppressed and gets no mail", place="--to")
    if recipient is not None and found.sender is None:
        raise Misconfigured("the tenant has no identity to send from", remedy="Apply a document of kind identity.")
    config = SmtpConfig.of(found.kind, found.spec, mill.secret)
    steps = check(
        config, sender=found.sender or "postmaster@localhost", recipient=recipient.address if recipient else None
    )
    if json:
        answer_json({"transport": name, "ok": steps[-1].ok, "steps": steps})
    else:
        answer_table([{"step": one.step, "": "ok" if one.ok else "failed", "found": one.found} for one in steps])
        print(steps[-1].remedy or ("" if to else "No message was handed over; --to ADDRESS does that."), end="\n")
    if not steps[-1].ok:
        raise typer.Exit(1)


@app.command("preflight")
def preflight(
    identity: Annotated[str, typer.Argument(help="tenant/identity", metavar="IDENTITY")], json: Json = False
) -> None:
    """Look up SPF, DKIM, DMARC, return path and tracking host; name each record to publish (exit 1 when one is)."""
    from mailmill.io.postgres import configuration
    from mailmill.pipelines.configuration.sending import IdentitySpec

    mill = installation()
    tenant, _, slug = identity.partition("/")
    with mill.database.transaction() as conn:
        found = configuration.stored(conn).get(("identity", tenant, slug))
    if found is None:
        raise Misconfigured(
            f"there is no identity {identity!r}", remedy="Name it as tenant/identity, and apply it first."
        )
    findings = mill.preflight.findings(IdentitySpec.model_validate(dict(found.spec)))
    if json:
        answer_json({"identity": identity, "findings": findings})
    else:
        answer_table([{"check": one.check, "": one.level, "found": one.found} for one in findings])
        for one in findings:
            if one.publish:  # not in the table, which would cut what has to be copied
                print(f"publish for {one.check}:\n  {one.publish}")
    if any(one.level == "failed" for one in findings):
        raise typer.Exit(1)
