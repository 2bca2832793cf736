"""The relay port over real SMTP servers: what they answer is told, what breaks is told apart."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP as Server
from send_world import Sink, by_address

from mailmill.errors import TransportUnavailable
from mailmill.io.transports.smtp import SmtpRelay
from mailmill.io.transports.smtp_check import check
from mailmill.io.transports.smtp_config import SmtpConfig
from mailmill.pipelines.send.answers import Answer
from mailmill.pipelines.send.envelopes import Envelope
from mailmill.pipelines.send.ports import Link, RouteRefused

BODY = b"Message-ID: <1@x>\r\n\r\nhello\r\n"


class ADesk:
    """A few messages, and what became of them."""

    def __init__(self, *names: str, refuse: str = "") -> None:
        self.waiting = [Envelope(b"b@x.org", name.encode() + b"@y.org", name) for name in names]
        self.answers: dict[object, Answer] = {}
        self.back: list[object] = []
        self.over: list[Link] = []
        self.refuse, self.links = refuse, 1
        self.done = asyncio.Event()

    def take(self) -> Envelope | None:
        return self.waiting.pop(0) if self.waiting else None

    def hand_over(self, envelope: Envelope) -> bytes | None:
        return None if envelope.tag == self.refuse else BODY

    def noted(self, link: Link) -> None:
        link.release(True)

    def answered(self, envelope: Envelope, answer: Answer, connection: str) -> None:
        self.answers[envelope.tag] = answer

    def unfit(self, envelope: Envelope, reason: str, why: str) -> None:
        raise AssertionError(why)

    def returned(self, envelope: Envelope) -> None:
        self.back.append(envelope.tag)

    def closed(self, link: Link) -> None:
        self.over.append(link)
        self.done.set()


def config(port: int, **changed: object) -> SmtpConfig:
    return SmtpConfig(**{"host": "127.0.0.1", "port": port, "tls": "none", "timeout_s": 30.0, **changed})  # type: ignore[arg-type]


async def converse(desk: ADesk, settings: SmtpConfig) -> ADesk:
    """Send everything over one connection and leave; time-outs are ticked as the loop does."""
    link = await SmtpRelay(settings).open(desk, "c1")
    link.wake()
    async with asyncio.timeout(60):
        while not desk.done.is_set():
            link.tick()
            if not desk.waiting:
                link.close()
            await asyncio.sleep(0.01)
    return desk


@pytest.mark.parametrize("pipelining", [True, False])
async def test_a_relays_answers_come_back_in_order(pipelining: bool) -> None:
    answers = {"rcpt gone": "550 5.1.1 who?", "dot later": "451 4.3.0 later", "data no": "554 5.6.0 no"}
    with Sink(by_address(answers), pipelining=pipelining) as sink:
        desk = await converse(ADesk("a", "gone", "b", "later", "no", "c"), config(sink.port))
    told = {name: (answer.stage, answer.code) for name, answer in desk.answers.items()}
    assert told == {
        "a": ("dot", 250), "gone": ("rcpt", 550), "b": ("dot", 250), "later": ("dot", 451), "no": ("data", 554),
        "c": ("dot", 250),
    }  # fmt: skip
    assert sink.connections == 1 and [one.recipient for one in sink.taken] == ["a@y.org", "b@y.org", "c@y.org"]
    assert sink.commands[-1] == "QUIT"


async def test_where_pipelining_is_offered_the_next_envelope_comes_behind_the_final_dot() -> None:
    """This relay answers the dot only when it has the envelope behind it: one round trip a message."""
    bodies: list[bytes] = []

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        await reader.readuntil(b"\r\n")
        writer.write(b"250-here\r\n250 PIPELINING\r\n")
        await reader.readuntil(b"DATA\r\n")
        writer.write(b"250 ok\r\n250 ok\r\n354 go\r\n")
        for last in (False, False, True):
            bodies.append(await reader.readuntil(b"\r\n.\r\n"))
            behind = b"" if last else await reader.readuntil(b"DATA\r\n")
            writer.write(b"250 taken\r\n" + (b"250 ok\r\n250 ok\r\n354 go\r\n" if behind else b""))
        await reader.read()
        writer.close()

    async with await asyncio.start_server(client, "127.0.0.1", 0) as server:
        desk = await converse(ADesk("a", "b", "c"), config(server.sockets[0].getsockname()[1]))
    assert {name: answer.code for name, answer in desk.answers.items()} == {"a": 250, "b": 250, "c": 250}
    assert bodies == [BODY + b".\r\n"] * 3


async def test_another_server_that_offers_no_pipelining_is_understood() -> None:
    class Handler:
        taken: list[str]

        async def handle_DATA(self, server: object, session: object, envelope: object) -> str:
            self.taken.append(envelope.rcpt_tos[0])  # type: ignore[attr-defined]
            return "250 taken"

    handler = Handler()
    handler.taken = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(handler, hostname="sink.example"), "127.0.0.1", 0)
    async with server:
        desk = await converse(ADesk("a", "b"), config(server.sockets[0].getsockname()[1]))
    assert {answer.code for answer in desk.answers.values()} == {250} and handler.taken == ["a@y.org", "b@y.org"]


@pytest.mark.parametrize(
    ("answers", "stage", "code"),
    [({"dot": "cut"}, "dot", 0), ({"dot": "reset"}, "dot", 0), ({"dot": "stall"}, "dot", 0),
     ({"rcpt": "stall"}, "rcpt", 0), ({"data": "cut"}, "data", 0),
     ({"dot": "421 4.3.2 bye"}, "dot", 421), ({"rcpt": "550 5.1.1 who"}, "rcpt", 550)],
)  # fmt: skip
async def test_F15_a_broken_link_says_where_it_broke(answers: dict[str, str], stage: str, code: int) -> None:
    vain = {"rcpt": "timeout_s", "dot": "final_dot_timeout_s"}  # where nothing comes it is not waited for long
    waits = {vain[at]: 1.5 for at, says in answers.items() if says == "stall"}
    with Sink(by_address(answers)) as sink:
        desk = await converse(ADesk("a"), config(sink.port, **waits))
    assert (desk.answers["a"].stage, desk.answers["a"].code) == (stage, code)


async def test_a_relay_that_hangs_up_before_a_word_has_not_begun() -> None:
    with Sink(by_address({"mail": "cut"})) as sink:
        desk = await converse(ADesk("a"), config(sink.port))
    assert desk.back == ["a"] and not desk.answers


@pytest.mark.parametrize("pipelining", [True, False])
async def test_F09_a_goodbye_right_behind_an_answer_begins_no_other_message(pipelining: bool) -> None:
    """Both in one segment: a message taken between them would be nobody's as long as the worker lives."""

    class Desk(ADesk):
        def answered(self, envelope: Envelope, answer: Answer, connection: str) -> None:
            super().answered(envelope, answer, connection)
            self.waiting = [Envelope(b"b@x.org", b"next@y.org", "next")]

    desk = Desk("a")
    with Sink(by_address({"dot": "250 taken\r\n421 4.3.2 closing"}), pipelining=pipelining) as sink:
        (await SmtpRelay(config(sink.port)).open(desk, "c1")).wake()
        async with asyncio.timeout(60):
            await desk.done.wait()
    assert desk.answers["a"].code == 250
    assert [one.tag for one in desk.waiting] == ["next"]


