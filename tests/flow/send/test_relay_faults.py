"""Relays that refuse, babble, stall, dribble or hang up, each at each stage: whose fault it is, and what it costs."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from send_fixtures import Run
from send_oracle import judge
from send_world import Sink, World, by_address

from mailmill.io.postgres import ledger

LOGIN = {"username": "u", "password": "env:P"}
TLS = {"tls": "required", "host": "localhost"}
QUICK = {"timeout_s": 1.5, "data_timeout_s": 1.5, "final_dot_timeout_s": 1.5}  # where somebody waits in vain
PATIENT = dict.fromkeys(QUICK, 60.0)


@dataclass
class Relay:
    """One relay with a campaign of its own, whose recipients are called after the case."""

    sink: Sink
    answers: dict[str, str]
    campaign: int
    name: str

    def rows(self, world: World) -> list[tuple[str, str | None, int]]:
        return list(world.rows(self.campaign).values())


@dataclass(frozen=True)
class Case:
    answers: dict[str, str]
    transport: dict[str, Any] = field(default_factory=dict)
    tls: bool = True  # whether it offers STARTTLS where the transport wants it


@contextmanager
def relays(
    world: World,
    cases: Mapping[str, Case],
    certificate: tuple[ssl.SSLContext, Path],
    rows: int = 5,
    waits: Mapping[str, float] = PATIENT,
) -> Iterator[dict[str, Relay]]:
    """All of them at once, so that each shows as well that it holds up nobody else."""
    with ExitStack() as stack:
        found = {}
        for name, case in cases.items():
            answers = dict(case.answers)
            tls = certificate[0] if "tls" in case.transport and case.tls else None
            sink = stack.enter_context(Sink(by_address(answers), tls=tls))
            people = [f"{name}-{n}@example.org" for n in range(rows)]
            campaign = world.campaign(people, port=sink.port, slug=name, transport={**waits, **case.transport})
            found[name] = Relay(sink, answers, campaign, name)
        yield found


def mended(world: World, run: Run, found: Mapping[str, Relay]) -> None:
    """The relays behave, a person releases what is held, time passes: everybody is sent, and once."""
    for relay in found.values():
        relay.answers.clear()
    with world.database.transaction("owner") as conn:
        for (id,) in conn.execute("SELECT id FROM transports").fetchall():
            ledger.release(conn, id)
    world.due_now()
    run()
    states = judge(world, [one.campaign for one in found.values()], [one.sink for one in found.values()])
    assert states == {"sent": sum(len(one.rows(world)) for one in found.values())}


@pytest.fixture
def trusted(certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch) -> tuple[ssl.SSLContext, Path]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    return certificate


ABOUT_US_FOR_NOW = {
    "banner": Case({"banner": "421 4.3.2 busy"}),
    "banner450": Case({"banner": "450 4.3.2 not now"}),
    "ehlo": Case({"ehlo": "421 4.3.2 busy"}),
    "ehlo450": Case({"ehlo": "450 4.3.2 not now"}),
    "starttls": Case({"starttls": "454 4.7.0 no TLS just now"}, TLS),
    "auth": Case({"auth": "454 4.7.0 try later"}, LOGIN),
    "auth421": Case({"auth": "421 4.7.0 going"}, LOGIN),
}
DEFERS = {
    f"{stage}{code}": Case({stage: f"{code} 4.3.2 later"}) for stage in ("mail", "rcpt", "data", "dot")
    for code in (421, 450)
}  # fmt: skip
GOODBYE = {"goodbye": DEFERS.pop("mail421")}  # before a recipient was named, on a connection that took no message


def test_F09_a_4xx_at_any_stage_is_tried_again(world: World, run: Run, trusted: tuple[ssl.SSLContext, Path]) -> None:
    """Before MAIL it is about us: nobody's attempt is used. Later it defers that message."""
    with relays(world, ABOUT_US_FOR_NOW | GOODBYE | DEFERS, trusted) as found:
        run(patience_s=1.0)
        for name in ABOUT_US_FOR_NOW | GOODBYE:
            assert set(found[name].rows(world)) == {("queued", None, 0)}, name
            assert ("MAIL" in found[name].sink.commands) == (name in GOODBYE)
        for name in DEFERS:
            assert {(state, n) for state, _, n in found[name].rows(world)} == {("deferred", 1)}, name
        assert {event["kind"] for event in world.events()} == {"deferred"}
        assert not world.sql("SELECT 1 FROM transports WHERE held_at IS NOT NULL")
        assert not world.sql("SELECT 1 FROM suppressions")
        mended(world, run, found)


