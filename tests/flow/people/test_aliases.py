"""A person with several addresses, by a tenant's rule: a suppression of any of them reaches a campaign that runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import polars as pl
import psycopg
import pytest
from people_world import PHONE, People
from send_fixtures import Run
from send_oracle import judge
from send_world import Sink, World, until

from mailmill.errors import Misconfigured
from mailmill.io.lake import Lake
from mailmill.io.postgres import aliases, erasure, ledger
from mailmill.io.postgres.audiences import PostgresCampaigns
from mailmill.pipelines.target.ports import Frozen

LIST = "email,name\nann@people.example,Ann\nAnn+news@people.example,Ann Lee\nbob@people.example,Bob\n"
ANN, NEWS, BOB = "ann@people.example", "ann+news@people.example", "bob@people.example"
MUM, OTHER = "mum@people.example", "+4315337032"


@pytest.fixture
def merged(people: People) -> People:
    """The tenant's contacts, published as persons."""
    people.tenant("acme", people=LIST)
    people.rows("""UPDATE tenants SET spec = spec || '{"merge": {"plus_tags": true}}'""")
    people.do("ingest", "acme/inbox")
    return people


def test_P07_an_address_suppressed_after_the_audience_was_frozen_keeps_its_persons_other_one_from_being_mailed(
    merged: People, run: Run
) -> None:
    merged.do("campaign", "start", "acme/spring")
    merged.mill.tick(by="test")
    [(mailed, aliases)] = merged.rows("SELECT address_key, aliases FROM messages WHERE aliases IS NOT NULL")
    assert {mailed, *aliases} == {ANN, NEWS}
    said = merged.do("contacts", "consent", aliases[0], "withdraw", "--tenant", "acme")
    assert "recorded; suppressed (unsubscribed), which stays until `mailmill suppress remove" in said
    assert merged.rows("SELECT count(*) FROM messages") == [(2,)]
    run()
    found = merged.rows("SELECT address_key, state::text, reason FROM messages WHERE address_key <> %s", BOB)
    assert found == [(mailed, "suppressed", "unsubscribed")]
    [held], [lived] = merged.ask("export", mailed), merged.ask("contacts", "history", mailed)
    assert (held["consent"], held["explained"][0]["consent"], lived["consent"]) == ("withdrawn",) * 3
    assert [row["address"] for row in lived["history"] if row["what"] == "suppressed"] == aliases
    [told] = merged.ask("explain", mailed)
    assert (told["aliases"], told["consent"]) == (aliases, "withdrawn")
    assert [(one["address"], one["reason"]) for one in told["suppressions"]] == [(aliases[0], "unsubscribed")]
    merged.do("segment", "refresh", "acme/everyone")
    [story] = merged.ask("explain", aliases[0])[0]["campaigns"]
    assert story["code"] == "suppressed" and "another address of this person" in story["why"], (
        "in one row with the other"
    )
    said = merged.do("explain", mailed)
    assert "consent: withdrawn" in said and aliases[0] in said
    merged.ask("forget", mailed)
    assert merged.rows("SELECT count(*) FROM contacts") == [(1,)]
    assert merged.rows("SELECT address_key FROM messages WHERE aliases IS NOT NULL") == []


def test_P07_a_suppression_counts_for_its_mailbox_and_number_whether_or_not_they_are_contacts(
    people: People, run: Run
) -> None:
    people.tenant(
        "acme",
        people="email,phone\nkim+x@people.example,\nann+news@people.example,\nsue@people.example,+436641112223\n"
        f"bob@people.example,\ndan@people.example,{OTHER}\neva@people.example,\n",
    )
    rule = '{"merge": {"plus_tags": true, "dots": ["gmail.com"], "phone": true}}'
    people.rows("UPDATE tenants SET spec = spec || %s::jsonb", rule)
    people.do("ingest", "acme/inbox")
    (people.mill.project / "kim.csv").write_text("email,phone\nkim@people.example,\n,+436641112223\n")
    (people.mill.project / "old.yaml").write_text("kind: source\ntenant: acme\nslug: old\ntype: csv\n")
    people.do("apply", str(people.mill.project / "old.yaml"))
    people.do("ingest", "acme/old", "--file", str(people.mill.project / "kim.csv"))
    for address, reason in (("kim@people.example", "complained"), (ANN, "manual"), ("+436641112223", "complained")):
        people.do("suppress", "add", address, "--tenant", "acme", "--reason", reason)
    people.do("sources", "delete", "acme/old", "--contacts", "remove")
    people.do("contacts", "publish", "acme")
    assert people.rows("SELECT count(*) FROM contacts") == [(6,)]
    shown = people.ask("segment", "preview", "acme/everyone")
    assert (shown["recipients"], shown["exclusions"]) == (3, {"complained": 2, "manual": 1})
    files = [
        people.mill.lake.path(file) for (file,) in people.rows("SELECT file FROM manifest WHERE dataset = 'contacts'")
    ]
    status = dict(pl.concat([pl.read_parquet(file) for file in files]).select("email", "status").iter_rows())
    assert [key.partition("@")[0] for key, said in status.items() if said == "complained"] == ["kim+x", "sue"]
    assert [key for key, said in status.items() if said == "manual"] == [NEWS]
    assert ANN in people.do("explain", NEWS), "it names the suppression of an address that is no contact"
    said = people.ask("campaign", "recipients", "acme/spring", "add", NEWS, "eva@people.example", code=1)
    assert (said["refused"], said["changed"]) == ({"suppressed": 1}, 0)
    people.do("campaign", "start", "acme/spring")
    people.mill.tick(by="test")
    people.do("suppress", "add", "bob+old@people.example", "--tenant", "acme")  # while it runs
    people.do("suppress", "add", OTHER, "--all")
    run()
    found = "SELECT split_part(address, '@', 1), reason FROM messages WHERE state = 'suppressed' ORDER BY id"
    assert people.rows(found) == [("bob", "manual"), ("dan", "manual")]


