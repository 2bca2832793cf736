"""The SMTP exchange without a socket: scripted replies in, events and commands out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.pipelines.send.envelopes import Envelope, Offers
from mailmill.pipelines.send.exchange import Exchange
from mailmill.pipelines.send.exchange_events import Answered, Broken, Event, Idle, Ready

BODY = b"Subject: x\r\n\r\nbody\r\n"


def an_envelope(name: str) -> Envelope:
    return Envelope(b"b+1@x.org", name.encode() + b"@y.org", name)


def begun(*, pipelining: bool) -> Exchange:
    exchange = Exchange(Offers(pipelining=pipelining))
    exchange.begin(an_envelope("a"), 0.0)
    return exchange


def said(exchange: Exchange) -> list[str]:
    lines = exchange.out.decode().split("\r\n")[:-1]
    exchange.out = b""
    return [line.split(" ")[0].split(":")[0] for line in lines]


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def outcome(events: list[Event]) -> tuple[str, int]:
    (answered,) = (event for event in events if isinstance(event, Answered))
    return answered.answer.stage, answered.answer.code


def test_with_pipelining_a_message_is_one_round_trip() -> None:
    exchange = begun(pipelining=True)
    assert said(exchange) == ["MAIL", "RCPT", "DATA"]
    assert kinds(exchange.receive(b"250 ok\r\n250 ok\r\n354 go\r\n", 0.1)) == ["Ready"]
    exchange.body(BODY, an_envelope("b"), 0.1)
    assert said(exchange) == ["Subject", "", "body", ".", "MAIL", "RCPT", "DATA"]
    events = exchange.receive(b"250 2.0.0 taken\r\n250 ok\r\n250 ok\r\n354 go\r\n", 0.2)
    assert kinds(events) == ["Answered", "Ready"]
    assert outcome(events) == ("dot", 250)
    exchange.body(BODY, None, 0.3)
    assert kinds(exchange.receive(b"250 ok\r\n", 0.4)) == ["Answered", "Idle"]
    assert not exchange.busy


def test_what_a_relay_says_as_always_is_told_from_what_it_says_for_once() -> None:
    exchange = begun(pipelining=True)
    exchange.receive(b"250 ok\r\n250 ok\r\n354 go\r\n", 0.1)
    rest = b"250 ok\r\n250 ok\r\n354 go\r\n"
    for name in "bcd":
        exchange.body(BODY, an_envelope(name), 0.1)
        events = exchange.receive(b"250 2.0.0 taken\r\n" + rest, 0.2)
        assert kinds(events) == ["Answered", "Ready"] and outcome(events) == ("dot", 250)
    exchange.body(BODY, an_envelope("e"), 0.3)
    assert outcome(exchange.receive(b"451 4.3.0 later\r\n" + rest, 0.4)) == ("dot", 451)
    exchange.body(BODY, an_envelope("f"), 0.5)
    assert kinds(exchange.receive(b"250 2.0.0 taken\r\n", 0.6)) == ["Answered"]  # the envelope's answers come later
    assert kinds(exchange.receive(rest, 0.6)) == ["Ready"]
    exchange.body(BODY, an_envelope("g"), 0.7)
    events = exchange.receive(b"250 taken\r\n250 ok\r\n550 5.1.1 who?\r\n554 nobody\r\n", 0.8)
    assert [event.answer.stage for event in events if isinstance(event, Answered)] == ["dot", "rcpt"]


def test_without_pipelining_each_command_waits() -> None:
    exchange = begun(pipelining=False)
    for command in ("MAIL", "RCPT"):
        assert said(exchange) == [command]
        assert exchange.receive(b"250 ok\r\n", 0) == []
    assert said(exchange) == ["DATA"]
    assert kinds(exchange.receive(b"354 go\r\n", 0)) == ["Ready"]
    with pytest.raises(RuntimeError):
        exchange.body(BODY, an_envelope("b"), 0)


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize(
    ("replies", "stage", "code"),
    [
        (["550 no"], "mail", 550),
        (["250 ok", "450 later"], "rcpt", 450),
        (["250 ok", "250 ok", "451 later"], "data", 451),
    ],
)
def test_a_refused_envelope_is_reset_before_the_next(
    pipelining: bool, replies: list[str], stage: str, code: int
) -> None:
    exchange = begun(pipelining=pipelining)
    if pipelining:
        replies = replies + ["503 no"] * (3 - len(replies))
    events: list[Event] = []
    for reply in replies:
        events += exchange.receive(reply.encode() + b"\r\n", 0)
    assert outcome(events) == (stage, code) and kinds(events)[-1] == "Idle"
    exchange.out = b""
    exchange.begin(an_envelope("b"), 0)
    assert said(exchange) == (["RSET", "MAIL", "RCPT", "DATA"] if pipelining else ["RSET"])
    exchange.receive(b"250 reset\r\n", 0)
    if not pipelining:
        assert said(exchange) == ["MAIL"]
    assert exchange.receive(b"250 ok\r\n", 0) == []


def test_a_body_that_nobody_is_to_get_is_a_lone_dot() -> None:
    exchange = begun(pipelining=True)
    exchange.out = b""
    events = exchange.receive(b"250 ok\r\n550 5.1.1 who?\r\n354 go\r\n", 0)
    assert outcome(events) == ("rcpt", 550) and kinds(events) == ["Answered"]
    assert exchange.out == b".\r\n"
    assert kinds(exchange.receive(b"554 no valid recipients\r\n", 0)) == ["Idle"]


def test_F09_421_ends_the_connection_and_the_next_message_is_untouched() -> None:
    exchange = begun(pipelining=True)
    exchange.receive(b"250 ok\r\n250 ok\r\n354 go\r\n", 0)
    exchange.body(BODY, an_envelope("b"), 0)
    events = exchange.receive(b"421 4.3.2 shutting down\r\n", 0)
    assert kinds(events) == ["Answered", "Broken"] and outcome(events) == ("dot", 421)
    assert [(e.tag, a.code, heard) for e, a, heard in exchange.unanswered("gone")] == [("b", 0, False)]


def test_F15_a_link_lost_after_the_dot_leaves_one_doubt() -> None:
    exchange = begun(pipelining=True)
    exchange.receive(b"250 ok\r\n250 ok\r\n354 go\r\n", 0)
    exchange.body(BODY, an_envelope("b"), 0)
    found = [(envelope.tag, answer.stage, answer.code) for envelope, answer, _ in exchange.unanswered("gone")]
    assert found == [("a", "dot", 0), ("b", "mail", 0)]


def test_a_refusal_that_was_heard_is_not_lost_with_the_link() -> None:
    exchange = begun(pipelining=True)
    exchange.receive(b"250 ok\r\n550 5.1.1 who?\r\n", 0)
    ((_, answer, heard),) = exchange.unanswered("gone")
    assert (answer.stage, answer.code, heard) == ("rcpt", 550, True)


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (b"250-first\r\n250-second\r\n250 third\r\n", "first\nsecond\nthird"),
        (b"250 bare\n", "bare"),
        (b"250\r\n", ""),
        (b"250 " + b"x" * 2_000_000 + b"\r\n", "x" * 4092),
        (b"250 \xff\xfe\r\n", "\ufffd\ufffd"),
    ],
)
def test_F12_odd_replies_are_read_and_bounded(reply: bytes, kept: str) -> None:
    exchange = begun(pipelining=True)
    exchange.receive(b"250 ok\r\n250 ok\r\n354 go\r\n", 0)
    exchange.body(BODY, None, 0)
    events: list[Event] = []
    for at in range(0, len(reply), 60_000):
        events += exchange.receive(reply[at : at + 60_000], 0)
    (answered,) = (event for event in events if isinstance(event, Answered))
    assert answered.answer.reply == kept


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400\r\n", b"25 x\r\n", b"\r\n", b"250-" + b"y\r\n250-" * 3_000_000])
def test_F12_what_is_no_smtp_ends_the_connection(garbage: bytes) -> None:
    exchange = begun(pipelining=True)
    events: list[Event] = []
    for at in range(0, len(garbage), 2**20):
        events += exchange.receive(garbage[at : at + 2**20], 0)
    assert kinds(events) == ["Broken"] and exchange.broken


def test_an_answer_to_nothing_ends_the_connection() -> None:
    exchange = Exchange(Offers(pipelining=True))
    assert isinstance(exchange.receive(b"421 idle too long\r\n", 0)[0], Broken)


REPLIES = (b"250 ok\r\n", b"354 go\r\n", b"550 no\r\n", b"421 bye\r\n", b"250-a\r\n", b"x\r\n", b"45", b"0 \n")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(REPLIES)), st.booleans())
def test_F12_whatever_a_relay_says_every_message_is_answered_once(replies: list[bytes], pipelining: bool) -> None:
    exchange = Exchange(Offers(pipelining=pipelining))
    started, settled, number = {"0"}, [], 0
    exchange.begin(an_envelope("0"), 0)
    for reply in replies:
        for event in exchange.receive(reply, 0):
            if isinstance(event, Answered):
                settled.append(event.envelope.tag)
            elif isinstance(event, Idle) and not exchange.broken:
                number += 1
                started.add(str(number))
                exchange.begin(an_envelope(str(number)), 0)
            elif isinstance(event, Ready) and not exchange.broken:
                following = None
                if pipelining:
                    number += 1
                    started.add(str(number))
                    following = an_envelope(str(number))
                exchange.body(BODY, following, 0)
    settled += [envelope.tag for envelope, _, _ in exchange.unanswered("end")]
    assert sorted(map(str, settled)) == sorted(started)
