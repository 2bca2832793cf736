"""Why one person was or was not mailed, and where they came from: values, and the decisions about them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mailmill.pipelines.ingest.contacts import PLAIN_FIELDS, TAG, winner
from mailmill.pipelines.ingest.validation import FIELD

PRECEDENCE = ("forgotten", "complained", "unsubscribed", "bounced", "manual", "imported")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NOT_MAILED = {
    "not_planned": "the campaign has no audience yet",
    "came_later": "the contact came after the audience was frozen",
    "not_in_segment": "not in the campaign's segment, as it stands now",
    "no_email": "has no e-mail address",
    "invalid": "the address is not valid",
    "consent_withdrawn": "has withdrawn their consent",
    "withdrawn": "every source of the contact has taken it back",
    "removed": "a person took the contact out of this campaign",
    "unpublished": "was added by a person and was not published yet",
    "not_in_audience": "not in the frozen audience; the segment has changed since, or the person is mailed, or was "
    "suppressed, under another of their addresses",
    **{reason: f"was suppressed before: {reason}" for reason in PRECEDENCE},
}
STATES = {
    "queued": "waits for its turn",
    "leased": "a worker has it in hand",
    "deferred": "was put off and is tried again when it is due",
    "held": "waits because its route is held",
    "sent": "a relay took it",
    "failed": "the relay refused it for good",
    "invalid": "could not be made or addressed",
    "suppressed": "was suppressed after the audience was frozen",
    "cancelled": "its campaign was cancelled first",
    "expired": "its campaign's time ran out first",
    "in_doubt": "the link broke after it was handed over: nobody knows whether the relay has it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One source that named the contact; first and last batch by where they came from."""

    source: str
    kind: str
    first_seen: datetime
    last_seen: datetime
    first_from: str | None
    last_from: str | None
    withdrawn: bool = False  # it has the contact no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value of the contact and whose word it is: the highest priority wins, then the latest sighting."""

    field: str
    value: str
    source: str | None
    priority: int
    seen_at: datetime | None  # None, with the batch: nobody is known to have said it
    batch_id: int | None
    origin: str | None


@dataclass(frozen=True, slots=True)
class LastWord:
    """Since when a source has said of a contact what it says now, and when it last did. Epoch microseconds."""

    said_us: int
    said_batch: int
    last_us: int
    last_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    reason: str
    campaign_id: int | None  # None: for the whole tenant, or for every one
    created_at: datetime
    expires_at: datetime | None
    note: str | None
    scope: str = "tenant"  # campaign, tenant, all
    address: str | None = None  # which of the person's


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignFacts:
    """A campaign as far as it matters here. `in_segment` None: the segment is not materialized."""

    id: int
    campaign: str
    state: str
    segment: str
    as_of: datetime | None
    started_at: datetime | None
    planned: int | None
    in_segment: bool | None = None
    by_hand: bool | None = None  # a person added the contact (true) or took it out (false)


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What a campaign did about the contact. `message` is its ledger row, None when there is none."""

    campaign: str
    campaign_state: str
    mailed: bool
    code: str
    why: str
    message: Mapping[str, Any] | None
    attempts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Everything known about one contact of one tenant. `contact` None: only a suppression or a message is left.

    aliases: the person's other addresses and numbers by the tenant's rule; what is suppressed of them counts as well.
    consent: the lawful basis in force; 'withdrawn' where the person has said so by any of them.
    """

    asked: str
    tenant: str
    contact: Mapping[str, Any] | None
    sources: Sequence[Sighting]
    values: Sequence[Value]
    suppressions: Sequence[Suppression]
    campaigns: Sequence[Story]
    aliases: Sequence[str] = ()
    consent: str | None = None


def values(
    contact: Mapping[str, Any], words: Mapping[int, LastWord], sources: Mapping[int, str], origins: Mapping[int, str]
) -> list[Value]:
    """The contact's values with the claim that won each of them (`contacts.provenance`), as it counts now.

    In: last words by source id, names of sources and origins of batches by id.
    """
    found = []
    for field, value in _held(contact):
        claim = winner(contact["provenance"], field)
        priority, seen_us, source_id, batch_id = claim or (0, None, None, None)
        word = words.get(source_id) if source_id is not None else None
        if word is not None and (word.said_us, word.said_batch) <= (seen_us, batch_id):
            seen_us, batch_id = word.last_us, word.last_batch
        found.append(
            Value(
                field=field,
                value=value,
                source=sources.get(source_id) if source_id is not None else None,
                priority=priority,
                seen_at=_EPOCH + timedelta(microseconds=seen_us) if seen_us is not None else None,
                batch_id=batch_id,
                origin=origins.get(batch_id) if batch_id is not None else None,
            )
        )
    return found


def _held(contact: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every value of the contact by its name in provenance, in order of the names."""
    held = {field: contact.get(field) for field in PLAIN_FIELDS}  # a verdict is nobody's word
    held |= {f"{FIELD}{name}": value for name, value in (contact.get("fields") or {}).items()}
    held |= {f"{TAG}{tag}": tag for tag in contact.get("tags") or ()}
    return [(field, str(value)) for field, value in sorted(held.items()) if value is not None]


def not_mailed(
    contact: Mapping[str, Any] | None,
    suppressions: Sequence[Suppression],
    campaign: CampaignFacts,
    sightings: Sequence[Sighting] = (),
    consent: str | None = None,
) -> tuple[str, str]:
    """Why a contact has no message in a campaign. Out: (code, sentence); see NOT_MAILED.

    Segment, sources and consent are judged as they stand now, suppressions as they stood when the audience was frozen.
    """
    code = _not_mailed(contact, suppressions, campaign)
    if code == "not_in_audience" and consent == "withdrawn":
        code = "consent_withdrawn"
    elif code == "not_in_audience" and sightings and all(one.withdrawn for one in sightings):
        code = "withdrawn"
    return code, NOT_MAILED[code]


def _not_mailed(contact: Mapping[str, Any] | None, suppressions: Sequence[Suppression], campaign: CampaignFacts) -> str:
    if campaign.planned is None:
        return "not_planned"
    frozen = campaign.started_at or campaign.as_of
    if contact is not None and campaign.as_of is not None and contact["created_at"] > campaign.as_of:
        return "came_later"
    if campaign.by_hand is False:
        return "removed"
    if contact is None or (campaign.in_segment is False and not campaign.by_hand):
        return "not_in_segment"
    if contact["email"] is None:
        return "no_email"
    if contact["verdict"] == "invalid":
        return "invalid"
    if frozen is not None:
        in_force = {
            item.reason
            for item in suppressions
            if item.campaign_id in (None, campaign.id)
            and item.created_at <= frozen
            and (item.expires_at is None or item.expires_at > frozen)
        }
        for reason in PRECEDENCE:
            if reason in in_force:
                return reason
    return "not_in_audience"


def mailed(message: Mapping[str, Any]) -> str:
    """What became of a message, in a sentence."""
    text = STATES[message["state"]]
    facts = [str(message[name]) for name in ("code", "reason") if message[name] is not None]
    if facts:
        text += f" ({' '.join(facts)})"
    if message["outcome"] != "none":
        text += f"; reported {message['outcome']}"
    for fact in ("opened", "clicked", "unsubscribed", "replied"):
        if message["facts"].get(fact):
            text += f"; {fact}"
    return text
