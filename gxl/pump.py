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
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from zope.interface import implementer

from gxl.building import Build
from gxl.callbacks import Callbacks
from gxl.errors import ContextClosed, Disaster, EngineUnavailable, GxlError, LibxlError, MisuseError
from gxl.events import EVENTMASK_ALL, Event
from gxl.feeds import Feeds
from gxl.forking import in_library_fork
from gxl.hubhooks import attach
from gxl.interfaces import (
    ICoroutineBinding,
    IEngine,
    IEventHooks,
    IEventSink,
    IHub,
    IHubBinding,
    IOSEventHooks,
    IPolledBinding,
    IStoreConnection,
)
from gxl.mailbox import Mailbox
from gxl.metrics import CountedHooks, Counters
from gxl.polling import Polling
from gxl.sidechannel import SideChannel

if TYPE_CHECKING:
    from gxl.operations import Operation

_log = logging.getLogger("gxl")


class Ender(Protocol):
    """Something that has to know that the context has ended."""

    def end(self, error: GxlError) -> None:
        """Nothing more will come."""


_pumps: weakref.WeakSet[Pump] = weakref.WeakSet()
# A ctx that was not freed goes on using the hooks it was given; they must never be collected.
_abandoned: list[Pump] = []


@implementer(IEventHooks)
class _Collector:
    """What the engine calls: it appends, and sees to it that somebody drains."""

    event_occurs_mask = EVENTMASK_ALL

    def __init__(self, arrived: Callable[[Event | Disaster], None]) -> None:
        self.event_occurs: Callable[[Event], None] = arrived
        self._arrived = arrived

    def disaster(self, type: int, msg: str, errnoval: int) -> None:
        self._arrived(Disaster(type, msg, errnoval))


