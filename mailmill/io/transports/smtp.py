"""SMTP relays: connecting by aiosmtplib (TLS, STARTTLS, AUTH, EHLO), then our own exchange on that connection.

A connection that timed out is never used again: its late reply would be taken for the next message's. `tls: required`
never falls back to the clear; `opportunistic` takes TLS where it is offered and does not look at the certificate.

Source: RFC 5321, RFC 3207 (STARTTLS), RFC 2920 (pipelining); time-outs RFC 5321 section 4.5.3.2.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import aiosmtplib

from mailmill.errors import TransportUnavailable
from mailmill.pipelines.send.exchange import Answered, Broken, Envelope, Event, Exchange, Idle, Ready
from mailmill.pipelines.send.ports import Desk, RouteRefused

IDLE_S = 20.0  # a connection with nothing to do is closed, long before the relay would


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpConfig:
    """A TransportSpec with its secret resolved."""

    host: str
    port: int
    tls: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    messages_per_connection: int = 1000
    timeout_s: float = 60.0
    final_dot_timeout_s: float = 600.0

    @staticmethod
    def of(kind: str, spec: Mapping[str, Any], secret: Callable[[str], str]) -> SmtpConfig:
        """Raises: Misconfigured when the password's reference leads nowhere."""
        sandbox = kind == "sandbox"  # on loopback, in the clear
        password = spec.get("password")
        return SmtpConfig(
            host=spec.get("host", "127.0.0.1"),
            port=int(spec.get("port", 587)),
            tls="none" if sandbox else spec.get("tls", "required"),
            username=spec.get("username"),
            password=secret(password) if password else None,
            messages_per_connection=int(spec.get("messages_per_connection", 1000)),
            timeout_s=float(spec.get("timeout_s", 60)),
            final_dot_timeout_s=float(spec.get("final_dot_timeout_s", 600)),
        )


class SmtpRelay:
    """Relay over SMTP."""

    def __init__(self, config: SmtpConfig) -> None:
        self._config = config

    async def open(self, desk: Desk, name: str) -> SmtpLink:
        config = self._config
        try:
            client = await self._connected()
        except aiosmtplib.SMTPResponseException as error:
            raise RouteRefused("banner", error.code, str(error.message)) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _unavailable(config, error) from error
        transport = cast("asyncio.Transport | None", client.transport)  # uvloop's is no subclass of it
        if transport is None or transport.is_closing():
            raise TransportUnavailable(f"the relay {config.host}:{config.port} hung up")
        link = SmtpLink(desk, config, name, pipelining=client.supports_extension("pipelining"))
        link.connection_made(transport)
        transport.set_protocol(link)
        return link

    async def _connected(self) -> aiosmtplib.SMTP:
        """A client that has said EHLO, over TLS and with AUTH as configured."""
        config = self._config
        client = aiosmtplib.SMTP(
            hostname=config.host,
            port=config.port,
            timeout=config.timeout_s,
            use_tls=config.tls == "implicit",
            start_tls=False,
            local_hostname=_hello_name(),
        )
        try:
            await client.connect()
            await self._hello(client)
            if config.tls in ("required", "opportunistic"):
                client = await self._secured(client)
            if config.username is not None:
                await self._authenticated(client)
        except BaseException:
            client.close()
            raise
        return client

    @staticmethod
    async def _hello(client: aiosmtplib.SMTP) -> None:
        try:
            await client.ehlo()
        except aiosmtplib.SMTPHeloError as error:
            if error.code not in (500, 502, 504):
                raise RouteRefused("ehlo", error.code, str(error.message)) from error
            try:
                await client.helo()
            except aiosmtplib.SMTPHeloError as again:
                raise RouteRefused("ehlo", again.code, str(again.message)) from again

    async def _secured(self, client: aiosmtplib.SMTP) -> aiosmtplib.SMTP:
        config = self._config
        required = config.tls == "required"
        if not client.supports_extension("starttls"):
            if required:
                raise RouteRefused("starttls", 530, "the relay does not offer STARTTLS and tls is required")
            return client
        context = ssl.create_default_context()
        if not required:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            await client.starttls(tls_context=context)
        except aiosmtplib.SMTPResponseException as error:
            if required:
                raise RouteRefused("starttls", error.code, str(error.message)) from error
            return client
        await self._hello(client)
        return client

    async def _authenticated(self, client: aiosmtplib.SMTP) -> None:
        config = self._config
        try:
            await client.login(config.username or "", config.password or "")
        except aiosmtplib.SMTPResponseException as error:
            raise RouteRefused("auth", error.code, str(error.message)) from error
        except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError):
            raise
        except aiosmtplib.SMTPException as error:  # none offered, or none of ours
            raise RouteRefused("auth", 530, str(error)) from error


