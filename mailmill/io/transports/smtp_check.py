"""One try of a relay, step by step, for a person who sets it up: DNS, connection, TLS, AUTH, and one message."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import formatdate, make_msgid

from mailmill.errors import MailmillError, TransportUnavailable
from mailmill.io.transports.smtp import SmtpRelay
from mailmill.io.transports.smtp_config import SmtpConfig
from mailmill.pipelines.send import mime
from mailmill.pipelines.send.answers import Answer
from mailmill.pipelines.send.envelopes import Envelope
from mailmill.pipelines.send.messages import Outgoing
from mailmill.pipelines.send.ports import Link, RouteRefused

GOODBYE_S = 5.0
PATIENCE_S = 30.0  # a person waits for the answer; sending itself waits as long as RFC 5321 says
REMEDIES = {
    "dns": "Correct `host`; it has no address.",
    "connect": "Look at `host`, `port`, `tls` (implicit on port 465), the proxy and firewalls; many networks close "
    "port 25, relays listen on 587.",
    "banner": "The relay refuses this host before a word: ask its operator, or look at the address it sees.",
    "ehlo": "Set `hello` to a name that leads to the address the relay sees.",
    "starttls": "Set `tls` to what the relay offers (implicit on port 465, required elsewhere), or give it a "
    "certificate that holds.",
    "auth": "Look at `username`, what `password` refers to, and `auth`; some relays want an app password or XOAUTH2.",
    "message": "The relay does not take mail from this sender or to this recipient; its words say why.",
}
SANDBOX = "Start `mailmill sandbox` in a terminal of its own, with the transport's `port` as MAILMILL_SANDBOX_PORT."


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step found. `remedy` where it failed."""

    step: str
    ok: bool
    found: str
    remedy: str = ""


def letter(sender: str, recipient: str) -> bytes:
    """A short message, its lines ready for DATA."""
    message = EmailMessage(policy=SMTP if recipient.isascii() else SMTPUTF8)
    message["From"], message["To"] = sender, recipient
    message["Subject"] = "mailmill: a test of the transport"
    message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("This message shows that the relay takes mail from mailmill. Nobody needs to answer it.\n")
    return message.as_bytes().replace(b"\r\n.", b"\r\n..")


def check(config: SmtpConfig, *, sender: str, recipient: str | None) -> list[Step]:
    """The steps in order, the first one that fails is the last. Without a recipient no message is handed over."""
    if recipient is None:
        return asyncio.run(_check(config, None, b""))
    sender = mime.ascii_address(sender)
    content = letter(sender, recipient)
    return asyncio.run(_check(config, _envelope(sender.encode(), recipient.encode(), content), content))


def hand_over(config: SmtpConfig, message: Outgoing) -> list[Step]:
    """As `check`, with this message."""
    envelope = _envelope(message.return_path, message.recipient, message.content)
    return asyncio.run(_check(config, envelope, message.content))


def _envelope(sender: bytes, recipient: bytes, content: bytes) -> Envelope:
    return Envelope(sender, recipient, None, len(content), not recipient.isascii())


async def _check(config: SmtpConfig, envelope: Envelope | None, content: bytes) -> list[Step]:
    config = replace(config, timeout_s=min(config.timeout_s, PATIENCE_S))
    steps: list[Step] = []

    def tell(step: str, found: str) -> None:
        steps.append(Step(step=step, ok=True, found=found))

    try:
        found = await asyncio.get_running_loop().getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
        tell("dns", ", ".join(dict.fromkeys(str(one[4][0]) for one in found)))
    except (OSError, UnicodeError) as error:
        if config.proxy is None:  # a proxy may know the name all the same
            return [_failed("dns", f"{config.host}: {getattr(error, 'strerror', None) or error}")]
    desk = _OneLetter(envelope, content)
    try:
        link = await SmtpRelay(config, tell).open(desk, "test")
    except RouteRefused as error:
        return [*steps, _failed(error.stage, str(error))]
    except TransportUnavailable as error:
        failed = _failed("connect", str(error))
        return [*steps, replace(failed, remedy=SANDBOX) if config.sandbox else failed]
    except MailmillError as error:  # a reference that leads nowhere
        return [*steps, _failed("auth", str(error))]
    if envelope is not None:
        steps.append(await desk.handed_over(link))
    link.close()
    with suppress(TimeoutError):  # the last thing that this loop does
        await asyncio.wait_for(link.gone.wait(), GOODBYE_S)
    return steps


def _failed(step: str, found: str) -> Step:
    return Step(step=step, ok=False, found=found, remedy=REMEDIES.get(step, REMEDIES["connect"]))


class _OneLetter:
    """A Desk with one message."""

    def __init__(self, envelope: Envelope | None, content: bytes) -> None:
        self._content, self._waiting = content, [envelope] if envelope else []
        self._told: asyncio.Future[Step] = asyncio.get_running_loop().create_future()

    async def handed_over(self, link: Link) -> Step:
        link.wake()
        while not self._told.done():
            link.tick()
            await asyncio.wait([self._told], timeout=0.1)
        return self._told.result()

    def take(self) -> Envelope | None:
        return self._waiting.pop() if self._waiting else None

    def hand_over(self, envelope: Envelope) -> bytes | None:
        return self._content

    def noted(self, link: Link) -> None:
        link.release(True)

    def answered(self, envelope: Envelope, answer: Answer, connection: str) -> None:
        words = f"{answer.code or 'no answer'} at {answer.stage}: {answer.reply}"
        taken = answer.stage == "dot" and 200 <= answer.code < 300
        self._tell(Step(step="message", ok=True, found=words) if taken else _failed("message", words))

    def unfit(self, envelope: Envelope, reason: str, why: str) -> None:
        self._tell(_failed("message", why))

    def returned(self, envelope: Envelope) -> None:
        self._tell(_failed("message", "the relay hung up before it answered"))

    def closed(self, link: Link) -> None:
        self._tell(_failed("message", "the relay hung up"))

    def _tell(self, step: Step) -> None:
        if not self._told.done():
            self._told.set_result(step)
