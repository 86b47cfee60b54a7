# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an engine has reported, until it is delivered: in order, outside the engine, and a slice at a time.

libxl may find ten thousand deaths in one call, and the loop has others to serve.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from gxl.events import Event
from gxl.interfaces import ICollectedEngine, IHubBinding
from gxl.metrics import Counters
from gxl.shield import Shield, unbroken

Arrival = Event | Callable[[], object]

# So long a turn of the loop may take, in seconds, and so many arrivals are delivered between two looks at the clock.
# Whoever is woken by them runs in the same turn, and takes as long again, or longer.
_SLICE = 0.00025
_BETWEEN_LOOKS = 8

# After so long a call of an engine's, the loop has others to serve first, for so many turns: asyncio needs one to find
# that a timer is due, and another to go on with the task that slept.
_LONG = 0.002
_TURNS_FOR_OTHERS = 2

# So many events are taken off an engine at once. Few: what waits is looked at by each garbage collection.
_BATCH = 64

Collect = Callable[[deque[Any], int], bool]


class Arrivals:
    """The arrivals of one pump. `resolve` takes each event, once; `before` was called before, after it had arrived.

    `later` runs a function in a later turn of the loop. What goes wrong with one goes to `failed(arrival, error)`,
    which raises what must not be kept: Ctrl-C.

    Some engines push their events, into add(). Others are in `sources`: they keep theirs until they are asked, but for
    the first that a call of the loop's finds. Calls that have to be made are events' inferiors: what an engine has
    found by then is delivered before, since the call may be the news that it has ended.
    """

    def __init__(
        self,
        binding: IHubBinding,
        later: Callable[[Callable[[], object]], object],
        before: Callable[[], object],
        resolve: Callable[[Event], object],
        failed: Callable[[Arrival, BaseException], object],
        counters: Counters,
    ) -> None:
        self._later = later
        self._binding = binding
        self._before = before
        self._resolve = resolve
        self._failed = failed
        self._counters = counters
        self.sources: list[Collect] = []
        # Whether they may have something.
        self._unasked = False
        self._incoming: deque[Arrival] = deque()
        self._calls: deque[Callable[[], object]] = deque()
        self._oldest = 0.0
        # How many of those that are incoming had arrived at the latest `before`.
        self._prepared = 0
        self._scheduled = False
        self._scheduled_delivery = unbroken(self._deliver_scheduled, self._delivery_failed)
        self._turns_for_others = 0
        self._inside = False

    def __bool__(self) -> bool:
        return bool(self._incoming or self._calls or self._unasked)

    def add(self, arrival: Arrival) -> None:
        """Note something that was found inside the engine, to be dealt with outside it. Never switches or raises."""
        if not self:
            self._oldest = perf_counter()
        if self.sources and not isinstance(arrival, Event):
            self._calls.append(arrival)
        else:
            self._incoming.append(arrival)
        if not self._inside:
            self._schedule()

    def collect_from(self, engine: ICollectedEngine) -> Collect:
        """From now on take this engine's events, by what is returned, and is one of the `sources` now."""
        engine.event_notify(self.notice, self._incoming, _BATCH)
        collect: Collect = engine.event_collect
        self.sources.append(collect)
        return collect

    def notice(self) -> None:
        """The sources may have something now. Never switches or raises."""
        if not self:
            self._oldest = perf_counter()
        self._unasked = True
        if not self._inside:
            self._schedule()

    def turn(self, call: Callable[..., object], *args: object) -> None:
        """Make a call of an engine's, from the loop, and deliver what it finds: a slice at once, or a part of one."""
        nothing = not (self._incoming or self._calls or self._unasked)
        began = perf_counter()
        self._inside = True
        try:
            call(*args)
        except Exception as error:
            self._unasked = bool(self.sources)
            self._binding.report(error)
        except BaseException:  # Ctrl-C: what has been found by then must not wait for the next turn
            self._unasked = bool(self.sources)
            self._schedule()
            raise
        finally:
            self._inside = False
            ended = perf_counter()
            if nothing:
                self._oldest = ended
        long = ended - began >= _LONG
        # What is one event among ten thousand, need not wait for a turn even then; 0.0 is over at the first look. Where
        # others are owed their turns, another fd that is ready must not take them; nor may the next poll(2), which is
        # such a call in every turn of the poll hub's.
        self.deliver(0.0 if long or self._turns_for_others else _SLICE)
        if self._incoming or self._calls or self._unasked:
            # Once for all that waits: if each turn holds a long call, what is found in them must not pile up.
            if long and not self._scheduled:
                self._turns_for_others = _TURNS_FOR_OTHERS
            self._schedule()

    def deliver_slice(self) -> None:
        """Deliver for as long as the loop may take, and the rest in its next turns."""
        self.deliver(_SLICE)
        if self._incoming or self._calls or self._unasked:
            self._schedule()

    def deliver(self, seconds: float | None = None) -> None:
        """Deliver, for so long at most; None: all of it. Never from inside an engine call."""
        incoming, calls = self._incoming, self._calls
        if not (incoming or calls or self._unasked):
            return
        began = perf_counter()
        lag = began - self._oldest
        if lag > self._counters.longest_lag:
            self._counters.longest_lag = lag
        count = 0
        try:
            while True:
                if incoming:
                    if not self._prepared:
                        arrived = len(incoming)
                        self._before()
                        self._prepared = min(arrived, len(incoming))
                        continue
                    self._prepared -= 1
                    arrival = incoming[0]
                    try:
                        # Inside, since Ctrl-C strikes when something was called.
                        incoming.popleft()
                        if isinstance(arrival, Event):
                            self._resolve(arrival)
                        else:
                            arrival()
                    except BaseException as error:
                        self._failed(arrival, error)
                elif self._unasked:
                    self._unasked = False
                    for source in self.sources:
                        if source(incoming, _BATCH):
                            self._unasked = True
                    continue
                elif calls:
                    call = calls[0]
                    try:
                        calls.popleft()
                        call()
                    except BaseException as error:
                        self._failed(call, error)
                else:
                    return
                count += 1
                if seconds is not None and not count % _BETWEEN_LOOKS and perf_counter() - began >= seconds:
                    return
        except BaseException:
            self._unasked = bool(self.sources)  # it may have struck when one had said that it has more
            self._schedule()
            raise

    def gather(self, source: Collect) -> None:
        """Take all that this source has, which will be asked no more."""
        while source(self._incoming, _BATCH):
            pass
        if self._incoming:
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            try:
                self._later(self._scheduled_delivery)
            except BaseException:
                self._scheduled = False
                raise

    def _deliver_scheduled(self) -> None:
        # Once for all that is delivered, instead of for each evgen whose domain is dead. And what is left here would be
        # left for good: the loop calls this once.
        with Shield():
            self._scheduled = False
            if self._turns_for_others and self:
                self._turns_for_others -= 1
                self._schedule()
            else:
                self._turns_for_others = 0
                self.deliver_slice()

    def _delivery_failed(self, error: BaseException) -> None:
        # A signal's handler may have raised before anything was done, or when all was. Once too often does no harm.
        self._scheduled = False
        if self:
            self._schedule()
        self._binding.report(error)
