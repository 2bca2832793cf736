"""The send worker's numbers for Prometheus, served from a thread of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mailmill.errors import Misconfigured
from mailmill.pipelines.send.calls import Report
from mailmill.pipelines.send.gauges import Gauges

Metric = CounterMetricFamily | GaugeMetricFamily


class SendMetrics(Collector):
    """mailmill_send_results_total by result, and what is going on by transport. No address, no secret."""

    def __init__(self, worker: str, report: Report, doing: Callable[[], Gauges]) -> None:
        self._worker, self._report, self._doing = worker, report, doing

    def collect(self) -> Iterator[Metric]:
        me, now = [self._worker], self._doing()
        results = CounterMetricFamily(
            "mailmill_send_results", "Messages by what became of them", labels=["worker", "result"]
        )
        for result, n in sorted(self._report.counts.items()):
            results.add_metric([*me, result], n)
        yield results
        for name, text, value in (
            ("mailmill_send_rate", "Results a second over the last ten", now.rate),
            ("mailmill_send_leases", "Batches under a lease", now.leases),
            ("mailmill_send_troubles", "What keeps it from sending, how many", len(self._report.problems)),
        ):
            gauge = GaugeMetricFamily(name, text, labels=["worker"])
            gauge.add_metric(me, value)
            yield gauge
        for name, text in (("connections", "Open connections"), ("waiting", "Claimed, waiting for a connection"),
                           ("in_flight", "Handed over or begun, not answered")):  # fmt: skip
            gauge = GaugeMetricFamily(f"mailmill_send_{name}", text, labels=["worker", "transport"])
            for route in now.routes:
                gauge.add_metric([*me, route.transport], getattr(route, name))
            yield gauge
        bound = GaugeMetricFamily("mailmill_send_bound", "1 for what keeps a transport from being faster",
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
