"""The verbs about segments, campaigns and suppressions, each as a person types it."""

from __future__ import annotations

import errno
import json
import os
import stat
from email import message_from_bytes
from email.policy import default

import pytest
from dns_server import Zone, serving
from send_world import Sink
from typer.testing import CliRunner

import mailmill.cli.campaigns
import mailmill.cli.keys
import mailmill.cli.lifecycle
import mailmill.cli.suppressions
from mailmill.cli import targeting
from mailmill.cli.app import app
from mailmill.composition import Installation
from mailmill.errors import MailmillError, Misconfigured, StoreUnavailable
from mailmill.io.postgres import keys
from mailmill.settings import Settings


@pytest.fixture
def run(world, monkeypatch, tmp_path):
    """Types a verb; a refusal is raised as it is, for the message to be read."""
    mill = Installation(Settings(home=tmp_path))
    mill.__dict__ |= {"database": world.database, "lake": world.lake}
    for verbs in (mailmill.cli.campaigns, mailmill.cli.lifecycle, mailmill.cli.keys, mailmill.cli.suppressions):
        monkeypatch.setattr(verbs, "installation", lambda: mill)
    with world.database.transaction() as conn:
        keys.ensure(conn)

    def typed(*words: str, exit_code: int = 0):
        result = CliRunner().invoke(app, list(words))
        if isinstance(result.exception, MailmillError):
            raise result.exception
        assert result.exit_code == exit_code, (result.output, result.exception)
        return json.loads(result.stdout) if "--json" in words else result.output

    return typed


def test_a_segment_is_previewed_with_masked_addresses_and_exclusions(run):
    run("suppress", "add", "p1@x1.example", "--tenant", "acme")
    found = run("segment", "preview", "acme/all", "--json", "--rows", "2")
    assert (found["contacts"], found["recipients"], found["exclusions"]) == (5, 4, {"manual": 1})
    assert [row["address"] for row in found["sample"]] == ["P***@x***.example", "P***@x***.example"]
    assert "excluded: manual" in run("segment", "preview", "acme/all")


def test_a_segment_of_a_file_is_previewed_before_it_is_applied(run, tmp_path, world):
    file = tmp_path / "new.yaml"
    text = "kind: segment\ntenant: acme\nslug: new\nrule:\n  all:\n    - country: DE\n    - domian: x1.example\n"
    file.write_text(text)
    with pytest.raises(Misconfigured, match=r"new.yaml:7: rule.all\[1\].domian: unknown; did you mean domain\?"):
        run("segment", "preview", str(file))
    file.write_text(text.replace("domian", "domain"))
    found = run("segment", "preview", str(file), "--json")
    assert (found["segment"], found["contacts"], found["recipients"]) == ("acme/new", 2, 2)
    rule = {"all": [{"country": "DE"}, {"domain": "x1.example"}]}
    asked = tmp_path / "new.json"
    asked.write_text(json.dumps({"kind": "segment", "tenant": "acme", "slug": "new", "rule": rule}, indent=1))
    assert run("segment", "preview", str(asked), "--json") == found
    asked.write_text(asked.read_text().replace("domain", "domian"))
    with pytest.raises(Misconfigured, match=r"new.json:11: rule.all\[1\].domian: unknown"):
        run("segment", "preview", str(asked))
    assert world.value("SELECT count(*) FROM segments") == 1
    file.write_text("kind: tenant\nslug: acme\n")
    with pytest.raises(Misconfigured, match="one segment is needed in this file; found: none"):
        run("segment", "preview", str(file))


