"""What a route believes of its holds while they are being written."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest

from mailmill.errors import TransportUnavailable
from mailmill.pipelines.send.batches import Running
from mailmill.pipelines.send.connections import Connections
from mailmill.pipelines.send.ports import Desk, JournalFailed, Link, Relay, RouteFacts, RouteRefused
from mailmill.pipelines.send.routes import Route

FACTS = RouteFacts(id=1, tenant_id=1, name="acme/relay", kind="smtp", spec={})


@dataclass
class Room:
    """A House in which nothing may start."""

    writing: list[str | None] = field(default_factory=list)

    def now(self) -> float:
        return 0.0

    def at_ms(self) -> int:
        return 0

    def date(self) -> bytes:
        return b""

    def may_begin(self, now: float) -> bool:
        return False

    def may_start(self, now: float) -> bool:
        return False

    def hungry(self) -> None: ...

    def batch_over(self) -> None: ...

    def hold(self, route: Route, reason: str, provider: str | None = None) -> None:
        self.writing.append(provider)

    def pause(self, campaign: Running, reason: str) -> None: ...

    def journal_failed(self, error: JournalFailed) -> None: ...


def no_relay(facts: RouteFacts) -> Relay:
    raise TransportUnavailable("there is none")


@pytest.mark.parametrize("second", ["microsoft", None])
def test_P13_holds_that_are_written_at_once_do_not_release_one_another(second: str | None) -> None:
    house = Room()
    route = Route(FACTS, no_relay, house, Counter())
    route._hold("blocked", "google")
    route._hold("blocked", second)
    assert house.writing == ["google", second]

    def held() -> tuple[str | None, set[str]]:
        return route.held, set(route.held_for)

    both = held()
    assert both == (("blocked", {"google"}) if second is None else (None, {"google", "microsoft"}))
    route.hold_written(1.0)  # that for google, of which a look tells
    first = replace(FACTS, held_for={"google": "blocked"})
    route.heard(first, 2.0)
    assert held() == both
    route.hold_written(3.0)
    route.heard(first, 2.5)  # asked in between
    assert held() == both
    route.heard(FACTS, 4.0)
    assert held() == (None, set()), "a person released it"


@pytest.mark.parametrize("error", [RouteRefused("auth", 535, "wrong password"), TransportUnavailable("no"), OSError()])
@pytest.mark.parametrize("needed", [False, True])
async def test_a_connection_of_a_spec_that_was_mended_meanwhile_says_nothing_of_the_new_one(
    error: Exception, needed: bool
) -> None:
    asked, answered, opened, held = asyncio.Event(), asyncio.Event(), list[object](), list[str]()

    class Slow:
        def __init__(self, facts: RouteFacts) -> None:
            self.password = facts.spec["password"]

        async def open(self, desk: Desk, name: str) -> Link:
            opened.append(self.password)
            asked.set()
            await answered.wait()
            raise error

    def given(password: str) -> RouteFacts:
        return replace(FACTS, spec={"password": password, "connections": 1})

    counts: Counter[str] = Counter()
    found = Connections(
        Room(),  # type: ignore[arg-type]  # there is nothing to take
        given("wrong"), Slow, now=lambda: 0.0, counts=counts, refused=held.append,
    )  # fmt: skip
    if needed:  # it is the one connection that is tried
        found._allowed = 0
    found.open(0.0, 1, needed=needed)
    (task,) = found._opening
    async with asyncio.timeout(10):
        await asked.wait()
        found.heard(given("right"))
        answered.set()
        await task
    assert not held and not counts and not found.away and found.last_error is None and found.served == 1
    found.open(0.0, 1, needed=needed)
    (task,) = found._opening
    async with asyncio.timeout(10):
        await task
    assert opened == ["wrong", "right"] and counts["connect_failures"] == 1
