"""A campaign from its draft to its frozen ledger, over real PostgreSQL and a real lake."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from dataclasses import astuple
from datetime import UTC, datetime, timedelta

import pytest

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.postgres import audiences, campaigns, consents, control, ledger, suppressions
from mailmill.pipelines.target import planning


def test_a_started_campaign_has_one_ledger_row_a_recipient(world):
    (result,) = world.start()
    assert (result.state, result.planned, result.exclusions) == ("running", 5, {})
    rows = world.rows(
        "SELECT m.id, contact_id, address, address_key, domain, state, f.merge_values FROM messages m"
        " JOIN message_fields f ON f.message_id = m.id ORDER BY m.id"
    )
    assert [row[0] for row in rows] == list(range(1, 6))
    assert rows[0][1:] == (1, "P0@x0.example", "p0@x0.example", "x0.example", "queued", "\x02")
    assert rows[1][-1] == "Person 1"
    first, planned, transport = world.rows("SELECT first_message_id, planned, transport_id FROM campaigns")[0]
    assert (first, planned, transport) == (1, 5, 1)


def test_the_content_is_what_sending_needs(world):
    world.start()
    content = world.value("SELECT content FROM campaigns")
    assert content["merge_fields"] == ["name"]
    assert content["links"] == ["https://shop.example/new?a=1&b=2", "https://shop.example/offers"]
    assert world.rows("SELECT ordinal, url FROM links ORDER BY 1") == list(enumerate(content["links"]))
    assert content["list_id"] == "all.acme.acme.example"
    assert (content["sandbox"], content["doubt"], content["window"]) == (True, "hold", None)
    assert content["public_url"] == world.public_url


def test_a_window_without_a_zone_gets_the_tenants(world, project):
    world.apply(*project(window={"start": "09:00", "end": "17:00"}))
    world.start()
    assert world.value("SELECT content->'window'->>'time_zone' FROM campaigns") == "Europe/Berlin"


def test_the_audience_lies_in_the_lake_as_it_does_in_the_ledger(world):
    world.start()
    (file, facts) = world.rows("SELECT file, facts FROM manifest WHERE dataset = 'audiences' AND part = 'spring'")[0]
    frame = world.lake.scan([file], None).collect()
    assert frame.columns == [
        "message_id",
        "contact_id",
        "address",
        "address_key",
        "domain",
        "provider",
        "merge_values",
        "variant",
        "aliases",
    ]
    assert frame["message_id"].to_list() == [1, 2, 3, 4, 5]
    assert facts["exclusions"] == {}


def test_values_that_look_like_copy_syntax_arrive_as_they_are(world, frame, project):
    odd = ['a"b', "a,b", "\\.", "\\N", "tab\there", "line\nbreak", " \u2028 ", "NULL", "'", "ünï"]
    world.publish(frame([{"email": f"p{n}@x.example", "name": value} for n, value in enumerate(odd)]))
    world.start()
    wanted = [value.replace("\t", "").replace("\n", "").strip() or "\x02" for value in odd]
    assert [row[0] for row in world.rows("SELECT merge_values FROM message_fields ORDER BY message_id")] == wanted


def test_P06_an_audience_and_its_content_stay_as_they_were_started(world, frame, project):
    world.start()
    before = world.rows("SELECT id, address, state FROM messages ORDER BY id")
    content = world.value("SELECT content FROM campaigns")
    documents = project()
    documents[3]["subject"], documents[4]["rule"] = "Changed", {"country": "FR"}
    world.apply(*documents[:5])
    world.publish(frame([{"email": "other@x.example"}]))
    world.tick()
    assert world.rows("SELECT id, address, state FROM messages ORDER BY id") == before
    assert world.value("SELECT content FROM campaigns") == content
    assert content["variants"][0]["subject"] == "Spring"


def test_F46_the_next_campaign_sees_the_edit_and_the_running_one_does_not(world, project):
    world.start()
    documents = project(slug="second")
    documents[3]["subject"] = "Changed"
    world.apply(*documents)
    world.start("acme/second")
    subjects = dict(world.rows("SELECT slug, content->'variants'->0->>'subject' FROM campaigns"))
    assert subjects == {"spring": "Spring", "second": "Changed"}


def test_P07_suppressions_are_read_live_and_not_from_the_generation(world):
    with world.database.transaction() as conn:
        keys = ["p1@x1.example", "p2@x0.example"]
        suppressions.suppress(conn, tenant_id=1, address_keys=keys[:1], reason="unsubscribed")
        suppressions.suppress(conn, tenant_id=1, address_keys=keys, reason="imported")
    (result,) = world.start()
    assert result.exclusions == {"unsubscribed": 1, "imported": 1}
    assert world.rows("SELECT reason, n FROM exclusions ORDER BY 1") == [("imported", 1), ("unsubscribed", 1)]
    assert {row[0] for row in world.rows("SELECT contact_id FROM messages")} == {1, 4, 5}


def test_P07_a_suppression_for_another_campaign_an_expired_one_and_another_tenants_keep_nobody_out(world, project):
    world.apply({"kind": "tenant", "slug": "other", "name": "Other", "postal_address": "Elsewhere 2"})
    with world.database.transaction() as conn:
        key = ["p1@x1.example"]
        suppressions.suppress(conn, tenant_id=1, address_keys=key, reason="manual", scope_campaign_id=99)
        past = datetime.now(UTC) - timedelta(days=1)
        suppressions.suppress(conn, tenant_id=1, address_keys=key, reason="bounced", expires_at=past)
        suppressions.suppress(conn, tenant_id=2, address_keys=key, reason="unsubscribed")
        suppressions.suppress(conn, tenant_id=1, address_keys=key, reason="manual", channel="phone")
    assert world.start()[0].planned == 5


def test_P07_a_suppression_said_again_lifts_an_earlier_end_and_an_ended_one_begins_anew(world):
    now, key = datetime.now(UTC), "p1@x1.example"
    day = timedelta(days=1)
    ends = {"yesterday": now - day, "tomorrow": now + day, "next week": now + 7 * day, "never": None}
    # of the first word, of the second, which of them holds, how many the second changed
    cases = [
        ("yesterday", "never", "never", 1), ("yesterday", "tomorrow", "tomorrow", 1), ("tomorrow", "never", "never", 1),
        ("tomorrow", "next week", "next week", 1), ("next week", "tomorrow", "next week", 0),
        ("never", "tomorrow", "never", 0),
    ]  # fmt: skip
    for number, (first, second, holds, changed) in enumerate(cases):
        said = {"tenant_id": 1, "address_keys": [key], "reason": "manual", "scope_campaign_id": number}
        with world.database.transaction() as conn:
            assert suppressions.suppress(conn, **said, expires_at=ends[first], note="first") == 1
            assert suppressions.suppress(conn, **said, expires_at=ends[second]) == changed
        row = "SELECT expires_at, note FROM suppressions WHERE scope_campaign_id = %s"
        with world.database.transaction() as conn:
            note = None if first == "yesterday" else "first"
            assert conn.execute(row, [number]).fetchall() == [(ends[holds], note)], cases[number]
    kept = "SELECT scope_campaign_id, removed_at, removed_by FROM suppression_removals ORDER BY 1"
    assert world.rows(kept) == [(0, ends["yesterday"], "its end"), (1, ends["yesterday"], "its end")]


def test_P07_somebody_suppressed_while_the_audience_is_taken_is_not_in_it(world, monkeypatch):
    freeze, tries = world.campaigns.freeze, []

    class Overtaken:
        planning, fail = staticmethod(world.campaigns.planning), staticmethod(world.campaigns.fail)

        @staticmethod
        def freeze(frozen, *, by):
            tries.append(frozen.audience.recipients.height)
            if len(tries) == 1:
                with world.database.transaction() as conn:
                    suppressions.suppress(conn, tenant_id=1, address_keys=["p3@x1.example"], reason="unsubscribed")
            return freeze(frozen, by=by)

    with world.database.transaction() as conn:
        campaigns.schedule(conn, campaigns.find(conn, "acme/spring"), None, by="test")
    result = planning.plan(1, campaigns=Overtaken(), contacts=world.contacts,
                           preflight=world.preflight, public_url=world.public_url, by="test")  # fmt: skip
    assert tries == [5, 4]
    assert (result.planned, result.exclusions) == (4, {"unsubscribed": 1})
    assert world.value("SELECT count(*) FROM messages WHERE address_key = 'p3@x1.example'") == 0


@pytest.mark.parametrize("lost", [False, True], ids=["another takes its place", "it is lost"])
def test_P07_a_file_of_the_contacts_that_goes_while_they_are_read_fails_no_campaign(world, frame, lost):
    """A forget takes it away as soon as another one is listed in its place; a lost one is published anew."""
    generation, read = world.contacts.generation, []

    class Overtaken:
        suppressions, chosen = staticmethod(world.contacts.suppressions), staticmethod(world.contacts.chosen)

        @staticmethod
        def generation(tenant_id):
            read.append(generation(tenant_id))
            if len(read) == 1:
                old = [world.lake.path(file) for (file,) in world.rows("SELECT file FROM manifest")]
                if not lost:
                    world.publish(frame([{"email": "p1@x1.example", "name": "One"}]))
                for path in old:
                    path.unlink()
            return read[-1]

    with world.database.transaction() as conn:
        campaigns.schedule(conn, campaigns.find(conn, "acme/spring"), None, by="test")
    facts = {"campaigns": world.campaigns, "preflight": world.preflight, "public_url": world.public_url, "by": "test"}
    if lost:
        with pytest.raises(StoreUnavailable, match="published contacts"):
            planning.plan(1, contacts=Overtaken(), **facts)
        assert world.state() == "planning"
        world.publish(frame([{"email": "p1@x1.example", "name": "One"}]))
    assert planning.plan(1, contacts=Overtaken() if not lost else world.contacts, **facts).planned == 1
    assert world.state() == "running"


def test_P07_whom_a_campaign_is_told_of_later_makes_no_audience_unclean_and_whom_it_was_told_of_before_does(
    world, monkeypatch
):
    """The check blocks what sends: not for who was suppressed while the ledger was filled, or as of before."""
    copy = audiences._copy

    def meanwhile(conn, statement, pieces):
        with world.database.transaction() as other:
            suppressions.suppress(other, tenant_id=1, address_keys=["p3@x1.example"], reason="unsubscribed")
        copy(conn, statement, pieces)

    monkeypatch.setattr(audiences, "_copy", meanwhile)
    assert world.start()[0].planned == 5
    with world.database.transaction() as conn:
        last_week = datetime.now(UTC) - timedelta(days=7)
        consents.add(conn, 1, "p1@x1.example", "withdrawn", basis=None, proof="a call", by="ann", at=last_week)
    for recorded, dirt in ((0, (0, 0, 2)), (3600, (0, 2, 0))):
        world.run("UPDATE suppressions SET recorded_at = recorded_at - make_interval(secs => %s)", recorded)
        with world.database.transaction() as conn:
            assert astuple(control.audience_dirt(conn, 1)) == dirt


def test_P06_the_ledger_keeps_addresses_letter_by_letter(world, frame):
    """Such as a quoted local part allows (RFC 5321 section 4.1.2), among a person's other addresses as well."""
    odd, other = '"a,b\\"c\\\\d{e}"@x.example', '"f\\\\,\\"g"@x.example'
    world.publish(frame([{"email": odd, "aliases": sorted([odd, other, "null@x.example"]), "name": '"A, \\N"'}]))
    assert world.start()[0].planned == 1
    assert world.rows("SELECT address, address_key, aliases FROM messages") == [
        (odd, odd, sorted([other, "null@x.example"]))
    ]
    assert world.value("SELECT merge_values FROM message_fields") == '"A, \\N"'