def test_a_tag_a_source_or_a_field_that_no_contact_has_is_noted_with_what_was_meant(run, tmp_path, world, frame):
    fields = '{"city": "\\"town\\": new", "size": 5}'
    world.publish(
        frame([{"email": "a@x.example", "tags": ["newsletter", "vip"], "fields": fields}, {"email": "b@x.example"}])
    )
    file = tmp_path / "vain.yaml"
    rule = (
        "{all: [{tag: [vip, newsleter]}, {none: [{source: deks}]}, {tag: {exists: true}}, {field: {city: x, town: y}}]}"
    )
    file.write_text(f"kind: segment\ntenant: acme\nslug: vain\nrule: {rule}\n")
    assert run("segment", "preview", str(file), "--json")["notes"] == [
        "rule.all[0].tag: no contact has the tag 'newsleter'; did you mean newsletter? there are newsletter, vip",
        "rule.all[1].none[0].source: no contact came from a source 'deks'; did you mean desk? there are desk",
        "rule.all[3].field.town: no contact has a custom field 'town'; there are city, size",
    ]
    assert "note: rule.all[0].tag: no contact has the tag 'newsleter'" in run("segment", "preview", str(file))
    assert run("segment", "preview", "acme/all", "--json")["notes"] == []


def test_two_segments_are_compared_applied_or_not(run, tmp_path, world):
    file = tmp_path / "odd.yaml"
    file.write_text("kind: segment\ntenant: acme\nslug: odd\nrule: {domain: x1.example}\n")
    found = run("segment", "overlap", "acme/all", str(file), "--json")
    assert found == {"a": 5, "b": 2, "both": 2, "only_a": 3, "only_b": 0}
    assert "only in acme/all" in run("segment", "overlap", "acme/all", str(file))


def test_a_segment_is_refreshed_with_who_joined_and_left(run, world, frame):
    assert run("segment", "refresh", "acme/all", "--json") == {"rows": 5, "joined": 5, "left": 0}
    world.publish(frame([{"email": "a@x.example", "contact_id": 2}, {"email": "b@x.example", "contact_id": 9}]))
    assert run("segment", "refresh", "acme/all", "--json") == {"rows": 2, "joined": 1, "left": 4}
    facts = world.rows("SELECT part, rows, facts FROM manifest WHERE dataset = 'segments'")
    assert [(part, rows, facts["left"]) for part, rows, facts in facts] == [("all", 2, 4)]


def test_a_campaign_goes_through_its_life(run):
    assert run("campaign", "start", "acme/spring", "--json")["planned"] == 5
    assert run("campaign", "pause", "acme/spring") == "acme/spring: paused\n"
    assert run("campaign", "resume", "acme/spring") == "acme/spring: running\n"
    assert run("campaign", "cancel", "acme/spring", "--json")["messages"] == 5
    (row,) = run("campaign", "list", "--json")
    assert (row["campaign"], row["state"], row["planned"]) == ("acme/spring", "cancelled", 5)
    with pytest.raises(Misconfigured, match="acme/spring is cancelled"):
        run("campaign", "resume", "acme/spring")


def test_F34_a_time_typed_without_an_offset_is_the_tenants(run, world):
    for typed, at in {
        "2031-03-30T02:30": "2031-03-30T01:00:00+00:00",  # Berlin has no 02:30: the gap's end
        "2031-10-26T02:30": "2031-10-26T01:30:00+00:00",  # twice: the second
        "2031-07-01T09:00": "2031-07-01T07:00:00+00:00",
        "2031-07-01T09:00-05:00": "2031-07-01T14:00:00+00:00",
    }.items():
        assert run("campaign", "schedule", "acme/spring", typed, "--json")["scheduled_at"] == at
    assert world.state() == "scheduled"
    with pytest.raises(Misconfigured, match="'soon' is no time"):
        run("campaign", "schedule", "acme/spring", "soon")


def test_a_start_that_a_tick_makes_is_no_error_and_a_planning_that_was_left_is_taken_up(run, world):
    with world.database.connect() as tick:
        tick.execute("SELECT pg_advisory_lock(hashtext('mailmill:plan'), 1)")
        assert run("campaign", "start", "acme/spring") == "acme/spring: scheduled; a tick was faster and starts it\n"
    world.run("UPDATE campaigns SET state = 'planning'")
    with pytest.raises(Misconfigured, match="is being frozen: cancel it"):
        run("campaign", "reschedule", "acme/spring", "2031-07-01T09:00")
    assert run("campaign", "start", "acme/spring", "--json")["planned"] == 5


def test_a_start_that_is_refused_says_why(run, world):
    world.run("DELETE FROM templates")
    with pytest.raises(Misconfigured, match="there is no template acme/spring"):
        run("campaign", "start", "acme/spring")