@implementer(IEventSink)
class Pump:
    """One engine at one hub."""

    def __init__(self, engine: IEngine, hub: IHub) -> None:
        self.counters = Counters()
        self._incoming: deque[Event | Disaster | Callable[[], object]] = deque()
        self._oldest = 0.0
        self._scheduled = False
        self._inside = False
        self._progress: list[Callable[[], object]] = []
        self.dead: Disaster | None = None
        self.freed = False
        self.abandoned = False
        self.in_child = False
        self.operations: dict[Operation, None] = {}
        self.builds: dict[Build, None] = {}
        # Whoever waits apart from the mailbox, to be told when the context ends.
        self.enders: dict[Ender, None] = {}
        self.introduced: list[Callable[[], object]] = []
        self.binding: IHubBinding = attach(hub, self)
        # Where threads share a Context; a loop has one, and needs no lock.
        self.lock: AbstractContextManager[object] = nullcontext()
        self._coroutines = ICoroutineBinding(self.binding, None)
        self.mailbox = Mailbox(self.binding.waiter, self.binding.no_switch, self.counters, self.log)
        claimed: IEngine | None = None
        try:
            self.engine: IEngine = engine.claim(self.binding.no_switch, self.aside)
            claimed = self.engine
            hooks = self.binding.osevent
            if hooks is not None:
                hooks = CountedHooks(hooks, self.counters)
                self.engine.osevent_register_hooks(hooks)
            else:
                binding = IPolledBinding(self.binding)
                self.lock = binding.lock
                polling = Polling(self)
                binding.poll_for(polling)
                hooks = CountedHooks(polling, self.counters)
            # What else is watched, apart from the engine, is watched by the same.
            self.hooks: IOSEventHooks = hooks
            if self.binding.childproc is not None:
                self.engine.childproc_setmode(self.binding.childproc)
            self.engine.event_register_callbacks(_Collector(self.arrived))
            self.side = SideChannel(self._connect(), hooks, self._store_lost, self._introduced, self.binding.call_soon)
            self.feeds = Feeds(
                self.engine, self.side, self.drain, self.lock, self.check_caller, self.log, self.counters
            )
            self.callbacks = Callbacks(self.binding, self.lock)
        except BaseException:
            if claimed is not None:
                claimed.ctx_free()
            self.binding.close()
            raise
        _pumps.add(self)

    def fd_ready(self, for_libxl: object, fd: int, events: int, revents: int) -> None:
        """IEventSink: an fd is ready, the engine's or the side channel's."""
        if for_libxl is self.side:
            self._turn(self.side.ready)
        elif isinstance(for_libxl, Build):
            self._turn(for_libxl.ready, fd)
        else:
            self._turn(self.engine.osevent_occurred_fd, for_libxl, fd, events, revents)

    def timeout_due(self, for_libxl: object) -> None:
        """IEventSink: a timeout is due."""
        self.counters.timeouts -= 1
        if for_libxl is self.side:
            self._turn(self.side.ping)
        elif isinstance(for_libxl, Build):
            self._turn(for_libxl.due)
        else:
            self._turn(self.engine.osevent_occurred_timeout, for_libxl)

    def child_reaped(self, pid: int, status: int) -> None:
        """IEventSink: a child of the engine's has ended."""
        self._turn(self.engine.childproc_reaped, pid, status)

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
        if self._coroutines is not None:
            self._coroutines.check_can_block(instead)

    @property
    def pumpable(self) -> bool:
        """Whether the engine has anything to poll for."""
        return not self.freed and self.engine.dead is None

    def polled(self, fds: list[tuple[int, int, int]]) -> None:
        """Where there is no loop: poll(2) has returned."""
        self._turn(self.engine.osevent_afterpoll, fds)

    def _turn(self, call: Callable[..., object], *args: object) -> None:
        if self.freed:
            return
        started = perf_counter()
        self._inside = True
        try:
            call(*args)
        except Exception as error:
            self.binding.report(error)
        finally:
            self._inside = False
        self.drain()
        for wake in list(self._progress):
            wake()
        self.counters.turned(perf_counter() - started)

    def accept(self, event: Event) -> None:
        """The Context's own sink: to the application's callback, a waiter, or the queue."""
        if not self.callbacks.event(event):
            self.mailbox.put(event)

    def drain(self) -> None:
        """Deliver what the engine has reported. Never from inside an engine call."""
        incoming = self._incoming
        if incoming:
            self.counters.lagged(perf_counter() - self._oldest)
        while incoming:
            arrival = incoming.popleft()
            try:
                if isinstance(arrival, Event):
                    if self.dead is None:
                        self.feeds.resolve(arrival, self.accept)
                elif isinstance(arrival, Disaster):
                    self._disaster(arrival)
                else:
                    arrival()
            except Exception as error:
                self.binding.report(error)

    def free(self) -> bool:
        """Close the side channel and the engine. False while there are operations or children pending."""
        if self.freed:
            return True
        if self.builds:
            return False
        self.side.close()
        try:
            self.engine.ctx_free()
        except MisuseError as error:
            self.log(logging.DEBUG, "not freed yet: %s", error)
            return False
        self._let_go()
        return True

    def abandon(self) -> None:
        """Stop watching without freeing: what libxl holds stays held until the process ends."""
        self.abandoned = True
        self.counters.abandoned += 1
        _abandoned.append(self)
        self._let_go()

    def on_progress(self, wake: Callable[[], object]) -> None:
        """Call `wake` whenever the engine has been called from the loop."""
        self._progress.append(wake)

    def _let_go(self) -> None:
        self.freed = True
        for ender in (*self.operations, *self.enders):
            ender.end(self.dead.again() if self.dead is not None else ContextClosed("the Context was closed"))
        self.enders.clear()
        for build in list(self.builds):
            build.let_go()
        self.feeds.sever()
        self.binding.close()
        _pumps.discard(self)

    def arrived(self, arrival: Event | Disaster | Callable[[], object]) -> None:
        """Note something that was found inside the engine, to be dealt with outside it. Never switches or raises."""
        if not self._incoming:
            self._oldest = perf_counter()
        self._incoming.append(arrival)
        if not self._inside and not self._scheduled:
            self._scheduled = True
            self.binding.call_soon(self._drain_soon)

    def _drain_soon(self) -> None:
        self._scheduled = False
        self.drain()

    def _disaster(self, disaster: Disaster) -> None:
        if self.engine.dead is not None:
            self._die(disaster)
        elif disaster.type:
            self._tell(disaster, 1 << disaster.type, closing=False)
        else:
            # Such as a child that somebody else reaped: the operation that it belonged to fails by itself.
            self.counters.disasters += 1
            if not self.callbacks.disaster(disaster):
                self.log(logging.CRITICAL, "%s", disaster)

    def _die(self, disaster: Disaster) -> None:
        if self.dead is not None:
            return
        self.dead = disaster
        self._tell(disaster, EVENTMASK_ALL, closing=True)
        # A dead ctx's fds may stay ready for ever; freeing it takes them off the loop.
        if not self.free():
            self.abandon()

    def _tell(self, disaster: Disaster, typemask: int, closing: bool) -> None:
        self.counters.disasters += 1
        self.log(logging.CRITICAL, "%s", disaster)
        waiters = self.mailbox.fail(disaster.again, typemask, closing)
        if not self.callbacks.disaster(disaster) and not waiters:
            self.binding.report(disaster)

    def _connect(self) -> IStoreConnection:
        try:
            return self.engine.xenstore_connect()
        except OSError as error:
            raise EngineUnavailable(f"the engine works, but no connection to xenstored can be had: {error}") from None

    def _store_lost(self, why: str) -> None:
        self._die(Disaster(0, why))

    def _introduced(self) -> None:
        self.drain()
        try:
            self.feeds.check_lives(self.engine.list_domain())
            for look in list(self.introduced):
                look()
        except LibxlError as error:
            # As libxl has it when its own look at the domains fails: what appeared or ended can't be known any more.
            self._die(Disaster(0, f"the domains can't be listed: {error}"))

    def forked(self) -> None:
        """In a forked child: everything here is the parent's."""
        self.freed = self.in_child = True
        self.lock = nullcontext()  # another of the parent's threads may hold the other one, for ever
        self.feeds.sever()
        self.engine.postfork_child_noexec()
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
