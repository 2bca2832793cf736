"""The event log as a topic of Kafka. Offsets live in PostgreSQL; the broker is only told where to read."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from mailmill.errors import StoreUnavailable
from mailmill.io.event_log.kafka_topics import CLIENT, Config, create_topic, gone, named, watermarks
from mailmill.io.event_log.postgres import TOPIC, check_size
from mailmill.pipelines.listen.ports import Records

logger = logging.getLogger(__name__)
APPEND_S = 10.0  # until an append gives up
POLL_EVERY = 1000  # messages after which delivery reports are taken, so that their queue stays short
LOOK_EVERY_S = 0.1
BUFFER_KB = 64 * 1024
_PRODUCER: Config = {
    **CLIENT,
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 5,
    "batch.size": 1_000_000,
    "delivery.timeout.ms": int(APPEND_S * 800),  # the report comes before we stop waiting for it
    "request.timeout.ms": 5_000,
    "queue.buffering.max.kbytes": BUFFER_KB,
}
_CONSUMER: Config = {
    **CLIENT,
    "group.id": "mailmill",  # asked for and not used: partitions are assigned by us, nothing is committed
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,  # tells the end also where the last offsets are no records
    "fetch.wait.max.ms": 50,
    "fetch.queue.backoff.ms": 10,  # the default of 1000 stalls a fast consumer: listen.md
    "queued.max.messages.kbytes": BUFFER_KB,
}


class KafkaEventLog:
    """EventLog over a topic. Every record's delivery report is in before `append` returns."""

    def __init__(self, url: str, topic: str = TOPIC) -> None:
        self._url, self._topic = url, topic
        self._lock = threading.Lock()
        self._producer: Producer | None = None
        self._partitions = 0

    def append(self, events: Sequence[tuple[int, bytes]]) -> None:
        check_size(events)
        if not events:
            return
        with self._lock:
            try:
                self._append(events)
            except (KafkaException, BufferError) as error:
                self._drop()
                raise StoreUnavailable(f"Kafka does not take events: {error}") from error
            except BaseException:
                self._drop()  # what is still in its queue must not be sent behind our back
                raise

    def _append(self, events: Sequence[tuple[int, bytes]]) -> None:
        if self._producer is None:
            self._partitions = create_topic(self._url, self._topic)
            self._producer = Producer({**_PRODUCER, "bootstrap.servers": self._url}, logger=logger)
        producer, deadline, reports = self._producer, time.monotonic() + APPEND_S, _Reports()
        for number, (key, value) in enumerate(events, start=1):
            while True:
                try:
                    producer.produce(self._topic, value, partition=key % self._partitions, on_delivery=reports.take)
                    break
                except BufferError:  # its queue is full: wait for some to be delivered
                    if time.monotonic() > deadline:
                        raise
                    producer.poll(0.05)
            if number % POLL_EVERY == 0:
                producer.poll(0)
        while reports.taken < len(events) and reports.error is None and time.monotonic() < deadline:
            producer.poll(0.05)
        if reports.error is not None:
            raise named(reports.error)
        if reports.taken < len(events):
            raise StoreUnavailable("Kafka did not take the events in time")

    def _drop(self) -> None:
        if self._producer is not None:
            with suppress(KafkaException):
                self._producer.purge()
            self._producer = None

    def close(self) -> None:
        with self._lock:
            self._drop()


class _Reports:
    """Counts delivery reports; keeps the first error."""

    def __init__(self) -> None:
        self.taken = 0
        self.error: KafkaError | None = None

    def take(self, error: KafkaError | None, _: Message) -> None:
        self.taken += 1
        self.error = self.error or error


class KafkaReader:
    """EventReader over a topic. `start` says where to go on in each partition; one it does not name is not read.

    `accept_gap`: where that is no longer there, go on at what is there.

    Raises: StoreUnavailable; Misconfigured when the broker no longer has, or never had, what comes next.
    """

    def __init__(
        self,
        url: str,
        start: Mapping[int, int],
        *,
        topic: str = TOPIC,
        accept_gap: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic, self._clock, self._next = topic, clock, dict(start)
        self._down: KafkaError | None = None
        config: dict[str, Any] = {**_CONSUMER, "bootstrap.servers": url, "error_cb": self._trouble}
        self._consumer = Consumer(config, logger=logger)
        try:
            for part, (low, high) in self._watermarks().items():
                if not low <= start[part] <= high:
                    if not accept_gap:
                        raise gone(f"partition {part} has {low} to {high}, {start[part]} comes next")
                    self._next[part] = low
            self._consumer.assign([TopicPartition(topic, part, off) for part, off in self._next.items()])
        except BaseException:
            self._consumer.close()
            raise

    def _trouble(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION) or error.fatal():
            self._down = error

    def poll(self, limit: int, timeout_s: float) -> Records:
        deadline = self._clock() + timeout_s
        parts, offs, values = list[int](), list[int](), list[bytes | None]()
        before = dict(self._next)
        while True:
            left = deadline - self._clock()
            # it waits for `limit` messages, so it is asked for a short while
            messages = self._consumer.consume(limit, max(0.0, min(left, LOOK_EVERY_S)))
            for message in messages:
                self._take(message, parts, offs, values)
            if values or self._next != before or left <= 0:
                return Records(parts=parts, offs=offs, values=values, next=dict(self._next))
            if self._down is not None:
                raise named(self._down)

    def _take(self, message: Message, parts: list[int], offs: list[int], values: list[bytes | None]) -> None:
        error, part, off = message.error(), message.partition(), message.offset()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise named(error)
        assert part is not None and off is not None
        if error is None:
            parts.append(part)
            offs.append(off)
            values.append(message.value())
            self._next[part] = off + 1
        else:
            self._next[part] = max(off, self._next[part])
        self._down = None

    def ends(self) -> dict[int, int]:
        return {part: high for part, (_, high) in self._watermarks().items()}

    def _watermarks(self) -> dict[int, tuple[int, int]]:
        return watermarks(self._consumer, self._topic, self._next)

    def close(self) -> None:
        self._consumer.close()
