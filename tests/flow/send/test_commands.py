"""The verbs of sending, as an operator types them."""

from __future__ import annotations

import json
import ssl
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import md5
from pathlib import Path

import pytest
from dns_server import Zone, serving
from send_fixtures import Run
from send_world import HTML, TEXT, Sink, World, by_address, thread, until
from verbs import Verb

from mailmill.cli.app import installation
from mailmill.cli.send import _Progress
from mailmill.composition import Installation
from mailmill.errors import StoreUnavailable
from mailmill.io import send_worker
from mailmill.io.postgres.doubts import own_name
from mailmill.pipelines.send.calls import Report


def test_account_adds_up_and_doubts_are_named_and_settled(world: World, run: Run, mailmill: Verb) -> None:
    with Sink(by_address({"dot r0": "cut", "rcpt r1": "550 5.1.1 who?"})) as sink:
        campaign = world.campaign(5, port=sink.port)
        run()
    told = mailmill("account", "acme/spring", "--json")
    assert told.code == 0, told.err
    answer = json.loads(told.out)
    assert answer["by_state"] == {"sent": 3, "failed": 1, "in_doubt": 1} and answer["unaccounted"] == 0
    assert {"state": "failed", "reason": "bad_mailbox", "messages": 1} in answer["reasons"]
    (doubt,) = json.loads(mailmill("doubts", "acme/spring", "--json").out)
    assert doubt["address"] == "r***@e***.org" and doubt["reason"] == "no_answer"
    assert doubt["message_id"] == next(one.message_id for one in sink.refused)
    told = mailmill("doubts", "acme/spring", "--resolve", "resend", "--message", "999999", "--json")
    assert json.loads(told.out)["resend"] == 0
    message = str(doubt["message"])
    assert mailmill("doubts", "acme/spring", "--resolve", "resend", "--message", message).code == 0
    assert world.account(campaign)["queued"] == 1 and world.state(campaign) == "running"
    with Sink(port=sink.port) as again:
        run()
    assert again.copies == {"r0@example.org": 1} and world.state(campaign) == "finished"


def test_a_doubt_that_a_person_settles_counts_as_if_its_worker_had_known(
    world: World, run: Run, mailmill: Verb
) -> None:
    with Sink(by_address({f"dot r{n}": "cut" for n in range(3)})) as sink:
        campaign = world.campaign(5, port=sink.port)
        run()
    assert world.account(campaign) == {"sent": 2, "in_doubt": 3} and len(world.events()) == 2
    doubts = {row["message"]: row for row in json.loads(mailmill("doubts", "--json").out)}
    sent, failed, held = doubts
    for message, how, n in ((sent, "sent", 1), (failed, "failed", 1), (sent, "sent", 0), (sent, "failed", 0)):
        told = mailmill("doubts", "acme/spring", "--resolve", how, "--message", str(message), "--json")
        assert json.loads(told.out)[how] == n, told.err
    told_events = {event["message"]: event for event in world.events()}
    assert len(world.events()) == len(told_events) == 4 and held not in told_events
    for message, kind in ((sent, "accepted"), (failed, "failed")):
        event = told_events[message]
        assert (event["kind"], event["reason"], event["code"]) == (kind, "settled_by_hand", None)
        assert event["event_id"] == md5(f"{kind}:{message}:1".encode(), usedforsecurity=False).hexdigest()
        at = datetime.fromtimestamp(event["at"] / 1000, UTC)
        assert abs(at - datetime.fromisoformat(doubts[message]["since"])) < timedelta(milliseconds=1)
    assert mailmill("listen", "--until-idle").code == 0
    facts = world.sql("SELECT count(at_accepted), count(at_failed) FROM messages")
    assert facts == [(3, 1)] and not world.sql("SELECT 1 FROM dead_letters")


def test_send_works_until_idle_and_tells_what_it_did(world: World, mailmill: Verb) -> None:
    with Sink() as sink:
        world.campaign(20, port=sink.port)
        other = world.campaign(20, port=sink.port, slug="other")
        told = mailmill("send", "--campaign", "acme/spring", "--worker", "w9", "--json")
    assert told.code == 0, told.err
    answer = json.loads(told.out)
    assert (answer["worker"], answer["ended"], answer["counts"]["sent"]) == ("w9", "idle", 20)
    assert answer["finished"] == ["acme/spring"] and world.account(other) == {"queued": 20}
    assert json.loads(mailmill("workers", "--json").out) == []


