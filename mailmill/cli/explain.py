"""The verb explain: one person, from the first sighting to the last event."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any

import typer

from mailmill.cli.app import Json, answer_json, answer_table, app, installation
from mailmill.cli.forget import key_of
from mailmill.cli.stats import TenantOption, chosen, reading
from mailmill.errors import Misconfigured
from mailmill.io.postgres import erasure
from mailmill.io.postgres import explain as known
from mailmill.pipelines.read.explanation import Explanation, Sighting, Suppression, Value
from mailmill.pipelines.send import tokens


@app.command()
def explain(
    asked: Annotated[str, typer.Argument(metavar="ADDRESS|MESSAGE_ID", help="An address, phone number or Message-ID.")],
    tenant: TenantOption = None,
    json: Json = False,
) -> None:
    """Where a contact came from, why they were or were not mailed, and what happened."""
    mill = installation()
    message = _message(asked)
    found = []
    with reading() as conn:
        for one in chosen(conn, tenant):
            if message is None:
                key = key_of(asked)
                for theirs in erasure.sharing(conn, one.id, [key]) or [key]:  # all that have this number
                    found.append(known.by_key(conn, mill.lake, tenant_id=one.id, tenant=one.slug, key=theirs))
            elif message.tenant == one.id:
                found.append(known.by_message(
                    conn, mill.lake, tenant_id=one.id, tenant=one.slug, campaign_id=message.campaign,
                    message_id=message.message, asked=asked))  # fmt: skip
    explanations = [one for one in found if one is not None]
    if not explanations:
        where = f"tenant {tenant}" if tenant else "any tenant"
        raise Misconfigured(f"{asked} is no contact, suppression or message of {where}",
                            remedy="It may have been rejected: `mailmill rejects` shows rows and reasons.")  # fmt: skip
    if json:
        answer_json(explanations)
        return
    for explanation in explanations:
        _show(explanation)


def _row(fact: Sighting | Value | Suppression) -> dict[str, Any]:
    names = {"batch_id": "batch", "origin": "from"}
    return {names.get(field.name, field.name): getattr(fact, field.name) for field in dataclasses.fields(fact)}


def _message(asked: str) -> tokens.Token | None:
    """The message that a Message-ID or return path of ours names."""
    match = re.fullmatch(r"<?(?:b\+)?([a-z2-7]{48})(?:@[^\s>]+)?>?", asked.strip().lower())
    if match is None:
        return None
    return tokens.verify(match[1], installation().signing_keys("return_path"), "return_path")


def _show(explanation: Explanation) -> None:
    contact = explanation.contact
    if contact is None:
        print(f"{explanation.tenant}: {explanation.asked} is no contact (any more)")
    else:
        reason = f" ({contact['verdict_reason']})" if contact["verdict_reason"] else ""
        score = f", score {contact['score']}" if contact["score"] is not None else ""
        print(f"{explanation.tenant}: contact {contact['id']}, {contact['email'] or contact['phone']},"
              f" {contact['verdict']}{reason}{score}, since {contact['created_at']:%Y-%m-%d %H:%M %Z}")  # fmt: skip
        print(f"consent: {explanation.consent or 'none is recorded'}")
    if explanation.aliases:
        print(f"also, by the tenant's merge rule: {', '.join(explanation.aliases)}")
    for title, facts in (
        ("came from", explanation.sources),
        ("each value, and whose word it is: the highest priority wins, then the one seen last", explanation.values),
        ("suppressions", explanation.suppressions),
    ):
        answer_table([_row(fact) for fact in facts], title=title)
    rows = [
        {"campaign": story.campaign, "state": story.campaign_state, "mailed": story.mailed, "why": story.why,
         "attempts": len(story.attempts), "at": story.message["done_at"] if story.message else None}
        for story in explanation.campaigns
    ]  # fmt: skip
    answer_table(rows, title="campaigns")
    for story in explanation.campaigns:
        if len(story.attempts) > 1:
            answer_table([dict(row) for row in story.attempts], title=f"attempts of {story.campaign}")