def test_F09_a_relay_that_says_goodbye_to_every_connection_is_asked_more_slowly(world: World, run: Run) -> None:
    answers = {"mail": "421 4.7.0 too many connections"}
    with Sink(by_address(answers)) as sink:
        campaign = world.campaign(200, port=sink.port, transport={"connections": 2})
        began = time.monotonic()
        report = run(until=lambda: sink.connections >= 4).report
        assert time.monotonic() - began > sink.connections / 4, "a new one at once after each"
        assert "421" in str(report.problems)
        assert set(world.rows(campaign).values()) == {("queued", None, 0)}
        answers.clear()
        run()
        assert judge(world, campaign, sink, doubts=0) == {"sent": 200}


def test_F09_a_relay_that_takes_no_mail_just_now_is_asked_more_slowly(world: World, run: Run) -> None:
    """452 at MAIL is said to everybody: it is not tried on each recipient in turn."""
    answers = {"mail": "452 4.3.1 insufficient system storage"}
    with Sink(by_address(answers)) as sink:
        campaign = world.campaign(200, port=sink.port, transport={"connections": 2})
        report = run(until=lambda: sink.connections >= 4).report
        assert "452" in str(report.problems)
        rows = world.rows(campaign).values()
        assert sum(attempt for _, _, attempt in rows) == sink.commands.count("MAIL") <= sink.connections
        answers.clear()
        world.due_now()
        run()
        assert judge(world, campaign, sink, doubts=0) == {"sent": 200}


class Serving:
    """Script of a relay that serves so many connections at once, and says 421 to the others at `stage`."""

    def __init__(self, stage: str, most: int) -> None:
        self.stage, self.most, self.seen = stage, most, 0  # the most at once
        self._served: set[object] = set()

    def __call__(self, stage: str, to: str) -> str | None:
        connection = asyncio.current_task()
        if stage == self.stage and connection not in self._served:
            self._served = {one for one in self._served if not one.done()}  # type: ignore[attr-defined]
            if len(self._served) >= self.most:
                return "421 4.7.0 too many connections"
            self._served.add(connection)
            self.seen = max(self.seen, len(self._served))
        return "slow:0.02" if stage == "dot" else None  # for the others to be missed


@pytest.mark.parametrize("stage", ["banner", "mail"])
def test_P13_F09_a_relay_that_serves_some_connections_is_sent_to_over_those(world: World, run: Run, stage: str) -> None:
    script = Serving(stage, 5)
    with Sink(script) as sink:
        campaign = world.campaign(290, port=sink.port, transport={"connections": 20, "messages_per_connection": 20})
        began = time.monotonic()
        report = run().report
        tries = 4 + math.log2(1 + time.monotonic() - began)
        assert judge(world, campaign, sink, doubts=0) == {"sent": 290}
    assert {row[2] for row in world.rows(campaign).values()} == {1}, "an attempt for a 421"
    assert world.sql("SELECT count(*) FROM attempts") == [(290,)]
    assert script.seen == 5 and not report.problems
    # a connection that follows one of 20 messages may come before the relay has seen the end of that
    assert sink.connections <= 20 + 4 * 290 / 20 + 2 * tries, "opened again and again"


def test_P13_F09_a_relay_that_serves_more_than_before_is_found_out(world: World, run: Run) -> None:
    script = Serving("mail", 1)
    with Sink(script) as sink:

        def more() -> bool:
            if len(sink.taken) > 20:
                script.most = 3
            return script.seen == 3

        world.campaign(20_000, port=sink.port, transport={"connections": 4})
        run(until=more)


ABOUT_US = {
    "banner": Case({"banner": "554 5.7.1 go away"}),
    "ehlo": Case({"ehlo": "550 5.7.1 no"}),
    "starttls": Case({"starttls": "554 5.7.0 never"}, TLS),
    "stripped": Case({}, TLS, tls=False),  # F16: STARTTLS was taken out on the way
    "badcert": Case({}, {"tls": "required", "host": "127.0.0.1"}),  # F16: it is for another name
    "auth": Case({"auth": "535 5.7.8 wrong password"}, LOGIN),
    "mail": Case({"mail": "550 5.7.1 not yours"}),
}


