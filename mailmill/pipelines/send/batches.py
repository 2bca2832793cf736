"""What a worker holds: campaigns that run, batches of rows under a lease, one item a message.

Times without a date are seconds of the loop's clock, which also runs while the machine sleeps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from mailmill.pipelines.configuration.specs import WindowSpec
from mailmill.pipelines.send.answers import SANDBOX_PATIENCE, Answer, Decision, Patience, masked
from mailmill.pipelines.send.messages import Composer, Outgoing, Unrenderable
from mailmill.pipelines.send.orders import FIELD, LINE, Order, Outcome, Window
from mailmill.pipelines.send.ports import BatchJournal, CampaignFacts
from mailmill.pipelines.target.windows import opening

logger = logging.getLogger(__name__)
FOR_EVER_S = 365 * 86400.0


@dataclass(slots=True, eq=False)
class Running:
    """A campaign of which this worker sends. Nothing of it starts at or after `until`."""

    facts: CampaignFacts
    composer: Composer
    content: Mapping[str, Any] = field(repr=False)
    until: float = 0.0
    dry_until: float = 0.0  # nothing was claimable: ask again then
    limited_s: float = 0.0  # how long the limit that stopped the last claim lasts
    unrendered: int = 0  # messages that could not be made, one behind the other
    too_big: int = 0  # messages that the relay found too big, since it took one
    stopped: float | None = None  # by us: since when the database has the pause, infinite until then

    patience: Patience = field(init=False)

    def __post_init__(self) -> None:
        base = SANDBOX_PATIENCE if self.sandbox else Patience()
        most = int(self.content.get("max_attempts") or base.max_attempts)
        self.patience = replace(base, max_attempts=most)

    @property
    def sandbox(self) -> bool:
        return bool(self.content.get("sandbox"))

    @property
    def resend_after_s(self) -> int | None:
        """When a doubt is sent again; None: never by itself."""
        return self.patience.first_s if self.content.get("doubt") == "resend" else None

    @property
    def window(self) -> WindowSpec | None:
        """The hours in which messages may start; to a sandbox every hour is open."""
        given = None if self.sandbox else self.content.get("window")
        return None if given is None else WindowSpec.model_validate(given)

    def set_until(self, at: datetime, asked: float) -> None:
        """In: at is the database's time, of a question asked at `asked` on the loop's clock."""
        now = opening(self.window, at)
        ends = [end for end in (now.changes_at, self.facts.ends_at) if end is not None]
        left_s = min([(end - at).total_seconds() for end in ends], default=FOR_EVER_S)
        self.until = asked + left_s if now.open and left_s > 0 and self.stopped is None else 0.0


@dataclass(slots=True, eq=False)
class Item:
    """One message that is to be sent."""

    batch: Batch
    id: int
    contact: int
    attempt: int
    tried: int  # of the attempts those that came to the recipient; both with this one
    variant: int  # of the campaign's contents
    known_provider: bytes  # who runs the mailbox; empty: nobody knows
    address: bytes
    values: list[bytes]
    message: Outgoing | Unrenderable | None = None  # as it goes on the wire, or why it cannot
    returned: int = 0
    dropped: bool = False  # suppressed since it was claimed

    @property
    def provider(self) -> str:
        """Who runs the mailbox, where that is known, else its domain."""
        return (self.known_provider or self.address.rpartition(b"@")[2]).decode("utf-8", "replace").lower()


@dataclass(slots=True, eq=False)
class Batch:
    """Rows under one lease. It is over when every item is settled and stands in the ledger."""

    order: Order
    campaign: Running
    journal: BatchJournal
    until: float  # of the lease, with a margin: nothing starts after it
    budget_until: float  # of what was reserved of the transport's limits
    reserved: Sequence[Window] = ()
    left: int = 0  # items not settled
    lines: list[bytes] = field(default_factory=list)  # results that the ledger does not have yet
    back: list[int] = field(default_factory=list)  # rows to give back
    held: dict[int, str] = field(default_factory=dict)  # rows to give back whose provider is held, and that
    notes: list[bytes] = field(default_factory=list)  # lines that the journal does not have yet
    lost: bool = False

    def items(self, rows: bytes) -> list[Item]:
        found = []
        for row in rows.split(LINE) if rows else ():
            id, contact, attempt, tried, variant, provider, address, *values = row.split(FIELD)
            if not self.campaign.composer.fields:
                values = []
            found.append(
                Item(self, int(id), int(contact), int(attempt), int(tried), int(variant), provider, address, values)
            )
        self.left += len(found)
        return found

    def settle(self, item: Item, decision: Decision, answer: Answer | None, at_ms: int, connection: str) -> bytes:
        """Keep what became of an item for the ledger. Out: the line of it, as the journal takes it too."""
        outcome = Outcome(item.id, decision.state, decision.reason, decision.retry_s, answer, at_ms, connection)
        line = outcome.line(masked(answer.reply) if answer else "")
        self.lines.append(line)
        self.left -= 1
        level = logging.DEBUG if decision.state == "sent" else logging.INFO
        if logger.isEnabledFor(level):
            self._log(level, item, decision, answer, connection)
        item.message = None
        return line

    def _log(self, level: int, item: Item, decision: Decision, answer: Answer | None, connection: str) -> None:
        """By ids only: a campaign, a message or a contact can be followed, and nobody is named."""
        facts = {"tenant_id": self.campaign.facts.tenant_id, "campaign_id": self.campaign.facts.id,
                 "campaign": self.campaign.facts.name, "message_id": item.id, "contact_id": item.contact,
                 "attempt": item.attempt, "reason": decision.reason, "connection": connection}  # fmt: skip
        if answer is not None:
            facts |= {"stage": answer.stage, "code": answer.code, "latency_ms": answer.latency_ms}
        logger.log(level, decision.state, extra=facts)

    def give_back(self, items: Sequence[Item], *, held: bool = False) -> None:
        """Items that were not started."""
        self.left -= len(items)
        if self.lost:
            return
        if held:
            self.held |= {item.id: item.provider for item in items}
        else:
            self.back.extend([item.id for item in items])

    def may_start(self, now: float) -> bool:
        return now < self.until and now < self.budget_until and now < self.campaign.until

    @property
    def settled(self) -> bool:
        return not (self.left or self.lines or self.back or self.held)
