# SPDX-License-Identifier: LGPL-2.1-or-later
"""Watching domains: an iterator over their events, with a bounded queue of its own."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from types import TracebackType
from typing import Self

from gxl.errors import GxlError
from gxl.events import DomainDeath, Event, EventsLost, EventType
from gxl.evgens import DomainDeathEvgen
from gxl.following import Following
from gxl.pump import Pump
from gxl.waiting import Waiters

OVERFLOW = ("drop_newest", "drop_oldest")


class _Gap:
    """Stands in the queue where events were dropped."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Watcher:
    """An iterator over domain events: made by Context.watch.

    Several greenlets may iterate over it; each event goes to one of them. `lost` counts the events that it dropped.
    """

    def __init__(
        self,
        pump: Pump,
        domids: list[int] | None,
        typemask: int | None,
        timeout: float | None,
        maxlen: int,
        overflow: str,
    ) -> None:
        if isinstance(maxlen, bool) or not isinstance(maxlen, int):
            raise TypeError(f"maxlen must be an int, not {maxlen!r}")
        if maxlen < 1:
            raise ValueError(f"maxlen must be 1 or more, not {maxlen}")
        if overflow not in OVERFLOW:
            raise ValueError(f"overflow must be one of {', '.join(OVERFLOW)}, not {overflow!r}")
        self._pump = pump
        self._typemask = typemask
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._maxlen = maxlen
        self._keep_new = overflow == "drop_oldest"
        self._queue: deque[Event | _Gap] = deque()
        self._waiting = 0
        self.lost = 0
        self._waiters = Waiters(pump.binding)
        self._error: GxlError | None = None
        self._over = False
        self._alive: int | None = None if domids is None else len(domids)
        self._sources: list[Following | DomainDeathEvgen] = []
        with pump.lock:
            pump.enders[self] = None
            try:
                if domids is None:
                    self._sources.append(Following(pump, 0, self._take))
                else:
                    for domid in domids:
                        self._sources.append(pump.feeds.watch_domain(domid, 0, self._take, present=True))
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Stop watching. Whoever iterates comes to an end, after the events that are there already. Idempotent.

        Raises MisuseError in a thread that the context does not belong to.
        """
        self._pump.check_caller()
        with self._pump.lock:
            self._over = True
            self._pump.enders.pop(self, None)
            sources, self._sources = self._sources, []
            for source in sources:
                source.disable()
            self._waiters.wake()

    def end(self, error: GxlError) -> None:
        """The context has ended: whoever iterates gets `error`, after the events that are there already."""
        self._error = error
        self._over = True
        self._waiters.wake()

    def resynced(self, reason: str, since: float) -> None:
        """What happened since then is reported next. This comes whatever types are wanted, as an EventsLost does."""
        if not self._over:
            missed = {EventType.DOMAIN_SHUTDOWN} | ({EventType.DOMAIN_DEATH} if self._alive is None else set())
            self._put(self._pump.feeds.resynced(reason, since, missed))
            self._waiters.wake()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        pump = self._pump
        pump.binding.check_caller()
        pump.check_can_block("iterate by `async for`")
        with pump.lock:
            while not self._ready():
                if not self._waiters.wait(self._left()):
                    self.close()
            event = self._next()
            if event is None:
                raise StopIteration
            return event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event, where the loop runs coroutines."""
        self._pump.binding.check_caller()
        while not self._ready():
            if not await self._waiters.awaited(self._left()):
                self.close()
        event = self._next()
        if event is None:
            raise StopAsyncIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, event: Event) -> None:
        if isinstance(event, DomainDeath) and self._alive is not None:
            self._alive -= 1
        if self._typemask is None or self._typemask >> event.type & 1:
            self._put(event)
            self._waiters.wake_one()
        if self._alive == 0:
            self._over = True
            self._waiters.wake()

    def _put(self, event: Event) -> None:
        queue = self._queue
        if self._waiting < self._maxlen:
            self._waiting += 1
            queue.append(event)
            return
        self.lost += 1
        self._pump.counters.lost += 1
        if not self._keep_new:
            last = queue[-1]
            if not isinstance(last, _Gap):
                last = _Gap()
                queue.append(last)
            last.count += 1
            return
        gap = queue.popleft()
        if isinstance(gap, _Gap):
            queue.popleft()
        else:
            gap = _Gap()
        gap.count += 1
        queue.appendleft(gap)
        queue.append(event)

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _ready(self) -> bool:
        return bool(self._queue or self._over)

    def _next(self) -> Event | None:
        if self._queue:
            entry = self._queue.popleft()
            if isinstance(entry, _Gap):
                return self._pump.feeds.stamp(EventsLost(0, entry.count), None, 0, None)
            self._waiting -= 1
            return entry
        if self._error is not None:
            raise self._error
        with contextlib.suppress(GxlError):
            self.close()
        return None
