"""Planning: a due campaign becomes a frozen audience in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from mailmill.errors import MailmillError, Misconfigured, StoreUnavailable, TransientError
from mailmill.pipelines.configuration.sending import IdentitySpec
from mailmill.pipelines.configuration.specs import CampaignSpec, WindowSpec
from mailmill.pipelines.configuration.words import service_url
from mailmill.pipelines.send.mime import ascii_address
from mailmill.pipelines.target import audiences, recipients, segments, variants
from mailmill.pipelines.target.comparisons import RuleError
from mailmill.pipelines.target.identities import Preflight
from mailmill.pipelines.target.ports import Campaigns, Contacts, Draft, Frozen, Generation
from mailmill.pipelines.target.rereading import MAX_TRIES, reread


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What became of a campaign whose time had come."""

    campaign_id: int
    name: str
    state: Literal["running", "failed", "missed"]
    planned: int = 0
    exclusions: Mapping[str, int] | None = None
    reason: str | None = None
    error: Exception | None = None  # unforeseen; for the log of whoever called


def plan(
    campaign_id: int, *, campaigns: Campaigns, contacts: Contacts, preflight: Preflight, public_url: str, by: str
) -> Planned | None:
    """Freeze a due campaign and start it. Killed at any moment, it is taken up again and mails nobody twice.

    In:     public_url, under which the ingress is reached; https unless the transport is a sandbox.
    Out:    None when another planner has it, or it is not due (any more).
    Raises: StoreUnavailable; the campaign stays in planning and the next call takes it up.
    """
    with campaigns.planning(campaign_id, by=by) as draft:
        if draft is None:
            return None
        try:
            check_public_url(draft, public_url)  # before DNS is asked about its host
            warning = _check_identity(draft, preflight)
            for _ in range(MAX_TRIES):  # suppressions or a forget may overtake it
                decided = reread(lambda: decide(draft, contacts=contacts, public_url=public_url))
                frozen = replace(decided, warning=warning)
                state = campaigns.freeze(frozen, by=by)
                if state == "gone":
                    return None
                if state != "stale":
                    return _planned(frozen)
            raise StoreUnavailable("suppressions overtake the planning again and again; the next tick goes on")
        except TransientError:
            raise
        except MailmillError as error:
            campaigns.fail(campaign_id, str(error), by=by)
            return Planned(campaign_id=campaign_id, name=draft.name, state="failed", reason=str(error))
        except Exception as error:  # unforeseen is terminal: the campaign says so instead of being tried every minute
            reason = f"unforeseen: {type(error).__name__}; the log has the details"
            campaigns.fail(campaign_id, reason, by=by)
            return Planned(campaign_id=campaign_id, name=draft.name, state="failed", reason=reason, error=error)


def _check_identity(draft: Draft, preflight: Preflight) -> str | None:
    """Bulk mail of an identity that providers would refuse is not begun. A sandbox takes everything. Out: a warning."""
    if draft.transport_kind in (None, "sandbox") or draft.identity is None:
        return None
    return preflight.require(IdentitySpec.model_validate(dict(draft.identity))) or None


def _planned(frozen: Frozen) -> Planned:
    audience = frozen.audience
    return Planned(
        campaign_id=frozen.draft.campaign_id,
        name=frozen.draft.name,
        state="running",
        planned=audience.recipients.height,
        exclusions=audience.exclusions,
        reason=frozen.warning,
    )


