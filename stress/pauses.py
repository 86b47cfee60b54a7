# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long the hub keeps a greenlet waiting that only wants to go on, and what that is on this machine without gxl."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import SimpleNamespace

import gevent


class Ticker:
    """A greenlet that goes once round the hub, again and again. `longest` is the longest round, in seconds."""

    def __init__(self) -> None:
        self.restart()
        self._greenlet = gevent.spawn(self._run)

    def restart(self) -> None:
        """Count from now on. What has kept the hub until now, if this is called amid a round, is not counted."""
        self.longest = 0.0
        self.rounds = 0
        self._last = perf_counter()

    def _run(self) -> None:
        self._last = perf_counter()
        while True:
            # Not sleep(0), which lets the hub run callbacks alone: this one waits for the fds' turn, too.
            gevent.sleep(0.0001)
            now = perf_counter()
            self.longest = max(self.longest, now - self._last)
            self.rounds += 1
            self._last = now

    def stop(self) -> None:
        """No further rounds."""
        self._greenlet.kill()


@contextmanager
def ticking() -> Iterator[Ticker]:
    """Inside, a greenlet ticks."""
    ticker = Ticker()
    gevent.sleep(0.01)
    try:
        yield ticker
    finally:
        gevent.sleep(0.001)
        ticker.stop()


def slowness() -> float:
    """How many seconds this machine takes now for some work in Python that takes a millisecond on an idle one.

    The longest of several: as with a pause, what else runs on the machine makes it longer.
    """
    longest = 0.0
    for _ in range(20):
        began = perf_counter()
        made = [SimpleNamespace(number=number) for number in range(2000)]
        assert len({entry.number for entry in made}) == 2000
        longest = max(longest, perf_counter() - began)
    return longest
