"""A person is erased from every store, stays out, and it is proved."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl
import psycopg
import pytest
from people_world import ANN, PHONE, People
from send_fixtures import Run
from send_world import Sink, World, by_address, thread, until

from mailmill.cli.app import installation
from mailmill.errors import Misconfigured, RestoreUnfinished, StoreUnavailable
from mailmill.io import lake_erasure, restore
from mailmill.io.forgetting import Forgetter
from mailmill.io.postgres import erasure, fold, ingress
from mailmill.io.warehouse import Warehouse
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.send.tokens import Token


def test_a_forgotten_person_is_in_no_store_any_more(people: People) -> None:
    people.planned("acme")
    people.do("warehouse", "publish")
    assert ANN in people.texts(1)
    said = people.ask("forget", ANN)
    assert said["proved"]
    [done] = said["tenants"]
    assert (done["contacts"], done["messages"], done["folder_files"]) == (1, 1, 1)
    text = people.texts(1)
    assert f"'{ANN}" not in text.replace("joann@", "")
    for needle in (ANN, PHONE, "5337031", "ann@people.example"):
        assert needle not in text.replace("joann@people.example", ""), needle
    assert "joann@people.example" in text, "another person, whose address ends in the same way"
    assert people.rows("SELECT state::text, address, reason FROM messages WHERE address_key LIKE 'forgotten:%%'") == [
        ("suppressed", None, "forgotten")
    ]
    assert people.rows("SELECT fields->>'referred_by' FROM contacts WHERE match_key = 'bob@people.example'") == [
        ("***",)
    ]
    assert (people.mill.project / "acme" / "people.csv").read_bytes().split(b"\r\n")[1:] == [
        b"bob@people.example,Bob,,AT,***,buyer", b"joann@people.example,Joann,,,,vip", b"cid@people.example,Cid,,,,",
        b"broken ***@,Nobody,,,,", b"",
    ]  # fmt: skip
    assert people.ask("ingest", "acme/inbox")["new"] == 0, "the folder's file is the batch it was"
    assert people.rows("SELECT count(*) FROM batches") == [(1,)]
    # the mail is still there, and its link: nothing more is kept of who follows it, now or once it is counted
    [(message, key)] = people.rows("SELECT id, address_key FROM messages WHERE address IS NULL")
    with people.mill.database.transaction("ingress", tenant_id=1) as conn:
        assert ingress.unsubscribe(conn, Token(1, 1, message))
    one = {"tenant": [1], "address_key": [key], "reason": ["complained"], "event_id": ["e"]}
    with people.mill.database.transaction("listener") as conn:
        assert fold._suppress(conn, pl.DataFrame(one)) == 0
    assert people.rows("SELECT count(*) FROM suppressions WHERE reason <> 'forgotten'") == [(0,)]


def test_one_tenants_forget_leaves_the_other_alone(people: People) -> None:
    for slug in ("acme", "other"):
        people.planned(slug)
    before, files = people.texts(2).count(ANN), sorted(people.files(2))
    with pytest.raises(Misconfigured, match="known to acme, other"):
        people.do("forget", ANN)
    people.do("suppress", "add", ANN, "--all")
    for typed in ("@", "ann@", "@people.example", f"{ANN}, bob@people.example"):
        with pytest.raises(Misconfigured, match="is not one e-mail address"):
            people.do("forget", typed, "--tenant", "acme")
    said = people.do("forget", ANN, "--tenant", "acme")
    assert "note: the operator's list, which is for every tenant, names them and stays" in " ".join(said.split())
    assert (people.texts(2).count(ANN), sorted(people.files(2))) == (before, files)
    assert people.ask("forget", PHONE, "--all")["proved"], "and by the number alone"
    for tenant_id in (1, 2):
        assert ANN not in people.texts(tenant_id).replace("joann@people.example", "")


def test_a_number_of_several_contacts_names_them_before_anybody_is_erased(people: People) -> None:
    people.tenant("acme", people=f"email,name,phone,country\n{ANN},Ann,{PHONE},AT\nmum@people.example,Mum,{PHONE},AT\n")
    people.ask("ingest", "acme/inbox")
    with pytest.raises(Misconfigured, match=f"2 contacts of acme have this number: {ANN}, mum@people.example"):
        people.do("forget", PHONE)
    with pytest.raises(Misconfigured, match="2 contacts of acme have this number"):
        people.do("export", PHONE)
    assert people.rows("SELECT count(*) FROM contacts") == [(2,)]
    late = people.mill.project / "acme" / "late.csv"  # of somebody who is no contact yet
    late.write_text("email,name,phone,country\ndad@people.example,Dad,01 5337031,AT\n")
    said = people.ask("forget", PHONE, "--everybody")
    assert said["proved"] and said["tenants"][0]["contacts"] == 2
    assert PHONE not in people.texts(1) and ANN not in people.texts(1)
    assert people.ask("ingest", "acme/inbox")["new"] == 1
    assert people.rows("SELECT match_key FROM contacts") == [("dad@people.example",)]


def test_a_later_import_of_a_forgotten_person_is_rejected_and_keeps_nothing_of_the_row(people: People) -> None:
    people.tenant("acme")
    people.ask("forget", ANN)  # only the dropped file held them; the hash keeps them out
    people.tenant("acme")  # somebody drops it again
    said = people.ask("ingest", "acme/inbox")
    assert (said["accepted"], said["reasons"]) == (3, {"forgotten": 1, "local_part_syntax": 1})
    [row] = [row for row in people.ask("rejects", "show", "acme")["rows"] if row["reason"] == "forgotten"]
    assert (row["line"], row["field"], row["raw"]) == (2, "email", "")
    [raw] = people.rows("SELECT file, rows FROM manifest WHERE dataset = 'raw'")
    assert raw[1] == 4, "the raw batch was written again without the row"
    assert "'name': 'ann'" not in str(pl.read_parquet(people.mill.lake.path(raw[0])).to_dicts()).lower()
    assert people.rows("SELECT count(*) FROM manifest WHERE dataset = 'erased'") == [(0,)]


def test_a_restore_forgets_again_whom_the_backup_still_held(people: People, tmp_path: Path) -> None:
    people.planned("acme")
    people.do("backup", str(tmp_path / "backup.tar"))
    assert people.ask("forget", PHONE)["proved"]
    said = people.ask("restore", str(tmp_path / "backup.tar"), "--replace")
    assert [(one["tenant"], one["contacts"]) for one in said["forgotten_again"]] == [("acme", 1)]
    assert ANN not in people.texts(1).replace("joann@people.example", "")
    people.rows("DELETE FROM suppressions WHERE reason = 'forgotten'")
    # as into an empty installation: the log beside the database tells
    assert people.mill.forgetter.replay() == []
    assert len(people.rows("SELECT 1 FROM suppressions WHERE reason = 'forgotten'")) == 2
    # who shares the land line was never forgotten, and comes in after it
    rows = f"email,name,phone,country\nmum@people.example,Mum,{PHONE},AT\nbad@@x,Zed,01 5337031,AT\nbad@,{PHONE}\n"
    rows += f",Nobody,{PHONE},AT\n"
    (people.mill.project / "acme" / "two.csv").write_text(rows)
    said = people.ask("ingest", "acme/inbox")
    assert (said["new"], said["reasons"]) == (1, {"forgotten": 3, "local_part_syntax": 1}), (
        "a number in a row that nobody can be reached by"
    )
    [(raw,)] = people.rows("SELECT file FROM manifest WHERE dataset = 'raw' ORDER BY batch_id DESC LIMIT 1")
    assert [row[-1] for row in pl.read_parquet(people.mill.lake.path(raw)).select("line", "col:phone").rows()] == [
        PHONE
    ]
    assert people.mill.forgetter.replay() == [], "as after a restore of a backup that is made now"
    assert people.rows("SELECT phone FROM contacts WHERE match_key LIKE 'mum@%%'") == [(PHONE,)]
    assert PHONE in (people.mill.project / "acme" / "two.csv").read_text()


def test_P07_after_a_restore_that_was_killed_before_it_forgot_again_nothing_runs_until_it_did(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    people.planned("acme")
    people.do("backup", str(tmp_path / "backup.tar"))
    assert people.ask("forget", ANN)["proved"]
    with monkeypatch.context() as patch:
        patch.setattr(Forgetter, "replay", killed)
        people.do("restore", str(tmp_path / "backup.tar"), "--replace", code=130)
    installation.cache_clear()  # as the next process
    for words in (["campaign", "resume", "acme/spring"], ["send"], ["ingest", "acme/inbox"]):
        with pytest.raises(Misconfigured, match="is not through"):
            people.do(*words)
    installation.cache_clear()
    said = people.ask("restore", str(tmp_path / "backup.tar"), "--replace")
    assert [one["contacts"] for one in said["forgotten_again"]] == [1]
    assert people.ask("ingest", "acme/inbox")["new"] == 0
    assert ANN not in people.texts(1).replace("joann@people.example", "")


@pytest.mark.parametrize(("error", "closed"), [(StoreUnavailable, False), (RestoreUnfinished, True)])
def test_P07_an_installation_stays_closed_exactly_when_a_failed_restore_may_have_changed_it(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[StoreUnavailable], closed: bool
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error("the link broke")

    people.planned("acme")
    people.do("backup", str(tmp_path / "backup.tar"))
    installation.cache_clear()  # as the next process
    with monkeypatch.context() as patch:
        patch.setattr(restore, "restore", fails)
        with pytest.raises(error):
            people.do("restore", str(tmp_path / "backup.tar"), "--replace")
    assert people.mill.restoring.exists() == closed
    with monkeypatch.context() as patch:  # a further one that does not even begin
        patch.setattr(Forgetter, "__init__", fails)
        installation.cache_clear()
        with pytest.raises(error):
            people.do("restore", str(tmp_path / "backup.tar"), "--replace")
    assert people.mill.restoring.exists() == closed


@pytest.mark.parametrize("place", ["clear", "publish"])
def test_a_forget_that_fails_once_it_has_committed_is_finished_by_the_next(
    people: People, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where kills rarely fall: tests/faults/people kills the process."""
    people.planned("acme")
    people.do("warehouse", "publish")
    module = {"clear": lake_erasure, "publish": Warehouse}[place]

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, place, killed)
        with pytest.raises(KeyboardInterrupt):
            people.mill.forgetter.forget(1, "acme", [ANN])
    assert people.ask("forget", ANN)["proved"]
    assert ANN not in people.texts(1).replace("joann@people.example", "")
    assert people.rows("SELECT count(*) FROM manifest WHERE dataset = 'erased'") == [(0,)]


