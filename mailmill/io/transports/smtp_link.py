"""One open connection to an SMTP relay, after EHLO: drives an Exchange for a Desk.

A connection that timed out is never used again: its late reply would be taken for the next message's.

Source: time-outs RFC 5321 section 4.5.3.2; SIZE RFC 1870; SMTPUTF8 RFC 6531.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import cast

from mailmill.io.transports.smtp_config import SmtpConfig
from mailmill.pipelines.send.answers import Answer
from mailmill.pipelines.send.envelopes import Envelope, Offers
from mailmill.pipelines.send.exchange import Exchange
from mailmill.pipelines.send.exchange_events import Answered, Event, Idle, Ready
from mailmill.pipelines.send.ports import Desk

IDLE_S = 20.0  # a connection with nothing to do is closed, long before the relay would
HIGH_WATER, LOW_WATER = 2**16, 2**14  # bytes that wait for the socket; an envelope is always shorter than the lower


class SmtpLink(asyncio.Protocol):
    """One connection after EHLO: drives an Exchange for a Desk."""

    def __init__(self, desk: Desk, config: SmtpConfig, name: str, offers: Offers) -> None:
        self._desk, self._config, self._name, self._offers = desk, config, name, offers
        self._exchange = Exchange(offers)
        self._now = time.monotonic
        self._transport: asyncio.Transport | None = None
        self._left = config.messages_per_connection
        self._since = self._now()  # it was last heard of, or began to rest
        self._closing = self._lost = self._resting = self._clogged = False
        self._held = False  # a body waits here for the journal, and what comes behind it
        self.gone = asyncio.Event()  # nothing is left of the connection, not the goodbye of TLS either
        self.used = False
        self.turned_away: str | None = None
        self._why = "the connection was lost"

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)  # uvloop's own lower one is 16 bytes

    def data_received(self, data: bytes) -> None:
        now, exchange = self._now(), self._exchange
        due = exchange.due
        for event in exchange.receive(data, now):
            self._event(event, now)
            if self._lost:
                return
        if exchange.out or exchange.due != due:
            self._flush(now)

    def pause_writing(self) -> None:
        self._clogged = True  # more than LOW_WATER waits: not only the next envelope, the final dot before it as well

    def resume_writing(self) -> None:
        self._clogged = False

    def eof_received(self) -> bool:
        self._why = "the relay closed the connection"
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(self._why if exc is None else f"{self._why}: {exc}")
        self.gone.set()

    # ------------------------------------------------------------ Link

    def wake(self) -> bool:
        if self._lost:
            self._desk.closed(self)
        elif not self._exchange.busy:
            now = self._now()
            self._begin(now)
            self._flush(now)
            return self._exchange.busy
        return False

    def release(self, noted: bool) -> None:
        if self._lost:
            return
        if noted:
            self._held = False
            self._flush(self._now())
        else:
            self._give_up()

    def tick(self) -> None:
        if self._lost:
            return
        passed, exchange = self._now() - self._since, self._exchange
        if not exchange.busy:
            if passed > IDLE_S:
                self._leave()
        elif passed > self._config.patience_s(exchange.stage):
            self._why = f"no answer at {exchange.stage} in time"
            self.abort()

    def close(self) -> None:
        self._closing = True
        if not self._lost and not self._exchange.busy:
            self._leave()

    def abort(self) -> None:
        """Drop the connection now. What is after its final dot stays in doubt."""
        transport = self._transport
        self._lose(self._why)
        if transport is not None:
            transport.abort()

    # ------------------------------------------------------------ the exchange

    def _event(self, event: Event, now: float) -> None:
        if isinstance(event, Ready):
            if not self._exchange.broken:
                self._hand_over(event.envelope, now)
        elif isinstance(event, Answered):
            answer = event.answer
            not_now = answer.stage == "mail" and _says_of_itself(answer)
            if not self.used and (not_now or answer.code == 421):
                self.turned_away = f"{answer.code} {answer.reply}"
            self._closing = self._closing or not_now
            self.used = self.used or (answer.stage == "dot" and answer.code == 250)
            self._desk.answered(event.envelope, answer, self._name)
        elif isinstance(event, Idle):
            if not self._exchange.broken:  # 421 right behind the answer
                self._begin(now)
        else:
            self._why = event.why
            self.abort()

    def _hand_over(self, envelope: Envelope, now: float) -> None:
        content = self._desk.hand_over(envelope)
        if content is None:  # nothing but hanging up keeps the relay from taking an empty message
            self._give_up()
            return
        following = self._take() if self._offers.pipelining else None
        self._exchange.body(content, following, now)
        self._held = True

    def _take(self) -> Envelope | None:
        while not self._closing and self._left > 0:
            envelope = self._desk.take()
            if envelope is None:
                return None
            unfit = self._offers.unfit(envelope)
            if unfit is None:
                self._left -= 1
                return envelope
            self._desk.unfit(envelope, *unfit)
        return None

    def _begin(self, now: float) -> None:
        envelope = self._take()
        if envelope is not None:
            self._exchange.begin(envelope, now)
            self._resting = False
        elif self._closing or self._left <= 0:
            self._leave()
        elif not self._resting:
            self._resting, self._since = True, now

    def _give_up(self) -> None:
        """Drop the connection; what was under way was not handed over."""
        for begun, _, _ in self._exchange.unanswered("given up"):
            self._desk.returned(begun)
        self.abort()

    def _flush(self, now: float) -> None:
        exchange = self._exchange
        if self._held:
            self._desk.noted(self)
        elif exchange.out and self._transport is not None and not self._lost:
            self._transport.write(exchange.out)
            exchange.out = b""
        if exchange.busy:
            self._since = now

    def _leave(self) -> None:
        """Say goodbye; nothing is under way."""
        transport = self._transport
        self._lose("closed")
        if transport is not None:
            with suppress(OSError, RuntimeError):
                transport.write(b"QUIT\r\n")
            transport.close()

    def _lose(self, why: str) -> None:
        if self._lost:
            return
        self._lost, self._transport = True, None
        for envelope, answer, heard in self._exchange.unanswered(why):
            if answer.stage == "dot" and (self._clogged or self._held):
                answer = answer._replace(stage="data")  # the final dot is still here: nothing was handed over
            if answer.code == 0 and not heard:
                self._desk.returned(envelope)
            else:
                self._desk.answered(envelope, answer, self._name)
        self._desk.closed(self)


def _says_of_itself(answer: Answer) -> bool:
    """Whether a 4xx is about the relay, so that the next would be too.

    Source: RFC 3463 section 3.4: X.3, as 452 is without a code; but X.3.4 is about how big this message is.
    """
    enhanced = answer.enhanced or ("4.3.1" if answer.code == 452 else "")
    return answer.code == 421 or (enhanced.startswith("4.3.") and enhanced != "4.3.4")