def test_P07_who_is_suppressed_by_another_of_their_addresses_while_the_audience_is_taken_is_not_in_it(world, frame):
    world.publish(frame([{"email": "a@x.example", "aliases": ["a@x.example", "b@x.example"]}]))
    with world.database.transaction() as conn:
        campaigns.schedule(conn, campaigns.find(conn, "acme/spring"), None, by="test")
    with world.campaigns.planning(1, by="test") as draft:
        frozen = planning.decide(draft, contacts=world.contacts, public_url=world.public_url)
        with world.database.transaction() as conn:
            suppressions.suppress(conn, tenant_id=1, address_keys=["b@x.example"], reason="unsubscribed")
        assert world.campaigns.freeze(frozen, by="test") == "stale"
    assert world.value("SELECT count(*) FROM messages") == 0


def test_a_campaign_that_nobody_would_get_is_refused_with_the_reason_and_can_be_started_again(world):
    with world.database.transaction() as conn:
        keys = [f"p{n}@x{n % 2}.example" for n in range(5)]
        suppressions.suppress(conn, tenant_id=1, address_keys=keys, reason="unsubscribed")
    (result,) = world.start()
    assert (result.state, result.planned, world.state()) == ("failed", 0, "failed")
    assert result.reason.startswith("nobody to mail: the segment has 5, excluded are unsubscribed 5\n")
    assert world.value("SELECT reason FROM campaign_transitions ORDER BY id DESC LIMIT 1") == result.reason
    world.run("DELETE FROM suppressions WHERE address_key = 'p0@x0.example'")
    (result,) = world.start()
    assert (result.state, result.planned, world.state()) == ("running", 1, "running"), "its slug is not used up"