@pytest.mark.parametrize("pipelining", [True, False])
async def test_F09_a_goodbye_before_a_message_was_taken_is_told_apart_from_one_after_it(pipelining: bool) -> None:
    mails = iter(("", "421 4.7.0 enough", "421 4.7.0 enough"))

    def script(stage: str, to: str) -> str | None:
        return (next(mails) or None) if stage == "mail" else None

    with Sink(script, pipelining=pipelining) as sink:
        used = await converse(ADesk("a", "b"), config(sink.port))
        fresh = await converse(ADesk("b"), config(sink.port))
    assert [answer.code for answer in (*used.answers.values(), *fresh.answers.values())] == [250, 421, 421]
    told = [(one.used, one.turned_away) for one in (*used.over, *fresh.over)]
    assert told == [(True, None), (False, "421 4.7.0 enough")]


async def test_a_message_that_must_not_go_any_more_is_not_handed_over() -> None:
    with Sink() as sink:
        desk = await converse(ADesk("a", "stop", refuse="stop"), config(sink.port))
    assert desk.back == ["stop"] and list(desk.answers) == ["a"]
    assert [one.recipient for one in sink.taken] == ["a@y.org"]


async def test_F20_a_message_that_could_not_be_noted_is_not_handed_over() -> None:
    class Desk(ADesk):
        def noted(self, link: Link) -> None:
            link.release(False)

    with Sink() as sink:
        desk = await converse(Desk("a", "b"), config(sink.port))
    assert desk.back == ["a", "b"] and not desk.answers and not sink.taken


