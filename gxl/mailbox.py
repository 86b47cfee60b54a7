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
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from gxl.errors import WaitTimeout
from gxl.eventqueue import EventQueue
from gxl.events import EVENTMASK_ALL, Event
from gxl.interfaces import IWaiter, Predicate
from gxl.metrics import Counters
from gxl.waiting import awaitable

# What a waiter waits for: domid and user value, None meaning any.
_Key = tuple[int | None, int | None]
# Waiters of one kind have the same typemask, and the same places of None in their keys. There are few kinds.
_Kind = tuple[int, bool, bool]


class Parked:
    """One waiter, and what it was given."""

    __slots__ = ("serial", "key", "predicate", "waiter", "groups", "event", "error")

    def __init__(self, serial: int, key: _Key, predicate: Predicate | None, waiter: IWaiter) -> None:
        self.serial = serial
        self.key = key
        self.predicate = predicate
        self.waiter = waiter
        # Where it is found while it is parked.
        self.groups: dict[_Key, _Group] | None = None
        self.event: Event | None = None
        self.error: BaseException | None = None


# Those with one key. Mostly there is one, and ten thousand dicts for ten thousand of them would add up. Several are
# known by their serials, oldest first.
_Group = Parked | dict[int, Parked]


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
        # Those without a predicate, and those with one.
        self.plain: dict[_Kind, dict[_Key, _Group]] = {}
        self.picky: dict[_Kind, dict[_Key, _Group]] = {}
        self._serials = itertools.count(1)
        self._closed: Callable[[], BaseException] | None = None

    def __len__(self) -> int:
        return len(self._queue.events)

    def put(self, event: Event) -> None:
        """Give `event` to the first waiter that wants it, or queue it. Predicates may run; they can't lose it."""
        taker = self._first_taker(event) if self.picky else self._oldest_plain(event)
        if taker is None:
            self.enqueue(event)
        else:
            groups = taker.groups
            if groups is not None and groups.get(taker.key) is taker:  # alone there, as nearly all are
                taker.groups = None
                del groups[taker.key]
            else:
                self._leave(taker)
            taker.event = event
            try:
                taker.waiter.wake()
            except BaseException:  # Ctrl-C: nobody else will wake it
                taker.waiter.wake()
                raise

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
        if self._queue.events:
            event = self.take(typemask, predicate, domid, user)
            if event is not None:
                return event
        if self._closed is not None:
            raise self._closed()
        if timeout == 0:
            raise WaitTimeout("no matching event has happened yet (timeout=0)")
        waiter = self._make_waiter()
        me = Parked(next(self._serials), (domid, user), predicate, waiter)
        try:
            self._enter(me, typemask)
            waiter.wait(timeout)
        except BaseException:
            self._abandon(me)
            raise
        return me.event or self._without(me, timeout)

    async def awaited(self) -> Event:
        """wait() for any event and without a limit, as something to await."""
        event = self.take(EVENTMASK_ALL, None, None, None)
        if event is not None:
            return event
        if self._closed is not None:
            raise self._closed()
        me = Parked(next(self._serials), (None, None), None, self._make_waiter())
        try:
            self._enter(me, EVENTMASK_ALL)
            await awaitable(me.waiter).awaited(None)
        except BaseException:
            self._abandon(me)
            raise
        return me.event or self._without(me, None)

    def _without(self, me: Parked, timeout: float | None) -> NoReturn:
        self._leave(me)
        raise me.error or WaitTimeout(f"no matching event within {timeout} s")

    def fail(self, error: Callable[[], BaseException], typemask: int, closing: bool) -> int:
        """Wake every waiter whose typemask meets `typemask`: each raises an error() of its own. Returns how many.

        With `closing`, whoever would wait later raises it at once. Events that are queued already can still be taken.
        """
        if closing:
            self._closed = error
        waiting = [
            parked
            for kinds in (self.plain, self.picky)
            for (wanted, _, _), groups in kinds.items()
            if wanted & typemask
            for group in groups.values()
            for parked in _members(group)
        ]
        for parked in sorted(waiting, key=_serial):
            self._refuse(parked, error())
        return len(waiting)

    def discard(self) -> None:
        """Drop the queued events."""
        self._queue.clear()

    def enqueue(self, event: Event) -> None:
        """Queue `event`, which no waiter wants, in its place."""
        assert event.seq is not None
        self._queue.put(event.seq, event)
        depth = len(self._queue.events)
        counters = self._counters
        if depth > counters.queue_high_water:
            counters.queue_high_water = depth
            if depth >= counters.queue_warning:
                counters.queue_warning = 2 * depth
                warning = "%d events wait in the Context's queue, which has no bound: is anybody taking them off it?"
                self._log(logging.WARNING, warning, depth)

    def _first_taker(self, event: Event) -> Parked | None:
        rival = self._oldest_plain(event)
        picky = [
            parked
            for (typemask, by_domid, by_user), groups in self.picky.items()
            if typemask >> event.type & 1
            for parked in _members(groups.get((event.domid if by_domid else None, event.for_user if by_user else None)))
            if rival is None or parked.serial < rival.serial
        ]
        if not picky:
            return rival
        picky.sort(key=_serial)
        with self._no_switch():
            for parked in picky:
                if parked.groups is None:
                    continue
                assert parked.predicate is not None
                try:
                    wanted = parked.predicate(event)
                except BaseException as error:  # its own exit, too: whoever comes after it must not miss the event
                    self._refuse(parked, error)
                    continue
                # A predicate may have closed the context, or ended its own wait.
                if wanted and parked.groups is not None:
                    return parked
        return self._oldest_plain(event)

    def _oldest_plain(self, event: Event) -> Parked | None:
        oldest = None
        for (typemask, by_domid, by_user), groups in self.plain.items():
            if groups and typemask >> event.type & 1:
                group = groups.get((event.domid if by_domid else None, event.for_user if by_user else None))
                if group is not None:
                    first = group if isinstance(group, Parked) else next(iter(group.values()))
                    if oldest is None or first.serial < oldest.serial:
                        oldest = first
        return oldest

    def _enter(self, parked: Parked, typemask: int) -> None:
        kinds, key = self.plain if parked.predicate is None else self.picky, parked.key
        kind = typemask, key[0] is not None, key[1] is not None
        groups = kinds.get(kind)
        if groups is None:
            groups = kinds[kind] = {}
        parked.groups = groups
        group = groups.setdefault(key, parked)
        if group is parked:
            return
        if isinstance(group, Parked):
            groups[key] = {group.serial: group, parked.serial: parked}
        else:
            group[parked.serial] = parked

    def _leave(self, parked: Parked) -> None:
        groups = parked.groups
        if groups is None:
            return
        # Ctrl-C may have struck in the midst of _enter, or here.
        group = groups.get(parked.key)
        if isinstance(group, dict):
            group.pop(parked.serial, None)
        if group is parked or group == {}:
            del groups[parked.key]
        parked.groups = None

    def _refuse(self, parked: Parked, error: BaseException) -> None:
        self._leave(parked)
        parked.error = error
        parked.waiter.wake()

    def _abandon(self, parked: Parked) -> None:
        self._leave(parked)
        event, parked.event = parked.event, None
        if event is not None:
            self.put(event)


class SharedMailbox(Mailbox):
    """One that several threads use, with `lock` held. Whoever waits takes it here, until it parks."""

    def __init__(self, lock: AbstractContextManager[object], *common: Any) -> None:
        super().__init__(*common)
        self._lock = lock

    def wait(
        self, typemask: int, predicate: Predicate | None, timeout: float | None, domid: int | None, user: int | None
    ) -> Event:
        with self._lock:
            return super().wait(typemask, predicate, timeout, domid, user)


def _members(group: _Group | None) -> Iterable[Parked]:
    return () if group is None else (group,) if isinstance(group, Parked) else group.values()


def _serial(parked: Parked) -> int:
    return parked.serial
