# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an engine has reported, until it is delivered: in order, outside the engine, and a slice at a time.

libxl may find ten thousand deaths in one call, and the loop has others to serve.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter

from gxl.metrics import Counters
from gxl.reign import Arrival

# So long a turn of the loop may take, in seconds, and so many arrivals are delivered between two looks at the clock.
_SLICE = 0.002
_BETWEEN_LOOKS = 8


class Arrivals:
    """The arrivals of one pump. `deliver` takes each, once; `before` was called before, and after it had arrived."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], object]], object],
        before: Callable[[], object],
        deliver: Callable[[Arrival], object],
        counters: Counters,
    ) -> None:
        self._call_soon = call_soon
        self._before = before
        self._deliver = deliver
        self._counters = counters
        self._incoming: deque[Arrival] = deque()
        self._oldest = 0.0
        # How many of them had arrived at the latest `before`.
        self._prepared = 0
        self._scheduled = False
        self._inside = False

    def add(self, arrival: Arrival) -> None:
        """Note something that was found inside the engine, to be dealt with outside it. Never switches or raises."""
        if not self._incoming:
            self._oldest = perf_counter()
        self._incoming.append(arrival)
        if not self._inside:
            self._schedule()

    def __bool__(self) -> bool:
        return bool(self._incoming)

    def collect(self, call: Callable[..., object], *args: object) -> None:
        """Make a call of the engine's, from the loop: deliver_soon() comes next, unless it raises."""
        self._inside = True
        try:
            call(*args)
        except BaseException:  # Ctrl-C: what has been reported by then must not wait for the next turn
            self._schedule()
            raise
        finally:
            self._inside = False

    def deliver_soon(self) -> None:
        """From the loop: a slice now, and the rest in its next turns."""
        self.deliver(_SLICE)
        if self._incoming:
            self._schedule()

    def deliver_slice(self) -> None:
        """Deliver for as long as the loop may take."""
        self.deliver(_SLICE)

    def deliver(self, seconds: float | None = None) -> None:
        """Deliver, for so long at most; None: all of it. Never from inside an engine call."""
        incoming = self._incoming
        if not incoming:
            return
        began = perf_counter()
        self._counters.lagged(began - self._oldest)
        count = 0
        try:
            while incoming:
                if not self._prepared:
                    arrived = len(incoming)
                    self._before()
                    self._prepared = min(arrived, len(incoming))
                    continue
                self._prepared -= 1
                self._deliver(incoming.popleft())
                count += 1
                if seconds is not None and not count % _BETWEEN_LOOKS and perf_counter() - began >= seconds:
                    return
        except BaseException:
            self._schedule()
            raise

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._scheduled_delivery)

    def _scheduled_delivery(self) -> None:
        self._scheduled = False
        self.deliver_soon()