def test_a_missing_value_without_a_default_refuses_the_start_with_count_and_remedy(world, project):
    documents = project()
    documents[3]["html"] = documents[3]["html"].replace(' | default("there")', "")
    world.apply(*documents)
    (result,) = world.start()
    assert result.state == world.state() == "failed"
    assert "'name' is missing for 1 of 5 recipients" in result.reason
    assert 'default("' in result.reason
    assert world.value("SELECT count(*) FROM messages") == 0
    assert world.value("SELECT reason FROM campaign_transitions ORDER BY id DESC LIMIT 1") == result.reason


def test_a_merge_field_that_nobody_has_refuses_the_start(world, project):
    documents = project()
    documents[3]["text"] = "Hello\n{{ nmae | default('you') }}\n" + documents[3]["text"]
    world.apply(*documents)
    reason = world.start()[0].reason
    assert "template acme/spring, text line 2: no contact has a field 'nmae'" in reason
    assert "Did you mean name?" in reason


def test_a_custom_field_somebody_else_has_is_known(world, frame, project):
    documents = project()
    documents[3]["subject"] = "Hello {{ company | default('you') }}"
    documents[4]["rule"] = {"country": "DE"}
    world.apply(*documents)
    world.publish(
        frame([{"email": "a@x.example", "country": "DE"}, {"email": "b@x.example", "fields": '{"company": "B & Co"}'}])
    )
    assert world.start()[0].state == "running"
    assert world.value("SELECT merge_values FROM message_fields") == "\x02\x1f\x02"


