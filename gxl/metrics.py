# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a Context counts of its own doings, and a snapshot of it for those who watch over it.

Counting must cost next to nothing where events pass by the ten thousand: so the counters are plain numbers, written
where things happen, and whatever can be looked up instead (how long a queue is) is looked up when somebody asks.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from zope.interface import implementer

from gxl.events import EventType
from gxl.interfaces import IOSEventHooks

if TYPE_CHECKING:
    from gxl.pump import Pump

QUEUE_WARNING = 10_000
"""When so many events wait in a Context's queue, which has no bound, a warning is logged; again at each doubling."""


class Counters:
    """What one pump has counted since it began. All but `fds` and `timeouts` only grow."""

    __slots__ = (
        *("events", "lost", "queue_high_water", "queue_warning", "disasters", "recoveries", "abandoned", "floods"),
        *("turns", "turn_seconds", "longest_turn", "longest_lag", "fds", "timeouts"),
    )

    def __init__(self) -> None:
        self.events: defaultdict[int, int] = defaultdict(int)
        self.lost = 0
        self.queue_high_water = 0
        self.queue_warning = QUEUE_WARNING
        self.disasters = 0
        self.recoveries = 0
        self.abandoned = 0
        self.floods = 0
        self.turns = 0
        self.turn_seconds = 0.0
        self.longest_turn = 0.0
        self.longest_lag = 0.0
        self.fds = 0
        self.timeouts = 0

    def turned(self, seconds: float) -> None:
        """The pump has held the loop for so long."""
        self.turns += 1
        self.turn_seconds += seconds
        if seconds > self.longest_turn:
            self.longest_turn = seconds


@implementer(IOSEventHooks)
class CountedHooks:
    """A loop's hooks, and how many registrations they hold. Whoever hears of a timeout that occurred takes it off."""

    def __init__(self, hooks: IOSEventHooks, counters: Counters) -> None:
        self._hooks = hooks
        self._counters = counters

    def fd_register(self, fd: int, events: int, for_libxl: object) -> object:
        registration = self._hooks.fd_register(fd, events, for_libxl)
        self._counters.fds += 1
        return registration

    def fd_modify(self, fd: int, registration: object, events: int) -> object:
        return self._hooks.fd_modify(fd, registration, events)

    def fd_deregister(self, fd: int, registration: object) -> None:
        self._counters.fds -= 1
        self._hooks.fd_deregister(fd, registration)

    def timeout_register(self, abs: float, for_libxl: object) -> object:
        registration = self._hooks.timeout_register(abs, for_libxl)
        self._counters.timeouts += 1
        return registration

    def timeout_modify(self, registration: object, abs: float) -> object:
        return self._hooks.timeout_modify(registration, abs)

    def timeout_deregister(self, registration: object) -> None:
        self._counters.timeouts -= 1
        self._hooks.timeout_deregister(registration)


@dataclasses.dataclass(frozen=True, slots=True)
class Metrics:
    """What Context.metrics returns: one moment. Counts are since the Context was made."""

    alive: bool
    """Whether the Context can still report events: not closed, and no disaster has ended it."""
    events: Mapping[EventType | int, int]
    """Events delivered, by type. One that three watchers get counts three times."""
    queue_depth: int
    """Events that wait in the Context's queue for event_wait or event_check."""
    queue_high_water: int
    """The most that ever waited there."""
    events_lost: int
    """Events that bounded sinks, such as those of watch(), had to drop."""
    disasters: int
    """Reports that events may be missing."""
    recoveries: int
    """How often a new libxl context took the place of a lost one."""
    abandoned: int
    """libxl contexts that could not be freed in time, and are held until the process ends."""
    floods: int
    """Disks that are not listened to any more, since their guest ejected them too often."""
    operations: int
    """Operations under way, creations included."""
    evgens: int
    """Live evgens, those of watch() and expect() included."""
    feeds: int
    """Evgens that libxl has for them: all interest in one domain or disk shares one."""
    fds: int
    """File descriptors registered at the event loop, one perhaps several times. Without a loop: only gxl's own."""
    timeouts: int
    """Timeouts registered at the event loop. Without a loop: only gxl's own."""
    pump_turns: int
    """How often the loop has called gxl."""
    pump_seconds: float
    """How long gxl and libxl held the loop, in all those turns."""
    pump_longest_turn: float
    """How long they held it at once, at most. Much more than a few milliseconds: xenstored answers slowly."""
    pump_longest_lag: float
    """Seconds between libxl's report of an event and its delivery, at most: other code held the loop meanwhile."""


def snapshot(pump: Pump) -> Metrics:
    """The state of `pump` now."""
    counters = pump.counters
    named = {kind.value: kind for kind in EventType}
    evgens, feeds = pump.feeds.live()
    return Metrics(
        alive=not pump.freed and pump.dead is None,
        events=MappingProxyType({named.get(kind, kind): count for kind, count in sorted(counters.events.items())}),
        queue_depth=len(pump.mailbox),
        queue_high_water=counters.queue_high_water,
        events_lost=counters.lost,
        disasters=counters.disasters,
        recoveries=counters.recoveries,
        abandoned=counters.abandoned,
        floods=counters.floods,
        operations=len(pump.operations),
        evgens=evgens,
        feeds=feeds,
        fds=counters.fds,
        timeouts=counters.timeouts,
        pump_turns=counters.turns,
        pump_seconds=counters.turn_seconds,
        pump_longest_turn=counters.longest_turn,
        pump_longest_lag=counters.longest_lag,
    )
