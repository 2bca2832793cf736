"""Verbs about the life of a campaign."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mailmill.cli import recipients as changing
from mailmill.cli.app import Json, answer_json, answer_table, app, installation, person
from mailmill.errors import Misconfigured, StoreUnavailable, TransientError
from mailmill.io.postgres import campaigns
from mailmill.pipelines.target import windows
from mailmill.pipelines.target.lifecycle import Move

campaign_app = typer.Typer(
    no_args_is_help=True, help="Campaigns: list, history, recipients, start, schedule, pause, resume, cancel, test."
)
app.add_typer(campaign_app, name="campaign")

CampaignName = Annotated[str, typer.Argument(help="tenant/campaign")]
Why = Annotated[str | None, typer.Option("--reason", help="Noted with the step.")]


@campaign_app.command("list")
def list_campaigns(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's.")] = None, json: Json = False
) -> None:
    """Every campaign with its state and last reason; of those under way how far they are, how fast, until when."""
    with installation().database.transaction() as conn:
        if tenant is not None:
            campaigns.tenant_id(conn, tenant)  # that there is one: "nothing" would be no answer
        rows = campaigns.overview(conn, tenant)
    if json:
        answer_json(rows)
    else:
        for row in rows:
            row["rate"] = None if row["rate"] is None else f"{row['rate']:,.1f}/s"
        answer_table(rows, title="campaigns")


@campaign_app.command("history")
def history(name: CampaignName, json: Json = False) -> None:
    """Every step of a campaign: when, from which state to which, by whom and why."""
    with installation().database.transaction() as conn:
        rows = campaigns.history(conn, campaigns.find(conn, name))
    answer_json(rows) if json else answer_table(rows, title=name)


@campaign_app.command("start")
def start(name: CampaignName, json: Json = False) -> None:
    """Freeze the audience and start, now."""
    mill = installation()
    with mill.database.transaction() as conn:
        campaign = campaigns.find(conn, name)
        if campaign.state != "planning":  # one that was left is taken up
            campaigns.schedule(conn, campaign, None, by=person())
    try:
        result = mill.plan(campaign.campaign_id, by=person())
    except TransientError as error:
        waits = f"{name} waits in planning: `mailmill up` or `mailmill send` tries again, and so does this command."
        raise StoreUnavailable(f"{error}\n  {waits}") from error
    if result is None:  # a tick was faster, or somebody took another step
        with mill.database.transaction() as conn:
            state = campaigns.find(conn, name).state
        if state not in ("scheduled", "planning", "running", "finished"):
            raise Misconfigured(f"campaign {name} is {state} by now", remedy=f"`mailmill campaign history {name}`")
        if json:
            answer_json({"campaign_id": campaign.campaign_id, "name": name, "state": state})
        else:
            print(f"{name}: {state}; a tick was faster and starts it")
        return
    if result.state == "failed":
        raise Misconfigured(result.reason or "planning failed", place=f"campaign {name}")
    if json:
        answer_json(result)
    else:
        print(f"{name}: {result.planned:,} recipients, running; `mailmill send` sends")
        if result.reason:
            print(f"warning: {result.reason}", file=sys.stderr)
        if result.exclusions:
            answer_table([{"excluded": reason, "n": n} for reason, n in result.exclusions.items()])


@campaign_app.command("reschedule")
@campaign_app.command("schedule")
def schedule(
    name: CampaignName,
    at: Annotated[str, typer.Argument(help="2026-12-01T09:00 (the tenant's time zone) or with an offset.")],
    json: Json = False,
) -> None:
    """Let a campaign that is draft, scheduled, missed or failed start at a time, or at another one."""
    with installation().database.transaction() as conn:
        campaign = campaigns.find(conn, name)
        start_at = campaigns.schedule(conn, campaign, windows.moment(at, campaign.time_zone), by=person())
    if json:
        answer_json({"campaign": name, "before": campaign.state, "scheduled_at": start_at})
    else:
        was = f" (it was {campaign.state})" if campaign.state != "draft" else ""
        print(f"{name} starts at {start_at:%Y-%m-%d %H:%M:%S} UTC{was}")


@campaign_app.command("pause")
def pause(name: CampaignName, reason: Why = None) -> None:
    """Stop handing over messages; nothing starts later than one second from now."""
    _step(name, "pause", reason, "paused")


@campaign_app.command("resume")
def resume(name: CampaignName, reason: Why = None) -> None:
    """Go on with a paused campaign."""
    _step(name, "resume", reason, "running")


def _step(name: str, step: Move, reason: str | None, state: str) -> None:
    with installation().database.transaction() as conn:
        taken = campaigns.require(conn, campaigns.find(conn, name), step, by=person(), reason=reason)
    print(f"{name}: {state}{'' if taken else ' already'}")


@campaign_app.command("cancel")
def cancel(name: CampaignName, reason: Why = None, json: Json = False) -> None:
    """Send nothing more of a campaign. What was handed over stays handed over."""
    mill = installation()
    with mill.database.transaction() as conn:
        campaign = campaigns.find(conn, name)
    messages = campaigns.cancel(mill.database, campaign, by=person(), reason=reason)
    if json:
        answer_json({"campaign": name, "state": "cancelled", "messages": messages})
    else:
        print(f"{name}: cancelled, {messages:,} messages will not be sent")


@campaign_app.command("recipients")
def recipients(
    name: CampaignName,
    action: Annotated[
        Literal["add", "remove"] | None, typer.Argument(help="Without it: who would be mailed as things are now.")
    ] = None,
    address: Annotated[list[str] | None, typer.Argument(help="Addresses of contacts of the tenant.")] = None,
    file: Annotated[Path | None, typer.Option(help="One address a line, or the first column of a CSV.")] = None,
    json: Json = False,
) -> None:
    """Add contacts outside the segment to a campaign that has not begun, or take some out; or count its recipients.

    Exit 1 when some addresses were not taken.
    """
    if action is None:
        _count(changing.count(installation(), name), json)
        return
    if not address and file is None:
        raise typer.BadParameter("give addresses or --file")
    found = changing.change(installation(), name, action, address or [], file)
    if json:
        answer_json(found)
    else:
        done = "added" if action == "add" else "removed"
        print(f"{name}: {found.changed:,} {done}, {found.duplicates:,} were {done} already or named twice")
        rows = [{"not taken": reason, "n": n} for reason, n in found.refused.items()]
        if rows:
            answer_table(rows)
        if "unknown" in found.refused:
            print("unknown are no contacts of the tenant; `mailmill contacts add` makes one")
    if found.refused:
        raise typer.Exit(1)


def _count(found: changing.Counted, json: bool) -> None:
    if json:
        answer_json(found)
        return
    rows: list[dict[str, Any]] = [
        {"contacts": "in the segment", "n": found.segment},
        {"contacts": "added besides", "n": found.added},
        *({"contacts": f"excluded: {reason}", "n": n} for reason, n in found.exclusions.items()),
        {"contacts": "recipients", "n": found.recipients},
    ]
    answer_table(rows, title=f"{found.campaign}, as things are now")


@campaign_app.command("test")
def try_campaign(
    name: CampaignName,
    address: Annotated[str, typer.Argument(help="Who gets it; no suppressed address.")],
    contact: Annotated[str | None, typer.Option(help="Whose merge fields; the first contact's when not given.")] = None,
    json: Json = False,
) -> None:
    """Send one message of a campaign to a person, marked [Test], outside the ledger. Exit 1 when it was not taken.

    Through a relay it also looks up what `mailmill preflight` does, and warns.
    """
    from mailmill.cli import previews

    shown, step, warning = previews.test_send(installation(), name, address, contact)
    if json:
        answer_json({"campaign": name, "variant": shown.variant, "ok": step.ok, "step": step.step, "found": step.found,
                     "warning": warning})  # fmt: skip
    else:
        print(f"{name}: {'handed over' if step.ok else f'failed at {step.step}'}: {step.found}")
        print(step.remedy, end="\n" if step.remedy else "")
        if shown.note:
            print(f"note: {shown.note}", file=sys.stderr)
        if warning:
            print(f"warning: {warning}", file=sys.stderr)
    if not step.ok:
        raise typer.Exit(1)
