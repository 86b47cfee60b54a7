# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one pump: between an engine, which produces events, and a hub, which owns the loop.

Theory of operation. The hub tells the pump that an fd, a timeout or a child is ready (IEventSink); the pump calls the
engine; inside that call the engine hands over the events it found, which are only appended to a list; after the call
the pump drains the list, outside the engine, and delivers. Nothing of the application's ever runs inside the engine,
and an event that the engine finds during any other call (one that the application makes itself) is drained from the
loop soon after. So an event can't be missed, whoever's call it appears in.

The pump outlives the Context object only when that was dropped without being closed: the loop's watchers refer to the
pump alone, so that the Context's __del__ can warn.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from gxl.affected import Asker, Ender, Follower
from gxl.arrivals import Arrival, Arrivals
from gxl.building import Build
from gxl.callbacks import Callbacks
from gxl.errors import ContextClosed, Disaster, LibxlError, Outage
from gxl.events import EVENTMASK_ALL, Event, EventType
from gxl.evgens import DomainDeathEvgen, Evgen
from gxl.feeds import Feeds
from gxl.forking import in_library_fork
from gxl.hubhooks import attach
from gxl.interfaces import (
    ICoroutineBinding,
    IEngine,
    IEventSink,
    IHub,
    IHubBinding,
    IOSEventHooks,
    IPolledBinding,
    IStoreConnection,
    ITurnBinding,
    Predicate,
)
from gxl.leaving import Leaving
from gxl.mailbox import Mailbox, SharedMailbox
from gxl.metrics import CountedHooks, Counters
from gxl.ordinary import way
from gxl.polling import Polling
from gxl.recovery import Recovery
from gxl.reign import Reign
from gxl.shield import Shield
from gxl.sidechannel import SideChannel, connected

if TYPE_CHECKING:
    from gxl.operations import Operation

_log = logging.getLogger("gxl")


_pumps: weakref.WeakSet[Pump] = weakref.WeakSet()