def decide(draft: Draft, *, contacts: Contacts, public_url: str) -> Frozen:
    """Everything that is frozen with a campaign.

    Raises: Misconfigured with what a person has to correct, or because nobody would be mailed.
    """
    spec = CampaignSpec.model_validate(dict(draft.spec))
    identity = _given(draft, spec)
    contents = variants.given(spec.shares, draft.templates, draft.tenant)
    check_public_url(draft, public_url)
    selected = select(draft, contacts=contacts)
    audience = audiences.freeze(
        selected.judged,
        contents.facts,
        selected.generation.contacts,
        place=f"template {draft.tenant}/{'+'.join(spec.shares)}",
        choice=contents.choice(draft.campaign_id),
        bare=[one.facts.bare for one in contents.variants],
        unpublished=selected.unpublished,
    )
    if audience.empty_reason:  # a campaign is sent once, and this one would be over with nobody mailed
        raise Misconfigured(
            audience.empty_reason,
            remedy=f"`mailmill campaign recipients {draft.name}` counts them; start it again once there is somebody.",
        )
    return Frozen(
        draft=draft,
        content=content(draft, spec, contents, identity, public_url),
        links=contents.facts.links,
        audience=audience,
        as_of=selected.generation.as_of,
        erasures=selected.generation.erasures,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """Whom a campaign would be sent to at this moment, and who is left out."""

    generation: Generation
    judged: pl.DataFrame  # of the segment and added besides: see audiences.judged
    besides: int  # of them are not in the segment
    unpublished: int  # were added too, but are not in the generation

    @property
    def exclusions(self) -> dict[str, int]:
        return audiences.count(self.judged, self.unpublished)


def select(draft: Draft, *, contacts: Contacts) -> Selected:
    """The contacts of the campaign's segment and those a person added, judged by what is known now.

    Raises: Misconfigured when there is no segment or no contact, or the rule is wrong.
    """
    slug = CampaignSpec.model_validate(dict(draft.spec)).segment
    generation = contacts.generation(draft.tenant_id)
    if draft.segment is None:
        raise _missing(draft, "segment", slug)
    if generation is None:
        raise no_contacts(draft.tenant)
    try:
        members = segments.members(generation.contacts, draft.segment["rule"], draft.now)
    except RuleError as error:
        raise Misconfigured(str(error), place=f"segment {draft.tenant}/{slug}") from None
    candidates = recipients.choose(members, generation.contacts, contacts.chosen(draft.campaign_id))
    suppressions = contacts.suppressions(draft.tenant_id, draft.campaign_id)
    return Selected(
        generation=generation,
        judged=audiences.judged(candidates.contacts, suppressions, candidates.removed, generation.merge),
        besides=candidates.besides,
        unpublished=candidates.unpublished,
    )


def no_contacts(tenant: str) -> Misconfigured:
    return Misconfigured(f"tenant {tenant} has no contacts yet", remedy="Ingest a source first: `mailmill ingest`.")


def _missing(draft: Draft, kind: str, slug: str) -> Misconfigured:
    return Misconfigured(f"there is no {kind} {draft.tenant}/{slug}", remedy="Apply it, then schedule again.")


def _given(draft: Draft, spec: CampaignSpec) -> Mapping[str, Any]:
    for kind, slug, found in (
        ("segment", spec.segment, draft.segment),
        ("identity", spec.identity, draft.identity),
        ("transport", spec.transport, draft.transport_id),
    ):
        if found is None:
            raise _missing(draft, kind, slug)
    assert draft.identity is not None
    return draft.identity


def check_public_url(draft: Draft, public_url: str) -> None:
    """Raises: Misconfigured when people could not unsubscribe, or it cannot begin every link, in a header too."""
    try:
        if not service_url(public_url).isascii():
            raise ValueError("a domain beyond ASCII is written as punycode here: xn--…")
    except ValueError as error:
        raise Misconfigured(str(error), place="MAILMILL_PUBLIC_URL") from None
    if draft.transport_kind != "sandbox" and not public_url.startswith("https://"):
        raise Misconfigured(
            "without an https address for unsubscribing nothing is sent, except to a sandbox",
            place="MAILMILL_PUBLIC_URL",
            remedy="Set it to the https URL under which the ingress is reached from outside.",
        )


def content(
    draft: Draft, spec: CampaignSpec, contents: variants.Contents, identity: Mapping[str, Any], public_url: str
) -> dict[str, Any]:
    """The campaign's content as JSON: all that sending needs, so that no later edit reaches it (P06)."""
    sender = IdentitySpec.model_validate(dict(identity))
    facts, domain = contents.facts, ascii_address(sender.from_address).rpartition("@")[2]
    return {
        "merge_fields": list(facts.merge_fields),
        "variants": contents.frozen(),
        **sender.model_dump(
            mode="json",
            include={"from_name", "from_address", "reply_to", "return_path_domain", "unsubscribe_mailbox", "dkim"},
        ),
        "headers": _merged(sender.headers, spec.headers),
        "list_id": f"{spec.segment}.{draft.tenant}.{domain}",
        "postal_address": draft.postal_address,
        "tenant_name": draft.tenant_name,
        "public_url": public_url.rstrip("/"),
        "doubt": spec.doubt,
        "max_attempts": spec.max_attempts,
        "give_up_after_s": spec.give_up_after_s,
        "window": _window(spec.window, draft.time_zone),
        "sandbox": draft.transport_kind == "sandbox",
        "links": list(facts.links),
    }


def _merged(headers: Mapping[str, str], over: Mapping[str, str]) -> dict[str, str]:
    """A header's name has no case."""
    replaced = {name.lower() for name in over}
    return {**{name: value for name, value in headers.items() if name.lower() not in replaced}, **over}


def _window(window: WindowSpec | None, time_zone: str) -> dict[str, Any] | None:
    if window is None:
        return None
    return window.model_copy(update={"time_zone": window.time_zone or time_zone}).model_dump(mode="json")