def test_without_an_https_url_only_a_sandbox_is_sent_to(world, project):
    world.public_url = "http://127.0.0.1:8025"
    documents = project()
    documents[1] = {**documents[1], "type": "smtp", "host": "relay.example"}
    world.apply(*documents)
    (result,) = world.start()
    assert (result.state, "MAILMILL_PUBLIC_URL" in result.reason) == ("failed", True)
    world.run("UPDATE transports SET kind = 'sandbox'")
    assert world.start()[0].state == "running", "a failed start may be tried again: nothing was planned"


@pytest.mark.parametrize(
    "url",
    [
        "mail.example.org",
        "https://",
        "https://mail.example.org ",
        "https://b\u00fccher.example",
        "https://a.example/?b",
    ],
)
def test_a_url_that_cannot_begin_every_link_is_frozen_with_no_campaign(world, url):
    world.public_url = url
    (result,) = world.start()
    assert (result.state, "MAILMILL_PUBLIC_URL" in result.reason) == ("failed", True)


def test_no_contacts_yet_is_said_so(world):
    world.run("DELETE FROM manifest")
    assert "no contacts yet" in world.start()[0].reason


def test_what_a_campaign_names_has_to_exist(world):
    world.run("DELETE FROM segments")
    assert "there is no segment acme/all" in world.start()[0].reason


