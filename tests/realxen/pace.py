# SPDX-License-Identifier: LGPL-2.1-or-later
"""How freely a hub runs: a greenlet that ticks, and the gaps between its ticks."""

from __future__ import annotations

import time
from itertools import pairwise
from types import TracebackType
from typing import Self

import gevent

INTERVAL = 0.01


class Pace:
    """Ticks every `INTERVAL` seconds, as long as the hub lets it."""

    def __init__(self) -> None:
        self._times = [time.monotonic()]
        self._greenlet: gevent.Greenlet[[], None] = gevent.Greenlet(self._tick)

    def _tick(self) -> None:
        while True:
            gevent.sleep(INTERVAL)
            self._times.append(time.monotonic())

    @property
    def ticks(self) -> int:
        """How many there were so far."""
        return len(self._times) - 1

    @property
    def gaps(self) -> list[float]:
        """The seconds between each tick and the one before; the last gap is the one that still lasts."""
        return [after - before for before, after in pairwise([*self._times, time.monotonic()])]

    def __enter__(self) -> Self:
        self._greenlet.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._greenlet.kill()