def test_a_file_of_addresses_is_suppressed_and_its_bad_lines_are_named(run, tmp_path, world):
    file = tmp_path / "gone.csv"
    file.write_text('email;name\nP1@X1.example;One\n\nbroken\n"p2@x0.example",Two\n', encoding="utf-8-sig")
    found = CliRunner().invoke(app, ["suppress", "import", str(file), "--tenant", "acme", "--json"])
    assert found.exit_code == 1
    assert json.loads(found.stdout) == {"added": 2, "known": 0, "forgotten": 0, "unreadable_lines": [4], "skipped": {}}
    assert "1 holds no address (number 4)" in found.stderr
    rows = world.rows("SELECT address_key, reason FROM suppressions ORDER BY 1")
    assert rows == [("p1@x1.example", "imported"), ("p2@x0.example", "imported")]
    assert run("suppress", "add", "p1@x1.example", "--tenant", "acme", "--reason", "imported", "--json")["known"] == 1


@pytest.mark.parametrize(
    "words", [["suppress", "add", "a@x.example", "--tenant", "nobody"], ["segment", "preview", "acme/nothing"]]
)
def test_an_unknown_name_is_named(run, words):
    with pytest.raises(Misconfigured, match="there is no"):
        run(*words)


def test_a_message_is_previewed_for_a_contact(run):
    shown = run("preview", "acme/spring", "--contact", "P1@x1.example", "--json")
    assert shown["text"].startswith("Hello Person 1\nhttp://127.0.0.1:8025/u/")
    assert (shown["variant"], shown["subject"], shown["address"]) == ("spring", "Spring", "P1@x1.example")
    assert "Message-ID: <" in run("preview", "acme/spring", "--headers")
    assert run("preview", "acme/spring", "--html").count("<html") == 0
    assert "--- text ---" in run("preview", "acme/spring", "--text", "--headers")
    assert "Hello there" in run("preview", "acme/spring", "--contact", "p0@x0.example")
    with pytest.raises(Misconfigured, match="no contact has this address"):
        run("preview", "acme/spring", "--contact", "none@x.example")


def test_a_preview_of_what_has_begun_says_that_it_is_not_what_goes_out(run, world, project):
    """Or whoever paused for a wrong price, corrected the template and looked at it would let the wrong one go on."""
    assert run("preview", "acme/spring", "--json")["note"] == ""
    run("campaign", "start", "acme/spring")
    run("campaign", "pause", "acme/spring")
    documents = project()
    documents[3]["subject"] = "Corrected"
    world.apply(*documents)
    shown = run("preview", "acme/spring", "--json")
    said = "acme/spring is paused: its messages were frozen at its start, this one is of today's template"
    assert (shown["subject"], shown["note"]) == ("Corrected", said)
    assert f"note: {said}" in CliRunner().invoke(app, ["preview", "acme/spring"]).stderr


def test_a_message_is_previewed_for_any_of_a_persons_addresses(run, world, frame):
    world.publish(frame([{"email": "Ann@x.example", "aliases": ["ann+b@x.example", "ann@x.example"]}]))
    assert run("preview", "acme/spring", "--contact", "Ann+B@x.example", "--json")["address"] == "Ann@x.example"


def test_a_message_for_a_local_part_beyond_ascii_is_previewed(run, world, frame):
    world.publish(frame([{"email": "jörg@x0.example", "name": "Jörg"}]))
    shown = run("preview", "acme/spring", "--contact", "jörg@x0.example", "--json")
    assert (shown["address"], shown["text"][:10]) == ("jörg@x0.example", "Hello Jörg")


def test_a_key_that_was_not_written_to_its_end_is_none(run, world, project, tmp_path, monkeypatch):
    documents = project()
    documents[2] |= {"dkim": [{"selector": "m1", "domain": "acme.example", "key": f"file:{tmp_path}/keys/m1.pem"}]}
    world.apply(*documents)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", _full)
        with pytest.raises(Misconfigured, match="cannot be written: No space left"):
            run("keys", "dkim", "acme/news")
    assert run("keys", "dkim", "acme/news", "--json")[0]["made"]


