"""Kafka's topics and errors, in our words."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from mailmill.errors import MailmillError, Misconfigured, StoreUnavailable
from mailmill.io.event_log.postgres import PARTITIONS, TOPIC

logger = logging.getLogger(__name__)
ANSWER_S = 5.0  # for what the broker should know at once
LEADERS_S = 10.0  # until a new topic has to be usable
Config = Mapping[str, str | int | float | bool]
CLIENT: Config = {
    "client.id": "mailmill",
    "socket.timeout.ms": 10_000,
    "socket.connection.setup.timeout.ms": 5_000,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,
}
# a partition that is new, or on its way to another broker
_MOVING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


def name_of(topic: str) -> str:
    """What this log is called where its offsets and dead letters are kept, beside those of table `log`."""
    return f"kafka:{topic}"


def create_topic(url: str, topic: str = TOPIC, partitions: int = PARTITIONS) -> int:
    """Create the topic unless it exists, and wait until it can be used. Out: how many partitions it has.

    Raises: StoreUnavailable, Misconfigured.
    """
    admin = AdminClient({**CLIENT, "bootstrap.servers": url}, logger=logger)
    deadline = time.monotonic() + LEADERS_S
    try:
        found = admin.list_topics(topic, timeout=ANSWER_S).topics[topic]
        if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            new = NewTopic(topic, num_partitions=partitions, replication_factor=-1)
            try:
                admin.create_topics([new], request_timeout=ANSWER_S)[topic].result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was first
                    raise
        while True:  # the broker answers before the partitions have leaders
            found = admin.list_topics(topic, timeout=ANSWER_S).topics[topic]
            if found.error is None and found.partitions and all(p.leader >= 0 for p in found.partitions.values()):
                return len(found.partitions)
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"Kafka's topic {topic} has no leaders")
            time.sleep(0.02)
    except KafkaException as error:
        raise named(error.args[0]) from error


def named(error: KafkaError) -> MailmillError:
    """The broker's or the client's error in our words."""
    code = error.code()
    if code in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
        return gone(error.str())
    if code in (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError._INVALID_ARG,
    ):
        return Misconfigured(f"Kafka refuses: {error.str()}", place="MAILMILL_KAFKA_URL")
    return StoreUnavailable(f"Kafka does not answer: {error.str()}")


def gone(what: str) -> Misconfigured:
    return Misconfigured(
        f"the events to go on with are not in Kafka any more: {what}",
        place="MAILMILL_KAFKA_URL",
        remedy="Events were deleted before they were folded, or the topic is a new one. Put the topic back, or run"
        " `mailmill listen --accept-gap` to go on at what is there.",
    )


def beginnings(url: str, topic: str = TOPIC) -> dict[int, int]:
    """Partition -> the first offset that is still there. Creates the topic when it is not there.

    Raises: StoreUnavailable, Misconfigured.
    """
    partitions = create_topic(url, topic)
    consumer = Consumer({**CLIENT, "group.id": "mailmill", "bootstrap.servers": url}, logger=logger)
    try:
        return {part: low for part, (low, _) in watermarks(consumer, topic, range(partitions)).items()}
    finally:
        consumer.close()


def watermarks(consumer: Consumer, topic: str, parts: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Partition -> (first offset that is still there, the offset the next record will get)."""
    found: dict[int, tuple[int, int]] = {}
    deadline = time.monotonic() + ANSWER_S
    for part in parts:
        while part not in found:
            try:
                found[part] = consumer.get_watermark_offsets(TopicPartition(topic, part), timeout=ANSWER_S)
            except KafkaException as error:
                if error.args[0].code() not in _MOVING or time.monotonic() > deadline:
                    raise named(error.args[0]) from error
                time.sleep(0.05)
    return found
