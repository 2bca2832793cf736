"""Events appended to the log come back as numbers, exactly once."""

from __future__ import annotations

import random
from typing import Any

import orjson
from event_world import (
    T0,
    a_ledger,
    a_story,
    an_event,
    dead_letters,
    everything,
    lake_counts,
    state,
    truth,
    values,
)  # fmt: skip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailmill.io.event_log.postgres import PostgresEventLog
from mailmill.io.lake import Lake
from mailmill.io.listener import Listener
from mailmill.io.postgres.database import Database
from mailmill.pipelines.listen.loop import Pace


def fold(database: Database, lake: Lake, batch: int = 50_000) -> Any:
    return Listener(database=database, lake=lake, pace=Pace(batch=batch)).run(until_idle=True)


def rewind(database: Database) -> None:
    with database.transaction() as conn:
        conn.execute("UPDATE offsets SET next = 0")


def test_P17_counters_are_what_the_distinct_events_count_to(
    database: Database, lake: Lake, log: PostgresEventLog
) -> None:
    ledger = a_ledger(database, 300)
    story = a_story(ledger, 4000)
    repeated = story + random.Random(2).sample(story, 500)
    random.Random(3).shuffle(repeated)
    log.append(values(repeated))
    report = fold(database, lake, batch=700)
    assert (report.events, report.poison, report.lag) == (4500, 0, 0)
    assert report.batches > 3
    assert state(database) == truth(ledger, story)


def test_P17_F25_replaying_from_zero_in_any_order_changes_nothing(
    database: Database, lake: Lake, log: PostgresEventLog
) -> None:
    ledger = a_ledger(database, 200)
    story = a_story(ledger, 2000)
    log.append(values(story))
    fold(database, lake)
    before = everything(database)
    rewind(database)
    fold(database, lake, batch=300)
    assert everything(database) == before
    random.Random(4).shuffle(story)
    log.append(values(story))
    fold(database, lake, batch=900)
    assert everything(database) == before


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_P17_any_order_and_repetition_give_the_same_state(
    database: Database, lake: Lake, log: PostgresEventLog, data: st.DataObject
) -> None:
    with database.transaction() as conn:
        conn.execute(
            "TRUNCATE messages, campaigns, tenants, counters, link_counters, domain_counters, engagement, rollups,"
            " suppressions, seen_overflow, manifest, offsets, log, dead_letters RESTART IDENTITY CASCADE"
        )
        conn.execute("UPDATE log_heads SET next = 0")
    ledger = a_ledger(database, 4)
    story = a_story(ledger, 40, seed=data.draw(st.integers(0, 10**6)))
    order = data.draw(st.permutations(story)) + data.draw(st.lists(st.sampled_from(story), max_size=20))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=4)))
    for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True):
        log.append(values(order[start:end]))
        fold(database, lake)
    assert state(database) == truth(ledger, story)


def test_keys_beyond_those_a_row_holds_still_count_exactly(
    database: Database, lake: Lake, log: PostgresEventLog
) -> None:
    ledger = a_ledger(database, 3)
    opens = [an_event(ledger, 1, "opened", T0 + n, n) for n in range(700)]
    for piece in (opens[:100], opens[50:400], opens, opens[:300]):
        log.append(values(piece))
        fold(database, lake)
    assert state(database) == truth(ledger, opens)
    with database.transaction() as conn:
        held = conn.execute("SELECT cardinality(seen) FROM messages WHERE id = 1").fetchone()
        beside = conn.execute("SELECT count(*) FROM seen_overflow").fetchone()
    assert (held, beside) == ((256,), (444,))


def test_P18_the_lake_counts_what_postgresql_counts(database: Database, lake: Lake, log: PostgresEventLog) -> None:
    ledger = a_ledger(database, 100)
    story = a_story(ledger, 1000)
    log.append([*values(story + story[:100]), (5, b"poison")])
    fold(database, lake, batch=200)
    assert lake_counts(database, lake) == {"rows": 1100, "events": 1000, "places": 1100}
    with database.transaction() as conn:
        files = conn.execute("SELECT tenant_id, file FROM manifest WHERE dataset = 'events'").fetchall()
    assert all(file.startswith(f"{tenant}/events/") for tenant, file in files)