async def test_a_body_that_waited_for_its_note_when_the_link_was_lost_is_in_no_doubt() -> None:
    class Desk(ADesk):
        def noted(self, link: Link) -> None:
            link.abort()

    with Sink() as sink:
        desk = await converse(Desk("a"), config(sink.port))
    assert desk.answers["a"].stage == "data" and not sink.taken


async def test_a_connection_carries_so_many_messages() -> None:
    with Sink() as sink:
        desk = await converse(ADesk("a", "b", "c"), config(sink.port, messages_per_connection=2))
    assert list(desk.answers) == ["a", "b"] and [one.tag for one in desk.waiting] == ["c"]


@pytest.mark.parametrize(
    ("answers", "stage", "code"),
    [({"banner": "554 go"}, "banner", 554), ({"banner": "421 later"}, "banner", 421), ({"ehlo": "550 no"}, "ehlo", 550),
     ({"auth": "535 5.7.8 wrong"}, "auth", 535), ({"auth": "454 4.7.0 later"}, "auth", 454)],
)  # fmt: skip
async def test_F10_a_refusal_before_any_recipient_is_the_routes(answers: dict[str, str], stage: str, code: int) -> None:
    with Sink(by_address(answers)) as sink, pytest.raises(RouteRefused) as refused:
        await SmtpRelay(config(sink.port, username="u", password="p")).open(ADesk(), "c")
    assert (refused.value.stage, refused.value.code, refused.value.permanent) == (stage, code, code >= 500)


@pytest.mark.parametrize("says", ["stall", "drip", "cut"])
@pytest.mark.parametrize("stage", ["banner", "ehlo", "starttls", "auth"])
async def test_F13_a_relay_that_never_comes_to_an_end_before_MAIL_is_unavailable_in_time(
    certificate: tuple[ssl.SSLContext, Path], stage: str, says: str
) -> None:
    way = {"tls": "required", "host": "localhost"} if stage == "starttls" else {"username": "u", "password": "p"}
    with tls_sink(certificate, {stage: says}) as sink, pytest.raises(TransportUnavailable):
        await SmtpRelay(config(sink.port, timeout_s=0.3, **way)).open(ADesk(), "c")


async def test_a_host_that_is_no_name_is_a_relay_that_does_not_answer() -> None:
    with pytest.raises(TransportUnavailable, match="does not answer"):
        await SmtpRelay(config(2525, host="relay..example")).open(ADesk(), "c")


@pytest.mark.parametrize("stage", ["data", "dot"])
async def test_F13_each_stage_has_a_time_out_of_its_own(stage: str) -> None:
    its_own = {"data": "data_timeout_s", "dot": "final_dot_timeout_s"}
    waits = dict.fromkeys(("timeout_s", *its_own.values()), 300.0) | {its_own[stage]: 0.3}
    with Sink(by_address({stage: "stall"})) as sink:
        desk = await converse(ADesk("a"), config(sink.port, **waits))
    assert (desk.answers["a"].stage, desk.answers["a"].code) == (stage, 0)


def test_F13_a_relay_is_given_the_time_of_RFC_5321_unless_the_operator_says_otherwise() -> None:
    usual = SmtpConfig(host="h", port=25, tls="required")
    waits = {stage: usual.patience_s(stage) for stage in ("mail", "rcpt", "data", "dot")}
    assert waits == {"mail": 300, "rcpt": 300, "data": 120, "dot": 600}  # section 4.5.3.2, in seconds


