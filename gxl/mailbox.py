# SPDX-License-Identifier: LGPL-2.1-or-later
"""The queue that event_check and event_wait serve, and those who are parked at it.

The rule of the room: an event is in exactly one place, in the queue or in the hands of one waiter that has been woken
for it; and no event in the queue is one that a parked waiter wants. So an arriving event wakes the waiter that gets it
and no other, and a waiter that leaves without its event (killed, or timed out in the same turn) hands it on.

Waiters are indexed by what they wait for, so that one domain's event is not held against ten thousand waiters for
other domains. Predicates are the application's code: each runs under the hub's no-switch guard, with nothing locked,
and may call back into the context.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from gxl.errors import WaitTimeout
from gxl.eventqueue import EventQueue
from gxl.events import EVENTMASK_ALL, Event
from gxl.interfaces import IWaiter, Predicate
from gxl.metrics import Counters
from gxl.waiting import awaitable

_Key = tuple[int | None, int | None]


class _Parked:
    """One waiter, and what it was given."""

    __slots__ = ("serial", "key", "typemask", "predicate", "waiter", "parked", "event", "error")

    def __init__(self, serial: int, key: _Key, typemask: int, predicate: Predicate | None, waiter: IWaiter) -> None:
        self.serial = serial
        self.key = key
        self.typemask = typemask
        self.predicate = predicate
        self.waiter = waiter
        self.parked = True
        self.event: Event | None = None
        self.error: BaseException | None = None


class _Bucket:
    """The waiters with one key and one typemask, oldest first: those without a predicate, and those with one."""

    __slots__ = ("plain", "picky")

    def __init__(self) -> None:
        self.plain: dict[int, _Parked] = {}
        self.picky: dict[int, _Parked] = {}


class Mailbox:
    """A queue of stamped events and its waiters."""

    def __init__(
        self,
        make_waiter: Callable[[], IWaiter],
        no_switch: Callable[[], AbstractContextManager[object]],
        counters: Counters,
        log: Callable[..., object],
    ) -> None:
        self._make_waiter = make_waiter
        self._no_switch = no_switch
        self._counters = counters
        self._log = log
        self._queue = EventQueue()
        self._buckets: dict[_Key, dict[int, _Bucket]] = {}
        self._serials = itertools.count(1)
        self._closed: Callable[[], BaseException] | None = None

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, event: Event) -> None:
        """Give `event` to the first waiter that wants it, or queue it. Predicates may run; they can't lose it."""
        taker = self._first_taker(event)
        if taker is None:
            self._enqueue(event)
        else:
            self._leave(taker)
            taker.event = event
            taker.waiter.wake()

    def take(self, typemask: int, predicate: Predicate | None, domid: int | None, user: int | None) -> Event | None:
        """The oldest queued event that passes, removed; or None."""
        if predicate is None:
            return self._queue.take(typemask, None, domid, user)
        with self._no_switch():
            return self._queue.take(typemask, predicate, domid, user)

    def wait(
        self,
        typemask: int,
        predicate: Predicate | None,
        timeout: float | None,
        domid: int | None,
        user: int | None,
    ) -> Event:
        """Like take, but parks the caller until there is such an event; WaitTimeout after `timeout` seconds."""
        event = self._take_or_raise(typemask, predicate, domid, user)
        if event is not None:
            return event
        if timeout == 0:
            raise WaitTimeout("no matching event has happened yet (timeout=0)")
        me = _Parked(next(self._serials), (domid, user), typemask, predicate, self._make_waiter())
        self._enter(me)
        try:
            me.waiter.wait(timeout)
        except BaseException:
            self._abandon(me)
            raise
        return self._result(me, timeout)

    async def awaited(self) -> Event:
        """wait() for any event and without a limit, as something to await."""
        event = self._take_or_raise(EVENTMASK_ALL, None, None, None)
        if event is not None:
            return event
        me = _Parked(next(self._serials), (None, None), EVENTMASK_ALL, None, self._make_waiter())
        self._enter(me)
        try:
            await awaitable(me.waiter).awaited(None)
        except BaseException:
            self._abandon(me)
            raise
        return self._result(me, None)

    def _take_or_raise(
        self, typemask: int, predicate: Predicate | None, domid: int | None, user: int | None
    ) -> Event | None:
        event = self.take(typemask, predicate, domid, user)
        if event is None and self._closed is not None:
            raise self._closed()
        return event

    def _result(self, me: _Parked, timeout: float | None) -> Event:
        if me.error is not None:
            raise me.error
        if me.event is None:
            self._leave(me)
            raise WaitTimeout(f"no matching event within {timeout} s")
        return me.event

    def fail(self, error: Callable[[], BaseException], typemask: int, closing: bool) -> int:
        """Wake every waiter whose typemask meets `typemask`: each raises an error() of its own. Returns how many.

        With `closing`, whoever would wait later raises it at once. Events that are queued already can still be taken.
        """
        if closing:
            self._closed = error
        waiting = [
            parked
            for masks in self._buckets.values()
            for mask, bucket in masks.items()
            if mask & typemask
            for group in (bucket.plain, bucket.picky)
            for parked in group.values()
        ]
        for parked in sorted(waiting, key=_serial):
            self._refuse(parked, error())
        return len(waiting)

    def discard(self) -> None:
        """Drop the queued events."""
        self._queue.clear()

    def _enqueue(self, event: Event) -> None:
        assert event.seq is not None
        self._queue.put_back(event.seq, event)
        depth = len(self._queue)
        counters = self._counters
        if depth > counters.queue_high_water:
            counters.queue_high_water = depth
            if depth >= counters.queue_warning:
                counters.queue_warning = 2 * depth
                warning = "%d events wait in the Context's queue, which has no bound: is anybody taking them off it?"
                self._log(logging.WARNING, warning, depth)

    def _first_taker(self, event: Event) -> _Parked | None:
        matching = list(self._matching(event))
        if not matching:
            return None
        rival = self._oldest_plain(matching)
        picky = [
            parked
            for bucket in matching
            for parked in bucket.picky.values()
            if rival is None or parked.serial < rival.serial
        ]
        if not picky:
            return rival
        picky.sort(key=_serial)
        with self._no_switch():
            for parked in picky:
                if not parked.parked:
                    continue
                assert parked.predicate is not None
                try:
                    wanted = parked.predicate(event)
                except BaseException as error:  # its own exit, too: whoever comes after it must not miss the event
                    self._refuse(parked, error)
                    continue
                # A predicate may have closed the context, or ended its own wait.
                if wanted and parked.parked:
                    return parked
        return self._oldest_plain(matching)

    def _matching(self, event: Event) -> Iterator[_Bucket]:
        bit = 1 << event.type
        domid, user = event.domid, event.for_user
        for key in ((None, None), (domid, None), (None, user), (domid, user)):
            masks = self._buckets.get(key)
            if masks is not None:
                for mask, bucket in masks.items():
                    if mask & bit:
                        yield bucket

    @staticmethod
    def _oldest_plain(buckets: list[_Bucket]) -> _Parked | None:
        oldest = None
        for bucket in buckets:
            for parked in bucket.plain.values():
                if oldest is None or parked.serial < oldest.serial:
                    oldest = parked
                break
        return oldest

    def _enter(self, parked: _Parked) -> None:
        bucket = self._buckets.setdefault(parked.key, {}).setdefault(parked.typemask, _Bucket())
        (bucket.plain if parked.predicate is None else bucket.picky)[parked.serial] = parked

    def _leave(self, parked: _Parked) -> None:
        if not parked.parked:
            return
        parked.parked = False
        masks = self._buckets[parked.key]
        bucket = masks[parked.typemask]
        del (bucket.plain if parked.predicate is None else bucket.picky)[parked.serial]
        if not bucket.plain and not bucket.picky:
            del masks[parked.typemask]
            if not masks:
                del self._buckets[parked.key]

    def _refuse(self, parked: _Parked, error: BaseException) -> None:
        self._leave(parked)
        parked.error = error
        parked.waiter.wake()

    def _abandon(self, parked: _Parked) -> None:
        self._leave(parked)
        event, parked.event = parked.event, None
        if event is not None:
            self.put(event)


def _serial(parked: _Parked) -> int:
    return parked.serial
