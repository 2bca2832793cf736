"""The send worker's numbers for Prometheus, served from a thread of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mailmill.errors import Misconfigured
from mailmill.pipelines.send.answers import State
from mailmill.pipelines.send.calls import Report
from mailmill.pipelines.send.gauges import Gauges

Metric = CounterMetricFamily | GaugeMetricFamily


RESULTS = get_args(State)
OTHERS = {  # what the worker counts besides: name -> what it counts
    "settled_at_claim": "Messages that were suppressed or expired when they were claimed",
    "lost_leases": "Results that were refused because the lease was lost",
    "connect_failures": "Connections that could not be opened",
}


class SendMetrics(Collector):
    """What a worker counted since it started, and what is going on by transport. No address, no secret."""

    def __init__(self, worker: str, report: Report, doing: Callable[[], Gauges]) -> None:
        self._worker, self._report, self._doing = worker, report, doing

    def collect(self) -> Iterator[Metric]:
        me, now = [self._worker], self._doing()
        counts = self._report.counts
        results = CounterMetricFamily(
            "mailmill_send_results", "Attempts by the state in which they left the message", labels=["worker", "result"]
        )
        for result in RESULTS:  # from the start, so that a first failure is an increase
            results.add_metric([*me, result], counts[result])
        yield results
        for name, text in OTHERS.items():
            counter = CounterMetricFamily(f"mailmill_send_{name}", text, labels=["worker"])
            counter.add_metric(me, counts[name])
            yield counter
        for name, text, value in (
            ("mailmill_send_results_per_second", "Results a second, over the last ten seconds", now.rate),
            ("mailmill_send_leases", "Batches of messages under a lease", now.leases),
            ("mailmill_send_troubles", "How many things keep it from sending", len(self._report.problems)),
        ):
            gauge = GaugeMetricFamily(name, text, labels=["worker"])
            gauge.add_metric(me, value)
            yield gauge
        for name, text in (("connections", "Open connections"), ("waiting", "Messages that wait for a connection"),
                           ("in_flight", "Messages begun or handed over that are not answered")):  # fmt: skip
            gauge = GaugeMetricFamily(f"mailmill_send_{name}", text, labels=["worker", "transport"])
            for route in now.routes:
                gauge.add_metric([*me, route.transport], getattr(route, name))
            yield gauge
        bound = GaugeMetricFamily("mailmill_send_bound", "1 for what, in the label by, binds a transport",
                                  labels=["worker", "transport", "by"])  # fmt: skip
        for route in now.routes:
            bound.add_metric([*me, route.transport, route.bound_by], 1)
        yield bound


@contextmanager
def serving(metrics: SendMetrics, *, bind: str, port: int) -> Iterator[int]:
    """/metrics on this port while the block lasts. Yields the port.

    Raises: Misconfigured when the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, addr=bind, registry=registry)
    except OSError as error:
        raise Misconfigured(
            f"port {port} cannot be listened on: {error.strerror}", place="MAILMILL_METRICS_PORT",
            remedy="Name a free port; each worker of a machine needs its own.",
        ) from error  # fmt: skip
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