def _full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_preview_is_written_as_it_would_go_out_signed_by_the_identitys_keys(run, world, tmp_path, project):
    documents = project()
    dkim = [
        {"selector": name, "domain": "acme.example", "key": f"file:{tmp_path}/keys/{name}.pem", "algorithm": name}
        for name in ("rsa", "ed25519")
    ]
    documents[2] |= {"dkim": dkim, "unsubscribe_mailbox": "leave@acme.example", "headers": {"X-Sort": "news"}}
    world.apply(*documents)
    records = run("keys", "dkim", "acme/news", "--json")
    assert [one["name"] for one in records] == ["rsa._domainkey.acme.example", "ed25519._domainkey.acme.example"]
    assert [one["made"] for one in records] == [True, True]
    assert all(one["value"].startswith("v=DKIM1; k=") and "PRIVATE" not in str(one) for one in records)
    assert {stat.S_IMODE((tmp_path / "keys" / f"{name}.pem").stat().st_mode) for name in ("rsa", "ed25519")} == {0o600}
    assert [one["made"] for one in run("keys", "dkim", "acme/news", "--json")] == [False, False]
    out = tmp_path / "spring.eml"
    run("preview", "acme/spring", "--out", str(out))
    message = message_from_bytes(out.read_bytes(), policy=default)
    assert len(message.get_all("DKIM-Signature")) == 2 and message["X-Sort"] == "news"
    assert "mailto:leave@acme.example?subject=unsubscribe%20" in message["List-Unsubscribe"]


def test_a_test_goes_to_one_person_marked_and_outside_the_ledger(run, world, project):
    with Sink(keep_bodies=True) as sink:
        documents = project()
        documents[1]["port"] = sink.port
        world.apply(*documents)
        found = run("campaign", "test", "acme/spring", "me@acme.example", "--contact", "p1@x1.example", "--json")
        assert found["ok"] and not found["warning"], "a sandbox takes everything"
        relay = '{"type": "smtp", "host": "127.0.0.1", "tls": "none"}'
        world.run("UPDATE transports SET kind = 'smtp', spec = spec || %s::jsonb", relay)
        mill = mailmill.cli.lifecycle.installation()
        mill.settings = Settings(home=mill.home, public_url="https://mail.acme.example")
        told = run("campaign", "test", "acme/spring", "me@acme.example", "--json")
        assert told["ok"] and "nobody knows whether providers take mail of this identity" in told["warning"]
        with serving(Zone({})) as port:
            mill.settings = Settings(
                home=mill.home, public_url="https://mail.acme.example", resolver=f"127.0.0.1:{port}"
            )
            mill.__dict__.pop("resolver", None)
            told = run("campaign", "test", "acme/spring", "me@acme.example", "--json")
        assert told["ok"] and told["warning"].startswith("the campaign will not start: return path: ")
    assert [one.recipient for one in sink.taken] == ["me@acme.example"] * 3
    message = message_from_bytes(sink.taken[0].body, policy=default)
    assert message["Subject"] == "[Test] Spring" and "Person 1" in message.get_body(("plain",)).get_content()
    html = message.get_body(("html",)).get_content()
    assert "/c/" not in html and 'href="https://shop.example/offers"' in html, (
        "nothing of a draft is behind a link of ours"
    )
    assert world.value("SELECT count(*) FROM messages") == 0
    run("suppress", "add", "me@acme.example", "--tenant", "acme")
    with pytest.raises(Misconfigured, match="suppressed"):
        run("campaign", "test", "acme/spring", "me@acme.example")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Misconfigured, match="UTF-8"):
        targeting.lines(file)


def test_a_start_for_which_dns_is_silent_says_that_it_waits_and_who_goes_on(run, world):
    world.run("UPDATE transports SET kind = 'smtp', spec = spec || '{\"type\": \"smtp\"}'")
    mill = mailmill.cli.lifecycle.installation()
    mill.settings = Settings(home=mill.home, public_url="https://mail.acme.example", resolver="127.0.0.1:1")
    with pytest.raises(StoreUnavailable, match=r"DNS does not say .*\n  acme/spring waits in planning: "):
        run("campaign", "start", "acme/spring")
    assert world.state() == "planning"
