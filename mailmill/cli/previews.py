"""What the verbs that show or try out a campaign's message have to do, apart from how it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as policy
from typing import Any

import polars as pl

from mailmill.composition import Installation
from mailmill.errors import MailmillError, Misconfigured
from mailmill.io.postgres import campaigns, transports
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.io.send_worker import composer, signing_keys
from mailmill.io.transports.smtp_check import Step, hand_over
from mailmill.io.transports.smtp_config import SmtpConfig
from mailmill.pipelines.configuration.sending import IdentitySpec
from mailmill.pipelines.configuration.specs import CampaignSpec
from mailmill.pipelines.ingest import addresses
from mailmill.pipelines.send import mime
from mailmill.pipelines.send.messages import MISSING, Outgoing, Unrenderable
from mailmill.pipelines.send.ports import CampaignFacts
from mailmill.pipelines.send.tokens import NOBODY
from mailmill.pipelines.target import audiences, planning, variants
from mailmill.pipelines.target.lifecycle import UNPLANNED
from mailmill.pipelines.target.ports import Draft
from mailmill.pipelines.target.preflight import failures, told
from mailmill.pipelines.target.rereading import reread


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One message of a campaign, as things are now, everything signed as it would go out."""

    variant: str
    address: str
    note: str  # what a person has to know beside it; empty: nothing
    outgoing: Outgoing = field(repr=False)

    @property
    def headers(self) -> str:
        return self.outgoing.content.split(b"\r\n\r\n", 1)[0].decode().replace("\r\n", "\n")

    def _message(self) -> EmailMessage:
        found = message_from_bytes(self.outgoing.content, policy=policy)
        assert isinstance(found, EmailMessage)
        return found

    @property
    def subject(self) -> str:
        return str(self._message()["Subject"])

    def part(self, kind: str) -> str:
        """The text or the HTML, decoded. In: plain or html."""
        found = self._message().get_body((kind,))
        assert found is not None
        return str(found.get_content()).replace("\r\n", "\n")


def preview(mill: Installation, name: str, contact: str | None, *, to: str | None = None, mark: str = "") -> Shown:
    """The message of a campaign for a contact (the first of the tenant's when none is named); to another address when
    `to` is given, its subject marked.

    Raises: Misconfigured when campaign or contact do not exist, or the message cannot be made for this contact.
    """
    with mill.database.transaction() as conn:
        campaign = campaigns.find(conn, name)
        draft = campaigns.draft(conn, campaign)
        keys = signing_keys(conn)
    contents, content = _content(mill, draft)
    for one in content["variants"]:
        one["subject"] = mark + one["subject"]
        if to is not None:  # of a campaign that has not begun no link of ours leads anywhere yet
            one["links"] = []
    person = reread(lambda: _person(mill, draft, contents, contact))
    made = composer(keys, _facts(draft), content, mill.secret)
    values = [MISSING if person[f] is None else str(person[f]).encode() for f in content["merge_fields"]]
    number = int(person["variant"])
    address = to or str(person["email"])
    date = mime.date(datetime.now(UTC))
    try:
        outgoing = made.compose(NOBODY, address.encode(), values, date, number)
    except (Unrenderable, ValueError) as error:
        raise Misconfigured(
            str(error),
            place=f"campaign {name}",
            remedy='Of a value that is missing: give it a default, {{ field | default("…") }}.',
        ) from None
    return Shown(variant=contents.variants[number].label, address=address, note=_note(campaign), outgoing=outgoing)


def _note(campaign: campaigns.Campaign) -> str:
    if campaign.state in (*UNPLANNED, "planning"):
        return ""
    return (
        f"{campaign.name} is {campaign.state}: its messages were frozen at its start, this one is of today's template"
    )


def _facts(draft: Draft) -> CampaignFacts:
    return CampaignFacts(
        id=draft.campaign_id, tenant_id=draft.tenant_id, name=draft.name, transport_id=draft.transport_id or 0,
        ends_at=None,
    )  # fmt: skip


def _content(mill: Installation, draft: Draft) -> tuple[variants.Contents, dict[str, Any]]:
    spec = CampaignSpec.model_validate(dict(draft.spec))
    if draft.identity is None:
        raise Misconfigured(f"there is no identity {draft.tenant}/{spec.identity}", remedy="Apply it.")
    contents = variants.given(spec.shares, draft.templates, draft.tenant)
    return contents, planning.content(draft, spec, contents, draft.identity, mill.public_url)


def _person(mill: Installation, draft: Draft, contents: variants.Contents, contact: str | None) -> dict[str, Any]:
    """The contact's address, merge fields and variant."""
    generation = PostgresContacts(database=mill.database, lake=mill.lake).generation(draft.tenant_id)
    if generation is None:
        raise planning.no_contacts(draft.tenant)
    wanted = pl.col("email").is_not_null()
    if contact is not None:
        key = addresses.check(contact).address_key or contact
        wanted &= (pl.col("match_key") == key) | pl.col("aliases").list.contains(key).fill_null(False)
    fields = [audiences.merge_value(name).alias(f"field:{name}") for name in contents.facts.merge_fields]
    found = (
        generation.contacts.filter(wanted).head(1)
        .select("email", contents.choice(draft.campaign_id).alias("variant"), *fields).collect()
    )  # fmt: skip
    if not found.height:
        raise Misconfigured("no contact has this address", place="--contact")
    return {name.removeprefix("field:"): value for name, value in found.row(0, named=True).items()}


def test_send(mill: Installation, name: str, address: str, contact: str | None) -> tuple[Shown, Step, str]:
    """Hand one marked message of a campaign to its transport. Out: what was sent, the step that ended it, and what a
    preflight says of the identity, empty when nothing.

    Raises: Misconfigured for an address that is none or is suppressed, and as `preview` does.
    """
    found = addresses.check(address)
    if found.address is None:
        raise Misconfigured(f"{address!r} is no address: {found.verdict_reason}", place="ADDRESS")
    with mill.database.transaction() as conn:
        draft = campaigns.draft(conn, campaigns.find(conn, name))
        transport = transports.find(conn, f"{draft.tenant}/{draft.spec['transport']}")
        if transports.suppressed(conn, draft.tenant_id, found.address_key or ""):
            raise Misconfigured("this address is suppressed and gets no mail", place="ADDRESS")
    planning.check_public_url(draft, mill.public_url)
    shown = preview(mill, name, contact, to=found.address, mark="[Test] ")
    step = hand_over(SmtpConfig.of(transport.kind, transport.spec, mill.secret), shown.outgoing)[-1]
    return shown, step, "" if transport.kind == "sandbox" else _preflight(mill, draft)


def _preflight(mill: Installation, draft: Draft) -> str:
    """Why the campaign would not start, or what a person should know all the same. A test goes out in any case."""
    try:
        findings = mill.preflight.findings(IdentitySpec.model_validate(dict(draft.identity or {})))
    except MailmillError as error:
        return str(error)
    wrong = failures(findings)
    return f"the campaign will not start: {wrong}" if wrong else told(findings, "warning")