def test_F10_F16_a_5xx_about_us_holds_the_route_and_blames_nobody(
    world: World, run: Run, trusted: tuple[ssl.SSLContext, Path]
) -> None:
    with relays(world, ABOUT_US, trusted, rows=20) as found:
        result = run(patience_s=1.0)
        held = dict(world.sql("SELECT slug, held_reason FROM transports"))
        for name, relay in found.items():
            assert {state for state, _, _ in relay.rows(world)} <= {"queued", "held"}, name
            assert held[f"relay-{relay.sink.port}"], name
            assert name == "mail" or "MAIL" not in relay.sink.commands
            assert f"acme/relay-{relay.sink.port}" in result.report.problems
        assert not world.events() and not world.sql("SELECT 1 FROM suppressions")
        seen = [relay.sink.connections for relay in found.values()]
        assert run().report.counts["sent"] == 0  # nothing is claimed while it is held
        assert [relay.sink.connections for relay in found.values()] == seen
        found["badcert"].sink.tls = found["stripped"].sink.tls = trusted[0]
        world.sql("""UPDATE transports SET spec = spec || '{"host": "localhost"}' WHERE spec ->> 'tls' = 'required'""")
        mended(world, run, found)


def test_F10_a_5xx_about_a_recipient_ends_that_message_by_its_class(
    world: World, run: Run, certificate: tuple[ssl.SSLContext, Path]
) -> None:
    cases = {
        "rcpt": Case({"rcpt": "550 5.1.1 no such user"}), "data": Case({"data": "554 5.6.0 no"}),
        "dot": Case({"dot": "554 5.7.1 we take you for spam"}),
    }  # fmt: skip
    with relays(world, cases, certificate) as found:
        run()
        judge(world, [one.campaign for one in found.values()], [one.sink for one in found.values()], doubts=0)
        ends = {name: set(one.rows(world)) for name, one in found.items()}
    assert ends == {
        "rcpt": {("failed", "bad_mailbox", 1)}, "data": {("failed", "content", 1)}, "dot": {("failed", "policy", 1)},
    }  # fmt: skip


@pytest.mark.parametrize("pipelining", [True, False])
def test_F11_mixed_answers_on_one_connection_stay_with_their_recipients(
    world: World, run: Run, pipelining: bool
) -> None:
    """A message is one transaction with one recipient, so there is nothing to split after a 452."""
    answers = {
        "a": "",
        "gone": "550 5.1.1 who",
        "b": "",
        "busy": "450 4.2.1 later",
        "many": "452 4.5.3 too many",
        "c": "",
    }
    names = [f"{name}{n}" for n in range(4) for name in answers]
    script = by_address({f"rcpt {name}": answers[name[:-1]] for name in names if answers[name[:-1]]})
    with Sink(script, pipelining=pipelining) as sink:
        campaign = world.campaign([f"{n}@x.org" for n in names], port=sink.port, transport={"connections": 1})
        run()
        judge(world, campaign, sink, doubts=0, finished=False)
        handed = {to.split("@")[0] for _, to in sink.handed}
    rows = {address.split("@")[0]: row for address, row in world.rows(campaign).items()}
    expected = {
        "gone": ("failed", "bad_mailbox"),
        "busy": ("deferred", None),
        "many": ("deferred", "too_many_recipients"),
    }
    for name in names:
        state, reason = expected.get(name[:-1], ("sent", "accepted"))
        assert rows[name][0] == state and reason in (None, rows[name][1]), (name, rows[name])
    assert sink.connections == 1
    # a body is sent for nobody whose RCPT was refused, but the empty one that a 354 all the same asks for
    assert handed == {name for name in names if name[0] in "abc" and name[:-1] in ("a", "b", "c")}


