"""The way to a relay: what it offers is used, what it cannot take is not begun, and how the operator gets there."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from send_world import Sink, by_address

from mailmill.errors import Misconfigured, TransportUnavailable
from mailmill.io.transports.smtp import SmtpRelay
from mailmill.io.transports.smtp_config import SmtpConfig
from mailmill.pipelines.send.answers import Answer
from mailmill.pipelines.send.envelopes import Envelope
from mailmill.pipelines.send.ports import Link, RouteRefused

BODY = b"Message-ID: <1@x>\r\n\r\nhello\r\n"


class ADesk:
    """Envelopes to send, and what became of them."""

    def __init__(self, *envelopes: Envelope) -> None:
        self.waiting = list(envelopes)
        self.told: list[tuple[object, str]] = []
        self.done = asyncio.Event()

    def take(self) -> Envelope | None:
        return self.waiting.pop(0) if self.waiting else None

    def hand_over(self, envelope: Envelope) -> bytes | None:
        return BODY

    def noted(self, link: Link) -> None:
        link.release(True)

    def answered(self, envelope: Envelope, answer: Answer, connection: str) -> None:
        self.told.append((envelope.tag, f"{answer.stage} {answer.code}"))

    def unfit(self, envelope: Envelope, reason: str, why: str) -> None:
        self.told.append((envelope.tag, reason))

    def returned(self, envelope: Envelope) -> None:
        self.told.append((envelope.tag, "back"))

    def closed(self, link: Link) -> None:
        self.done.set()


def envelope(name: str, *, size: int = 100, utf8: bool = False) -> Envelope:
    return Envelope(b"b+token@x.org", name.encode() + b"@y.org", name, size=size, utf8=utf8)


def config(port: int, **changed: object) -> SmtpConfig:
    return SmtpConfig(**{"host": "127.0.0.1", "port": port, "tls": "none", "timeout_s": 30.0, **changed})  # type: ignore[arg-type]


async def deliver(settings: SmtpConfig, *envelopes: Envelope) -> list[tuple[object, str]]:
    desk = ADesk(*envelopes)
    link = await SmtpRelay(settings).open(desk, "c1")
    link.wake()
    async with asyncio.timeout(60):
        while not desk.done.is_set():
            if not desk.waiting:
                link.close()
            await asyncio.sleep(0.01)
    return desk.told


@pytest.mark.parametrize("pipelining", [True, False])
async def test_size_smtputf8_and_dsn_are_said_where_they_are_offered(pipelining: bool) -> None:
    with Sink(pipelining=pipelining, offers=["SIZE 2000", "SMTPUTF8", "DSN"]) as sink:
        told = await deliver(config(sink.port, dsn=True), envelope("a+b=c"), envelope("ü", utf8=True))
    assert told == [("a+b=c", "dot 250"), ("ü", "dot 250")]
    mails = [line for line in sink.lines if line.startswith(("MAIL", "RCPT"))]
    assert mails == [
        "MAIL FROM:<b+token@x.org> SIZE=100 RET=HDRS ENVID=b+2Btoken",
        "RCPT TO:<a+b=c@y.org> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a+2Bb+3Dc@y.org",
        "MAIL FROM:<b+token@x.org> SIZE=100 SMTPUTF8 RET=HDRS ENVID=b+2Btoken",
        "RCPT TO:<ü@y.org> NOTIFY=FAILURE,DELAY",
    ]


async def test_nothing_is_said_that_is_not_offered_and_what_cannot_be_taken_is_not_begun() -> None:
    with Sink(offers=["SIZE 2000"]) as sink:
        told = await deliver(
            config(sink.port, dsn=True), envelope("a"), envelope("big", size=2001), envelope("ü", utf8=True),
            envelope("b", size=2000),
        )  # fmt: skip
    assert dict(told) == {"a": "dot 250", "big": "message_too_big", "ü": "unsupported_address", "b": "dot 250"}
    assert [line for line in sink.lines if line.startswith("RCPT")] == ["RCPT TO:<a@y.org>", "RCPT TO:<b@y.org>"]


async def test_an_access_token_is_read_anew_for_each_connection() -> None:
    tokens = iter(["first", "second"])
    with Sink(by_address({"auth": "235 2.7.0 welcome"}), offers=["AUTH XOAUTH2"]) as sink:
        settings = config(
            sink.port, auth="xoauth2", username="ann", password="file:token", secret=lambda reference: next(tokens)
        )
        for name in ("a", "b"):
            assert await deliver(settings, envelope(name)) == [(name, "dot 250")]
    said = [line.split(" ")[2] for line in sink.lines if line.startswith("AUTH XOAUTH2")]
    assert [base64.b64decode(one) for one in said] == [
        b"user=ann\x01auth=Bearer first\x01\x01", b"user=ann\x01auth=Bearer second\x01\x01",
    ]  # fmt: skip


async def test_F10_a_relay_without_xoauth2_refuses_the_route() -> None:
    with Sink() as sink, pytest.raises(RouteRefused, match="XOAUTH2") as refused:
        await deliver(config(sink.port, auth="xoauth2", username="ann", password="env:T", secret=lambda reference: "t"))
    assert refused.value.stage == "auth" and refused.value.permanent


@pytest.mark.parametrize("method", ["PLAIN", "LOGIN"])
async def test_a_password_is_said_by_the_method_the_relay_offers(method: str) -> None:
    with Sink(offers=[f"AUTH {method}"]) as sink:
        settings = config(sink.port, username="ann", password="env:P", secret=lambda reference: "secret")
        assert await deliver(settings, envelope("a")) == [("a", "dot 250")]
    at = next(at for at, line in enumerate(sink.lines) if line.startswith("AUTH"))
    said = [sink.lines[at].split(" ")[2], *([sink.lines[at + 1]] if method == "LOGIN" else [])]
    assert b"".join(base64.b64decode(one) for one in said) == (b"\0ann\0secret" if method == "PLAIN" else b"annsecret")


@pytest.mark.parametrize("then", ["cut", "421 4.7.0 too many errors"])
async def test_F10_a_relay_that_hangs_up_on_a_wrong_password_has_refused_it(then: str) -> None:
    """It is not away, which would be tried again for ever: the next method is asked of a relay that has left."""
    said = iter(["535 5.7.8 wrong", then])
    with Sink(lambda stage, _: next(said) if stage == "auth" else None, offers=["AUTH PLAIN LOGIN"]) as sink:
        settings = config(sink.port, username="ann", password="env:P", secret=lambda reference: "secret")
        with pytest.raises(RouteRefused, match="535 5") as refused:
            await deliver(settings)
    assert refused.value.stage == "auth" and refused.value.permanent


async def test_a_relay_is_reached_over_ipv6() -> None:
    with Sink(host="::1") as sink:
        assert await deliver(config(sink.port, host="::1"), envelope("a")) == [("a", "dot 250")]
    assert sink.peers == ["::1"]


async def test_the_relay_sees_the_address_the_operator_chose() -> None:
    with Sink() as sink:
        settings = config(sink.port, source_address="127.0.0.2", hello="mail.acme.example")
        assert await deliver(settings, envelope("a")) == [("a", "dot 250")]
    assert sink.peers == ["127.0.0.2"] and sink.lines[0] == "EHLO mail.acme.example"


async def test_an_address_that_is_not_ours_makes_the_route_unavailable() -> None:
    with Sink() as sink, pytest.raises(TransportUnavailable):
        await deliver(config(sink.port, source_address="192.0.2.9"))


# ---------------------------------------------------------------- SOCKS5


@asynccontextmanager
async def proxy(*, user: str = "", password: str = "") -> AsyncIterator[tuple[int, list[tuple[str, int]]]]:
    """A SOCKS5 proxy (RFC 1928, 1929) on loopback. Yields its port and where it was asked to lead."""
    asked: list[tuple[str, int]] = []

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x02" if user else b"\x05\x00")
        if user:
            given = []
            await reader.readexactly(1)
            for _ in range(2):
                given.append((await reader.readexactly((await reader.readexactly(1))[0])).decode())
            good = given == [user, password]
            writer.write(b"\x01\x00" if good else b"\x01\x01")
            if not good:
                writer.close()
                return
        _, _, _, kind = await reader.readexactly(4)
        length = 4 if kind == 1 else (await reader.readexactly(1))[0]
        raw = await reader.readexactly(length)
        host = ".".join(str(part) for part in raw) if kind == 1 else raw.decode()
        port = int.from_bytes(await reader.readexactly(2), "big")
        asked.append((host, port))
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.write(b"\x05\x05\x00\x01" + bytes(6))  # connection refused
            writer.close()
            return
        writer.write(b"\x05\x00\x00\x01" + bytes(6))

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_a_relay_is_reached_through_a_socks5_proxy(scheme: str) -> None:
    with Sink() as sink:
        async with proxy() as (port, asked):
            settings = config(sink.port, proxy=f"{scheme}://127.0.0.1:{port}")
            assert await deliver(settings, envelope("a"), envelope("b")) == [("a", "dot 250"), ("b", "dot 250")]
    assert asked == [("127.0.0.1", sink.port)]


async def test_a_proxys_credentials_come_by_reference_and_stay_out_of_errors() -> None:
    with Sink() as sink:
        async with proxy(user="ann", password="hunter2") as (port, _):
            right = config(sink.port, proxy="env:P", secret=lambda _: f"socks5://ann:hunter2@127.0.0.1:{port}")
            assert await deliver(right, envelope("a")) == [("a", "dot 250")]
            wrong = config(sink.port, proxy="env:P", secret=lambda _: f"socks5://ann:letmein@127.0.0.1:{port}")
            with pytest.raises(TransportUnavailable) as refused:
                await deliver(wrong)
            assert "letmein" not in str(refused.value) and "letmein" not in repr(wrong)
    broken = config(sink.port, proxy="env:P", secret=lambda _: "no url letmein")
    with pytest.raises(Misconfigured) as misread:
        await deliver(broken)
    assert "letmein" not in str(misread.value)


async def test_a_proxy_that_leads_nowhere_makes_the_route_unavailable() -> None:
    async with proxy() as (port, _):
        with pytest.raises(TransportUnavailable, match="proxy"):
            await deliver(config(1, proxy=f"socks5://127.0.0.1:{port}"))