def _unavailable(config: SmtpConfig, error: BaseException) -> TransportUnavailable:
    """A certificate that does not hold is a fault a person has to mend; anything else may pass."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return RouteRefused("starttls", 554, f"the certificate does not hold: {cause.verify_message}")
        cause = cause.__cause__ or cause.__context__
    return TransportUnavailable(f"the relay {config.host}:{config.port} does not answer: {error}")


def _hello_name() -> str:
    name = socket.gethostname()
    return name if "." in name else f"{name}.localdomain"


class SmtpLink(asyncio.Protocol):
    """One connection after EHLO: drives an Exchange for a Desk."""

    def __init__(self, desk: Desk, config: SmtpConfig, name: str, *, pipelining: bool) -> None:
        self._desk, self._config, self._name = desk, config, name
        self._exchange = Exchange(pipelining=pipelining)
        self._now = time.monotonic
        self._transport: asyncio.Transport | None = None
        self._left = config.messages_per_connection
        self._deadline = self._now() + IDLE_S
        self._closing = self._lost = self._resting = False
        self._why = "the connection was lost"

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        now = self._now()
        events = self._exchange.receive(data, now)
        for event in events:
            self._event(event, now)
            if self._lost:
                return
        if events or self._exchange.out:
            self._flush(now)

    def eof_received(self) -> bool:
        self._why = "the relay closed the connection"
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(self._why if exc is None else f"{self._why}: {exc}")

    # ------------------------------------------------------------ Link

    def wake(self) -> None:
        if self._lost:
            self._desk.closed(self)
        elif not self._exchange.busy:
            now = self._now()
            self._begin(now)
            self._flush(now)

    def tick(self) -> None:
        if self._lost or self._now() <= self._deadline:
            return
        if self._exchange.busy:
            self._why = f"no answer at {self._exchange.stage} in time"
            self.abort()
        else:
            self._leave()

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
        match event:
            case Ready(envelope):
                if not self._exchange.broken:
                    self._hand_over(envelope, now)
            case Answered(envelope, answer):
                self._desk.answered(envelope, answer, self._name)
            case Idle():
                self._begin(now)
            case Broken(why):
                self._why = why
                self.abort()

    def _hand_over(self, envelope: Envelope, now: float) -> None:
        content = self._desk.hand_over(envelope)
        if content is None:  # nothing but hanging up keeps the relay from taking an empty message
            for begun, _, _ in self._exchange.unanswered("given up"):
                self._desk.returned(begun)
            self.abort()
            return
        following = self._take() if self._exchange.pipelining else None
        self._exchange.body(content, following, now)

    def _take(self) -> Envelope | None:
        if self._closing or self._left <= 0:
            return None
        envelope = self._desk.take()
        if envelope is not None:
            self._left -= 1
        return envelope

    def _begin(self, now: float) -> None:
        envelope = self._take()
        if envelope is not None:
            self._exchange.begin(envelope, now)
            self._resting = False
        elif self._closing or self._left <= 0:
            self._leave()
        elif not self._resting:
            self._resting, self._deadline = True, now + IDLE_S

    def _flush(self, now: float) -> None:
        out = self._exchange.out
        if out and self._transport is not None and not self._lost:
            self._transport.write(bytes(out))
            out.clear()
        if self._exchange.busy:
            at_dot = self._exchange.stage == "dot"
            self._deadline = now + (self._config.final_dot_timeout_s if at_dot else self._config.timeout_s)

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
            if answer.code == 0 and not heard:
                self._desk.returned(envelope)
            else:
                self._desk.answered(envelope, answer, self._name)
        self._desk.closed(self)
