"""What a worker is doing at this moment: for `mailmill workers` and /metrics, and to see what holds it up."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from mailmill.pipelines.send.batches import Running
from mailmill.pipelines.send.routes import Route

RATE_OVER_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteGauge:
    """One transport. `bound_by` is what keeps it from being faster."""

    transport: str
    connections: int
    waiting: int  # claimed, for a connection
    in_flight: int  # handed over or begun, not answered
    bound_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    rate: float = 0.0  # messages a second, over the last ten
    leases: int = 0
    routes: tuple[RouteGauge, ...] = ()

    @property
    def in_flight(self) -> int:
        return sum(route.in_flight for route in self.routes)

    @property
    def bound_by(self) -> str:
        return ", ".join(dict.fromkeys(route.bound_by for route in self.routes)) or "nothing to send"


@dataclass(slots=True)
class Pace:
    """How fast results come in."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def rate(self, now: float, done: int) -> float:
        self.seen.append((now, done))
        while len(self.seen) > 2 and now - self.seen[1][0] >= RATE_OVER_S:
            self.seen.popleft()
        began, before = self.seen[0]
        passed = now - began
        return (done - before) / passed if passed > 0 else 0.0


def gauges(routes: Iterable[Route], campaigns: Iterable[Running], *, now: float, rate: float, leases: int) -> Gauges:
    """In: times on the loop's clock."""
    running = list(campaigns)
    found = [
        RouteGauge(
            transport=route.facts.name,
            connections=len(route.connections.links),
            waiting=len(route.stock),
            in_flight=len(route.begun) + len(route.flying),
            bound_by=_bound_by(route, [one for one in running if one.facts.transport_id == route.facts.id], now),
        )
        for route in routes
        if route.wanted
    ]
    return Gauges(rate=round(rate, 1), leases=leases, routes=tuple(found))


def _bound_by(route: Route, campaigns: list[Running], now: float) -> str:
    if route.held is not None:
        return "held"
    if route.away:
        return "relay away"
    if len(route.stock) and len(route.connections.links) >= route.connections.served:
        return "connections"  # all of them are busy: the relay's answers set the pace
    if len(route.stock):
        return "connecting"
    if any(one.limited_s for one in campaigns):
        return "limit"
    if campaigns and all(now >= one.until for one in campaigns):
        return "window"
    return "claims" if route.begun or route.flying else "nothing due"