# kind, SMTP code, class, and the reason for which the address is suppressed then
DESERVED: list[tuple[str, int | None, str | None, str | None]] = [
    ("bounced_hard", None, "bad_mailbox", "bounced"),
    ("bounced_hard", 550, "bad_domain", "bounced"),
    ("failed", 550, "inactive_mailbox", "bounced"),
    ("failed", 450, "inactive_mailbox", None),
    ("failed", None, "bad_mailbox", None),
    ("bounced_hard", 550, "authentication", None),
    ("bounced_hard", 550, "content", None),
    ("bounced_hard", 550, "spam_related", None),
    ("failed", 550, "policy_related", None),
    ("bounced_hard", 550, None, None),
    ("bounced_soft", 550, "bad_mailbox", None),
    ("complained", None, None, "complained"),
    ("unsubscribed", None, None, "unsubscribed"),
]


def test_P20_a_bounce_suppresses_only_as_its_class_deserves(
    database: Database, lake: Lake, log: PostgresEventLog
) -> None:
    ledger = a_ledger(database, len(DESERVED))
    for message, (kind, code, reason, _) in enumerate(DESERVED, start=1):
        # the class decides whichever came first: our fault before the real reason takes nothing away
        ours = an_event(ledger, message, "bounced_hard", n=0, code=550, reason="authentication")
        log.append(values([ours, an_event(ledger, message, kind, T0 + 5, n=1, code=code, reason=reason)]))
    fold(database, lake)
    with database.transaction() as conn:
        rows = conn.execute("SELECT address_key, reason FROM suppressions WHERE expires_at IS NULL").fetchall()
        number = conn.execute("SELECT n FROM change_number").fetchone()
    suppressed = {ledger.address(n): reason for n, (*_, reason) in enumerate(DESERVED, start=1) if reason}
    assert dict(rows) == suppressed
    assert number == (1,)


def test_a_suppression_that_a_person_lifted_is_not_put_back_by_a_replay(
    database: Database, lake: Lake, log: PostgresEventLog
) -> None:
    ledger = a_ledger(database, 3)
    log.append(values([an_event(ledger, 1, "bounced_hard", reason="bad_mailbox")]))
    fold(database, lake)
    with database.transaction() as conn:
        conn.execute("DELETE FROM suppressions")
    rewind(database)
    fold(database, lake)
    assert state(database)["suppressions"] == set()


def test_P19_F26_poison_goes_to_the_dead_letters_and_the_rest_is_counted(
    database: Database, lake: Lake, log: PostgresEventLog
) -> None:
    ledger = a_ledger(database, 30)
    story = a_story(ledger, 200)
    poison = [(4, b"{"), (4, b""), (4, b"[1]"), (4, orjson.dumps({**story[0], "kind": "exploded"})), (4, b"null")]
    records = values(story)
    log.append(records[:90] + poison + records[90:])
    with database.transaction() as conn:  # what another program put there: larger than an appender may write
        conn.execute("UPDATE log_heads SET next = next + 1 WHERE part = 0")
        conn.execute(
            "INSERT INTO log SELECT topic, 0, next - 1, now(), %s FROM log_heads WHERE part = 0", (b"x" * 5_000_000,)
        )
    report = fold(database, lake)
    assert (report.events, report.poison) == (200, 6)
    assert state(database) == truth(ledger, story)
    assert dead_letters(database) == [
        "not_json",
        "not_json",
        "not_an_object",
        "unknown_kind",
        "not_an_object",
        "too_large",
    ]
    before = everything(database)
    rewind(database)
    fold(database, lake)
    assert everything(database) == before
    assert len(dead_letters(database)) == 6


def test_F32_events_of_messages_that_are_not_ours_are_orphans(
    database: Database, lake: Lake, log: PostgresEventLog
) -> None:
    ledger = a_ledger(database, 30)
    good = a_story(ledger, 100)
    foreign = [
        {**an_event(ledger, 1, "complained", n=1), "tenant": 2},
        {**an_event(ledger, 1, "unsubscribed", n=2), "campaign": 3},
        {**an_event(ledger, 1, "bounced_hard", n=3, reason="bad_mailbox"), "message": 99_999},
        {**an_event(ledger, 1, "opened", n=4), "tenant": 77},
    ]
    log.append(values(good[:50] + foreign + good[50:]))
    report = fold(database, lake)
    assert (report.events, report.poison, report.batches) == (100, 4, 1)
    assert state(database) == truth(ledger, good)
    assert sorted(dead_letters(database)) == ["other_campaign", "other_tenant", "other_tenant", "unknown_message"]
    assert lake_counts(database, lake)["events"] == 100
