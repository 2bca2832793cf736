"""Contents made to break out of their message, over a real socket: the relay sees one message, and its own headers."""

from __future__ import annotations

import asyncio
import re
from email import message_from_bytes
from email.policy import default as policy
from typing import Any

import pytest
from send_world import Sink

from mailmill.io.transports.smtp import SmtpRelay
from mailmill.io.transports.smtp_config import SmtpConfig
from mailmill.pipelines.send.answers import Answer
from mailmill.pipelines.send.envelopes import Envelope
from mailmill.pipelines.send.messages import Composer, Outgoing, SigningKeys
from mailmill.pipelines.send.ports import Link
from mailmill.pipelines.send.tokens import Key

KEY = Key(1, b"k" * 32)
DATE = b"Mon, 01 Jun 2026 12:00:00 +0000"
# What one server or another has taken for the end of the data. Source: SEC Consult, SMTP smuggling (2023); smtpsmug.
ENDS = {
    "lf.lf": "\n.\n", "cr.cr": "\r.\r", "cr.lf": "\r.\n", "lf.cr": "\n.\r", "lf.crlf": "\n.\r\n", "crlf.lf": "\r\n.\n",
    "cr.crlf": "\r.\r\n", "crlf.cr": "\r\n.\r", "crlf null.crlf": "\r\n\x00.\r\n", "crlf.null crlf": "\r\n.\x00\r\n",
}  # fmt: skip
SMUGGLED = "MAIL FROM:<evil@x.org>\r\nRCPT TO:<victim@x.org>\r\nDATA\r\nFrom: boss@x.org\r\n\r\nsmuggled\r\n.\r\n"
ANY_END = re.compile(rb"(?:\r\n|\r|\n)\x00?\.\x00?(?:\r\n|\r|\n)")


class ADesk:
    def __init__(self, *messages: Outgoing) -> None:
        self.waiting = [Envelope(one.return_path, one.recipient, one) for one in messages]
        self.answers: list[int] = []
        self.done = asyncio.Event()

    def take(self) -> Envelope | None:
        return self.waiting.pop(0) if self.waiting else None

    def hand_over(self, envelope: Envelope) -> bytes | None:
        assert isinstance(envelope.tag, Outgoing)
        return envelope.tag.content

    def noted(self, link: Link) -> None:
        link.release(True)

    def answered(self, envelope: Envelope, answer: Answer, connection: str) -> None:
        self.answers.append(answer.code)

    def unfit(self, envelope: Envelope, reason: str, why: str) -> None:
        raise AssertionError(why)

    def returned(self, envelope: Envelope) -> None:
        raise AssertionError("it was handed over")

    def closed(self, link: Link) -> None:
        self.done.set()


async def hand_over(sink: Sink, *messages: Outgoing) -> ADesk:
    desk = ADesk(*messages)
    link = await SmtpRelay(SmtpConfig(host="127.0.0.1", port=sink.port, tls="none", timeout_s=30.0)).open(desk, "c1")
    link.wake()
    async with asyncio.timeout(60):
        while not desk.done.is_set():
            if not desk.waiting:
                link.close()
            await asyncio.sleep(0.01)
    return desk


def composer(body: str = "Hello {{ name }}") -> Composer:
    foot = "\n{{ postal_address }}\n{{ unsubscribe_url }}\n"
    content: dict[str, Any] = {
        "merge_fields": ["name"], "from_name": "Acme", "from_address": "news@acme.example", "reply_to": None,
        "return_path_domain": "bounce.acme.example", "list_id": "spring.acme.example", "postal_address": "1 Quay",
        "tenant_name": "Acme", "public_url": "https://t.acme.example", "links": [],
        "variants": [{"subject": "Hi", "html": f"<p>{body}</p>{foot}", "text": body + foot, "links": []}],
    }  # fmt: skip
    return Composer(content, tenant=1, campaign=1, keys=SigningKeys(tracking=KEY, unsubscribe=KEY, return_path=KEY))


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("where", ["value", "template"])
async def test_F41_a_smuggled_end_of_data_stays_in_its_message(end: str, where: str) -> None:
    """At the start of a body, within it and twice; what stands behind it would be a message of another sender."""
    wild = f"{end}{SMUGGLED}x{end}{end}"
    values = wild if where == "value" else "Anna"
    made = composer("{{ name }}" if where == "value" else f"{wild}{{{{ name }}}}")
    messages = [made.compose(n, b"r%d@x.org" % n, [values.encode()], DATE) for n in (1, 2)]
    with Sink(keep_bodies=True) as sink:
        desk = await hand_over(sink, *messages)
    assert desk.answers == [250, 250] and [one.recipient for one in sink.taken] == ["r1@x.org", "r2@x.org"]
    assert [line for line in sink.commands if line not in ("EHLO", "QUIT")] == ["MAIL", "RCPT", "DATA"] * 2
    for one in sink.taken:
        (found,) = ANY_END.finditer(one.body)  # the strictest and the laxest reader see the same end
        assert found.end() == len(one.body) and found[0] == b"\r\n.\r\n"
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\x00", one.body)
        assert max(len(line) for line in one.body.split(b"\r\n")) <= 998


@pytest.mark.parametrize(
    "value",
    ["x\r\nBcc: z@z.org", "x\nBcc: z@z.org", "x\rBcc: z@z.org", "x\x00y", "x\u2028Bcc: z@z.org", "x\u2029y", "x\x85y",
     "\r\n\r\nbody", "x\x0b\x0cy"],
)  # fmt: skip
async def test_F40_a_value_in_the_body_adds_no_header(value: str) -> None:
    message = composer().compose(1, b"r1@x.org", [value.encode()], DATE)
    plain = composer().compose(1, b"r1@x.org", [b"Anna"], DATE)
    with Sink(keep_bodies=True) as sink:
        await hand_over(sink, message, plain)
    seen, usual = (message_from_bytes(one.body, policy=policy) for one in sink.taken)
    assert seen.keys() == usual.keys() and "Bcc" not in seen and seen.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in seen.iter_parts()] == ["text/plain", "text/html"]
