"""Work ahead in threads: in order, bounded, and an error comes where its result would have come."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mailmill.pipelines.ingest.ahead import THREADS, ahead, prefetched


def test_results_come_in_the_order_of_the_items_whichever_is_ready_first() -> None:
    second = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second.wait(30), "the second item was not begun while the first was under way"
        if number == 1:
            second.set()
        return number * number

    assert list(ahead(work, range(50))) == [number * number for number in range(50)]


def test_no_more_items_are_taken_than_there_are_threads_and_one() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = ahead(lambda number: number, items())
    assert next(results) == 0
    assert len(taken) <= THREADS + 1
    results.close()  # type: ignore[attr-defined]


def test_an_error_comes_after_the_results_before_it() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    results = ahead(work, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(results)


def test_the_next_item_is_made_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in prefetched(items()):
        if number < 2:
            assert made[number + 1].wait(30)


def test_an_error_of_what_makes_the_items_comes_after_them() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("cut")

    results = prefetched(items())
    assert next(results) == 1
    with pytest.raises(OSError, match="cut"):
        next(results)