@implementer(IEventSink)
class Pump:
    """An engine at a hub; and where it may be replaced, one after the other."""

    def __init__(self, engine: IEngine, hub: IHub, recover: bool = False) -> None:
        self.counters = Counters()
        self._progress: list[Callable[[], object]] = []
        self.dead: Disaster | None = None
        # Set while an engine is lost and the next not yet found.
        self.outage: Outage | None = None
        self.freed = False
        self.abandoned = False
        self.in_child = False
        self.operations: dict[Operation, None] = {}
        self.builds: dict[Build, None] = {}
        # Whoever waits apart from the mailbox, to be told when the context ends.
        self.enders: dict[Ender, None] = {}
        self.askers: dict[Asker, None] = {}
        self.followings: dict[Follower, None] = {}
        self.binding: IHubBinding = attach(hub, self)
        # Where threads share a Context; a loop has one, and needs no lock.
        self.lock: AbstractContextManager[object] = nullcontext()
        self.coroutines = ICoroutineBinding(self.binding, None)
        where = self.binding.waiter, self.binding.no_switch, self.counters, self.log
        self.mailbox = Mailbox(*where)
        reign: Reign | None = None
        try:
            hooks = self.binding.osevent
            if hooks is None:
                binding = IPolledBinding(self.binding)
                self.lock = binding.lock
                self.mailbox = SharedMailbox(self.lock, *where)
                hooks = polling = Polling(self)
                binding.poll_for(polling)
            # What is watched apart from the engine, is watched by the same.
            self.hooks: IOSEventHooks = CountedHooks(hooks, self.counters)
            turns = ITurnBinding(self.binding, None)
            later = self.binding.call_soon if turns is None else turns.call_next_turn
            aids = self.lock, self.check_caller, self.log, self.counters
            leaving = Leaving(later, self.lost, lambda: bool(self._arrivals), self.binding.report)
            feeds = Feeds(self._others, self.drain, self.lost, leaving, *aids)
            self.feeds = feeds
            self.callbacks = Callbacks(self.binding, self.lock)
            # The Context's own sink: to the application's callback, a waiter, or the queue.
            resolve, self.accept = way(feeds, self.mailbox, self.callbacks, self._accept)
            self._arrivals = Arrivals(self.binding, later, feeds.arrived, resolve, self._undelivered, self.counters)
            self.reign = reign = self.enthrone(engine)
            self.side = self.listen(connected(engine))
            feeds.connect(reign.engine, self.side)
        except BaseException:
            if reign is not None:
                reign.free()
            self.binding.close()
            raise
        self.recovery = Recovery(self) if recover else None
        _pumps.add(self)

    @property
    def engine(self) -> IEngine:
        """The engine. Raises Outage while there is none."""
        if self.outage is not None:
            raise self.outage.again()
        return self.reign.engine

    def enthrone(self, engine: IEngine) -> Reign:
        """Take an engine over."""
        on_disaster, on_hangup = self._disaster, self._hung_up
        return Reign(engine, self.binding, self.hooks, self._arrivals, on_disaster, on_hangup, self.aside)

    def listen(self, connection: IStoreConnection) -> SideChannel:
        """Make a side channel of a connection."""
        return SideChannel(connection, self.hooks, self._store_lost, self._introduced, self.binding.call_soon)

    def fd_ready(self, for_libxl: Any, fd: int, events: int, revents: int) -> None:
        """IEventSink: an fd is ready. `for_libxl` is a Source, as all that is registered at the hub."""
        self._turn(for_libxl.fd_ready, fd, events, revents)

    def timeout_due(self, for_libxl: Any) -> None:
        """IEventSink: a timeout is due."""
        self.counters.timeouts -= 1
        self._turn(for_libxl.timeout_due)

    def child_reaped(self, pid: int, status: int) -> None:
        """IEventSink: a child of an engine's has ended."""
        self._turn(self._child_reaped, pid, status)

    def _child_reaped(self, pid: int, status: int) -> None:
        if not any(reign.child_reaped(pid, status) for reign in self.reigns()) and self.reign.served:
            # Nobody knows who forked it, since a signal handler raised in that moment.
            self.reign.engine.childproc_reaped(pid, status)

    def reigns(self) -> Iterator[Reign]:
        """The engine's, and those of engines that wait to be freed, or are about to take its place."""
        yield self.reign
        if self.recovery is not None:
            yield from (reign for reign in self.recovery.reigns() if reign is not self.reign)

    def check_caller(self) -> None:
        """Raises MisuseError in a foreign thread or process, as long as there is something that it could touch."""
        if not self.freed:
            self.binding.check_caller()

    def log(self, level: int, message: str, *args: object) -> None:
        """Log, but neither in a callback of the loop nor between two steps of anybody's: a handler may block."""
        if _log.isEnabledFor(level):
            self.aside(lambda: _log.log(level, message, *args))

    def aside(self, f: Callable[[], object]) -> None:
        """Run what is nobody's own and may block: apart from all else, where there is a loop that could stand still."""
        try:
            self.binding.check_caller()
            if self.binding.osevent is not None:
                self.binding.spawn(f)
                return
        except Exception:
            pass  # another thread, which has no loop of ours, or a loop that has ended
        try:
            f()
        except Exception as error:
            self.binding.report(error)

    def check_can_block(self, instead: str) -> None:
        """Raises MisuseError where to block would stop the loop; `instead` is what to do there."""
        if self.coroutines is not None:
            self.coroutines.check_can_block(instead)

    def polled(self, reign: Reign, fds: list[tuple[int, int, int]]) -> None:
        """Where there is no loop: poll(2) has returned."""
        if reign.served:
            self._turn(reign.engine.osevent_afterpoll, fds)

    def _turn(self, call: Callable[..., object], *args: object) -> None:
        started = perf_counter()
        try:
            if self.freed:
                return
            self._arrivals.turn(call, *args)
        except BaseException:  # Ctrl-C
            self.struck()
            raise
        finally:
            for wake in list(self._progress):
                wake()
        self.counters.turned(perf_counter() - started)

    def _accept(self, event: Event) -> None:
        if self.callbacks.mask >> event.type & 1:
            self.callbacks.event(event)
        else:
            self.mailbox.put(event)

    def _others(self, event: Event) -> None:
        if self.dead is None:
            uuid, name = self.feeds.known(event.domid) if self.reign.engine.dead is None else (None, None)
            self.accept(self.feeds.stamp(event, uuid, event.for_user, name))

    def drain(self) -> None:
        """Deliver all that the engine has reported. Never from inside an engine call."""
        self._arrivals.deliver()

    def fetch(self, typemask: int, predicate: Predicate | None, domid: int | None, user: int | None) -> Event | None:
        """The oldest event that has arrived and passes, taken; None. Delivers no more than it has to."""
        if predicate is not None:
            self.drain()
        event = self.mailbox.take(typemask, predicate, domid, user)
        while event is None and self._arrivals:
            self._arrivals.deliver_slice()
            event = self.mailbox.take(typemask, predicate, domid, user)
        return event

    def arrived(self, arrival: Arrival) -> None:
        """Deal with this outside the engine, after what has arrived before. Never switches or raises."""
        self._arrivals.add(arrival)

    def _undelivered(self, arrival: Arrival, error: BaseException) -> None:
        if isinstance(error, Exception):
            self.binding.report(error)
        if isinstance(arrival, Event):
            missing = f"an event of domain {arrival.domid} could not be delivered: {error!r}"
            self._tell(Disaster(arrival.type, missing), 1 << arrival.type, closing=False)
        if not isinstance(error, Exception):  # Ctrl-C
            self.struck()
            raise error

    def free(self) -> bool:
        """Close the side channel and the engine. False while there are operations or children pending."""
        if self.freed:
            return True
        if self.builds:
            return False
        self.side.close()
        if not self.reign.over and not self.reign.free():
            self.log(logging.DEBUG, "not freed yet: %s", self.reign.pending)
            return False
        self._let_go()
        return True

    def abandon(self) -> None:
        """Stop watching without freeing: what libxl holds stays held until the process ends."""
        self.abandoned = True
        self.counters.abandoned += 1
        self.reign.abandon()
        self._let_go()

    def on_progress(self, wake: Callable[[], object]) -> None:
        """Call `wake` whenever the engine has been called from the loop."""
        self._progress.append(wake)

    def _let_go(self) -> None:
        self.freed = True
        self.stop_recovering()
        waiting: list[Asker] = [*self.operations, *self.enders, *self.askers]
        for ender in waiting:
            ender.end(self.dead.again() if self.dead is not None else ContextClosed("the Context was closed"))
        self.enders.clear()
        for build in list(self.builds):
            build.let_go()
        self.feeds.sever()
        self.binding.close()
        _pumps.discard(self)

    def _disaster(self, reign: Reign, disaster: Disaster) -> None:
        if self.recovery is not None and self.recovery.lost(reign, str(disaster)):
            return
        if reign is not self.reign or reign.over:
            self.log(logging.INFO, "an engine that has been replaced reports: %s", disaster)
        elif reign.engine.dead is not None:
            self.lose(disaster)
        elif disaster.type:
            self._tell(disaster, 1 << disaster.type, closing=False)
        else:
            # Such as a child that somebody else reaped: the operation that it belonged to fails by itself.
            self.counters.disasters += 1
            if not self.callbacks.disaster(disaster):
                self.log(logging.CRITICAL, "%s", disaster)

    def lose(self, disaster: Disaster, since: float | None = None, hung: bool = False) -> None:
        """The engine or its xenstored is lost: the context ends, or looks for another.

        `since`: POSIX seconds from which on events may be missing, None meaning now. With `hung`, whoever calls the
        engine may have to wait for ever.
        """
        if self.dead is not None or self.freed or self.outage is not None:
            return
        with Shield():
            if self.recovery is not None:
                self.recovery.begin(disaster, since, hung)
                return
            self.dead = disaster
            self._tell(disaster, EVENTMASK_ALL, closing=True)
            # A dead ctx's fds may stay ready for ever; freeing it takes them off the loop.
            if hung or not self.free():
                self.abandon()

    def struck(self) -> None:
        """Ctrl-C has struck in the loop: it may have taken the place of the news that all is lost. Look, soon."""
        self.binding.call_soon(self._look_after)

    def _look_after(self) -> None:
        if self.freed or self.dead is not None:
            return
        self.drain()
        if self.outage is not None:
            assert self.recovery is not None
            self.recovery.interrupted()
        elif self.reign.engine.dead is not None:
            self.lose(self.reign.engine.dead)
        elif self.side.closed or self.reign.hung_up:
            self.lose(Disaster(0, "a connection to xenstored has ended"))
        else:
            self.side.ready()
            if self.recovery is not None:
                self.recovery.interrupted()

    def lost(self) -> bool:
        """A call of the engine has failed: whether that is because the engine is lost, and another will come.

        The loop may not have had the time to find that out.
        """
        if self.recovery is None:
            return False
        if self.outage is None:
            self.drain()
            self.side.ready()
        if self.outage is None and self.reign.hung_up:
            self._hung_up(self.reign)
        return self.outage is not None

    def refused(self, evgen: Evgen, error: Exception) -> None:
        """An evgen can't be enabled, and whoever asked for that has gone on: its events will not come."""
        domain = isinstance(evgen, DomainDeathEvgen)
        for kind in (EventType.DOMAIN_SHUTDOWN, EventType.DOMAIN_DEATH) if domain else (EventType.DISK_EJECT,):
            self._tell(Disaster(kind, f"{evgen!r} can't be enabled: {error}"), 1 << kind, closing=False)

    def stop_recovering(self) -> None:
        """The context ends: what is lost from now on, or is lost already, stays lost."""
        recovery, self.recovery = self.recovery, None
        if recovery is not None:
            recovery.stop()

    def _tell(self, disaster: Disaster, typemask: int, closing: bool) -> None:
        self.counters.disasters += 1
        self.log(logging.CRITICAL, "%s", disaster)
        told = self.mailbox.fail(disaster.again, typemask, closing)
        if not closing:
            told += sum(ender.missed(disaster) for ender in list(self.enders))
        if not self.callbacks.disaster(disaster) and not told:
            self.binding.report(disaster)

    def _hung_up(self, reign: Reign) -> None:
        why = "libxl's own connection to xenstored has ended"
        self.drain()  # what was reported before is not lost
        if reign is self.reign:
            self.lose(Disaster(0, why))
        elif self.recovery is not None:
            self.recovery.lost(reign, why)

    def _store_lost(self, why: str, since: float | None, hung: bool) -> None:
        known = self.outage is not None
        self.drain()  # what was reported before is not lost
        if known and self.recovery is not None:
            self.recovery.failed(why)
        else:
            self.lose(Disaster(0, why), since, hung)

    def _introduced(self) -> None:
        self.drain()
        if self.outage is not None or self.dead is not None:
            return
        try:
            present = self.engine.list_domain()
            self.feeds.check_lives(present)
            for following in list(self.followings):
                following.look(present)
        except (LibxlError, Disaster) as error:
            # As libxl has it when its own look at the domains fails: what appeared or ended can't be known any more.
            self.lose(Disaster(0, f"the domains can't be listed: {error}"))

    def forked(self) -> None:
        """In a forked child: everything here is the parent's."""
        self.freed = self.in_child = True
        self.lock = nullcontext()  # another of the parent's threads may hold the other one, for ever
        self.feeds.sever()
        for reign in self.reigns():
            if not reign.freed:
                reign.engine.postfork_child_noexec()
        self.recovery = None  # the connection is the parent's to find again
        self.binding.close()
        for build in list(self.builds):
            build.let_go()


def _after_fork_in_child() -> None:
    if in_library_fork():
        return
    for pump in list(_pumps):
        if not pump.freed:
            pump.forked()
    _pumps.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
