"""What the send loop needs from outside: the ledger, a journal on its own disk, relays.

Ledger calls block and run in a thread of their own; each is one transaction. Relay calls belong to the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from mailmill.errors import TransportUnavailable
from mailmill.pipelines.send.answers import Answer, Stage
from mailmill.pipelines.send.envelopes import Envelope
from mailmill.pipelines.send.orders import Claimed, Order, Window


class RouteRefused(TransportUnavailable):
    """The relay answered before any recipient was named: it is about us. A 5xx holds the route, a 4xx slows it."""

    def __init__(self, stage: Stage, code: int, reply: str) -> None:
        super().__init__(f"the relay refused at {stage}: {code} {reply}"[:300])
        self.stage, self.code, self.reply = stage, code, reply

    @property
    def permanent(self) -> bool:
        return self.code >= 500


class JournalFailed(TransportUnavailable):
    """An attempt cannot be written down, so it is not made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFacts:
    """A row of transports. `spec` is a TransportSpec as applied, its secrets still references."""

    id: int
    tenant_id: int
    name: str  # tenant/slug
    kind: str
    spec: Mapping[str, Any] = field(repr=False)
    held_reason: str | None = None
    held_for: Mapping[str, str] = field(default_factory=dict)  # provider -> why nothing goes there


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignFacts:
    """A campaign that is running."""

    id: int
    tenant_id: int
    name: str  # tenant/slug
    transport_id: int
    ends_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the database says now. `at` is its clock; campaigns and routes are None when nothing was asked of them."""

    number: int
    at: datetime
    campaigns: Sequence[CampaignFacts] | None = None
    routes: Sequence[RouteFacts] | None = None


class Follower(Protocol):
    """What changes while we send: suppressions, pauses, cancels, holds, releases."""

    def look(self, *, everything: bool) -> Look:
        """Raises: StoreUnavailable."""
        ...

    def suppressed(self, campaign_id: int, ids: Sequence[int]) -> set[int]:
        """Those of these messages that must not be started any more. Raises: StoreUnavailable."""
        ...


class Claims(Protocol):
    """Rows under leases. Every method raises StoreUnavailable, and is safe to repeat."""

    def content(self, campaign_id: int) -> Mapping[str, Any]:
        """The frozen content of a campaign."""
        ...

    def claim(self, order: Order) -> Claimed: ...

    def renew(self, tokens: Sequence[int], lease_s: float) -> set[int]:
        """Out: the tokens that are still ours. Also says that this worker lives."""
        ...

    def give_back(
        self, order: Order, ids: Sequence[int], reserved: Sequence[Window], *, held_for: Sequence[str] | None
    ) -> int:
        """Rows that were not started, back to the queue, and what they had reserved back to its windows.

        In: `held_for`, the provider of each, where they wait until it is released.
        """
        ...


class Results(Protocol):
    """What the ledger is told. Every method raises StoreUnavailable, and is safe to repeat."""

    def record(self, order: Order, lines: Sequence[bytes], *, resend_after_s: int | None, last: bool) -> int:
        """Results with their attempts and events, in one transaction; with `last` the lease ends.

        In: lines as Outcome.line makes them; resend_after_s None leaves doubts standing.
        Out: how many rows changed; fewer than lines means that the lease was lost.
        """
        ...

    def hold(self, transport_id: int, reason: str, provider: str | None) -> None:
        """Nothing is claimed for this transport until a person releases it; with a provider, nothing goes there."""
        ...

    def pause(self, campaign_id: int, reason: str) -> None:
        """The campaign waits until a person resumes it."""
        ...

    def note(self, worker: str, troubles: Mapping[str, str], doing: Mapping[str, Any]) -> None:
        """That this worker lives, what keeps it from sending and why (see Report), and what it is doing."""
        ...

    def settle(self, worker: str) -> Sequence[str]:
        """Cancel and expire what can no longer be sent, finish what is done. Out: names of campaigns finished."""
        ...


class Idleness(Protocol):
    def next_due_s(self, campaign_ids: Sequence[int]) -> float | None:
        """Seconds until the next deferred message of these campaigns is due; None: there is none."""
        ...


class Ledger(Claims, Results, Idleness, Protocol):
    def give_back_all(self, token: int) -> int:
        """The rows of a claim whose commit was not acknowledged."""
        ...


class BatchJournal(Protocol):
    """The attempts of one claimed batch, on disk before they are made."""

    def append(self, lines: bytes) -> None:
        """In: without the last line's end. Raises: JournalFailed; then nothing may be handed over any more."""
        ...

    def remove(self) -> None:
        """The whole batch stands in the ledger."""
        ...


class Journal(Protocol):
    def open(self, token: int) -> BatchJournal:
        """Raises: JournalFailed."""
        ...


class Desk(Protocol):
    """The send loop as a connection sees it."""

    def take(self) -> Envelope | None:
        """The next message to begin, None when there is none (the desk wakes the link when there is)."""
        ...

    def hand_over(self, envelope: Envelope) -> bytes | None:
        """The content; it waits for `noted`. None when it must not go any more: then drop the connection."""
        ...

    def noted(self, link: Link) -> None:
        """Call back `release` once what was handed over is written down as attempted, or cannot be."""
        ...

    def answered(self, envelope: Envelope, answer: Answer, connection: str) -> None: ...

    def unfit(self, envelope: Envelope, reason: str, why: str) -> None:
        """This relay can never take it; it was not begun. In: the ledger's reason, and words."""
        ...

    def returned(self, envelope: Envelope) -> None:
        """Not begun as far as the relay is concerned."""
        ...

    def closed(self, link: Link) -> None: ...


class Link(Protocol):
    """One open connection to a relay.

    `turned_away`: its words when, before it took a message, it said 421, or 4xx to MAIL about itself (X.3.x, 452).
    """

    used: bool  # a message was taken over it
    turned_away: str | None

    def wake(self) -> bool:
        """There may be something to take. Out: whether it began something now."""
        ...

    def release(self, noted: bool) -> None:
        """What waits for the journal may go out; where it was not noted in time, nothing was handed over."""
        ...

    def tick(self) -> None:
        """Close what has waited too long: for the relay's answer, or for something to do."""
        ...

    def close(self) -> None:
        """Finish what is under way, then leave."""
        ...

    def abort(self) -> None: ...


class Relay(Protocol):
    """Opens connections to one relay."""

    async def open(self, desk: Desk, name: str) -> Link:
        """A link that has taken its first message, if there is one.

        Raises: RouteRefused by the relay's answer, TransportUnavailable when it does not answer.
        """
        ...