def test_P07_each_number_of_a_person_keeps_them_from_being_mailed_also_one_that_is_not_shown(people: People) -> None:
    people.tenant("acme", people=f"email,phone\n{ANN},+436641112221\n{NEWS},+436641112222\n{BOB},\n")
    people.rows("""UPDATE tenants SET spec = spec || '{"merge": {"plus_tags": true, "phone": true}}'""")
    people.do("ingest", "acme/inbox")
    for number in ("+436641112221", "+436641112222"):
        people.do("suppress", "add", number, "--tenant", "acme")
        assert people.ask("segment", "preview", "acme/everyone")["exclusions"] == {"manual": 1}
        assert number in people.do("explain", ANN)
        people.do("suppress", "remove", number, "--tenant", "acme")
    people.do("campaign", "start", "acme/spring")
    ids = [message for (message,) in people.rows("SELECT id FROM messages ORDER BY id")]
    people.do("suppress", "add", "+436641112221", "--tenant", "acme")
    with people.mill.database.transaction() as conn:
        assert len(ids) == 2 and ledger.suppressed(conn, ids) == {ids[0]}
    [done] = people.ask("forget", NEWS)["tenants"]
    assert (done["contacts"], done["others"]) == (2, []), "a number is nobody beside who has it"


def test_who_is_forgotten_is_so_by_every_spelling_of_the_mailbox_published_or_not(people: People) -> None:
    rows = "ann+news@people.example", "jo@people.example", "jo+news@people.example", "joe@people.example"
    people.tenant("acme", people="email\n" + "".join(f"{row}\n" for row in (*rows, "ann+more@people.example,x,y")))
    people.do("ingest", "acme/inbox")
    people.do("suppress", "add", "ann+old@people.example", "--tenant", "acme")
    people.rows("""UPDATE tenants SET spec = spec || '{"merge": {"plus_tags": true}}'""")
    assert people.ask("forget", ANN)["tenants"][0]["contacts"] == 1
    assert people.ask("forget", "jo@people.example")["tenants"][0]["contacts"] == 2
    assert "ann+" not in people.texts(1) and "jo+" not in people.texts(1)
    (people.mill.project / "acme" / "late.csv").write_text("email\njo+promo@people.example\njoe+a@people.example\n")
    assert people.ask("ingest", "acme/inbox")["reasons"] == {"forgotten": 1}
    assert people.rows("SELECT match_key FROM contacts ORDER BY id") == [
        ("joe@people.example",), ("joe+a@people.example",),
    ]  # fmt: skip
    people.rows("UPDATE tenants SET spec = spec - 'merge'")
    people.do("suppress", "add", "jo+else@people.example", "--tenant", "acme")  # nobody's, without the rule
    assert people.mill.forgetter.replay() == []
    people.rows("""UPDATE tenants SET spec = spec || '{"merge": {"plus_tags": true}}'""")
    assert [one.tenant for one in people.mill.forgetter.replay()] == ["acme"]


