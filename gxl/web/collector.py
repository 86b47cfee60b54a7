# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the web server counts of itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from gxl.web.board import Board


class BoardCollector(Collector):
    """The readers of a board."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's: the families, as they are now."""
        yield GaugeMetricFamily("gxl_web_readers", "Browsers that follow the events.", value=self._board.readers)
        missed = "Events that browsers were too slow, or away too long, to get; each was told how many."
        yield CounterMetricFamily("gxl_web_events_missed", missed, value=self._board.missed)