ODD: dict[str, tuple[str, tuple[str, ...]]] = {
    "multi": ("250-2.0.0 one\r\n250-2.0.0 two\r\n250 2.0.0 three", ("sent",)),
    "bare": ("250", ("sent",)),
    "barelf": ("250 ok\n", ("sent",)),
    "notenhanced": ("550 user unknown", ("failed",)),
    "contradicts": ("550 4.1.1 odd", ("failed",)),  # the basic code wins
    "contradicts2": ("450 5.1.1 odd", ("deferred",)),
    "high": ("250 \udcff\udcfe \udce9", ("sent",)),
    "huge": ("550 5.1.1 " + "x" * 2_000_000, ("failed",)),
    "hugemany": ("\r\n".join(["550-5.1.1 yyyyyyyy"] * 20_000) + "\r\n550 5.1.1 end", ("failed",)),
    "nothing": ("stall", ("deferred", "in_doubt")),
    "nonsense": ("HTTP/1.1 200 OK", ("deferred", "in_doubt")),
    "nocode": ("ok", ("deferred", "in_doubt")),
    "wrongplace": ("354 go ahead", ("deferred", "in_doubt")),
    "beyond": ("999 what", ("deferred", "in_doubt")),
    "endless": ("drip", ("deferred", "in_doubt")),
}


@pytest.mark.parametrize("stage", ["rcpt", "dot"])
def test_F12_whatever_a_relay_says_one_message_has_one_end(world: World, run: Run, stage: str) -> None:
    with Sink(by_address({f"{stage} {name}": says for name, (says, _) in ODD.items()})) as sink:
        names = [*ODD, *(f"good{n}" for n in range(10))]
        campaign = world.campaign([f"{n}@x.org" for n in names], port=sink.port, transport=QUICK)
        run()
        odd = ("nothing", "nonsense", "nocode", "wrongplace", "beyond", "endless") if stage == "dot" else ()
        judge(world, campaign, sink, doubts=len(odd), finished=False)
    rows = {address.split("@")[0]: row for address, row in world.rows(campaign).items()}
    for name, (_, ends) in ODD.items():
        if ends == ("sent",) and stage == "rcpt":
            assert rows[name][0] == "sent", name
        else:
            assert rows[name][0] == ends[-1 if stage == "dot" else 0], (name, rows[name])
    assert all(rows[f"good{n}"][0] == "sent" for n in range(10))
    for (reply,) in world.sql("SELECT reply FROM attempts"):
        assert len(reply) <= 500 and reply.isprintable()


def test_F12_a_relay_that_speaks_no_smtp_is_only_unavailable(world: World, run: Run) -> None:
    with Sink(by_address({"banner": "HTTP/1.1 200 OK\r\n\r\n"})) as sink:
        campaign = world.campaign(5, port=sink.port)
        result = run(patience_s=1.0)
        judge(world, campaign, sink, doubts=0, finished=False)
    assert world.account(campaign).keys() <= {"queued", "held"}
    assert result.report.problems


EARLY = ("banner", "ehlo")  # nobody's attempt is used before MAIL


def test_P13_F13_relays_that_stall_or_dribble_hold_up_their_own_connections_only(
    world: World, run: Run, certificate: tuple[ssl.SSLContext, Path]
) -> None:
    cases = {
        f"{says}{stage}": Case({stage: says}, {"connections": 2})
        for says in ("stall", "drip") for stage in ("banner", "ehlo", "mail", "rcpt", "data", "dot")
    }  # fmt: skip
    with relays(world, cases, certificate, rows=4) as found, Sink() as quick:
        free = world.campaign([f"free{n}@x.org" for n in range(300)], port=quick.port, slug="free")
        # while each of the others is waited for, for a minute
        stuck = [one.sink for one in found.values()]
        run(until=lambda: world.state(free) == "finished" and all(sink.connections for sink in stuck), grace_s=0.2)
        assert world.account(free) == {"sent": 300}
        world.sql("UPDATE transports SET spec = spec || %s", json.dumps(QUICK))
        due = "SELECT 1 FROM messages WHERE campaign_id = %s AND state IN ('queued', 'leased')"
        run(until=lambda: all(
            one.sink.connections > (2 if name.endswith(EARLY) else 4) or not world.sql(due, one.campaign)
            for name, one in found.items()
        ))  # fmt: skip
        states = judge(
            world, [free, *(one.campaign for one in found.values())], [quick, *(one.sink for one in found.values())],
            doubts=8, finished=False,
        )  # fmt: skip
        for name, one in found.items():
            assert one.sink.most_open <= 3, name  # of 2: it may hear of a new one before the old one's end
            early = {"queued"} if name.endswith(EARLY) else {"queued", "deferred"}
            allowed = {"in_doubt"} if name.endswith("dot") else early
            assert {state for state, _, _ in one.rows(world)} <= allowed, (name, one.rows(world))
    assert states["sent"] == 300


