# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Context's metrics for Prometheus. Needs prometheus_client, which `pip install 'gxl[web]'` brings.

In an application that has a registry already: `prometheus_client.REGISTRY.register(gxl.prometheus.Collector(ctx))`.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector as Collecting

from gxl.context import Context
from gxl.events import EventType

_COUNTERS = {
    "events_lost": ("gxl_events_lost", "Events that bounded sinks had to drop."),
    "disasters": ("gxl_disasters", "Reports that events may be missing."),
    "recoveries": ("gxl_recoveries", "New libxl contexts in the place of lost ones."),
    "abandoned": ("gxl_contexts_abandoned", "libxl contexts that could not be freed."),
    "floods": ("gxl_disks_flooded", "Disks that their guests ejected too often to be listened to."),
    "pump_turns": ("gxl_pump_turns", "Calls from the event loop."),
    "pump_seconds": ("gxl_pump_seconds", "Time for which gxl and libxl held the event loop."),
}
_GAUGES = {
    "alive": ("gxl_alive", "1 while the Context can report events."),
    "queue_depth": ("gxl_queue_depth", "Events that wait in the Context's queue."),
    "queue_high_water": ("gxl_queue_high_water", "The most events that ever waited in the Context's queue."),
    "operations": ("gxl_operations", "Operations under way."),
    "evgens": ("gxl_evgens", "Live evgens of the application."),
    "feeds": ("gxl_feeds", "Live evgens of libxl."),
    "pump_longest_turn": ("gxl_pump_longest_turn_seconds", "The longest time for which gxl and libxl held the loop."),
    "pump_longest_lag": ("gxl_pump_longest_lag_seconds", "The longest time between libxl's report and delivery."),
}


class Collector(Collecting):
    """Reads a Context's metrics whenever its registry is collected; from any thread."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's: the families, as they are now."""
        metrics = self._ctx.metrics()
        events = CounterMetricFamily("gxl_events", "Events delivered, once for each watcher.", labels=["type"])
        for kind, count in metrics.events.items():
            events.add_metric([kind.name.lower() if isinstance(kind, EventType) else str(kind)], count)
        yield events
        for field, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(name, text, value=getattr(metrics, field))
        for field, (name, text) in _GAUGES.items():
            yield GaugeMetricFamily(name, text, value=float(getattr(metrics, field)))
        registrations = GaugeMetricFamily("gxl_registrations", "Registered at the event loop.", labels=["kind"])
        registrations.add_metric(["fd"], metrics.fds)
        registrations.add_metric(["timeout"], metrics.timeouts)
        yield registrations


def render(ctx: Context) -> bytes:
    """The text that Prometheus scrapes: content type `prometheus_client.CONTENT_TYPE_LATEST`."""
    registry = CollectorRegistry()
    registry.register(Collector(ctx))
    return generate_latest(registry)
