"""Verbs that ask the ledger or settle it: account, doubts, workers, why, release."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mailmill.cli.app import Json, answer_json, answer_table, app, installation, person
from mailmill.errors import Misconfigured
from mailmill.io.postgres import accounts, keys, ledger
from mailmill.io.postgres import doubts as ledger_doubts
from mailmill.io.postgres.ledger import SQL

Name = Annotated[str, typer.Argument(help="tenant/campaign", metavar="CAMPAIGN")]
DOUBT = ("campaign", "message", "attempt", "reason", "reply", "outcome", "since", "address")


@app.command()
def account(campaign: Name, json: Json = False) -> None:
    """The ledger of a campaign by state. It has to add up to what was planned; exit 1 when it does not."""
    with installation().database.transaction("owner") as conn:
        known = accounts.campaign(conn, campaign)
        found = accounts.account(conn, known.id)
        why = accounts.reasons(conn, known.id)
        troubles = accounts.troubles(conn, known.id) if found.open and not found.held else []
    if json:
        reasons = [{"state": state, "reason": reason, "messages": n} for state, reason, n in why]
        answer_json(
            {**{name: getattr(found, name) for name in found.__slots__}, "open": found.open, "reasons": reasons,
             "troubles": [{"worker": name, "ended_at": ended, "said": said} for name, ended, said in troubles]}
        )  # fmt: skip
    else:
        rows: list[dict[str, Any]] = [{"state": state, "messages": n} for state, n in found.by_state.items()]
        answer_table([*rows, {"state": "planned", "messages": found.planned}], title=f"{found.campaign}: {found.state}")
        if why:
            answer_table([{"state": s, "reason": r, "messages": n} for s, r, n in why], title="why not sent")
        if found.held:
            print(f"its transport is held: {found.held}")
        for name, ended, said in troubles:
            print(f"the worker {name} {f'ended at {ended:%Y-%m-%d %H:%M:%S %Z}' if ended else 'waits'}: {said}")
    if found.unaccounted:
        raise Misconfigured(f"{found.unaccounted:,} recipients of {found.campaign} are unaccounted for")


@app.command()
def doubts(
    campaign: Annotated[str | None, typer.Argument(help="tenant/campaign", metavar="CAMPAIGN")] = None,
    resolve: Annotated[
        ledger_doubts.Resolution | None, typer.Option(help="Settle the doubts of this campaign.")
    ] = None,
    message: Annotated[
        list[int] | None, typer.Option(help="With --resolve: only this message; may be given many times.")
    ] = None,
    declare_lost: Annotated[
        str | None, typer.Option(metavar="WORKER", help="This worker's journal will not come back.")
    ] = None,
    json: Json = False,
) -> None:
    """Messages that a relay may or may not have taken. They are sent again if you, or their campaign, say so."""
    from mailmill.pipelines.ingest.masks import mask
    from mailmill.pipelines.send.tokens import Key, MessageTokens

    if declare_lost is not None and (campaign or resolve or message):
        raise _senseless("--declare-lost", "takes neither a campaign nor --resolve: it is about all that a worker left")
    if message and resolve is None:
        raise _senseless("--message", "needs --resolve: it says which doubts of a campaign to settle")
    database = installation().database
    if declare_lost is not None:
        with database.transaction("sender") as conn:
            ledger.session(conn)
            n = ledger_doubts.declare_lost(conn, declare_lost)
        words = f"{n:,} messages are now in doubt; campaigns with `doubt: resend` send theirs again"
        answer_json({"worker": declare_lost, "in_doubt": n}) if json else print(words)
        return
    with database.transaction("owner") as conn:
        known = accounts.campaign(conn, campaign) if campaign else None
        if resolve is not None:
            if known is None:
                raise Misconfigured("--resolve needs a campaign", place="doubts", remedy="Name it as tenant/campaign.")
            n = ledger_doubts.resolve(conn, known.id, resolve, message, by=person())
            answer_json({"campaign": known.name, resolve: n}) if json else print(f"{n:,} doubts settled as {resolve}")
            return
        found = conn.execute(SQL["doubts"], {"campaign_id": known.id if known else None, "limit": 1000}).fetchall()
        rows = [dict(zip(DOUBT, row[:8], strict=True)) for row in found]
        makers = {}
        for tenant, id in {row[8:10] for row in found}:
            signing = {purpose: Key(*key) for purpose, key in keys.of_campaign(conn, id).items()}
            makers[id] = MessageTokens(tenant, id, **signing)
        for row, (*_, id, domain) in zip(rows, found, strict=True):
            row["address"] = mask(row["address"]) if row["address"] else None
            # the header, as the relay's log has it
            row["message_id"] = f"<{makers[id].back(row['message']).decode()}@{domain}>"
    answer_json(rows) if json else answer_table(rows, title="in doubt (the first 1,000)")


def _senseless(option: str, why: str) -> Misconfigured:
    return Misconfigured(f"{option} {why}", place="doubts", remedy="Nothing was done. `mailmill doubts --help`")


@app.command()
def workers(json: Json = False) -> None:
    """The send workers, what they hold and since when they are silent."""
    with installation().database.transaction("sender") as conn:
        found = conn.execute(SQL["workers"]).fetchall()
    names = (
        "worker", "host", "pid", "started_at", "seen_at", "silent_s", "leases", "expired", "rate", "in_flight",
        "bound_by", "ended_at", "last_error", "campaigns"
    )  # fmt: skip
    rows = [dict(zip(names, row, strict=True)) for row in found]
    for row in rows:
        row["silent_s"] = round(row["silent_s"], 1)
        if not json:
            row["pid"] = str(row["pid"])  # a name, not a number to be grouped
            row["campaigns"] = ", ".join(row["campaigns"] or ["all"])
    answer_json(rows) if json else answer_table(rows, title="workers")


@app.command()
def why(
    campaign: Annotated[str | None, typer.Argument(help="tenant/campaign; all under way when not given.")] = None,
    json: Json = False,
) -> None:
    """Why nothing is going out: what keeps each campaign's next message, and what to do. Exit 1 when something does."""
    from mailmill.io.postgres.situation import situations
    from mailmill.pipelines.send.obstacles import Obstacle, obstacles

    with installation().database.transaction("owner") as conn:
        found = [(one, obstacles(one)) for one in situations(conn, campaign)]
    if json:
        answer_json([{"campaign": one.campaign, "state": one.state, "obstacles": kept} for one, kept in found])
    elif not found:
        print("no campaign is scheduled or under way; a draft waits for `mailmill campaign start`")
    else:
        nothing = [Obstacle(what="nothing")]
        answer_table([
            {"campaign": one.campaign, "state": one.state, "what keeps it": it.what, "until": it.until,
             "what to do": it.remedy}
            for one, kept in found for it in (kept or nothing)
        ])  # fmt: skip
    if any(kept for _, kept in found):
        raise typer.Exit(1)


@app.command()
def release(
    transport: Annotated[str, typer.Argument(help="tenant/transport", metavar="TRANSPORT")], json: Json = False
) -> None:
    """Let a held transport send again, once what it was held for is mended."""
    with installation().database.transaction("owner") as conn:
        tenant, _, slug = transport.partition("/")
        row = conn.execute(SQL["transport"], {"tenant": tenant, "slug": slug}).fetchone()
        if row is None:
            raise Misconfigured(f"there is no transport {transport!r}", remedy="Name it as tenant/transport.")
        n = ledger.release(conn, int(row[0]))
    answer_json({"transport": transport, "released": n}) if json else print(
        f"{transport} is released, {n:,} messages queued"
    )
