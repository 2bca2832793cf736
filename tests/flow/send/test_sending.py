"""Sending over a real PostgreSQL and a relay that counts: each answer has its end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default as policy
from itertools import cycle, repeat
from pathlib import Path

import pytest
from ports import free_port
from send_fixtures import Run
from send_oracle import judge
from send_process import start
from send_world import Sink, World, by_address, thread, until
from verbs import Verb

from mailmill.io.postgres import keys, ledger
from mailmill.io.postgres.situation import situations
from mailmill.pipelines.send import tokens
from mailmill.pipelines.send.obstacles import obstacles


@pytest.mark.parametrize("pipelining", [True, False])
def test_P08_every_recipient_gets_one_copy_and_the_campaign_finishes(
    world: World, run: Run, tmp_path: Path, pipelining: bool
) -> None:
    with Sink(pipelining=pipelining, keep_bodies=True) as sink:
        campaign = world.campaign(300, port=sink.port, names=["Zoë <b>"] * 300)
        result = run()
    assert result.report.ended == "idle" and not result.report.problems
    assert world.account(campaign) == {"sent": 300}
    assert sink.copies == {f"r{n}@example.org": 1 for n in range(300)}
    assert world.state(campaign) == "finished"
    assert [event["kind"] for event in world.events()] == ["accepted"] * 300
    assert not list((tmp_path / "journal").rglob("*.j")) and not world.sql("SELECT * FROM leases")
    message = message_from_bytes(sink.taken[0].body, policy=policy)
    assert message["Subject"] == "Hi Zoë <b>"
    assert sink.most_open <= 4
    assert world.sql("SELECT count(*), count(DISTINCT message_id) FROM attempts WHERE code = 250") == [(300, 300)]


def test_P13_each_answer_has_its_end(world: World, run: Run) -> None:
    answers = {
        "rcpt gone": "550 5.1.1 no such user <gone@example.org>", "rcpt full": "552 5.2.2 mailbox full",
        "rcpt busy": "450 4.2.1 try later", "dot spam": "554 5.7.1 we take you for spam",
        "dot later": "451 4.3.0 later", "dot cut": "cut", "dot reset": "reset", "rcpt hung": "cut",
        "dot junk": "HTTP/1.1 400 what",
        "data no": "554 5.6.0 no",
        "rcpt bye": "421 4.3.2 going down", "dot long": "250-a\r\n250-b\r\n250 2.0.0 c",
    }  # fmt: skip
    names = ["gone", "full", "busy", "spam", "later", "cut", "reset", "hung", "junk", "no", "bye", "long", "ok"]
    with Sink(by_address(answers)) as sink:
        campaign = world.campaign(
            [f"{name}@example.org" for name in names], port=sink.port, transport={"connections": 2}
        )
        run()
        copies = sink.copies
    rows = {address.split("@")[0]: (state, reason) for address, (state, reason, _) in world.rows(campaign).items()}
    assert rows["gone"] == ("failed", "bad_mailbox") and rows["full"] == ("failed", "mailbox_full")
    assert rows["spam"] == ("failed", "policy") and rows["no"][0] == "failed"
    for name in ("busy", "later", "hung", "bye"):
        assert rows[name][0] == "deferred", name
    for name in ("cut", "reset", "junk"):  # F15: who knows
        assert rows[name][0] == "in_doubt", name
    assert rows["long"][0] == rows["ok"][0] == "sent"
    assert max(copies.values()) == 1 and {a.split("@")[0] for a in copies} == {"long", "ok"}
    kinds = sorted(event["kind"] for event in world.events())
    assert kinds == ["accepted"] * 2 + ["deferred"] * 4 + ["failed"] * 4
    assert world.state(campaign) == "running"
    ((reply,),) = world.sql("SELECT reply FROM messages WHERE address LIKE 'gone@%%'")
    assert reply == "5.1.1 no such user <g***@e***.org>"
    history = (
        "SELECT a.attempt, t.slug, a.connection, a.stage, a.code, a.enhanced, a.reply, a.latency_ms >= 0,"
        " a.at BETWEEN c.started_at AND clock_timestamp() FROM attempts a JOIN messages m ON m.id = a.message_id"
        " JOIN campaigns c ON c.id = m.campaign_id JOIN transports t ON t.id = a.transport_id"
        " WHERE m.address LIKE 'gone@%%'"
    )
    ((number, slug, connection, *told),) = world.sql(history)
    assert (number, slug) == (1, f"relay-{sink.port}") and re.fullmatch(r".+/.+#\d+", connection), connection
    assert told == ["rcpt", 550, "5.1.1", reply, True, True]
    judge(world, campaign, sink, doubts=3, finished=False)


def test_F09_a_deferred_message_is_tried_again_when_it_is_due(world: World, run: Run) -> None:
    tried: list[str] = []

    def script(stage: str, recipient: str) -> str | None:
        if stage == "rcpt":
            tried.append(recipient)
        return "450 4.2.1 later" if stage == "rcpt" and len(tried) < 3 else None

    with Sink(script) as sink:
        campaign = world.campaign(1, port=sink.port)
        for _ in range(3):
            run()
            world.due_now()
    assert world.rows(campaign)["r0@example.org"] == ("sent", "accepted", 3)
    assert [e["kind"] for e in world.events()] == ["deferred", "deferred", "accepted"]
    assert judge(world, campaign, sink, doubts=0) == {"sent": 1}


def test_after_the_last_attempt_and_after_too_long_it_ends(world: World, run: Run) -> None:
    with Sink(by_address({"rcpt": "450 4.2.1 later"})) as sink:
        last = world.campaign(1, port=sink.port, max_attempts=2)
        long = world.campaign(["b@x.org"], port=sink.port, slug="long")
        for _ in range(3):
            run()
            world.sql("UPDATE attempts SET at = at - interval '73 h' WHERE attempt = 1 AND at > now() - interval '1 h'")
            world.due_now()
    assert {(state, tries) for one in (last, long) for state, _, tries in world.rows(one).values()} == {
        ("failed", 2), ("expired", 2)}  # fmt: skip
    assert (world.state(last), world.state(long)) == ("finished", "finished")


@pytest.mark.parametrize("kept", ["paused", "held", "in doubt"])
def test_P13_who_was_kept_waiting_for_too_long_is_tried_once_more(
    world: World, run: Run, mailmill: Verb, kept: str
) -> None:
    answers = {"paused": ("rcpt", "450 4.2.1 later"), "held": ("mail", "550 5.7.0 call us"), "in doubt": ("dot", "cut")}
    freed = {"held": ("release", "acme/relay-{}"), "in doubt": ("doubts", "acme/spring", "--resolve", "resend")}
    with Sink(by_address(dict([answers[kept]]))) as sink:
        campaign = world.campaign(["a@x.org"], port=sink.port)
        run()
        world.sql("UPDATE attempts SET at = at - interval '80 h'")
        world.sql("UPDATE messages SET done_at = done_at - interval '80 h'")
        sink.script = lambda stage, to: None
        if kept in freed:
            assert mailmill(*(word.format(sink.port) for word in freed[kept])).code == 0
        world.due_now()
        run()
    assert sink.copies == {"a@x.org": 1} and world.account(campaign) == {"sent": 1}
    assert world.state(campaign) == "finished"


def test_P13_a_run_of_policy_refusals_holds_the_route(world: World, run: Run) -> None:
    with Sink(by_address({"dot": "550 5.7.1 policy"})) as sink:
        campaign = world.campaign([f"r@d{n}.example" for n in range(200)], port=sink.port)
        run()
    states = world.account(campaign)
    assert 10 <= states["failed"] <= 20 and states["queued"] == 200 - states["failed"]
    assert world.sql("SELECT held_at IS NOT NULL, held_for FROM transports") == [(True, {})]


def test_P13_a_provider_that_refuses_us_is_held_alone_and_sent_to_when_released(world: World, run: Run) -> None:
    """Whatever others take in between, and for whomever it runs mailboxes; the run itself says nothing of the route."""
    provider = {"hotmail.com": "microsoft", "firm.example": "microsoft"}
    refusing = set(provider)

    def script(stage: str, recipient: str) -> str | None:
        blocked = stage == "rcpt" and recipient.partition("@")[2] in refusing
        return f"554 5.7.1 <{recipient}> bl\0ocked" if blocked else None  # relays do not mind what they send

    people = [f"reader{who}@{at}" for who in range(60) for at in ("hotmail.com", "good.example")]
    people += [f"z{n}@firm.example" for n in range(40)]
    with Sink(script) as sink:
        campaign = world.campaign(people, port=sink.port, transport={"connections": 2}, providers=provider)
        report = run().report
        states = world.account(campaign)
        assert states["sent"] == 60 == len(sink.taken) and 10 <= states["failed"] <= 20
        assert states["held"] == 100 - states["failed"], "nobody else was lost, and nobody tried"
        assert "held for microsoft: 10 refusals in a row, the last policy" in str(report.problems)
        [(route, why)] = world.sql("SELECT held_at, held_for ->> 'microsoft' FROM transports")
        assert route is None and "bl ocked" in why and not any(one in why for one in people)
        held = [one for one in world.rows(campaign).values() if one[0] == "held"]
        assert set(held) == {("held", "provider_held", 0)}, "an attempt that was not made is none"
        other = world.campaign(["a@good.example"], port=sink.port, slug="autumn")
        with world.database.transaction("owner") as conn:
            assert "microsoft" not in str(obstacles(situations(conn, "acme/autumn")[0])), "it has nobody there"
            conn.execute("DELETE FROM campaigns WHERE id = %s", (other,))
            (found,) = obstacles(situations(conn, "acme/spring")[0])[:1]
            assert "held for recipients at microsoft" in found.what and "mailmill release" in found.remedy
            assert ledger.release(conn, world.sql("SELECT id FROM transports")[0][0]) == states["held"]
        refusing.clear()
        run()
        assert judge(world, campaign, sink, doubts=0) == {"sent": 160 - states["failed"], "failed": states["failed"]}


def test_P13_a_4xx_at_mail_about_one_campaign_holds_nobody_and_closes_nothing(world: World, run: Run) -> None:
    """Nor is it an attempt at the recipient, however often."""
    said: dict[str, Iterator[str]] = {
        "mail": cycle(["450 4.1.8 sender domain not found", "452 4.3.4 too big just now"])
    }
    with Sink(lambda stage, recipient: next(said[stage]) if stage in said else None) as sink:
        people = [f"r{n}@one.example" for n in range(40)]
        campaign = world.campaign(people, port=sink.port, transport={"connections": 2}, max_attempts=2)
        run()
        assert world.account(campaign) == {"deferred": 40} and sink.connections <= 2
        for _ in range(2):
            world.due_now()
            run()
            said = {"rcpt": repeat("451 4.7.1 greylisted")}
        assert world.account(campaign) == {"deferred": 40}, "the first word about them"
        world.due_now()
        run()
        assert world.account(campaign) == {"failed": 40} and world.sql("SELECT DISTINCT attempt FROM messages") == [
            (4,)
        ]
    assert world.sql("SELECT held_at, held_for FROM transports") == [(None, {})]


def test_F15_a_doubt_is_held_or_sent_again_under_the_same_message_id(world: World, run: Run) -> None:
    cut = {"first"}

    def script(stage: str, recipient: str) -> str | None:
        if stage == "dot" and recipient in cut:
            return None if recipient not in cut else (cut.discard(recipient), "taken+cut")[1]
        return None

    with Sink(script) as sink:
        held = world.campaign(["held@x.org"], port=sink.port, slug="hold")
        again = world.campaign(["again@x.org"], port=sink.port, slug="resend", doubt="resend")
        cut |= {"held@x.org", "again@x.org"}
        run()
        world.sql("UPDATE messages SET due_at = '-infinity' WHERE state = 'queued'")
        run()
    assert world.account(held) == {"in_doubt": 1} and world.state(held) == "finished"
    assert world.account(again) == {"sent": 1}
    ids = [taken.message_id for taken in sink.taken if taken.recipient == "again@x.org"]
    assert len(ids) == 2 and len(set(ids)) == 1
    assert judge(world, [held, again], sink, named=2) == {"in_doubt": 1, "sent": 1}


ENDS = ("failed", "cancelled", "expired", "suppressed", "forgotten", "gone")


def test_P09_P20_a_doubt_that_is_sent_again_ends_as_one_whatever_stops_it(
    world: World, run: Run, mailmill: Verb
) -> None:
    """A relay has it: no row may be called otherwise (I2), and each is named. A mailbox that is gone is suppressed."""
    first = {f"{end}@x.org" for end in ENDS}

    def script(stage: str, recipient: str) -> str | None:
        if stage == "dot" and recipient in first:
            first.discard(recipient)
            return "taken+cut"
        no = "550 5.1.1 no such user" if recipient == "gone@x.org" else "550 5.7.1 policy"
        return no if stage == "rcpt" and recipient not in first else None

    with Sink(script) as sink:
        campaigns = {end: world.campaign([f"{end}@x.org"], port=sink.port, slug=end, doubt="resend") for end in ENDS}
        run()
        for campaign in campaigns.values():
            assert world.account(campaign) == {"queued": 1}
        world.sql("UPDATE campaigns SET state = 'cancelled' WHERE id = %s", campaigns["cancelled"])
        world.sql("UPDATE campaigns SET ends_at = clock_timestamp() WHERE id = %s", campaigns["expired"])
        world.sql(
            "INSERT INTO suppressions (tenant_id, address_key, reason)"
            " SELECT tenant_id, 'suppressed@x.org', 'unsubscribed' FROM campaigns LIMIT 1"
        )
        world.sql("UPDATE messages SET address = NULL WHERE campaign_id = %s", campaigns["forgotten"])
        world.sql("UPDATE messages SET due_at = '-infinity' WHERE state = 'queued'")
        run()
    assert set(world.sql("SELECT state, reason FROM messages")) == {
        ("in_doubt", "policy"), ("in_doubt", "campaign_cancelled"), ("in_doubt", "campaign_ended"),
        ("in_doubt", "unsubscribed"), ("in_doubt", "forgotten"), ("in_doubt", "bad_mailbox"),
    }  # fmt: skip
    assert set(sink.copies.values()) == {1}
    [told] = world.events()
    assert (told["campaign"], told["kind"]) == (campaigns["gone"], "bounced_hard"), "an end of the others is none"
    assert mailmill("listen", "--until-idle").code == 0
    assert ("gone@x.org", "bounced") in world.sql("SELECT address_key, reason FROM suppressions")
    assert world.sql("SELECT outcome FROM messages WHERE at_failed IS NULL AND outcome <> 'none'") == [
        ("bounced_hard",)
    ]


def test_F40_a_recipient_that_cannot_be_rendered_is_invalid_and_stops_nobody(world: World, run: Run) -> None:
    with Sink() as sink:
        campaign = world.campaign(
            ["a@x.org", "b@x.org", "ü@x.org", "c@x.org", "d@x.org\r\nRCPT TO:<e@x.org>", "f@x.org", "g@x.org",
             "h@x.org"],
            port=sink.port,
            names=["Anna", "x\r\nBcc: z@z.org", "Ü", "\x02", "D", "x\ry", "x\u2028Bcc: z@z.org", "x\x85y"],
        )  # fmt: skip
        run()
    rows = {address: row[:2] for address, row in world.rows(campaign).items()}
    assert rows.pop("a@x.org") == ("sent", "accepted")
    assert rows.pop("ü@x.org") == ("invalid", "unsupported_address")  # by this relay, which offers no SMTPUTF8
    assert rows.pop("d@x.org\r\nRCPT TO:<e@x.org>") == ("invalid", "unsupported_address")
    assert set(rows.values()) == {("invalid", "render_error")}
    assert judge(world, campaign, sink, doubts=0) == {"sent": 1, "invalid": 7}


def test_an_address_beyond_ascii_goes_where_smtputf8_is_offered(world: World, run: Run) -> None:
    with Sink(keep_bodies=True, offers=["SMTPUTF8"]) as sink:
        campaign = world.campaign(["ü@x.org"], port=sink.port)
        run()
    assert world.account(campaign) == {"sent": 1} and sink.copies == {"ü@x.org": 1}
    assert any(line.startswith("MAIL") and line.endswith("SMTPUTF8") for line in sink.lines)
    assert "To: ü@x.org\r\n".encode() in sink.taken[0].body


def test_an_absent_relay_is_said_and_loses_nothing(world: World, run: Run) -> None:
    campaign = world.campaign(5, port=1)
    result = run(patience_s=1.0)
    assert world.account(campaign) == {"queued": 5}
    assert "does not answer" in result.report.problems["acme/relay-1"]


def test_a_relay_that_came_back_is_no_problem_any_more(world: World, run: Run) -> None:
    port = free_port()
    campaign = world.campaign(5, port=port)
    said: list[str] = []
    with thread(lambda: run(patience_s=20.0, progress=lambda report: said.extend(report.problems.values()))) as result:
        until(lambda: any("does not answer" in one for one in said))
        with Sink(port=port):
            report = result().report
    assert world.account(campaign) == {"sent": 5} and report.problems == {}
    assert world.sql("SELECT name FROM workers") == []


def test_M1_a_message_keeps_its_id_whatever_keys_were_rotated_between_its_attempts(world: World, run: Run) -> None:
    with Sink(by_address({"dot": "451 4.3.0 later"}), keep_bodies=True) as sink:
        campaign = world.campaign(2, port=sink.port)
        run()
        with world.database.transaction() as conn:
            for purpose in keys.PURPOSES:
                keys.rotate(conn, purpose)
        sink.script = lambda stage, to: None
        world.due_now()
        run()
        assert judge(world, campaign, sink, doubts=0) == {"sent": 2}
        later = world.campaign(["new@example.org"], port=sink.port, slug="later")
        run()
    told: dict[str, set[tuple[str, ...]]] = {}
    for one in [*sink.refused, *sink.taken]:
        found = re.search(rb"List-Unsubscribe: <(\S+)>", one.body)
        assert found is not None
        told.setdefault(one.recipient, set()).add((one.message_id, found[1].decode()))
    people = ("r0@example.org", "r1@example.org", "new@example.org")
    assert {to: len(seen) for to, seen in told.items()} == dict.fromkeys(people, 1)
    with world.database.transaction() as conn:
        newest = next(iter(keys.usable(conn, "return_path")))
        token = sink.taken[-1].message_id.strip("<>").partition("@")[0]
        assert tokens.verify(token, {newest: keys.usable(conn, "return_path")[newest]}, "return_path") is not None
    assert world.account(later) == {"sent": 1}


@pytest.mark.parametrize("planned", ["sandbox", "smtp"])
def test_what_was_planned_for_a_sandbox_never_reaches_a_relay_nor_the_other_way_round(
    world: World, run: Run, planned: str
) -> None:
    other = {"sandbox": "smtp", "smtp": "sandbox"}[planned]
    with Sink() as first, Sink() as second:
        for slug in ("done", "left", "next"):
            facts = {"state": "running" if slug == "done" else "draft", "kind": planned}
            world.campaign(
                3, port=first.port, slug=slug, sandbox=(other if slug == "next" else planned) == "sandbox", **facts
            )
        done, left, following = (id for (id,) in world.sql("SELECT id FROM campaigns ORDER BY id"))
        with thread(lambda: run(until=lambda: world.state(following) == "finished")) as result:
            until(lambda: world.state(done) == "finished")
            world.sql("UPDATE transports SET kind = %s, spec = spec || %s", other, json.dumps({"port": second.port}))
            world.sql("UPDATE campaigns SET state = 'running' WHERE state = 'draft'")
            report = result().report
    assert len(first.taken) == 3 and len(second.taken) == 3, "a connection that was open is not used for another relay"
    assert world.account(left) == {"queued": 3}
    assert "change that back, or cancel it" in report.problems["campaign acme/left"]


def test_a_transport_is_followed_while_a_campaign_runs_on_it(world: World, tmp_path: Path) -> None:
    """Its limits and connections are today's: they are about how mail leaves, not about what is said to whom."""
    with Sink(by_address({"dot": "slow:0.1"})) as sink:
        campaign = world.campaign(60, port=sink.port, transport={"per_day": 10, "connections": 1})
        worker = start(world.database, tmp_path, worker="w1")
        until(lambda: world.account(campaign).get("sent") == 10)
        assert sink.most_open == 1
        world.sql("UPDATE transports SET spec = spec - 'per_day' || '{\"connections\": 3}'")
        until(lambda: world.state(campaign) == "finished")
        worker.terminate()
        worker.communicate(timeout=120)
        assert judge(world, campaign, sink, doubts=0) == {"sent": 60} and 1 < sink.most_open <= 4
