"""A backup put back: whole or not at all, and nobody is mailed because of it."""

from __future__ import annotations

import json
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import psycopg
import pytest
from psycopg import sql

from mailmill.errors import Misconfigured, RestoreUnfinished, StoreUnavailable
from mailmill.io import backup as backups
from mailmill.io.backup import About
from mailmill.io.lake import Lake
from mailmill.io.postgres import control, keys, manifest, schema, suppressions, tools
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.server import EmbeddedServer, create_database
from mailmill.io.restore import Restored, check, restore

RELAY = "INSERT INTO transports (tenant_id, slug, kind, spec) VALUES (1, 'relay', 'smtp', '{}')"


@contextmanager
def another(server: EmbeddedServer) -> Iterator[Database]:
    """An empty database, without a schema."""
    name = f"t_{uuid4().hex[:12]}"
    with psycopg.connect(server.conninfo("postgres", "postgres"), autocommit=True) as connection:
        create_database(connection, name)
        yield server.database(name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def query(database: Database, text: str) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        return connection.execute(text).fetchall()  # type: ignore[arg-type]


def execute(database: Database, *texts: str) -> None:
    with database.transaction() as connection:
        for text in texts:
            connection.execute(text)  # type: ignore[arg-type]


def fill(database: Database, lake: Lake) -> None:
    """Two tenants, a campaign in each state that matters, a leased message, suppressions, a file in the lake."""
    file = lake.write(pl.DataFrame({"contact_id": [1, 2]}), tenant_id=1, dataset="contacts")
    lake.write(pl.DataFrame({"contact_id": [3]}), tenant_id=1, dataset="contacts")  # no longer listed
    execute(
        database,
        """INSERT INTO tenants (slug, name, postal_address, spec) VALUES ('acme', 'Ä "quoted" \\ name', 'x', '{}'),
           ('other', 'Other', 'y', '{}')""",
        """INSERT INTO campaigns (tenant_id, slug, spec, state) SELECT 1, s, '{}', s::campaign_state
           FROM unnest('{draft,scheduled,planning,running,paused,finished}'::text[]) s""",
        """INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address, address_key, domain, state, queued,
             lease_token)
           SELECT n, 1, 4, n, 'a' || n || '@x.example', 'a' || n || '@x.example', 'x.example', s::message_state,
             s = 'queued', 7
           FROM unnest('{queued,leased,sent}'::text[]) WITH ORDINALITY AS of (s, n)""",
        "UPDATE message_ids SET next = 4",
        """INSERT INTO leases (token, worker, campaign_id, tenant_id, first_id, last_id, until)
           VALUES (7, 'w', 4, 1, 1, 3, now())""",
    )
    with database.transaction() as connection:
        keys.ensure(connection)
        suppressions.suppress(connection, tenant_id=1, address_keys=["old@x.example"], reason="complained")
        manifest.replace(connection, [file], tenant_id=1, dataset="contacts")


def back_up(database: Database, lake: Lake, target: Path) -> About:
    return backups.backup(database, lake, target, version="0.1.0", embedded=True)


def put_back(database: Database, lake: Lake, source: Path, *, replace: bool = False) -> Restored:
    return restore(database, lake, source, replace=replace, embedded=True)


@pytest.fixture
def archive(database: Database, lake: Lake, tmp_path: Path) -> Path:
    fill(database, lake)
    back_up(database, lake, tmp_path / "backup.tar")
    return tmp_path / "backup.tar"


def test_a_backup_comes_back_as_it_was(
    server: EmbeddedServer, database: Database, lake: Lake, archive: Path, tmp_path: Path
) -> None:
    elsewhere = Lake(root=tmp_path / "elsewhere" / "lake")
    with another(server) as empty:
        done = put_back(empty, elsewhere, archive)
        assert (done.about.counts["tenants"], done.about.counts["messages"], done.lake_files) == (2, 3, 1)
        for table in ("tenants", "suppressions", "manifest", "signing_keys"):
            text = f"SELECT * FROM {table} ORDER BY 1"
            assert query(empty, text) == query(database, text)
        [(file,)] = query(empty, "SELECT file FROM manifest")
        assert pl.read_parquet(elsewhere.path(file))["contact_id"].to_list() == [1, 2]
        assert len(list(elsewhere.root.rglob("*.parquet"))) == 1, "only what the manifest lists"
        schema.check(empty)


def test_the_restored_database_has_the_rights_and_policies_of_a_new_one(
    server: EmbeddedServer, database: Database, lake: Lake, archive: Path
) -> None:
    rights = "SELECT relname, relacl::text, relrowsecurity, relforcerowsecurity FROM pg_class " \
             "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1"  # fmt: skip
    policies = "SELECT tablename, policyname, roles::text, qual FROM pg_policies ORDER BY 1, 2"
    with another(server) as empty:
        put_back(empty, lake, archive)
        assert query(empty, policies) == query(database, policies)
        assert [row[0::2] for row in query(empty, rights)] == [row[0::2] for row in query(database, rights)]
        with empty.transaction("stats", tenant_id=1) as connection:
            assert connection.execute("SELECT slug FROM tenants").fetchall() == [("acme",)]
        back_up(empty, lake, lake.root.parent / "again.tar")


def test_P09_nothing_is_mailed_because_of_a_restore_and_rows_without_an_end_are_in_doubt(
    server: EmbeddedServer, lake: Lake, archive: Path
) -> None:
    with another(server) as empty:
        done = put_back(empty, lake, archive)
        assert (done.campaigns_stopped, done.in_doubt) == (3, 2)
        assert dict(query(empty, "SELECT slug, state::text FROM campaigns")) == {
            "draft": "draft", "scheduled": "draft", "planning": "draft", "running": "paused", "paused": "paused",
            "finished": "finished",
        }  # fmt: skip
        rows = query(empty, "SELECT id, state::text, reason, lease_token IS NULL, queued FROM messages ORDER BY id")
        assert rows[1] == (2, "in_doubt", "restored", True, False)
        assert [row[1] for row in rows] == ["in_doubt", "in_doubt", "sent"]
        assert query(empty, "SELECT count(*) FROM leases") == [(0,)]
        assert query(empty, "SELECT DISTINCT by FROM campaign_transitions") == [("restore",)]


def test_folders_are_read_again_after_a_restore_for_dagster_knows_files_that_the_database_does_not(
    database: Database, lake: Lake, tmp_path: Path
) -> None:
    fill(database, lake)
    execute(
        database,
        """INSERT INTO sources (tenant_id, slug, kind, spec) VALUES (1, 'inbox', 'csv', '{"folder": "inbox"}')""",
    )
    back_up(database, lake, tmp_path / "backup.tar")
    with database.transaction() as connection:
        [before] = control.sources(connection)
    put_back(database, lake, tmp_path / "backup.tar", replace=True)
    with database.transaction() as connection:
        [after] = control.sources(connection)
    assert after.key == before.key and after.version != before.version, "by which the sensor `inbox` tells"


def test_no_id_of_a_mail_that_is_out_is_given_again(server: EmbeddedServer, lake: Lake, archive: Path) -> None:
    with another(server) as empty:
        put_back(empty, lake, archive)
        assert query(empty, "SELECT next FROM message_ids")[0][0] > 1_000_000_000
        execute(empty, "INSERT INTO campaigns (tenant_id, slug, spec) VALUES (1, 'new', '{}')")
        assert query(empty, "SELECT max(id) > 10000 FROM campaigns") == [(True,)]


def test_an_installation_with_data_is_only_replaced_when_told(database: Database, lake: Lake, archive: Path) -> None:
    with pytest.raises(Misconfigured, match=r"not empty, it has 2 tenants(?s:.*)keeps what people said"):
        put_back(database, lake, archive)
    assert query(database, "SELECT count(*) FROM campaigns WHERE state = 'running'") == [(1,)]


def test_suppressions_and_keys_since_the_backup_stay(database: Database, lake: Lake, archive: Path) -> None:
    execute(
        database,
        "DELETE FROM suppressions",
        "INSERT INTO tenants (slug, name, postal_address, spec) VALUES ('late', 'Late', 'z', '{}')",
        "INSERT INTO campaigns (tenant_id, slug, spec) VALUES (1, 'late', '{}')",
        """INSERT INTO suppressions (tenant_id, address_key, reason, scope_campaign_id)
           SELECT 1, 'new@x.example', 'unsubscribed', id FROM campaigns WHERE slug = 'late'""",
        """INSERT INTO suppressions (tenant_id, address_key, reason)
           SELECT id, 'z@x.example', 'manual' FROM tenants WHERE slug = 'late'""",
    )
    with database.transaction() as connection:
        key = keys.rotate(connection, "unsubscribe")
    [(change,)] = query(database, "SELECT n FROM change_number")
    done = put_back(database, lake, archive, replace=True)
    assert done.suppressions_kept == 2
    assert query(database, "SELECT t.slug, address_key, reason, scope_campaign_id FROM suppressions s JOIN tenants t "
                           "ON t.id = s.tenant_id ORDER BY address_key") == [
        ("acme", "new@x.example", "unsubscribed", None),  # its campaign is gone, the word stands for the tenant
        ("acme", "old@x.example", "complained", None),
        ("late", "z@x.example", "manual", None),
    ]  # fmt: skip
    with database.transaction() as connection:
        usable = keys.usable(connection, "unsubscribe")
    assert next(iter(usable)) == key, "what was retired since signs nothing new"
    assert query(database, "SELECT n FROM change_number")[0][0] > change


def test_P07_what_people_said_since_the_backup_is_never_rolled_back(
    database: Database, lake: Lake, archive: Path
) -> None:
    execute(
        database,
        """INSERT INTO sources (tenant_id, slug, kind, spec) VALUES (1, 'late', 'csv', '{}')""",
        """INSERT INTO consents (tenant_id, address_key, status, basis, at, recorded_by, source_id, batch_id)
           SELECT t, 'a1@x.example', s, 'consent', '2026-05-02', 'me', 1, 9
             FROM unnest('{1,2}'::int[]) t, unnest('{granted,withdrawn}'::text[]) s""",
        """INSERT INTO api_keys (tenant_id, name, prefix, hash, revoked_at) VALUES (1, 'k', 'k', '\\x00', now())""",
    )
    with database.transaction() as connection:
        suppressions.remove(connection, tenant_id=1, address_keys=["old@x.example"], by="me", why="ticket 81")
        for topic, kind in (("delivery-events", "complained"), ("delivery-events", "unsubscribed")):
            event = json.dumps({"event_id": kind, "message": 1, "kind": kind}, separators=(",", ":")).encode()
            connection.execute(
                "INSERT INTO log (topic, part, off, val) VALUES (%s, %s, %s, %s), (%s, %s, %s, %s)",
                (topic, len(kind) % 4, 1, event, topic, len(kind) % 4, 2, b"\xff\xfe torn"),
            )
    for _ in range(2):  # and a second restore of it changes nothing more
        done = put_back(database, lake, archive, replace=True)
        words = "SELECT tenant_id, status, at = '2026-05-02' FROM consents ORDER BY 1, 2"
        assert query(database, words) == [(t, s, True) for t in (1, 2) for s in ("granted", "withdrawn")]
        removed = "SELECT address_key, reason, removed_by, why FROM suppression_removals"
        assert query(database, removed) == [("old@x.example", "complained", "me", "ticket 81")]
        assert query(database, "SELECT address_key, reason FROM suppressions ORDER BY 1, 2") == [
            ("a1@x.example", "complained"), ("a1@x.example", "unsubscribed"), ("old@x.example", "complained"),
        ]  # fmt: skip
        assert (done.consents_kept, done.removals_kept) == (4, 1)


def test_P09_what_was_sent_since_the_backup_is_known_and_its_links_go_on(
    database: Database, lake: Lake, archive: Path
) -> None:
    execute(
        database,
        "UPDATE messages SET state = 'sent', queued = false, done_at = now() WHERE id = 1",
        """UPDATE campaigns SET state = 'running', first_message_id = 1, planned = 3 WHERE slug = 'running'""",
        """UPDATE campaigns SET state = 'finished', first_message_id = 4, planned = 1 WHERE slug = 'draft'""",
        """INSERT INTO campaigns (tenant_id, slug, spec, state, first_message_id, planned)
           VALUES (1, 'late', '{}', 'running', 5, 2), (2, 'spring', '{}', 'cancelled', 7, 0)""",
        """INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address, address_key, domain, state, queued)
           SELECT n, 1, c.id, 900 + n, 'l' || n || '@x.example', 'l' || n || '@x.example', 'x.example',
                  CASE n WHEN 6 THEN 'leased' ELSE 'sent' END::message_state, false
             FROM generate_series(4, 6) n JOIN campaigns c ON c.slug = CASE n WHEN 4 THEN 'draft' ELSE 'late' END""",
        "INSERT INTO links (campaign_id, ordinal, tenant_id, url)"
        " SELECT id, 0, 1, 'https://x' FROM campaigns WHERE slug = 'late'",
    )
    execute(database, "INSERT INTO message_fields (message_id, tenant_id, merge_values) VALUES (6, 1, 'Ann')")
    before = query(database, "SELECT id, campaign_id, address_key FROM messages ORDER BY id")
    done = put_back(database, lake, archive, replace=True)
    assert query(database, "SELECT id, campaign_id, address_key FROM messages ORDER BY id") == before
    assert [state for (state,) in query(database, "SELECT state::text FROM messages ORDER BY id")] == [
        "sent", "in_doubt", "sent", "sent", "sent", "in_doubt",
    ]  # fmt: skip
    states = dict(query(database, "SELECT slug, state::text FROM campaigns"))
    assert {slug: states[slug] for slug in ("draft", "late", "running", "spring")} == {
        "draft": "finished", "late": "paused", "running": "paused", "spring": "cancelled",
    }  # fmt: skip
    assert query(database, "SELECT url FROM links") == [("https://x",)]
    assert query(database, "SELECT message_id, merge_values FROM message_fields") == [(6, "Ann")], "to be sent again"
    assert (done.messages_known, done.in_doubt) == (4, 2)
    execute(database, "INSERT INTO contacts (tenant_id, match_key, phone, provenance) VALUES (1, '+1', '+1', '{}')")


def test_P09_a_newer_backup_over_an_older_one_put_back_keeps_the_ends_it_recorded(
    database: Database, lake: Lake, archive: Path, tmp_path: Path
) -> None:
    execute(database, "UPDATE campaigns SET first_message_id = 1, planned = 3 WHERE slug = 'running'")
    older, newer = tmp_path / "older.tar", tmp_path / "newer.tar"
    back_up(database, lake, older)
    execute(
        database,
        "UPDATE messages SET state = 'sent', queued = false, attempt = 1, done_at = now() WHERE id = 1",
        "UPDATE messages SET state = 'failed', attempt = 1, done_at = now() WHERE id = 2",
        "UPDATE campaigns SET state = 'finished', finished_at = now() WHERE slug = 'running'",
    )
    rows = "SELECT id, state::text, attempt, reason, done_at FROM messages ORDER BY id"
    campaign = "SELECT state::text, finished_at FROM campaigns WHERE slug = 'running'"
    ends = query(database, rows), query(database, campaign)
    back_up(database, lake, newer)
    execute(database, "UPDATE messages SET state = 'queued', queued = true, attempt = 0 WHERE id < 3",
                      "UPDATE campaigns SET state = 'running', finished_at = NULL WHERE slug = 'running'")  # fmt: skip
    execute(database, "UPDATE messages SET state = 'in_doubt', queued = false, reason = 'restored' WHERE id < 3",
                      "UPDATE campaigns SET state = 'paused' WHERE slug = 'running'")  # fmt: skip
    done = put_back(database, lake, newer, replace=True)
    assert (query(database, rows), query(database, campaign)) == ends
    assert (done.messages_known, done.in_doubt) == (0, 0)
    put_back(database, lake, older, replace=True)
    assert (query(database, rows), query(database, campaign)) == ends, "and an older one takes nothing back either"


def test_P09_a_campaign_planned_twice_from_a_draft_put_back_has_each_plan_as_a_campaign_of_its_own(
    server: EmbeddedServer, database: Database, lake: Lake, tmp_path: Path
) -> None:
    """The same mail may have gone out twice. All of it is known, and each recipient accounted for."""
    older, newer = tmp_path / "older.tar", tmp_path / "newer.tar"

    def plan(place: Database) -> int:
        """Of the draft, sent to two. Out: its id."""
        [(id,)] = query(place, "SELECT id FROM campaigns WHERE slug = 'draft' AND state = 'draft'")
        execute(
            place,
            f"""INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address_key, domain, state, queued)
                SELECT next + n, 1, {id}, 10 + n, n || '@x.example', 'x.example', 'sent', false
                  FROM message_ids, generate_series(0, 1) n""",
            f"""UPDATE campaigns SET state = 'finished', first_message_id = next, planned = 2
                  FROM message_ids WHERE id = {id}""",
            "UPDATE message_ids SET next = next + 2",
        )
        return int(id)

    def ranges(place: Database) -> list[tuple[Any, ...]]:
        found = """SELECT c.id, c.slug, c.state::text, c.planned,
                          count(*) FILTER (WHERE m.id >= first_message_id AND m.id < first_message_id + planned)
                     FROM messages m JOIN campaigns c ON c.id = m.campaign_id
                    GROUP BY c.id HAVING c.id <> 4 ORDER BY c.id"""
        assert query(place, "SELECT 1 FROM campaigns WHERE state = 'draft' AND slug LIKE 'draft%'") == []
        assert query(place, "SELECT count(*) FROM messages WHERE campaign_id NOT IN (SELECT id FROM campaigns)") == [
            (0,)
        ]
        return query(place, found)

    fill(database, lake)
    execute(
        database,
        "UPDATE campaigns SET first_message_id = 1, planned = 3 WHERE slug = 'running'",
        "INSERT INTO campaign_transitions (tenant_id, campaign_id, from_state, to_state, by)"
        " SELECT 1, id, 'scheduled', 'draft', 'ann' FROM campaigns WHERE slug = 'draft'",
        "INSERT INTO contacts (tenant_id, match_key, phone, provenance) VALUES (1, '+1', '+1', '{}')",
        "INSERT INTO campaign_recipients (campaign_id, contact_id, tenant_id, added) VALUES (1, 1, 1, true)",
        "INSERT INTO suppressions (tenant_id, address_key, reason, scope_campaign_id)"
        " VALUES (1, 'no@x.example', 'manual', 1)",
    )
    back_up(database, lake, older)
    first = plan(database)
    back_up(database, lake, newer)
    with another(server) as empty:
        put_back(empty, lake, older)
        about = """SELECT c.slug, r.contact_id, t.by, s.address_key FROM campaigns c
                     JOIN campaign_recipients r ON r.campaign_id = c.id
                     JOIN campaign_transitions t ON t.campaign_id = c.id
                     JOIN suppressions s ON s.scope_campaign_id = c.id"""
        assert query(empty, about) == [("draft", 1, "ann", "no@x.example")], "what is known of the draft goes with it"
        second = plan(empty)
        again = (second, "draft", "finished", 2, 2)
        put_back(empty, lake, older, replace=True)
        assert ranges(empty) == [again], "the backup's draft is the campaign that was planned since"
        assert query(empty, about) == [("draft", 1, "ann", "no@x.example")]
        put_back(empty, lake, newer, replace=True)
        both = [(first, "draft", "finished", 2, 2), (second, f"draft-{second}", "finished", 2, 2)]
        assert ranges(empty) == both
        put_back(empty, lake, older, replace=True)
        assert ranges(empty) == both, "and a later restore changes nothing of it"


def test_no_id_of_a_contact_that_is_gone_is_given_again(
    server: EmbeddedServer, database: Database, lake: Lake, tmp_path: Path
) -> None:
    fill(database, lake)
    add = "INSERT INTO contacts (tenant_id, match_key, phone, provenance) VALUES (1, '+1', '+1', '{}')"
    execute(database, *[add, "DELETE FROM contacts"] * 3)
    back_up(database, lake, tmp_path / "backup.tar")
    with another(server) as empty:
        put_back(empty, lake, tmp_path / "backup.tar")
        execute(empty, add)
        assert query(empty, "SELECT id FROM contacts") == [(4,)], "those of the backup's own database"
    execute(database, *[add, "DELETE FROM contacts"] * 3)
    put_back(database, lake, tmp_path / "backup.tar", replace=True)
    execute(database, add)
    assert query(database, "SELECT id FROM contacts") == [(7,)], "and of the replaced one"


def test_merge_values_and_answers_of_a_forgotten_person_do_not_come_back(
    database: Database, lake: Lake, tmp_path: Path
) -> None:
    fill(database, lake)
    execute(
        database,
        RELAY,
        "UPDATE campaigns SET first_message_id = 1, planned = 3 WHERE slug = 'running'",
        "INSERT INTO message_fields (message_id, tenant_id, merge_values) VALUES (1, 1, 'Ann'), (2, 1, 'Bob')",
        """INSERT INTO attempts
             (message_id, attempt, tenant_id, at, transport_id, connection, stage, code, reply, latency_ms)
           SELECT n, 1, 1, now(), 1, 'w/1', 'rcpt', 450, 'later', 1 FROM generate_series(1, 2) n""",
    )
    back_up(database, lake, tmp_path / "backup.tar")
    execute(
        database,
        """UPDATE messages SET address = NULL, address_key = 'forgotten:x', state = 'suppressed', queued = false
           WHERE id = 1""",
        "DELETE FROM message_fields WHERE message_id = 1",
        "UPDATE attempts SET reply = '' WHERE message_id = 1",
    )
    put_back(database, lake, tmp_path / "backup.tar", replace=True)
    assert query(database, "SELECT state::text, address, address_key FROM messages WHERE id = 1") == [
        ("suppressed", None, "forgotten:x")
    ]
    assert query(database, "SELECT merge_values FROM message_fields") == [("Bob",)]
    assert query(database, "SELECT reply FROM attempts ORDER BY message_id") == [("",), ("later",)]


def test_what_another_installation_sent_is_not_taken_for_ours(
    server: EmbeddedServer, lake: Lake, archive: Path
) -> None:
    with another(server) as other:
        schema.migrate(other)
        with other.transaction() as connection:
            keys.ensure(connection)
        execute(
            other,
            "INSERT INTO tenants (slug, name, postal_address, spec) VALUES ('acme', 'A', 'x', '{}')",
            """INSERT INTO campaigns (tenant_id, slug, spec, state, first_message_id, planned)
               VALUES (1, 'draft', '{}', 'finished', 1, 1)""",
            """INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address_key, domain, state)
               VALUES (1, 1, 1, 1, 'not@x.example', 'x.example', 'sent')""",
        )
        done = put_back(other, lake, archive, replace=True)
        assert done.messages_known == 0
        assert query(other, "SELECT address_key FROM messages WHERE id = 1") == [("a1@x.example",)]


def test_a_restore_over_running_processes_is_refused(database: Database, lake: Lake, archive: Path) -> None:
    with database.connect("sender"), pytest.raises(Misconfigured, match="mailmill_sender connected"):
        put_back(database, lake, archive, replace=True)
    ending = database.connect("sender")
    end = threading.Timer(0.5, ending.close)
    end.start()
    put_back(database, lake, archive, replace=True)
    assert ending.closed, "a session that ends is waited for"
    end.join()


def test_a_restore_that_fails_changes_nothing(database: Database, lake: Lake, archive: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tar"
    rewrite(archive, bad, **{"database.dump": lambda content: content[: len(content) * 2 // 3]})
    with pytest.raises(StoreUnavailable, match="nothing was restored"):
        put_back(database, lake, bad, replace=True)
    assert query(database, "SELECT count(*) FROM campaigns WHERE state = 'running'") == [(1,)]


def test_a_link_that_is_lost_at_the_commit_leaves_the_restore_unfinished(
    database: Database, lake: Lake, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first replay ends its own connection between two statements: before the COMMIT, then as its last word."""
    lost = "SELECT pg_terminate_backend(pg_backend_pid())"
    for place, wanted in (("'facts:'", StoreUnavailable), ("committing", RestoreUnfinished)):
        with monkeypatch.context() as patch:
            patch.setattr(tools, "_script", ending(tools._script, place, lost))
            with pytest.raises(StoreUnavailable) as caught:
                put_back(database, lake, archive, replace=True)
        assert type(caught.value) is wanted


def ending(script: Callable[[Sequence[str]], bytes], place: str, then: str) -> Callable[[Sequence[str]], bytes]:
    """The same script, with a statement before the first one or after the last one that holds `place`."""

    def changed(statements: Sequence[str]) -> bytes:
        after = [[one, then] if place == "committing" else [then, one] for one in statements if place in one]
        return script([part for one in statements for part in (after[0] if place in one else [one])])

    return changed


def test_a_restore_whose_schema_cannot_be_migrated_is_unfinished(
    database: Database, lake: Lake, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: Database) -> None:
        raise StoreUnavailable("the link broke")

    monkeypatch.setattr(schema, "migrate", lost)
    with pytest.raises(RestoreUnfinished, match=r"is replaced, but .* the link broke"):
        put_back(database, lake, archive, replace=True)


def test_a_restore_forgets_neither_what_limits_have_counted_nor_that_a_route_is_held(
    database: Database, lake: Lake, tmp_path: Path
) -> None:
    fill(database, lake)
    execute(
        database,
        RELAY,
        "INSERT INTO budgets SELECT 1, 1, 'day', date '2026-05-01' + n, 10 FROM generate_series(1, 2) n",
    )
    back_up(database, lake, tmp_path / "backup.tar")
    execute(
        database,
        "UPDATE transports SET held_at = now(), held_reason = 'no route'",
        "UPDATE budgets SET used = CASE WHEN starts_at < '2026-05-03' THEN 30 ELSE 5 END",
        "INSERT INTO budgets VALUES (1, 1, 'day', '2026-05-04', 7)",
    )
    put_back(database, lake, tmp_path / "backup.tar", replace=True)
    assert query(database, "SELECT used FROM budgets ORDER BY starts_at") == [(30,), (10,), (7,)]
    assert query(database, "SELECT held_reason FROM transports") == [("no route",)]


def test_a_backup_of_a_newer_schema_is_refused(
    server: EmbeddedServer, lake: Lake, archive: Path, tmp_path: Path
) -> None:
    newer = tmp_path / "newer.tar"
    rewrite(archive, newer, **{"about.json": lambda content: content.replace(b'"0002"', b'"9999"')})
    with another(server) as empty, pytest.raises(Misconfigured, match="newer than this mailmill"):
        put_back(empty, lake, newer)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8])
def test_a_torn_archive_is_refused(archive: Path, tmp_path: Path, keep: float) -> None:
    torn = tmp_path / "torn.tar"
    content = archive.read_bytes()
    torn.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(Misconfigured, match="no whole backup"):
        check(torn)


def test_a_changed_or_foreign_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.tar").write_bytes(content)
    with tarfile.open(tmp_path / "foreign.tar", "w") as foreign:
        foreign.add(archive, "../../etc/cron.d/x")
    (tmp_path / "text.tar").write_text("hello")
    for name in ("changed", "foreign", "text"):
        with pytest.raises(Misconfigured, match="no whole backup"):
            check(tmp_path / f"{name}.tar")
    with pytest.raises(Misconfigured, match="no such file"):
        check(tmp_path / "none.tar")


def test_only_its_owner_may_read_a_backup(archive: Path) -> None:
    assert archive.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in archive.parent.iterdir() if path.name.startswith(".")] == []


def test_an_empty_database_has_nothing_to_back_up(server: EmbeddedServer, lake: Lake, tmp_path: Path) -> None:
    with another(server) as empty, pytest.raises(Misconfigured, match="nothing to back up"):
        back_up(empty, lake, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_a_backup_needs_a_folder_to_lie_in(database: Database, lake: Lake, tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "none" / "x.tar"):
        with pytest.raises(Misconfigured, match="no file can be written here"):
            back_up(database, lake, target)


def rewrite(source: Path, target: Path, **changes: Any) -> None:
    """A copy of an archive with other contents and checksums that fit."""
    import hashlib
    import io

    sums: dict[str, str] = {}
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            stream = old.extractfile(member)
            assert stream is not None
            content = changes.get(member.name, lambda content: content)(stream.read())
            if member.name == "checksums.json":
                content = json.dumps(sums).encode()
            sums[member.name] = hashlib.sha256(content).hexdigest()
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