def test_what_cannot_be_started_now_keeps_nothing_that_runs_from_being_sent(
    world: World, mailmill: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: Installation, *, by: str) -> None:
        raise StoreUnavailable("DNS does not answer")

    monkeypatch.setattr(Installation, "tick", silent)
    with Sink() as sink:
        campaign = world.campaign(5, port=sink.port)
        told = mailmill("send", "--json")
    assert world.account(campaign) == {"sent": 5}
    assert told.code == 1 and json.loads(told.out)["problems"] == {"due campaigns": "DNS does not answer"}


def test_a_relay_that_is_away_ends_send_with_the_reason_and_every_verb_tells_it(
    world: World, mailmill: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_worker, "run_worker", partial(send_worker.run_worker, patience_s=3.0))
    world.campaign(5, port=1)
    told = mailmill("send", "--worker", "w9")
    assert told.code == 1 and "acme/relay-1: the relay 127.0.0.1:1 does not answer" in told.err
    shown = mailmill("account", "acme/spring")
    assert shown.code == 0 and "the worker w9 ended at" in shown.out and "127.0.0.1:1 does not answer" in shown.out
    (trouble,) = json.loads(mailmill("account", "acme/spring", "--json").out)["troubles"]
    assert trouble["worker"] == "w9" and trouble["ended_at"]
    (row,) = json.loads(mailmill("workers", "--json").out)
    assert row["ended_at"] and "does not answer" in row["last_error"]
    world.sql("UPDATE workers SET ended_at = ended_at - interval '25 h'")
    assert json.loads(mailmill("workers", "--json").out) == []


def test_a_worker_says_no_more_of_a_route_that_nothing_goes_by(world: World, run: Run, mailmill: Verb) -> None:
    with Sink(by_address({"mail": "550 5.7.0 account suspended"})) as closed:
        world.campaign(1, port=closed.port)
        told = threading.Event()
        with thread(lambda: run(until=told.is_set)) as result:
            says = "SELECT troubles FROM workers"
            until(lambda: world.sql("TABLE workers") and world.sql(says)[0][0])
            assert mailmill("campaign", "cancel", "acme/spring").code == 0
            until(lambda: not world.sql(says)[0][0])
            told.set()
            result()


def test_a_worker_that_lives_says_why_nothing_goes_out(world: World, run: Run, mailmill: Verb) -> None:
    world.campaign(5, port=1)
    told = threading.Event()
    with thread(lambda: run(until=told.is_set)) as result:
        until(lambda: world.sql("SELECT troubles FROM workers")[0][0] if world.sql("TABLE workers") else None)
        assert "waits: acme/relay-1: the relay 127.0.0.1:1 does not answer" in mailmill("account", "acme/spring").out
        told.set()
        result()


def test_a_neighbours_journal_that_cannot_be_read_is_told_and_leaves_him_his_name(
    world: World, run: Run, mailmill: Verb, tmp_path: Path
) -> None:
    world.campaign(1, state="paused")
    (tmp_path / "journal" / "neighbour" / "7.j").mkdir(parents=True)
    told: list[str | None] = []

    def seen() -> bool:
        told[:] = [row["last_error"] for row in json.loads(mailmill("workers", "--json").out)]
        if not any(told):
            return False
        with world.database.transaction("sender") as conn:
            assert own_name(conn, "neighbour")
        return True

    run(until=seen)
    (words,) = told
    assert words is not None and "journal cannot be read" in words and "--declare-lost neighbour" in words


def test_who_declares_a_stranger_lost_is_told_who_is_known(world: World, mailmill: Verb) -> None:
    world.sql("INSERT INTO workers (name, host, boot_id, pid) VALUES ('w1', 'here', 'b', 1)")
    told = mailmill("doubts", "--declare-lost", "nobody")
    assert told.code == 1 and "there is no worker 'nobody'" in told.err and "Known are: w1." in told.err
    assert mailmill("doubts", "--declare-lost", "w1").code == 0