def test_P07_a_worker_with_the_row_in_hand_does_not_send_to_a_forgotten_person(
    people: People, world: World, run: Run
) -> None:
    answers = {"dot": "wait"}
    with Sink(by_address(answers)) as relay:
        names = [f"r{n}@people.example" for n in range(8)]
        campaign = world.campaign(names, port=relay.port, transport={"connections": 1, "final_dot_timeout_s": 120})
        with thread(run) as result:
            until(lambda: relay.handed)
            assert people.ask("forget", names[-1])["proved"]
            forgotten = time.time()
            until(lambda: time.time() > forgotten + 2.0 + relay.stalled_s(forgotten), what="the second is over")
            answers.clear()
            relay.go()
            result()
        assert names[-1] not in relay.copies
        assert relay.copies[names[0]] == 1
    last = "SELECT state::text, address FROM messages WHERE campaign_id = %s ORDER BY id DESC LIMIT 1"
    assert world.sql(last, campaign) == [("suppressed", None)]


def test_a_forgotten_person_is_given_no_consent_and_no_suppression(people: People) -> None:
    people.tenant("acme")
    people.ask("forget", ANN)
    with pytest.raises(Misconfigured, match="was forgotten and stays out"):
        people.do("contacts", "consent", ANN, "withdraw", "--tenant", "acme")
    assert people.ask("suppress", "add", ANN, "--tenant", "acme")["forgotten"] == 1
    assert people.rows("SELECT address_key FROM consents UNION SELECT address_key FROM suppressions WHERE reason <> %s",
                       "forgotten") == []  # fmt: skip


def test_the_search_reads_with_its_expression_only_the_rows_that_may_hold_the_person(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs a hundred times what the test before it does, for each of millions of rows."""
    people.tenant("acme")
    people.do("ingest", "acme/inbox")
    real = erasure._values
    monkeypatch.setattr(erasure, "_values", lambda tenant_id, who: real(tenant_id, who) | {"pattern": "( is none"})
    with people.mill.database.transaction() as conn:
        assert erasure.search(conn, 1, Person(("nobody@people.example",)))[1] == []
    with pytest.raises(psycopg.errors.InvalidRegularExpression), people.mill.database.transaction() as conn:
        erasure.search(conn, 1, Person((ANN,)))
