"""One way out: what waits for it, its connections, and what its answers mean. A Desk for its connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from mailmill.pipelines.send.answers import BEFORE_RECIPIENT, RUN_THAT_HOLDS, Answer, Decision, decide, masked
from mailmill.pipelines.send.batches import Item, Running
from mailmill.pipelines.send.connections import Connections
from mailmill.pipelines.send.envelopes import Envelope
from mailmill.pipelines.send.messages import Outgoing, Unrenderable
from mailmill.pipelines.send.notes import Notes
from mailmill.pipelines.send.ports import JournalFailed, Link, Relay, RouteFacts
from mailmill.pipelines.send.refusals import Refusals
from mailmill.pipelines.send.stock import Stock

RETURNS = 3  # a connection that breaks before the relay said a word is no attempt, so many times
GIVE_BACK_S = 2.0  # a relay that is away so long does not keep rows under our lease
MAX_BATCH, MIN_BATCH = 1000, 50
RUN_THAT_PAUSES = 20  # messages one behind the other that cannot be made, or are too big: it is the content


class House(Protocol):
    """What a route needs of the loop it belongs to."""

    def now(self) -> float: ...
    def at_ms(self) -> int: ...
    def date(self) -> bytes: ...
    def may_begin(self, now: float) -> bool: ...
    def may_start(self, now: float) -> bool: ...
    def hungry(self) -> None: ...
    def batch_over(self) -> None: ...
    def hold(self, route: Route, reason: str, provider: str | None = None) -> None: ...
    def pause(self, campaign: Running, reason: str) -> None: ...
    def journal_failed(self, error: JournalFailed) -> None: ...


class Route:
    """The transport's side of the loop. Only the event loop's thread touches it."""

    def __init__(
        self, facts: RouteFacts, relay: Callable[[RouteFacts], Relay], house: House, counts: Counter[str]
    ) -> None:
        self.facts, self._house, self._counts = facts, house, counts
        self.connections = Connections(self, facts, relay, now=house.now, counts=counts, refused=self._hold)
        self.stock = Stock(self.connections.wake, house.date)
        self._notes = Notes(house.journal_failed, lambda: house.may_start(house.now()))
        self.begun: set[Item] = set()  # taken, the body not handed over yet
        self.flying: set[Item] = set()  # handed over, not answered
        self.held = facts.held_reason
        self.held_for = dict(facts.held_for)
        self.batch_size = 200
        self.claimed_at = 0.0
        self._refusals = Refusals()
        self._unwritten = 0  # holds of ours that the database does not have yet
        self._held_known_at = 0.0
        self.wanted = True  # a running campaign goes this way

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """Per minute and per day; a sandbox has none."""
        if self.facts.kind == "sandbox":
            return None, None
        return self.facts.spec.get("per_minute"), self.facts.spec.get("per_day")

    @property
    def idle(self) -> bool:
        return not (len(self.stock) or self.begun or self.flying)

    @property
    def away(self) -> bool:
        """Whether its relay let nobody in when last asked, and no connection is left."""
        return self.wanted and self.connections.away

    @property
    def wants(self) -> bool:
        """Whether to claim for it: fewer wait than a batch's half, and its relay lets us in."""
        if self.held is not None or self.connections.away:
            return False
        return len(self.stock) < max(self.connections.most, self.batch_size // 2)

    def heard(self, facts: RouteFacts, asked: float) -> None:
        """What the database says of this transport; a changed spec is for what is begun from now on."""
        self.connections.heard(facts)
        self.facts, self.wanted = facts, True
        if self._unwritten or asked < self._held_known_at:
            return  # asked before all of our own holds were written
        if (self.held is not None and facts.held_reason is None) or self.held_for.keys() - facts.held_for.keys():
            self._refusals = Refusals()  # a person released it
        self.held, self.held_for = facts.held_reason, dict(facts.held_for)

    def hold_written(self, at: float) -> None:
        """A hold of ours stands in the database since `at`."""
        self._unwritten -= 1
        self._held_known_at = at

    def next_batch(self) -> int:
        """The size of the next claim: some seconds of work, learnt from how fast the last one went."""
        now = self._house.now()
        if now - self.claimed_at < 1.0:
            self.batch_size = min(MAX_BATCH, self.batch_size * 2)
        elif now - self.claimed_at > 5.0:
            self.batch_size = max(MIN_BATCH, self.batch_size // 2)
        self.claimed_at = now
        return max(self.batch_size, 2 * self.connections.most)

    # ------------------------------------------------------------ Desk

    def take(self) -> Envelope | None:
        house, stock = self._house, self.stock
        now = house.now()
        if len(stock) < self.batch_size // 2:
            house.hungry()
        if self.held is not None or not house.may_begin(now):
            return None
        while (item := stock.take()) is not None:
            batch = item.batch
            if item.dropped:
                self._settle(item, Decision("suppressed", "suppressed"))
                continue
            held = bool(self.held_for) and item.provider in self.held_for
            if held or not batch.may_start(now):
                item.message = None
                batch.give_back([item], held=held)
                continue
            sent = item.message
            if not isinstance(sent, Outgoing):
                assert sent is not None
                self._settle(item, Decision("invalid", sent.reason), Answer("render", 0, str(sent)))
                self._unrendered(batch.campaign, sent)
                continue
            batch.campaign.unrendered = 0
            self.begun.add(item)
            utf8 = not sent.recipient.isascii()
            return Envelope(sent.return_path, sent.recipient, item, size=len(sent.content), utf8=utf8)
        return None

    def hand_over(self, envelope: Envelope) -> bytes | None:
        item = _item(envelope)
        now = self._house.now()
        if item.dropped or not item.batch.may_start(now) or not self._house.may_start(now):
            return None
        self._notes.add(item.batch, b"A %d" % item.id)
        self.begun.discard(item)
        self.flying.add(item)
        assert isinstance(item.message, Outgoing)
        return item.message.content

    def noted(self, link: Link) -> None:
        self._notes.release(link)

    def answered(self, envelope: Envelope, answer: Answer, connection: str) -> None:
        item = _item(envelope)
        self.begun.discard(item)
        self.flying.discard(item)
        if answer.code == 421 and answer.stage == "mail":  # it is about the connection, and nothing of the recipient
            self._unbegun(item, self.stock.put_behind)
            return
        attempt = item.attempt if answer.stage in BEFORE_RECIPIENT else item.tried
        decision = decide(answer, attempt=attempt, patience=item.batch.campaign.patience, spread=item.id)
        self._settle(item, decision, answer, connection)
        if decision.state == "sent":
            item.batch.campaign.too_big = 0
        elif decision.state == "failed" and decision.reason == "too_big":
            self._too_big(item.batch.campaign, f"{answer.code} {masked(answer.reply)}")
        if decision.holds_route:
            self._hold(f"{answer.code} at {answer.stage}: {masked(answer.reply)}")
        elif answer.stage in BEFORE_RECIPIENT:
            return  # a 4xx: says nothing of the recipient's provider
        elif decision.our_fault:
            if held := self._refusals.refused(item.provider):
                why = f"{RUN_THAT_HOLDS} refusals in a row, the last {decision.reason}: {masked(answer.reply)}"
                self._hold(why, item.provider if held == "provider" else None)
        elif self._refusals and answer.code:
            self._refusals.otherwise(item.provider)

    def unfit(self, envelope: Envelope, reason: str, why: str) -> None:
        item = _item(envelope)
        self.begun.discard(item)
        self._settle(item, Decision("invalid", reason), Answer("render", 0, why))
        if reason == "message_too_big":
            self._too_big(item.batch.campaign, why)

    def returned(self, envelope: Envelope) -> None:
        item = _item(envelope)
        self.begun.discard(item)
        self.flying.discard(item)
        item.returned += 1
        if item.returned > RETURNS and not item.dropped:
            self.answered(envelope, Answer("mail", 0, "the relay hung up before it answered"), "")
        else:
            self._unbegun(item, self.stock.put_back)

    def _unbegun(self, item: Item, put: Callable[[Item], None]) -> None:
        if item.dropped:
            self._settle(item, Decision("suppressed", "suppressed"))
        else:
            put(item)

    def closed(self, link: Link) -> None:
        self.connections.closed(link)

    # ------------------------------------------------------------ connections

    def tick(self, now: float) -> None:
        """Open what is missing, close what has waited too long, put away what may not start any more."""
        self.connections.tick()
        if self.held is None and self._house.may_begin(now):
            self.connections.wake()
            self.connections.open(now, len(self.stock), needed=self.wanted)

    def put_away(self, now: float, *, everything: bool = False) -> None:
        """Give back what waits and may not start: campaign stopped, lease or limit run out, route held or away."""
        failing = self.connections.failing_since
        unreachable = failing is not None and not self.connections.links and now - failing > GIVE_BACK_S
        gone = everything or unreachable or self.held is not None

        def unfit(item: Item) -> bool:
            return gone or not item.batch.may_start(now)

        for batch, items in self.stock.take_out(unfit).items():
            batch.give_back(items)

    def close(self) -> None:
        self.connections.close()
        self.stock.close()

    def abort(self) -> None:
        self.connections.abort()

    # ------------------------------------------------------------ results

    def _settle(self, item: Item, decision: Decision, answer: Answer | None = None, connection: str = "") -> None:
        self._counts[decision.state] += 1
        line = item.batch.settle(item, decision, answer, self._house.at_ms(), connection)
        if answer is not None and answer.stage != "render":
            self._notes.add(item.batch, b"R " + line)
        if not item.batch.left:
            self._house.batch_over()

    def _unrendered(self, campaign: Running, error: Unrenderable) -> None:
        campaign.unrendered += error.reason == "render_error"
        if campaign.unrendered >= RUN_THAT_PAUSES and campaign.stopped is None:
            self._house.pause(campaign, f"{campaign.unrendered} messages in a row cannot be made, the last: {error}")

    def _too_big(self, campaign: Running, why: str) -> None:
        campaign.too_big += 1
        if campaign.too_big >= RUN_THAT_PAUSES and campaign.stopped is None:
            self._house.pause(
                campaign, f"{campaign.too_big} messages in a row are too big for the relay, the last: {why}"
            )

    def _hold(self, reason: str, provider: str | None = None) -> None:
        if self.held is not None or provider in self.held_for:
            return
        if provider is None:
            self.held = reason
        else:  # what waits for it is given back when it is its turn
            self.held_for[provider] = reason
        self._unwritten += 1
        self._house.hold(self, reason, provider)


def _item(envelope: Envelope) -> Item:
    assert isinstance(envelope.tag, Item)
    return envelope.tag