def test_a_password_is_not_shown() -> None:
    assert "hunter2" not in repr(SmtpConfig(host="h", port=1, tls="none", username="u", password="hunter2"))


# ---------------------------------------------------------------- TLS


@contextmanager
def tls_sink(certificate: tuple[ssl.SSLContext, Path], answers: dict[str, str]) -> Iterator[Sink]:
    with Sink(by_address(answers), tls=certificate[0]) as sink:
        yield sink


async def test_F16_required_tls_never_falls_back(certificate: tuple[ssl.SSLContext, Path]) -> None:
    with Sink() as plain, pytest.raises(RouteRefused) as stripped:  # STARTTLS is not offered, or was taken out
        await SmtpRelay(config(plain.port, tls="required")).open(ADesk(), "c")
    assert stripped.value.stage == "starttls" and "MAIL" not in plain.commands
    with tls_sink(certificate, {}) as sink, pytest.raises(RouteRefused) as untrusted:
        await SmtpRelay(config(sink.port, tls="required", host="localhost")).open(ADesk(), "c")
    assert untrusted.value.permanent and "certificate" in str(untrusted.value) and "MAIL" not in sink.commands
    with tls_sink(certificate, {"starttls": "454 4.7.0 not now"}) as sink, pytest.raises(RouteRefused) as later:
        await SmtpRelay(config(sink.port, tls="required")).open(ADesk(), "c")
    assert not later.value.permanent


async def test_F16_a_trusted_certificate_is_taken(
    certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    with tls_sink(certificate, {}) as sink:
        desk = await converse(ADesk("a", "b"), config(sink.port, tls="required", host="localhost"))
    assert [answer.code for answer in desk.answers.values()] == [250, 250]
    assert sink.commands[:3] == ["EHLO", "STARTTLS", "EHLO"]


async def test_F16_what_was_injected_before_the_handshake_is_discarded(
    certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    """Taken for the answer to the second EHLO, it would say that the relay offers no AUTH."""
    with tls_sink(certificate, {"starttls": "220 go\r\n250 injected\r\n"}) as sink:
        settings = config(sink.port, tls="required", host="localhost", username="u", password="p")
        desk = await converse(ADesk("a"), settings)
    assert (desk.answers["a"].code, len(sink.taken)) == (250, 1)
    assert sink.commands[:5] == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL"]


@pytest.mark.parametrize("end", ["cut", "reset", "alert"])
async def test_F15_a_tls_link_that_ends_after_the_dot_leaves_a_doubt(
    certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    with tls_sink(certificate, {"dot": f"taken+{end}"}) as sink:
        desk = await converse(ADesk("a"), config(sink.port, tls="required", host="localhost"))
    assert (desk.answers["a"].stage, desk.answers["a"].code, len(sink.taken)) == ("dot", 0, 1)


async def test_implicit_tls_is_there_before_a_word_and_asks_for_a_certificate_that_holds(
    certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sink(tls=certificate[0], implicit=True) as sink:
        with pytest.raises(TransportUnavailable, match="certificate"):
            await SmtpRelay(config(sink.port, tls="implicit", host="localhost")).open(ADesk(), "c")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
        desk = await converse(ADesk("a"), config(sink.port, tls="implicit", host="localhost"))
    assert [answer.code for answer in desk.answers.values()] == [250]
    assert sink.commands == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


async def test_opportunistic_tls_takes_what_it_gets(certificate: tuple[ssl.SSLContext, Path]) -> None:
    with tls_sink(certificate, {}) as sink:
        await converse(ADesk("a"), config(sink.port, tls="opportunistic"))
        assert "STARTTLS" in sink.commands and len(sink.taken) == 1
    with Sink() as sink:
        await converse(ADesk("a"), config(sink.port, tls="opportunistic"))
        assert len(sink.taken) == 1


def test_a_sandbox_that_does_not_run_is_to_be_started() -> None:
    [*_, last] = check(SmtpConfig.of("sandbox", {"port": 1}, str), sender="news@acme.example", recipient=None)
    assert last.found == "the relay 127.0.0.1:1 does not answer: Connection refused"
    assert "`mailmill sandbox`" in last.remedy
