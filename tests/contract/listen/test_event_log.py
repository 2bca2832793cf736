"""What every event log promises, over the real ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import pytest

from mailmill.errors import InvalidEvent
from mailmill.io.event_log.kafka import KafkaEventLog, KafkaReader
from mailmill.io.event_log.postgres import PostgresEventLog, PostgresLogReader
from mailmill.io.postgres.database import Database
from mailmill.pipelines.listen.events import MAX_EVENT_BYTES
from mailmill.pipelines.listen.ports import EventLog, EventReader, Records

START = dict.fromkeys(range(4), 0)


@dataclass
class Wires:
    log: EventLog
    reader: Callable[[Mapping[int, int]], EventReader]


@pytest.fixture(params=["postgres", "kafka"])
def wires(request: pytest.FixtureRequest) -> Iterator[Wires]:
    log: PostgresEventLog | KafkaEventLog
    make: Callable[[Mapping[int, int]], EventReader]
    if request.param == "postgres":
        database: Database = request.getfixturevalue("database")
        log, make = PostgresEventLog(database), partial(PostgresLogReader, database)
    else:
        url, topic = request.getfixturevalue("kafka"), request.getfixturevalue("topic")
        log, make = KafkaEventLog(url, topic), partial(KafkaReader, url, topic=topic)
    readers = list[EventReader]()

    def reader(start: Mapping[int, int]) -> EventReader:
        readers.append(make(start))
        return readers[-1]

    yield Wires(log, reader)
    log.close()
    for one in readers:
        one.close()


def drain(reader: EventReader, n: int, limit: int = 1000) -> list[tuple[int, int, bytes | None]]:
    found: list[tuple[int, int, bytes | None]] = []
    for _ in range(600):
        records: Records = reader.poll(limit, 0.2)
        found += zip(records.parts, records.offs, records.values, strict=True)
        if len(found) >= n:
            break
    assert len(found) == n
    return found


def test_what_was_appended_is_read_once_and_in_order_per_key(wires: Wires) -> None:
    wires.log.append([(key, b"%d:%d" % (key, turn)) for turn in range(50) for key in range(10)])
    found = drain(wires.reader(START), 500, limit=70)
    assert len({(part, off) for part, off, _ in found}) == 500
    for key in range(10):
        own = [value for _, _, value in found if value and value.startswith(b"%d:" % key)]
        assert own == [b"%d:%d" % (key, turn) for turn in range(50)]


def test_a_reader_goes_on_where_it_is_told(wires: Wires) -> None:
    wires.log.append([(0, b"a"), (0, b"b"), (0, b"c"), (1, b"d")])
    first = wires.reader(START)
    found = drain(first, 4)
    part, off, _ = next(row for row in found if row[2] == b"b")
    assert [row[2] for row in drain(wires.reader({part: off}), 2)] == [b"b", b"c"]


def test_the_next_offsets_reach_the_ends(wires: Wires) -> None:
    wires.log.append([(key, b"x") for key in range(40)])
    reader = wires.reader(START)
    ends = reader.ends()
    assert sum(ends.values()) == 40
    at: Mapping[int, int] = {}
    for _ in range(600):
        at = reader.poll(7, 0.2).next
        if at == ends:
            break
    assert at == ends


def test_nothing_new_gives_an_empty_answer(wires: Wires) -> None:
    wires.log.append([])
    assert len(wires.reader(START).poll(10, 0.1)) == 0


def test_a_waiting_reader_sees_what_another_appends(wires: Wires) -> None:
    reader = wires.reader(START)
    appender = threading.Thread(target=wires.log.append, args=([(7, b"new")],))
    appender.start()
    found = drain(reader, 1)
    appender.join()
    assert found[0][2] == b"new"


def test_an_event_too_large_is_refused_and_nothing_of_its_batch_is_kept(wires: Wires) -> None:
    with pytest.raises(InvalidEvent):
        wires.log.append([(1, b"fine"), (2, b"x" * (MAX_EVENT_BYTES + 1))])
    wires.log.append([(1, b"later")])
    assert [row[2] for row in drain(wires.reader(START), 1)] == [b"later"]


def test_several_threads_may_append_at_once(wires: Wires) -> None:
    threads = [
        threading.Thread(target=lambda t=t: [wires.log.append([(t, b"%d" % i)]) for i in range(20)]) for t in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drain(wires.reader(START), 80)) == 80
