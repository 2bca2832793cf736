"""Verbs about segments, campaigns and suppressions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mailmill.cli import segments, targeting
from mailmill.cli.app import Json, answer_json, answer_table, app, installation
from mailmill.cli.targeting import person
from mailmill.errors import Misconfigured
from mailmill.io.postgres import campaigns
from mailmill.pipelines.target.lifecycle import Move

segment_app = typer.Typer(no_args_is_help=True, help="Segments: who is in them, and who would be mailed.")
campaign_app = typer.Typer(no_args_is_help=True, help="Campaigns: list, start, pause, resume, cancel.")
app.add_typer(segment_app, name="segment")
app.add_typer(campaign_app, name="campaign")

SegmentOrFile = Annotated[str, typer.Argument(help="tenant/segment, or a YAML file with a segment.")]
SegmentName = Annotated[str, typer.Argument(help="tenant/segment")]
CampaignName = Annotated[str, typer.Argument(help="tenant/campaign")]
Why = Annotated[str | None, typer.Option("--reason", help="Noted with the step.")]


@segment_app.command("preview")
def preview_segment(
    name: SegmentOrFile,
    rows: Annotated[int, typer.Option(help="How many contacts the sample shows.", min=0, max=100)] = 5,
    json: Json = False,
) -> None:
    """Count a segment, show who would be left out and why, and a masked sample; of a file before it is applied."""
    found = segments.preview(installation(), name, rows=rows)
    if json:
        answer_json(found)
        return
    counts = [{"contacts": "in the segment", "n": found.contacts}, {"contacts": "recipients", "n": found.recipients}]
    excluded = [{"contacts": f"excluded: {reason}", "n": n} for reason, n in found.exclusions.items()]
    as_of = f"{found.contacts_as_of:%Y-%m-%d %H:%M:%S %Z}"
    answer_table(counts + excluded, title=f"{found.segment}, contacts as of {as_of}")
    if found.sample:
        answer_table([{**row, "tags": ", ".join(row["tags"] or ())} for row in found.sample], title="sample")


@segment_app.command("overlap")
def overlap_segments(a: SegmentOrFile, b: SegmentOrFile, json: Json = False) -> None:
    """Count the contacts that two segments of a tenant share, and those of each alone."""
    found = segments.compare(installation(), a, b)
    if json:
        answer_json(found)
        return
    answer_table(
        [{"contacts": a, "n": found.a}, {"contacts": b, "n": found.b}, {"contacts": "in both", "n": found.both},
         {"contacts": f"only in {a}", "n": found.only_a}, {"contacts": f"only in {b}", "n": found.only_b}],
        title="overlap",
    )  # fmt: skip


@segment_app.command("refresh")
def refresh_segment(name: SegmentName, json: Json = False) -> None:
    """Materialize a segment now."""
    change = segments.refresh(installation(), name)
    if json:
        answer_json(change)
    else:
        print(f"{name}: {change.rows:,} contacts, {change.joined:,} joined, {change.left:,} left")


@campaign_app.command("list")
def list_campaigns(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's.")] = None, json: Json = False
) -> None:
    """Every campaign with its state, and the reason of its last step."""
    with installation().database.transaction() as conn:
        rows = campaigns.overview(conn, tenant)
    if json:
        answer_json(rows)
    else:
        answer_table(rows, title="campaigns")


@campaign_app.command("start")
def start(name: CampaignName, json: Json = False) -> None:
    """Freeze the audience and start, now."""
    mill = installation()
    with mill.database.transaction() as conn:
        campaign = campaigns.find(conn, name)
        campaigns.schedule(conn, campaign, None, by=person())
    result = mill.plan(campaign.campaign_id, by=person())
    if result is None:
        raise Misconfigured(f"campaign {name} is being planned by somebody else", remedy="`mailmill campaign list`")
    if result.state == "failed":
        raise Misconfigured(result.reason or "planning failed", place=f"campaign {name}")
    if json:
        answer_json(result)
    elif result.state == "finished":
        print(f"{name}: {result.reason}")
    else:
        print(f"{name}: {result.planned:,} recipients, running; `mailmill send` sends")
        if result.exclusions:
            answer_table([{"excluded": reason, "n": n} for reason, n in result.exclusions.items()])


@campaign_app.command("schedule")
def schedule(
    name: CampaignName,
    at: Annotated[str, typer.Argument(help="2026-12-01T09:00 (the tenant's time zone) or with an offset.")],
    json: Json = False,
) -> None:
    """Let a campaign start at a time."""
    with installation().database.transaction() as conn:
        campaign = campaigns.find(conn, name)
        start_at = campaigns.schedule(conn, campaign, targeting.moment(at, campaign.time_zone), by=person())
    if json:
        answer_json({"campaign": name, "scheduled_at": start_at})
    else:
        print(f"{name} starts at {start_at:%Y-%m-%d %H:%M:%S} UTC")


@campaign_app.command("pause")
def pause(name: CampaignName, reason: Why = None) -> None:
    """Stop handing over messages; nothing starts later than one second from now."""
    _step(name, "pause", reason)


@campaign_app.command("resume")
def resume(name: CampaignName, reason: Why = None) -> None:
    """Go on with a paused campaign."""
    _step(name, "resume", reason)


def _step(name: str, step: Move, reason: str | None) -> None:
    with installation().database.transaction() as conn:
        campaigns.require(conn, campaigns.find(conn, name), step, by=person(), reason=reason)
    print(f"{name}: {'paused' if step == 'pause' else 'running'}")


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


@app.command()
def preview(
    name: CampaignName,
    contact: Annotated[str | None, typer.Option(help="Address of the contact; the first one when not given.")] = None,
    headers: Annotated[bool, typer.Option("--headers", help="Only the headers.")] = False,
    text: Annotated[bool, typer.Option("--text", help="Only the text.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Only the HTML.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the message as it would go out, an .eml file.")] = None,
    json: Json = False,
) -> None:
    """Show a campaign's message as one contact would get it, everything signed."""
    from mailmill.cli import previews

    shown = previews.preview(installation(), name, contact)
    if out is not None:
        try:
            out.write_bytes(shown.outgoing.content)
        except OSError as error:
            raise Misconfigured(f"cannot be written: {error.strerror}", place=str(out)) from None
    parts = {"headers": shown.headers, "text": shown.part("plain"), "html": shown.part("html")}
    wanted = [part for part, asked in (("headers", headers), ("text", text), ("html", html)) if asked]
    if json:
        answer_json({"variant": shown.variant, "address": shown.address, "subject": shown.subject, **parts})
    elif len(wanted) == 1:
        print(parts[wanted[0]].rstrip("\n"))
    elif wanted or out is None:
        print("\n\n".join(f"--- {part} ---\n{parts[part]}".rstrip("\n") for part in wanted or parts))
    else:
        print(f"{out}: {len(shown.outgoing.content):,} bytes, variant {shown.variant}")


@campaign_app.command("test")
def try_campaign(
    name: CampaignName,
    address: Annotated[str, typer.Argument(help="Who gets it; no suppressed address.")],
    contact: Annotated[str | None, typer.Option(help="Whose merge fields; the first contact's when not given.")] = None,
    json: Json = False,
) -> None:
    """Send one message of a campaign to a person, marked [Test], outside the ledger. Exit 1 when it was not taken."""
    from mailmill.cli import previews

    shown, step = previews.test_send(installation(), name, address, contact)
    if json:
        answer_json({"campaign": name, "variant": shown.variant, "ok": step.ok, "step": step.step, "found": step.found})
    else:
        print(f"{name}: {'handed over' if step.ok else f'failed at {step.step}'}: {step.found}")
        print(step.remedy, end="\n" if step.remedy else "")
    if not step.ok:
        raise typer.Exit(1)