def test_P07_an_audience_that_is_overtaken_by_a_suppression_of_an_alias_is_taken_again(
    merged: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, frozen = PostgresCampaigns.freeze, []

    def freeze(store: PostgresCampaigns, plan: Frozen, *, by: str) -> str:
        if not frozen:
            aliases = plan.audience.recipients["aliases"].drop_nulls()
            merged.do("suppress", "add", aliases[0], "--tenant", "acme")
        frozen.append(real(store, plan, by=by))
        return frozen[-1]

    monkeypatch.setattr(PostgresCampaigns, "freeze", freeze)
    merged.do("campaign", "start", "acme/spring")
    assert frozen == ["stale", "running"]
    assert merged.rows("SELECT address_key FROM messages") == [(BOB,)]


def test_F43_P07_a_worker_with_the_row_in_hand_hears_of_a_suppressed_alias_within_a_second(
    people: People, world: World, run: Run
) -> None:
    def script(stage: str, recipient: str) -> str | None:
        return "wait" if stage == "dot" and recipient == "r0@people.example" else None

    with Sink(script) as relay:
        names = [f"r{n}@people.example" for n in range(8)]
        # so that nothing follows behind the dot that waits, however long it does
        terms = {"connections": 1, "messages_per_connection": 1, "final_dot_timeout_s": 120}
        campaign = world.campaign(names, port=relay.port, transport=terms)
        world.sql("UPDATE messages SET aliases = '{r7+news@people.example}' WHERE address = %s", names[7])
        world.sql("""UPDATE tenants SET spec = spec || '{"merge": {"plus_tags": true}}'""")
        worker = threading.Thread(target=run)
        worker.start()
        until(lambda: relay.handed)
        people.do("suppress", "add", "r6+old@people.example", "--tenant", "acme")  # the same mailbox, by the rule
        people.do("suppress", "add", "r7+news@people.example", "--tenant", "acme", "--reason", "complained")
        promised = time.monotonic() + 1.0
        until(lambda: time.monotonic() > promised)
        until(lambda: (relay.go(), not worker.is_alive())[1])
        worker.join()
        assert not {names[6], names[7]} & relay.copies.keys() and relay.copies[names[1]] == 1
        assert judge(world, campaign, relay, doubts=0) == {"sent": 6, "suppressed": 2}
    assert world.sql("SELECT state::text FROM messages WHERE campaign_id = %s AND aliases IS NOT NULL", campaign) == [
        ("suppressed",)
    ]


def test_who_is_one_with_a_forgotten_person_for_a_number_alone_stays_and_is_named(people: People) -> None:
    rows = [
        (MUM, "Mum", PHONE), (ANN, "Zoe-Ann", PHONE), (NEWS, "Zoe-Ann", ""), ("", "Hall", PHONE),
        ("cid@people.example", "Cid", OTHER), ("", "Desk", OTHER),
    ]  # fmt: skip
    listed = "email,name,phone\n" + "".join(",".join(row) + "\n" for row in rows)
    people.tenant("acme", people=listed)
    people.rows("""UPDATE tenants SET spec = spec || '{"merge": {"plus_tags": true, "phone": true}}'""")
    people.do("ingest", "acme/inbox")
    with pytest.raises(Misconfigured, match="contacts of acme have this number"):
        people.do("forget", PHONE)
    [held] = people.ask("export", ANN)
    assert MUM not in str(held) and {ANN, NEWS} <= set(held["keys"]), "nobody else's, and all of theirs"
    said = people.do("forget", ANN)
    assert f"acme showed 2 more as one with them, for a number they share: {PHONE}, {MUM}; they stay" in said
    left = people.texts(1)
    assert "zoe-ann" not in left and ANN not in left and MUM in left and PHONE in left
    assert people.ask("forget", OTHER)["tenants"][0]["contacts"] == 2, "a number alone goes with its one mailbox"
    assert people.rows("SELECT match_key FROM contacts ORDER BY 1") == [(PHONE,), (MUM,)]
    (people.mill.project / "acme" / "late.csv").write_text(listed.replace("Mum", "Mama"))
    again = people.ask("ingest", "acme/inbox")
    assert (again["reasons"], again["changed"]) == ({"forgotten": 4}, 1)


def test_the_generation_is_read_once_for_a_person_and_never_where_nobody_is_merged(
    merged: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    mill, real, asked = merged.mill, aliases.of, list[Sequence[str]]()

    def of(conn: psycopg.Connection, lake: Lake, tenant_id: int, keys: Sequence[str]) -> list[str]:
        asked.append(keys)
        return real(conn, lake, tenant_id, keys)

    monkeypatch.setattr(aliases, "of", of)
    [held] = merged.ask("export", ANN)
    assert len(held["keys"]) > 1 and held["explained"][0]["aliases"] == [NEWS]
    assert asked == [[ANN]]
    merged.rows("UPDATE tenants SET spec = spec - 'merge'")
    monkeypatch.delattr(Lake, "scan")
    with mill.database.transaction() as conn:
        assert aliases.of_mailbox(conn, mill.lake, 1, [ANN]) == ([], [])
        assert erasure.sharing(conn, 1, [ANN, NEWS]) == [], "an address is no number that a contact may have"
        conn.execute("UPDATE contacts SET phone = %s WHERE match_key = %s", (PHONE, BOB))
        assert erasure.sharing(conn, 1, [ANN, PHONE, OTHER]) == [BOB]