def test_F35_two_ticks_at_once_start_a_campaign_once(world):
    with world.database.transaction() as conn:
        campaigns.schedule(conn, campaigns.find(conn, "acme/spring"), None, by="test")
    results, gate = [], threading.Barrier(4)

    def one() -> None:
        gate.wait()
        results.extend(world.tick())

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [result.state for result in results] == ["running"]
    assert world.value("SELECT count(*) FROM messages") == 5
    assert world.value("SELECT count(*) FROM campaign_transitions WHERE to_state = 'running'") == 1


@pytest.mark.parametrize(
    ("late_s", "grace_s", "state"), [(-3600, 120, "scheduled"), (30, 120, "running"), (150, 120, "missed")]
)
def test_F35_a_late_start_is_within_its_grace_or_missed(world, project, late_s, grace_s, state):
    start = datetime.now(UTC) - timedelta(seconds=late_s)
    world.apply(*project(start=start.isoformat(), misfire_grace_s=grace_s))
    world.tick()
    assert world.state() == state


def test_F35_a_campaign_past_its_own_end_is_missed(world, project):
    now = datetime.now(UTC)
    start, ends = now - timedelta(seconds=20), now - timedelta(seconds=10)
    world.apply(*project(start=start.isoformat(), ends=ends.isoformat()))
    assert [result.state for result in world.tick()] == ["missed"]
    with pytest.raises(Misconfigured, match="nothing would be sent"):
        world.start()
    assert world.state() == "missed", "nothing starts after its end, by hand neither"


def test_F05_a_planning_that_somebody_left_is_taken_up_by_the_next_tick(world):
    world.run("UPDATE campaigns SET state = 'planning', scheduled_at = now() - interval '10 min'")
    with world.campaigns.planning(1, by="slow") as draft:
        assert draft is not None
        assert world.tick() == [], "a planner that lives keeps its campaign"
    assert [result.state for result in world.tick()] == ["running"]
    assert world.value("SELECT count(*) FROM messages") == 5


def test_F35_a_planning_that_was_left_too_long_is_missed_but_none_that_only_takes_long(world):
    world.run("UPDATE campaigns SET state = 'planning', scheduled_at = now() - interval '3 days'")
    with world.campaigns.planning(1, by="slow") as draft:
        assert draft is not None
        assert world.tick() == [] and world.state() == "planning"
    assert [result.state for result in world.tick()] == ["missed"]
    assert world.value("SELECT from_state FROM campaign_transitions WHERE to_state = 'missed'") == "planning"
    assert [result.state for result in world.start()] == ["running"], "nothing was frozen, so it may be started by hand"


@pytest.mark.parametrize("late", ["10 min", "3 days"])
def test_F35_a_campaign_that_is_given_another_time_meanwhile_is_neither_missed_nor_started(world, late):
    world.run(f"UPDATE campaigns SET state = 'scheduled', scheduled_at = now() - interval '{late}'")
    results = []
    tick = threading.Thread(target=lambda: results.extend(world.tick()))
    with world.database.transaction() as conn:
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        campaigns.schedule(conn, campaigns.find(conn, "acme/spring"), tomorrow, by="test")
        tick.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        end = time.monotonic() + 120
        while not world.rows(waits):
            assert time.monotonic() < end
            time.sleep(0.01)
    tick.join(120)
    assert results == [] and world.state() == "scheduled"
    assert world.value("SELECT scheduled_at FROM campaigns") == tomorrow


def test_an_unknown_campaign_is_named(world):
    with world.database.transaction() as conn, pytest.raises(Misconfigured, match="no campaign 'acme/nothing'"):
        campaigns.find(conn, "acme/nothing")