@pytest.mark.parametrize("pipelining", [True, False])
def test_F14_an_answer_that_comes_too_late_is_nobodys(world: World, run: Run, pipelining: bool) -> None:
    """The connection is dropped: what it still says cannot be paired with another message."""
    late = {"mail": "mail-0@x.org", "rcpt": "rcpt-0@x.org", "data": "data-0@x.org", "dot": "dot-0@x.org"}
    with ExitStack() as stack:
        sinks, campaigns = {}, {}
        for stage in late:
            once = [stage]

            def script(at: str, to: str, once: list[str] = once) -> str | None:
                return "wait" if at in once and once.pop() else None

            sinks[stage] = stack.enter_context(Sink(script, pipelining=pipelining))
            campaigns[stage] = world.campaign(
                [f"{stage}-{n}@x.org" for n in range(3)], port=sinks[stage].port, slug=stage,
                transport={**QUICK, "connections": 1},
            )  # fmt: skip

        def over() -> bool:
            for sink in sinks.values():
                if sink.connections == 2:  # the first one was given up; now its answer comes
                    sink.go()
            return not world.sql("SELECT 1 FROM messages WHERE state IN ('queued', 'leased')")

        run(until=over)
        judge(world, list(campaigns.values()), list(sinks.values()), doubts=1, finished=False)
        for stage, to in late.items():
            rows = world.rows(campaigns[stage])
            first = {"mail": ("sent", "accepted", 1), "dot": ("in_doubt", "no_answer", 1)}
            assert rows.pop(to) == first.get(stage, ("deferred", "no_answer", 1)), stage
            assert set(rows.values()) == {("sent", "accepted", 1)}, stage
            assert sinks[stage].connections == 2, stage


@pytest.mark.parametrize("pipelining", [True, False])
def test_F15_a_link_that_ends_after_the_dot_is_a_doubt_and_before_it_none(
    world: World, run: Run, pipelining: bool
) -> None:
    ends = ("cut", "reset", "eof", "stall")
    answers = {f"{stage} {stage}-{end}": end for stage in ("rcpt", "data", "dot") for end in ends}
    answers["dot dot-takencut"] = "taken+cut"
    names = [key.split(" ")[1] for key in answers]
    with Sink(by_address(answers), pipelining=pipelining) as sink:
        campaign = world.campaign(
            [f"{n}@x.org" for n in [*names, "good"]], port=sink.port, transport={**QUICK, "connections": 2}
        )
        run()
        judge(world, campaign, sink, doubts=5, finished=False)
        rows = {address.split("@")[0]: row[0] for address, row in world.rows(campaign).items()}
        assert rows.pop("good") == "sent"
        assert rows == {name: "in_doubt" if name.startswith("dot") else "deferred" for name in names}
        sink.script = lambda stage, to: None
        world.due_now()
        run()
        assert judge(world, campaign, sink, doubts=5) == {"sent": 9, "in_doubt": 5}


def test_F02_F15_a_link_lost_within_a_body_is_no_doubt(world: World, run: Run) -> None:
    """The relay reads no further than 354: without the final dot it must not deliver, so the message is tried again."""
    text = "Hello {{ name }}\n{{ postal_address }}\n{{ unsubscribe_url }}\n" + "filling the sockets\n" * 112_000
    variant = {"subject": "Hi", "html": text, "text": text, "links": []}
    with Sink(by_address({"body": "stall"})) as sink:
        campaign = world.campaign(["a@x.org", "b@x.org"], port=sink.port, transport=QUICK, variants=[variant])
        run()
        assert {row[:2] for row in world.rows(campaign).values()} == {("deferred", "no_answer")}
        sink.script = lambda stage, to: None
        world.due_now()
        run()
        assert judge(world, campaign, sink, doubts=0) == {"sent": 2}
