"""Contents that cannot be made for one recipient, or for nobody: what it costs, and whom."""

from __future__ import annotations

import json

import pytest
from send_fixtures import Run
from send_oracle import judge
from send_world import HTML, TEXT, Sink, World, by_address, thread, until
from verbs import Verb

from mailmill.io.postgres import accounts, campaigns
from mailmill.pipelines.send.routes import RUN_THAT_PAUSES

# the ten of the contract tests but the two with a NUL, which PostgreSQL does not take
ENDS = ("\n.\n", "\r.\r", "\r.\n", "\n.\r", "\n.\r\n", "\r\n.\n", "\r.\r\n", "\r\n.\r")
SMUGGLED = "MAIL FROM:<evil@x.org>\r\nRCPT TO:<victim@x.org>\r\nDATA\r\n\r\nsmuggled\r\n.\r\n"


def test_F41_whatever_ends_a_value_or_a_template_each_recipient_has_one_message_and_nobody_else_any(
    world: World, run: Run
) -> None:
    wild = [f"{end}{SMUGGLED}{end}" for end in ENDS]
    plain = {"subject": "Hi", "html": HTML, "text": TEXT, "links": [0]}
    people = [[f"{which}{n}@x.org" for n in range(len(wild))] for which in ("value", "text")]
    with Sink() as sink:
        values = world.campaign(people[0], port=sink.port, slug="value", names=wild, variants=[plain])
        variants = [{**plain, "html": one + HTML, "text": one + TEXT} for one in wild]
        texts = world.campaign(people[1], port=sink.port, slug="text", variants=variants)
        world.sql("UPDATE messages SET variant = mod(id, %s) WHERE campaign_id = %s", len(wild), texts)
        run()
        assert judge(world, [values, texts], sink, doubts=0) == {"sent": 2 * len(ENDS)}
    assert sink.copies.keys() == {*people[0], *people[1]}


def test_F42_what_cannot_be_made_for_one_recipient_ends_that_one_and_is_shown(world: World, run: Run) -> None:
    grows = "{% for i in name %}{{ name }}{% endfor %}" + TEXT
    variant = {"subject": "Hi", "html": grows, "text": grows, "links": []}
    with Sink(keep_bodies=True) as sink:
        campaign = world.campaign(
            ["a@x.org", "b@x.org", "c@x.org"], names=["<b>A</b>", "y" * 20_000, "{{ 98765 * 43211 }}"], port=sink.port,
            variants=[variant],
        )  # fmt: skip
        run()
        states = judge(world, campaign, sink, doubts=0)
    assert states == {"sent": 2, "invalid": 1}
    with world.database.transaction() as conn:
        assert accounts.reasons(conn, campaign) == [("invalid", "render_error", 1)]
    bodies = {one.recipient: one.body.decode() for one in sink.taken}
    assert "&lt;b&gt;" in bodies["a@x.org"] and "{{ 98765 * 43211 }}" in bodies["c@x.org"]
    assert "4267734415" not in bodies["c@x.org"]


def test_F42_a_content_that_can_be_made_for_nobody_pauses_its_own_campaign(
    world: World, run: Run, mailmill: Verb
) -> None:
    variant = {"subject": "Hi {{ nothing }}", "html": TEXT, "text": TEXT, "links": []}
    with Sink() as sink:
        broken = world.campaign([f"a{n}@x.org" for n in range(300)], port=sink.port, slug="broken", variants=[variant])
        whole = world.campaign(300, port=sink.port, slug="whole")
        report = run().report
        states = judge(world, [broken, whole], sink, doubts=0, finished=False)
    assert states == {"sent": 300, "invalid": RUN_THAT_PAUSES, "queued": 300 - RUN_THAT_PAUSES}
    assert (world.state(broken), world.state(whole)) == ("paused", "finished") and not report.failed
    ((reason,),) = world.sql("SELECT reason FROM campaign_transitions WHERE to_state = 'paused'")
    assert "cannot be made" in reason and "cannot be made" in report.problems["campaign acme/broken"]
    (worker,) = json.loads(mailmill("workers", "--json").out)
    assert "campaign acme/broken: paused: " in worker["last_error"]
    assert "paused: " in mailmill("account", "acme/broken").out
    assert mailmill("campaign", "resume", "acme/broken").code == 0
    (worker,) = json.loads(mailmill("workers", "--json").out)
    assert worker["last_error"] is None, "what was mended is no trouble"
    assert "paused: " not in mailmill("account", "acme/broken").out


def test_F42_a_campaign_resumed_as_soon_as_its_worker_paused_it_goes_on(world: World, run: Run) -> None:
    names = ["y" * 20_000] * RUN_THAT_PAUSES + ["Anna"] * 5
    text = "{% for i in name %}{{ name }}{% endfor %}" + TEXT
    variant = {"subject": "Hi", "html": text, "text": text, "links": []}
    with Sink() as sink:
        whom = [f"a{n}@x.org" for n in range(len(names))]
        campaign = world.campaign(whom, names=names, port=sink.port, variants=[variant], transport={"connections": 1})

        def resume() -> None:
            until(lambda: world.state(campaign) == "paused")
            with world.database.transaction() as conn:
                campaigns.move(conn, campaign, "resume", by="ann")

        with thread(resume) as resumed:
            run(until=lambda: world.account(campaign).get("sent") == 5)
            resumed()
        states = judge(world, campaign, sink, doubts=0)
    assert states == {"sent": 5, "invalid": RUN_THAT_PAUSES}


def test_F42_a_content_that_is_none_stops_its_own_campaign_only(world: World, run: Run) -> None:
    variant = {"subject": "Hi {{ name", "html": TEXT, "text": TEXT, "links": []}
    with Sink() as sink:
        broken = world.campaign(["a@x.org"], port=sink.port, slug="broken", variants=[variant])
        whole = world.campaign(["b@x.org"], port=sink.port, slug="whole")
        report = run().report
        judge(world, whole, sink, doubts=0)
    assert "cannot be used" in report.problems["campaign acme/broken"] and not report.failed
    assert world.account(broken) == {"queued": 1}


@pytest.mark.parametrize("where", ["offered", "mail", "dot"])
def test_a_message_that_its_relay_finds_too_big_for_everybody_pauses_its_campaign(
    world: World, run: Run, where: str
) -> None:
    """A relay that lowers its SIZE, or an attachment of a text too many: no fault of 300 recipients."""
    said = {} if where == "offered" else {where: "552 5.3.4 message too big"}
    with Sink(by_address(said), offers=["SIZE 100"] if where == "offered" else ["HELP"]) as sink:
        campaign = world.campaign(300, port=sink.port, transport={"connections": 2})
        run()
        states = judge(world, campaign, sink, doubts=0, finished=False)
        ended = states["invalid"] + states["failed"]
        assert RUN_THAT_PAUSES <= ended <= RUN_THAT_PAUSES + 4 and states["queued"] == 300 - ended
        ((reason,),) = world.sql("SELECT reason FROM campaign_transitions WHERE to_state = 'paused'")
        assert "in a row are too big for the relay" in reason
        sink.script, sink.offers = by_address({}), ["SIZE 100000"]
        with world.database.transaction() as conn:
            campaigns.move(conn, campaign, "resume", by="ann")
        run()
        assert judge(world, campaign, sink, doubts=0)["sent"] == 300 - ended
