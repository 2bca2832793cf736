"""The relay: aiosmtpd with pipelining, answering by rules.

Source: RFC 5321 (SMTP), RFC 2920 (pipelining), RFC 2034 (enhanced codes), RFC 1870 (SIZE).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from mailmill.sandbox import letters
from mailmill.sandbox.log import Log
from mailmill.sandbox.rules import Defer, Reject, Rule, Rules

MAX_MESSAGE_BYTES = 25 * 2**20
MAX_LINE = 998  # RFC 5322 2.1.1; a relay that takes longer lines hides a fault of the sender
REMEMBERED_DEFERRALS = 1_000_000
_PLAIN = re.compile(r"<([^<>\s\"\\@]+@[^<>\s\"\\@]+)>\s*(.*)")

# a message that was taken for a recipient: sender, recipient, message id, content, rule
Taken = Callable[[str, str, str, bytes, Rule], None]


class Server(SMTP):
    """aiosmtpd's protocol with two things made faster: plain addresses, and the body, read at once and not by line."""

    # of the stream's buffer; at aiosmtpd's 1001 bytes the socket stops and starts all the time
    line_length_limit = 2**20

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        found = _PLAIN.fullmatch(arg)
        return (found.group(1), found.group(2)) if found else super()._getaddr(arg)

    async def smtp_DATA(self, arg: str | None) -> None:
        envelope = self.envelope
        if arg or envelope is None or not envelope.rcpt_tos:
            await self.push("501 5.5.4 Syntax: DATA" if arg else "503 5.5.1 no valid recipients")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        content = await self._body()
        if content is None:
            await self.push("552 5.3.4 message too big")
        else:
            envelope.content = content
            await self.push(await self._call_handler_hook("DATA"))
        self._set_post_data_state()  # type: ignore[no-untyped-call]

    async def _body(self) -> bytes | None:
        """The message with its doubled dots single again; None when it is too big, after all of it was read."""
        parts: list[bytes] = []
        size, tail = 0, b"\r\n"
        while tail != b"\r\n.\r\n":
            try:
                part: bytes = await self._reader.readuntil(b".\r\n")
            except asyncio.LimitOverrunError as error:
                part = await self._reader.readexactly(max(1, error.consumed))
            size += len(part)
            tail = (tail + part)[-5:]
            parts.append(part)
            if size > MAX_MESSAGE_BYTES:
                parts.clear()
        if size > MAX_MESSAGE_BYTES:
            return None
        content = b"".join(parts)[:-3]
        # RFC 5321 4.5.2: a dot that begins a line is taken away
        return (b"\r\n" + content).replace(b"\r\n.", b"\r\n")[2:]


class Handler:
    """Answers by rules, writes down every answer before it is given."""

    def __init__(self, rules: Rules, log: Log, taken: Taken) -> None:
        self._rules, self._log, self._taken = rules, log, taken
        self._deferred: dict[int, int] = {}
        self.messages = 0

    async def handle_EHLO(
        self, server: Server, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", "250-ENHANCEDSTATUSCODES", responses[-1]]

    async def handle_RCPT(
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        rule = self._rules.of(address)
        refusal = self._refusal(rule, "rcpt", str(envelope.mail_from), address)
        if refusal is not None:
            return self._answer(rule, "rcpt", refusal, str(envelope.mail_from), address)
        if rule.hang is not None and rule.hang.stage == "rcpt":
            await asyncio.sleep(rule.hang.seconds)
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        message_id, mailmill_id = letters.names(content)
        facts: dict[str, Any] = {"message_id": message_id, "mailmill_id": mailmill_id, "bytes": len(content)}
        rules = [(recipient, self._rules.of(recipient)) for recipient in envelope.rcpt_tos]
        sender = str(envelope.mail_from)
        if any(len(line) > MAX_LINE for line in content.split(b"\r\n")):
            return self._answer_all(rules, (500, "5.6.0", "line too long"), sender, facts)
        for recipient, rule in rules:  # there is one answer for all: the first that refuses decides
            refusal = self._refusal(rule, "dot", sender, recipient)
            if refusal is not None:
                return self._answer_all(rules, refusal, sender, facts)
        await self._hang(rules, sender, facts)
        cut = next((rule.drop_after_dot for _, rule in rules if rule.drop_after_dot is not None), None)
        if cut is None or cut.taken:
            for recipient, rule in rules:
                copies = self._log.taken(message_id, recipient)
                self._answer(
                    rule,
                    "dot",
                    (250 if cut is None else 0, "2.0.0", "taken"),
                    sender,
                    recipient,
                    copies=copies,
                    **facts,
                )
                self._taken(sender, recipient, message_id, content, rule)
            self.messages += len(rules)
        else:
            self._answer_all(rules, (0, "", "not taken, link cut"), sender, facts)
        if cut is not None:
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
            raise asyncio.CancelledError
        return "250 2.0.0 taken"

    async def _hang(self, rules: list[tuple[str, Rule]], sender: str, facts: dict[str, Any]) -> None:
        seconds = max((rule.hang.seconds for _, rule in rules if rule.hang and rule.hang.stage == "dot"), default=0.0)
        if not seconds:
            return
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self._answer_all(rules, (0, "", "not taken, the client left"), sender, facts)
            raise

    def _refusal(self, rule: Rule, stage: str, sender: str, recipient: str) -> tuple[int, str, str] | None:
        """Code, enhanced code and text of a refusal at this stage; None when there is none (any more)."""
        answer: Defer | Reject | None = rule.reject or rule.defer
        if answer is None or answer.stage != stage:
            return None
        if isinstance(answer, Defer):
            key = hash((sender, recipient))  # the return path is signed for each message
            times = self._deferred.pop(key, 0)
            if times >= answer.times:
                return None
            self._deferred[key] = times + 1
            if len(self._deferred) > REMEMBERED_DEFERRALS:
                del self._deferred[next(iter(self._deferred))]
        return answer.code, answer.enhanced, answer.text

    def _answer_all(
        self, rules: list[tuple[str, Rule]], answer: tuple[int, str, str], sender: str, facts: dict[str, Any]
    ) -> str:
        lines = [self._answer(rule, "dot", answer, sender, recipient, **facts) for recipient, rule in rules]
        return lines[0]

    def _answer(
        self, rule: Rule, stage: str, answer: tuple[int, str, str], sender: str, recipient: str, *, copies: int = 0,
        message_id: str = "", mailmill_id: str = "", bytes: int = 0,
    ) -> str:  # fmt: skip
        """Write an answer down. Code 0: none was given, the link was cut. `copies` > 0: it was taken."""
        code, enhanced, text = answer
        self._log.write(
            event="answer", stage=stage, code=code, enhanced=enhanced, taken=copies > 0, copies=copies,
            sender=_clean(sender), recipient=_clean(recipient), message_id=message_id, mailmill_id=mailmill_id,
            bytes=bytes, rule=rule.name,
        )  # fmt: skip
        return f"{code} {enhanced} {text}"


def _clean(text: str) -> str:
    """Without the halves of characters that bytes which are no UTF-8 leave behind."""
    return text.encode("utf-8", "replace").decode()


def server(handler: Handler, *, hostname: str, loop: asyncio.AbstractEventLoop) -> Server:
    """The protocol of one connection. Every name and password is taken: nobody's real one should come here."""
    return Server(
        handler, hostname=hostname, ident="mailmill sandbox", data_size_limit=MAX_MESSAGE_BYTES, enable_SMTPUTF8=True,
        auth_require_tls=False, authenticator=lambda *_: AuthResult(success=True), loop=loop,
    )  # fmt: skip
