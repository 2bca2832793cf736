"""The way through Kafka: table `log` is the outbox, the fold reads the topic."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import TopicPartition
from event_world import a_ledger, a_story, dead_letters, everything, lake_counts, state, truth, values
from ports import free_port

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.event_log.kafka import KafkaEventLog
from mailmill.io.event_log.postgres import PostgresEventLog
from mailmill.io.lake import Lake
from mailmill.io.listener import Listener
from mailmill.io.postgres.database import Database
from mailmill.pipelines.listen.loop import Pace, Report


def outbox(database: Database, topic: str) -> PostgresEventLog:
    """Table `log` under the test's topic."""
    with database.transaction() as conn:
        conn.execute("INSERT INTO log_heads SELECT %s, p FROM generate_series(0, 3) p", (topic,))
    return PostgresEventLog(database, topic=topic)


def fold(database: Database, lake: Lake, kafka: str, topic: str, *, give_up_s: float = 120.0, **fields: Any) -> Report:
    pace = Pace(batch=500, give_up_s=give_up_s)
    listener = Listener(database=database, lake=lake, kafka_url=kafka, topic=topic, pace=pace, **fields)
    return listener.run(until_idle=True)


def test_F22_F23_F25_the_outbox_keeps_events_while_kafka_is_away_and_repeats_count_once(
    database: Database, lake: Lake, kafka: str, topic: str
) -> None:
    ledger = a_ledger(database, 100)
    story = a_story(ledger, 1500)
    log = outbox(database, topic)
    log.append(values(story))
    log.close()
    with pytest.raises(StoreUnavailable):
        fold(database, lake, f"127.0.0.1:{free_port()}", topic, give_up_s=0)
    assert state(database)["counters"] == {}

    assert fold(database, lake, kafka, topic).events == 1500
    assert state(database) == truth(ledger, story)
    before = everything(database)
    # killed after Kafka had the records and before the outbox knew: they are forwarded again
    with database.transaction() as conn:
        conn.execute("UPDATE offsets SET next = 0 WHERE consumer = 'forwarder'")
    assert fold(database, lake, kafka, topic).events == 1500
    assert everything(database) == before
    with database.transaction() as conn:
        conn.execute("UPDATE offsets SET next = 0 WHERE consumer = 'fold'")
    assert fold(database, lake, kafka, topic).events == 3000
    assert everything(database) == before
    assert lake_counts(database, lake) == {"rows": 6000, "events": 1500, "places": 3000}


def test_F26_null_poison_and_offsets_without_records_stop_nobody(
    database: Database, lake: Lake, kafka: str, topic: str
) -> None:
    ledger = a_ledger(database, 20)
    story = a_story(ledger, 60)
    outbox(database, topic).close()
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions()
    for end in (producer.abort_transaction, producer.commit_transaction):  # markers take offsets, also the last ones
        producer.begin_transaction()
        for key, value in values(story):
            producer.produce(topic, value, partition=key % 4)
        producer.produce(topic, None, partition=0)
        producer.produce(topic, b'{"two": 1}\n{"lines": 2}', partition=1)
        end()
    producer.close()
    report = fold(database, lake, kafka, topic)
    assert (report.events, report.poison, report.lag) == (60, 2, 0)
    assert sorted(dead_letters(database)) == ["not_json", "null"]
    assert state(database) == truth(ledger, story)


def test_events_that_kafka_deleted_are_missed_aloud(database: Database, lake: Lake, kafka: str, topic: str) -> None:
    ledger = a_ledger(database, 20)
    outbox(database, topic).close()
    log = KafkaEventLog(kafka, topic)
    log.append(values(a_story(ledger, 40)))
    fold(database, lake, kafka, topic)
    log.append(values(a_story(ledger, 80, seed=2)))
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.delete_records([TopicPartition(topic, part, -1) for part in range(4)]).values():
        future.result()
    log.append(values(a_story(ledger, 7, seed=3)))
    log.close()
    with pytest.raises(Misconfigured, match="--accept-gap"):
        fold(database, lake, kafka, topic)
    report = fold(database, lake, kafka, topic, accept_gap=True)
    assert (report.events, report.lag) == (7, 0)
