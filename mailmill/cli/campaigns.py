"""Verbs about segments, suppressions and what a campaign's message looks like."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mailmill.cli import segments
from mailmill.cli.app import Json, answer_json, answer_table, app, installation
from mailmill.cli.lifecycle import CampaignName
from mailmill.errors import Misconfigured

segment_app = typer.Typer(no_args_is_help=True, help="Segments: who is in them, and who would be mailed.")
app.add_typer(segment_app, name="segment")

SegmentOrFile = Annotated[str, typer.Argument(help="tenant/segment, or a YAML file with a segment.")]
SegmentName = Annotated[str, typer.Argument(help="tenant/segment")]


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
    for note in found.notes:
        print(f"note: {note}")


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
    """Show a campaign's message as one contact would get it by the template of now, everything signed."""
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
        facts = {"variant": shown.variant, "address": shown.address, "subject": shown.subject, "note": shown.note}
        answer_json(facts | parts)
        return
    if shown.note:
        print(f"note: {shown.note}", file=sys.stderr)
    if len(wanted) == 1:
        print(parts[wanted[0]].rstrip("\n"))
    elif wanted or out is None:
        print("\n\n".join(f"--- {part} ---\n{parts[part]}".rstrip("\n") for part in wanted or parts))
    else:
        print(f"{out}: {len(shown.outgoing.content):,} bytes, variant {shown.variant}")
