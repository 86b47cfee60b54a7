# SPDX-License-Identifier: LGPL-2.1-or-later
"""Watching domains: an iterator over their events, with a bounded queue of its own."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple, Self

from gxl.arguments import check_timeout
from gxl.domains import Listing, find
from gxl.errors import Disaster, GxlError
from gxl.events import DomainDeath, Event, EventsLost, EventType, Resynced, mask
from gxl.evgens import DomainDeathEvgen
from gxl.following import Following
from gxl.pump import Pump
from gxl.waiting import Waiters

OVERFLOW = ("drop_newest", "drop_oldest")
_WATCHABLE = (EventType.DOMAIN_SHUTDOWN, EventType.DOMAIN_DEATH, EventType.RESYNCED, EventType.EVENTS_LOST)

Kind = type[Event] | EventType


def mask_of(types: Any) -> int:
    """gxl.mask() of one Kind, or of those in an iterable. TypeError for anything else."""
    # Text is an iterable, too, but its letters are not what is wrong with it.
    return mask(*types) if isinstance(types, Iterable) and not isinstance(types, str) else mask(types)


class Settings(NamedTuple):
    """How to watch: see Context.watch."""

    typemask: int
    timeout: float | None
    maxlen: int
    overflow: str

    @classmethod
    def checked(cls, types: Kind | Iterable[Kind] | None, timeout: object, maxlen: object, overflow: object) -> Self:
        """The settings; TypeError or ValueError for one that is none."""
        typemask = mask_of(_WATCHABLE if types is None else types)
        if not typemask or typemask & ~mask(*_WATCHABLE):
            raise ValueError(f"what can be watched is DomainShutdown and DomainDeath (and Resynced), not {types!r}")
        if isinstance(maxlen, bool) or not isinstance(maxlen, int):
            raise TypeError(f"maxlen must be an int, not {maxlen!r}")
        if maxlen < 1:
            raise ValueError(f"maxlen must be 1 or more, not {maxlen}")
        if not isinstance(overflow, str) or overflow not in OVERFLOW:
            raise ValueError(f"overflow must be one of {', '.join(OVERFLOW)}, not {overflow!r}")
        return cls(typemask, check_timeout(timeout), maxlen, overflow)


class _Gap:
    """Stands in the queue where events were dropped, of which the latest lends it its place in the order."""

    __slots__ = ("count", "seq", "time")

    def __init__(self) -> None:
        self.count = 0
        self.seq: int | None = None
        self.time: float | None = None

    def add(self, event: Event) -> None:
        """One more was dropped."""
        self.count += 1
        self.seq, self.time = event.seq, event.time


class Watcher:
    """An iterator over domain events, `for` or `async for`: made by Context.watch and gxl.watch.

    Several greenlets, threads or tasks may iterate over it; each event goes to one of them. `lost` counts the events
    that it dropped.
    """

    def __init__(self, pump: Pump, domains: list[int | str] | None, settings: Settings) -> None:
        self._pump = pump
        self._typemask = settings.typemask
        self._deadline = None if settings.timeout is None else time.monotonic() + settings.timeout
        self._maxlen = settings.maxlen
        self._keep_new = settings.overflow == "drop_oldest"
        self._queue: deque[Event | _Gap] = deque()
        self._waiting = 0
        self.lost = 0
        self._waiters = Waiters(pump.binding)
        self._error: GxlError | LookupError | None = None
        # Until it has been stopped, it keeps events back whose domain's name is on its way.
        self._unnamed = 0
        self._over = False
        self._stopped = False
        self._armed = False
        self._alive: int | None = None
        self._sources: list[Following | DomainDeathEvgen] = []
        with pump.lock:
            pump.enders[self] = None
            try:
                if domains is None:
                    self._sources.append(Following(pump, 0, self._take))
                    self._armed = True
                elif any(isinstance(domain, str) for domain in domains):
                    listing = Listing(pump, lambda: self._named(listing, domains))
                else:
                    self._arm([domain for domain in domains if isinstance(domain, int)])
            except BaseException:
                self._disarm()
                raise

    def close(self) -> None:
        """Stop watching. Whoever iterates comes to an end, after the events that are there already. Idempotent.

        Raises MisuseError in a thread that the context does not belong to.
        """
        self._disarm()

    async def aclose(self) -> None:
        """close(), where the loop runs coroutines; `async with` does it, too."""
        self.close()

    def _named(self, listing: Listing, domains: list[int | str]) -> None:
        # Where nothing may wait for the names, they come while whoever iterates is awaiting the first event.
        with self._pump.lock:
            if self._stopped:
                return
            try:
                present = listing.result()
                self._arm([find(self._pump, name, present) if isinstance(name, str) else name for name in domains])
            except (GxlError, LookupError) as error:
                self._disarm()
                self._error = error

    def _arm(self, domids: list[int]) -> None:
        distinct = list(dict.fromkeys(domids))
        self._alive = len(distinct)
        for domid in distinct:
            self._sources.append(self._pump.feeds.watch_domain(domid, 0, self._take, present=True))
        self._armed = True
        self._waiters.wake()

    def _disarm(self) -> None:
        self._pump.check_caller()
        with self._pump.lock:
            self._over = self._stopped = True
            self._pump.enders.pop(self, None)
            sources, self._sources = self._sources, []
            for source in sources:
                source.disable()
            self._waiters.wake()

    def end(self, error: GxlError) -> None:
        """The context has ended: whoever iterates gets `error`, after the events that are there already."""
        self._error = error
        self._over = self._stopped = True
        self._waiters.wake()

    def resynced(self, reason: str, since: float) -> None:
        """What happened since then is reported next. This comes whatever types are wanted, as an EventsLost does."""
        if not self._over:
            missed = {EventType.DOMAIN_SHUTDOWN} | ({EventType.DOMAIN_DEATH} if self._alive is None else set())
            self._put(self._pump.feeds.stamp(Resynced(0, reason, since, tuple(sorted(missed))), None, 0, None))
            self._waiters.wake()

    def missed(self, disaster: Disaster) -> bool:
        """An event may be missing here, as where too many wait."""
        if self._over or not self._typemask >> disaster.type & 1:
            return False
        self.lost += 1
        self._pump.counters.lost += 1
        self._put(self._pump.feeds.stamp(EventsLost(0, 1), None, 0, None))
        self._waiters.wake_one()
        return True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        pump = self._pump
        pump.binding.check_caller()
        pump.check_can_block("iterate by `async for`")
        with pump.lock:
            while not self._ready():
                if not self._waiters.wait(self._left()):
                    self._disarm()
            if not self._queue:
                with contextlib.suppress(GxlError):
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
                self._disarm()
        if not self._queue:
            with contextlib.suppress(GxlError):
                await self.aclose()
        event = self._next()
        if event is None:
            raise StopAsyncIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        """Returns once it watches. Raises LookupError if a name meant no domain, or several."""
        self._pump.binding.check_caller()
        while not (self._armed or self._ready()):
            if not await self._waiters.awaited(self._left()):
                self._disarm()
        if self._error is not None and not self._queue:
            with contextlib.suppress(GxlError):
                await self.aclose()
            raise self._error
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def _take(self, event: Event) -> None:
        if isinstance(event, DomainDeath) and self._alive is not None:
            self._alive -= 1
        if self._typemask >> event.type & 1:
            self._put(event)
            if self._pump.feeds.names.when_named(event, partial(self._christen, event)):
                self._unnamed += 1
            self._waiters.wake_one()
        if self._alive == 0:
            self._over = True
            self._waiters.wake()

    def _christen(self, event: Event, named: Event) -> None:
        self._unnamed -= 1
        if event in self._queue:
            self._queue[self._queue.index(event)] = named
        if not self._unnamed:
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
            last.add(event)
            return
        gap = _Gap()
        oldest = queue.popleft()
        if isinstance(oldest, _Gap):
            gap, oldest = oldest, queue.popleft()
        assert not isinstance(oldest, _Gap)
        gap.add(oldest)
        queue.appendleft(gap)
        queue.append(event)

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _ready(self) -> bool:
        return self._stopped or (not self._unnamed and bool(self._queue or self._over))

    def _next(self) -> Event | None:
        if self._queue:
            entry = self._queue.popleft()
            if isinstance(entry, _Gap):
                self._pump.counters.events[EventType.EVENTS_LOST] += 1
                return EventsLost(0, entry.count, seq=entry.seq, time=entry.time)
            self._waiting -= 1
            return entry
        if self._error is not None:
            raise self._error
        return None