def test_P06_each_recipient_gets_the_content_for_their_language_and_half_of_them_the_other_template(
    world, frame, project
):
    people = [{"email": f"p{n}@x.example", "language": "de-AT" if n % 2 else "fr"} for n in range(400)]
    world.publish(frame(people))
    *documents, campaign = project()
    german = {"language": "de", "subject": "Frühling", "html": documents[3]["html"].replace("Hello", "Hallo")}
    other = {**documents[3], "slug": "short", "subject": "Short"}
    documents[3]["variants"] = [german]
    campaign = {**campaign, "split": {"spring": 3, "short": 1}}
    del campaign["template"]
    world.apply(*documents, other, campaign)
    world.start()
    content = world.value("SELECT content FROM campaigns")
    labels = [one["label"] for one in content["variants"]]
    assert sorted(labels) == ["short", "spring", "spring:de"]
    assert content["variants"][labels.index("spring:de")]["text"].startswith("Hallo")  # derived from its HTML
    rows = world.rows("SELECT variant, address FROM messages")
    sent = {address: labels[variant] for variant, address in rows}
    shares = Counter(sent.values())
    assert 60 < shares["short"] < 140 and sum(shares.values()) == 400
    for person in people:
        wanted = "spring:de" if person["language"] == "de-AT" else "spring"
        assert sent[person["email"]] in (wanted, "short")


def test_P07_the_check_of_an_audience_judges_as_the_claim_does(world, project):
    """By another spelling and by a number too; whoever was suppressed later was not so when it was frozen."""
    world.apply(project()[0] | {"merge": {"plus_tags": True, "phone": True}})
    world.start()
    world.run("UPDATE messages SET aliases = '{+4315337031}' WHERE address_key = 'p0@x0.example'")

    def dirt() -> tuple[int, int]:
        with world.database.transaction() as conn:
            found = control.audience_dirt(conn, 1)
        assert not found.duplicates
        return found.suppressed_when_frozen, found.suppressed_since

    assert dirt() == (0, 0)
    with world.database.transaction() as conn:
        for key, channel in (("p1+old@x1.example", "email"), ("+4315337031", "phone"), ("p2@x0.example", "email")):
            for reason in ("manual", "complained"):
                suppressions.suppress(conn, tenant_id=1, address_keys=[key], reason=reason, channel=channel)
        suppressions.suppress(conn, tenant_id=1, address_keys=["p4@x0.example"], reason="manual", scope_campaign_id=99)
        said = {"basis": None, "proof": None, "by": "me", "at": datetime(2020, 1, 1, tzinfo=UTC)}
        consents.add(conn, 1, "p3@x1.example", "withdrawn", **said)
    assert dirt() == (0, 4), "one withdrew before the start, and nobody knew it then"
    with world.database.transaction() as conn:
        ids = [message for (message,) in conn.execute("SELECT id FROM messages")]
        assert len(ledger.suppressed(conn, ids)) == 4
    world.run("UPDATE suppressions SET recorded_at = now() - interval '1 hour'")
    assert dirt() == (3, 1), "by a rule that is younger than the audience nobody was suppressed then"
    world.run("UPDATE tenants SET applied_at = now() - interval '1 day'")
    assert dirt() == (4, 0)
    # right after a planning nobody has counted the rows of the ledger
    world.run("INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address_key, domain)"
              " SELECT n, 1, 1, n, 'q' || n || '@x', 'x' FROM generate_series(6, 20000) n")  # fmt: skip
    world.run("INSERT INTO suppressions (tenant_id, address_key, reason)"
              " SELECT 1, 'q' || n || '@y', 'manual' FROM generate_series(1, 5000) n")  # fmt: skip
    world.run("UPDATE campaigns SET planned = 20000")
    with world.database.transaction() as conn:
        conn.execute("SET LOCAL statement_timeout = '60s'")
        control.audience_dirt(conn, 1)
        plan = "\n".join(
            line for (line,) in conn.execute("EXPLAIN " + control.SQL["audience_dirt"], {"campaign_id": 1})
        )
        assert not re.search(r"Join Filter: .*\b(address_key|near) = ", plan), "each row beside each"