@pytest.mark.parametrize(
    "arguments",
    [("account", "acme/none"), ("account", "nonsense"), ("doubts", "acme/none"), ("release", "acme/none"),
     ("doubts", "--resolve", "sent"), ("doubts", "acme/spring", "--message", "1"),
     ("doubts", "acme/spring", "--declare-lost", "w1"), ("doubts", "--declare-lost", "w1", "--resolve", "sent"),
     ("send", "--campaign", "acme/none"), ("send", "--worker", "../x")],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line(world: World, mailmill: Verb, arguments: tuple[str, ...]) -> None:
    world.campaign(1)
    told = mailmill(*arguments)
    assert told.code == 1 and told.err.startswith("mailmill: ") and "Traceback" not in told.err


def test_transport_test_says_each_step_and_hands_over_one_message(
    world: World, mailmill: Verb, certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    monkeypatch.setenv("P", "secret")
    way = {"host": "localhost", "tls": "required", "username": "ann", "password": "env:P"}
    with Sink(keep_bodies=True, tls=certificate[0]) as sink:
        world.campaign(0, port=sink.port, state="draft", transport=way)
        world.sql(
            "INSERT INTO identities (tenant_id, slug, spec) SELECT id, 'news', '{\"from_address\": \"n@acme.example\"}'"
            " FROM tenants"
        )
        name = f"acme/relay-{sink.port}"
        told = mailmill("transport", "test", name, "--to", "me@example.org", "--json")
        assert told.code == 0, told.err
        steps = json.loads(told.out)["steps"]
        assert [one["step"] for one in steps] == ["dns", "connect", "ehlo", "ehlo", "tls", "auth", "message"]
        assert steps[-1]["found"].startswith("250 at dot") and sink.copies == {"me@example.org": 1}
        assert b"From: n@acme.example" in sink.taken[0].body
        told = mailmill("transport", "test", name)
        assert told.code == 0 and "--to ADDRESS" in told.out and len(sink.taken) == 1
        assert mailmill("suppress", "add", "me@example.org", "--tenant", "acme").code == 0
        told = mailmill("transport", "test", name, "--to", "me@example.org")
        assert told.code == 1 and "suppressed" in told.err and len(sink.taken) == 1
        other = ("transport", "test", name, "--to", "me+news@example.org")
        assert mailmill(*other).code == 0 and len(sink.taken) == 2, "without a rule it is another mailbox"
        world.sql("""UPDATE tenants SET spec = '{"merge": {"plus_tags": true}}'""")
        told = mailmill(*other)
        assert told.code == 1 and "suppressed" in told.err and len(sink.taken) == 2
    listed = json.loads(mailmill("transport", "list", "acme", "--json").out)
    for verb in ("transport", "campaign"):
        told = mailmill(verb, "list", "acne")
        assert told.code == 1 and "there is no tenant 'acne'" in told.err
    assert [row["transport"] for row in listed] == [name] and listed[0]["held_at"] is None


def test_transport_test_writes_to_and_from_names_beyond_ascii(world: World, mailmill: Verb) -> None:
    with Sink(keep_bodies=True, offers=("SMTPUTF8", "8BITMIME")) as sink:
        world.campaign(0, port=sink.port, state="draft")
        spec = '{"from_address": "n@bücher.example"}'
        world.sql("INSERT INTO identities (tenant_id, slug, spec) SELECT id, 'news', %s FROM tenants", spec)
        told = mailmill("transport", "test", f"acme/relay-{sink.port}", "--to", "jörg@bücher.example", "--json")
    assert told.code == 0 and json.loads(told.out)["ok"], told.err
    (taken,) = sink.taken
    assert taken.recipient == "jörg@xn--bcher-kva.example"
    assert "From: n@xn--bcher-kva.example\r\nTo: jörg@xn--bcher-kva.example\r\n" in taken.body.decode()


@pytest.mark.parametrize(
    ("answers", "transport", "step", "remedy"),
    [({"banner": "554 go away"}, {}, "banner", "before a word"),
     ({}, {"host": "no.such.host.invalid"}, "dns", "`host`"), ({}, {"tls": "required"}, "starttls", "`tls`"),
     ({"auth": "535 5.7.8 wrong"}, {"username": "ann", "password": "env:P"}, "auth", "`username`"),
     ({}, {"username": "ann", "password": "env:NOBODY_SET_THIS"}, "auth", "`password`"),
     ({}, {"tls": "implicit"}, "starttls", "required elsewhere"),
     ({"banner": "stall"}, {"tls": "required", "timeout_s": 1}, "connect", "implicit on port 465"),
     ({}, {"host": "relay..example"}, "dns", "`host`"),
     ({"rcpt": "550 5.7.1 relaying denied"}, {}, "message", "its words")],
)  # fmt: skip
def test_F10_transport_test_says_what_is_wrong_and_what_to_do(
    world: World, mailmill: Verb, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str],
    transport: dict[str, object], step: str, remedy: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("P", "secret")
    with Sink(by_address(answers)) as sink:
        world.campaign(0, port=sink.port, state="draft", transport=transport)
        world.sql(
            "INSERT INTO identities (tenant_id, slug, spec) SELECT id, 'news', '{\"from_address\": \"n@acme.example\"}'"
            " FROM tenants"
        )
        told = mailmill("transport", "test", f"acme/relay-{sink.port}", "--to", "me@example.org", "--json")
    answer = json.loads(told.out)
    assert told.code == 1 and not answer["ok"] and not sink.taken
    assert answer["steps"][-1]["step"] == step and remedy in answer["steps"][-1]["remedy"]


def test_why_answers_for_everything_that_is_under_way(world: World, mailmill: Verb) -> None:
    told = mailmill("why")
    assert told.code == 0 and "no campaign" in told.out
    world.campaign(2)
    told = mailmill("why", "--json")
    assert told.code == 1
    (found,) = json.loads(told.out)
    assert found["campaign"] == "acme/spring" and found["obstacles"][0]["what"] == "no send worker runs"
    assert mailmill("why", "acme/none").code == 1


def test_preflight_shows_each_check_and_the_record_to_publish(
    world: World, mailmill: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.campaign(0, state="draft")
    spec = {
        "kind": "identity", "tenant": "acme", "slug": "news", "from_name": "Acme", "from_address": "n@acme.example",
        "return_path_domain": "acme.example", "dkim": [{"selector": "s1", "domain": "acme.example"}],
    }  # fmt: skip
    world.sql(
        "INSERT INTO identities (tenant_id, slug, spec) SELECT id, 'news', %s::jsonb FROM tenants", json.dumps(spec)
    )
    zone = Zone(records={
        "acme.example": [("TXT", "v=spf1 ip4:192.0.2.1 -all"), ("MX", "10 mx.acme.example")],
        "s1._domainkey.acme.example": [("TXT", "v=DKIM1; p=whatever")], "mx.acme.example": [("A", "192.0.2.2")],
        "t.acme.example": [("A", "192.0.2.1")],
    })  # fmt: skip
    monkeypatch.setenv("MAILMILL_PUBLIC_URL", "https://t.acme.example")
    with serving(zone) as port:
        monkeypatch.setenv("MAILMILL_RESOLVER", f"127.0.0.1:{port}")
        told = mailmill("preflight", "acme/news", "--json")
        assert told.code == 1, told.err
        findings = {one["check"]: one for one in json.loads(told.out)["findings"]}
        assert {name for name, one in findings.items() if one["level"] != "ok"} == {"DMARC"}
        assert "_dmarc.acme.example. TXT" in findings["DMARC"]["publish"]
        assert findings["DMARC"]["publish"] in mailmill("preflight", "acme/news").out
        zone.records["_dmarc.acme.example"] = [("TXT", "v=DMARC1; p=none")]
        assert mailmill("preflight", "acme/news").code == 0
    assert mailmill("preflight", "acme/none").code == 1


def test_with_a_log_of_json_every_line_of_a_worker_is_an_object(
    world: World, mailmill: Verb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("MAILMILL_LOG_FORMAT", "json")
    installation.cache_clear()
    with caplog.at_level("INFO"):
        _Progress()(Report(problems={"acme/relay": "away"}))
    installation.cache_clear()
    assert "acme/relay: away" in caplog.messages and not capsys.readouterr().err


def test_stats_compares_the_variants_of_a_campaign(world: World, run: Run, mailmill: Verb) -> None:
    part = {"subject": "Hi", "html": HTML, "text": TEXT, "links": [0]}
    variants = [{**part, "template": name.partition(":")[0], "label": name} for name in ("a", "a:de", "b")]
    with Sink(by_address({"rcpt r8": "550 5.1.1 who?"})) as sink:
        world.campaign(9, port=sink.port, variants=variants)
        world.sql("UPDATE messages SET variant = mod(id, 3)")
        run()
    world.sql("UPDATE messages SET at_accepted = 1, at_clicked = CASE WHEN variant = 2 THEN 1 END WHERE state = 'sent'")
    told = mailmill("stats", "acme/spring", "--variants", "--json")
    assert told.code == 0, told.err
    answer = json.loads(told.out)
    a, b = answer["templates"]
    assert (a["variant"], a["planned"], a["clicked"]) == ("a", 6, 0)
    assert (b["variant"], b["planned"], b["clicked"]) == ("b", 3, b["accepted"])
    assert [one["variant"] for one in answer["variants"]] == ["a", "a:de", "b"]
    assert sum(one["accepted"] for one in answer["templates"]) == 8 and set(answer["ahead"]) == {"opened", "clicked"}
    assert "by language and category" in mailmill("stats", "acme/spring", "--variants").out
    # opened, though nobody knows that it was accepted: in neither number of the share
    world.sql("UPDATE messages SET at_opened = 1, at_clicked = 1, at_accepted = CASE WHEN mod(id, 9) = 0 THEN 1 END")
    told = mailmill("stats", "acme/spring", "--variants", "--json")
    assert told.code == 0, told.err
    assert all(one["opened"] == one["clicked"] == one["accepted"] for one in json.loads(told.out)["templates"])
    assert mailmill("stats", "--variants").code == 1
