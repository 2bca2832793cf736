"""What a route believes of its holds while they are being written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest

from mailmill.errors import TransportUnavailable
from mailmill.pipelines.send.batches import Running
from mailmill.pipelines.send.ports import JournalFailed, Relay, RouteFacts
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
