# SPDX-License-Identifier: LGPL-2.1-or-later
"""The gevent hub: fds, timeouts and children are watched by the hub's own loop, and waiting parks a greenlet.

Works on libev (the default), libev-cffi and libuv, with and without monkey.patch_all(). A binding belongs to the hub
of the native thread that attached it.

What it can't do: let other greenlets run while libxl works inside one of its calls; wait in the loop's own callbacks,
which run in the hub; be used from another native thread, or after its hub was destroyed. Nothing of it keeps the loop
running but a greenlet that waits.

Children can be watched only in the main thread, whose loop is gevent's default one; elsewhere what has to fork is
refused. From the first fork on, gevent's SIGCHLD handler is installed, as it is by gevent.subprocess; it reaps every
child of the process. An application that sets a SIGCHLD handler of its own must do so through gevent's patched
`signal`, and must not call os.wait or os.waitpid(-1).
"""

from __future__ import annotations

import math
import os
import sys
import time
import traceback
import weakref
from _thread import RLock
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.monkey import get_original, is_module_patched
from greenlet import getcurrent, greenlet
from zope.interface import implementer

from gxl import forking
from gxl.errors import MisuseError
from gxl.forking import in_library_fork
from gxl.hubhooks.children import Cancel, Children
from gxl.hubhooks.epollset import EpollSet, Interest
from gxl.hubhooks.switching import Guard
from gxl.interfaces import (
    IEventSink,
    IHub,
    IHubBinding,
    IOSEventHooks,
    ITurnBinding,
    IWaiter,
)
from gxl.shield import unbroken

# monkey.patch_all() takes epoll away and replaces the others by cooperative versions, which switch.
_epoll = get_original("select", "epoll")
_get_ident: Callable[[], int] = get_original("_thread", "get_ident")

_READ = 1  # gevent's own name for "readable", on all loops
_LONGEST_TIMER = 1e9
_PATCHABLE = ("os", "_thread", "threading", "time", "select", "selectors", "socket", "ssl", "subprocess", "signal")


class _Timeout:
    __slots__ = ("for_libxl", "timer")

    def __init__(self, for_libxl: object) -> None:
        self.for_libxl = for_libxl
        self.timer: Any = None


@implementer(IOSEventHooks)
class _OSEvent:
    def __init__(self, binding: GeventBinding, fds: EpollSet) -> None:
        self._binding = binding
        self._fds = fds
        self._timeouts: set[_Timeout] = set()

    def close(self) -> None:
        for timeout in self._timeouts:
            _discard(timeout.timer)
        self._timeouts.clear()

    def fd_register(self, fd: int, events: int, for_libxl: object) -> Interest:
        self._binding.check_open()
        return self._fds.watch(fd, events, for_libxl, self._binding.sink.fd_ready)

    def fd_modify(self, fd: int, registration: object, events: int) -> Interest:
        assert isinstance(registration, Interest)
        self._fds.change(registration, events)
        return registration

    def fd_deregister(self, fd: int, registration: object) -> None:
        assert isinstance(registration, Interest)
        self._fds.forget(registration)

    def timeout_register(self, abs: float, for_libxl: object) -> _Timeout:
        self._binding.check_open()
        if isinstance(abs, bool) or not isinstance(abs, (int, float)):
            raise TypeError(f"abs must be seconds since the epoch, not {abs!r}")
        # The loop's timers count monotonic time. libxl has just read the wall clock; from here on a jump of the clock
        # must not matter. Not time.time(), which tests like to replace.
        after = abs - time.clock_gettime(time.CLOCK_REALTIME)
        if after != after:
            raise ValueError(f"abs must be seconds since the epoch, not {abs!r}")
        timeout = _Timeout(for_libxl)
        self._timeouts.add(timeout)
        if after <= 0:
            self._binding.loop.run_callback(self._due, timeout)
        else:
            timeout.timer = self._binding.start_timer(after, self._due, timeout)
        return timeout

    def timeout_modify(self, registration: object, abs: float) -> _Timeout:
        assert isinstance(registration, _Timeout)
        if registration in self._timeouts:
            _discard(registration.timer)
            registration.timer = None
            self._binding.loop.run_callback(self._due, registration)
        return registration

    def timeout_deregister(self, registration: object) -> None:
        assert isinstance(registration, _Timeout)
        self._timeouts.discard(registration)
        _discard(registration.timer)

    def _due(self, timeout: _Timeout) -> None:
        if timeout not in self._timeouts:
            return
        self._timeouts.remove(timeout)
        _discard(timeout.timer)
        try:
            self._binding.sink.timeout_due(timeout.for_libxl)
        except BaseException as error:
            self._binding.report(error)


def _discard(watcher: Any) -> None:
    if watcher is not None:
        watcher.stop()
        watcher.close()


def _not_in_the_hub() -> MisuseError:
    return MisuseError("a callback of the loop can't wait: spawn a greenlet that does")


@implementer(IWaiter)
class _Waiter:
    """Parks one greenlet. Smaller and faster than gevent's Event, and needs no timer of its own unless asked to."""

    __slots__ = ("binding", "expired", "parked", "resumption", "woken")

    # GeventBinding.waiter() assigns these: an __init__ would cost as much again.
    binding: GeventBinding
    parked: greenlet | None
    woken: bool
    expired: bool
    resumption: Any
    """The loop's callback that switches to the parked greenlet."""

    def wait(self, timeout: float | None) -> bool:
        if self.woken:
            self.woken = False
            return True
        if timeout is not None and timeout <= 0:
            return False
        binding = self.binding
        hub = binding.hub
        current = getcurrent()
        if current is hub:
            raise _not_in_the_hub()
        if binding.closed:
            binding.check_open()
        if self.parked is not None:
            raise MisuseError(f"{self.parked!r} waits here already")
        self.parked = current
        self.expired = False
        timer = None
        binding.parked += 1
        try:
            if binding.parked == 1:
                binding.keeper.ref = True
            if timeout is not None:
                timer = binding.start_timer(timeout, self._expire)
            while not (self.woken or self.expired):
                hub.switch()
            woken, self.woken = self.woken, False
            return woken
        finally:
            self.parked = None
            binding.parked -= 1
            if not binding.parked and not binding.closed:
                binding.keeper.ref = False
            if timer is not None:
                _discard(timer)
            if self.resumption is not None:
                # Somebody else may have been faster: it must not switch to whatever this greenlet does next.
                self.resumption.stop()
                self.resumption = None

    def wake(self) -> None:
        if not self.woken:
            self.woken = True
            if self.parked is not None:
                self.resumption = self.binding.loop.run_callback(self.parked.switch)

    def _expire(self) -> None:
        self.expired = True
        if self.parked is not None:
            self.parked.switch()


@implementer(ITurnBinding, IHubBinding)
class GeventBinding:
    """One engine's place in a gevent hub."""

    def __init__(self, hub: Any, sink: IEventSink) -> None:
        self.hub = hub
        self.loop = hub.loop
        self.sink = sink
        self.pid = os.getpid()
        self._thread = hub.thread_ident
        self.closed = False
        self._guard = Guard(hub)
        self.parked = 0
        """How many greenlets wait."""
        # libuv counts in whole milliseconds and cuts off fractions, both of the time and of the span.
        self._coarse = self.loop.approx_timer_resolution >= 0.001
        self._fds = EpollSet(_epoll, self.report)
        self._watcher = self.loop.io(self._fds.fileno(), _READ, ref=False)
        # libuv ignores ref=False for io. The watcher that it hands out is one of several on a shared handle, which
        # does have a reference to give up; nobody else watches this fd.
        handle = getattr(self._watcher, "_watcher_ref", None)
        if handle is not None:
            handle.ref = False
        # libev takes an fd off the loop, for good, if its callback raises.
        self._watcher.start(unbroken(self._fds.dispatch, self.report))
        # While somebody waits, the loop must not end, although no watcher of ours keeps it going: an idle async
        # watcher does. loop.ref() has no effect on libuv.
        self.keeper = self.loop.async_(ref=False)
        self.keeper.start(_nothing)
        self._next: deque[Callable[[], object]] = deque()
        self._turn = self.loop.async_(ref=False)
        self._turn.start(unbroken(self._turned, self._turn_failed))
        self.osevent = _OSEvent(self, self._fds)
        self.childproc = (
            Children(self, sink, self._fds, self._later, self.loop.install_sigchld, self._watch_child)
            if self.loop.default and hub.main_hub
            else None
        )
        _bindings.add(self)

    def __repr__(self) -> str:
        return f"<gxl binding to {self.hub!r}{' (closed)' if self.closed else ''}>"

    def waiter(self) -> _Waiter:
        if getcurrent() is self.hub:
            raise _not_in_the_hub()
        if _get_ident() != self._thread or self._guard.entered() or forking.pid != self.pid:
            self.check_caller()
        waiter = _Waiter()
        waiter.binding, waiter.parked, waiter.woken, waiter.expired, waiter.resumption = self, None, False, False, None
        return waiter

    def call_soon(self, f: Callable[[], object]) -> None:
        self.loop.run_callback(f)  # which hands exceptions to the hub's error handler

    def call_next_turn(self, f: Callable[[], object]) -> None:
        # What callbacks add is run with them, and all greenlets that they wake, for up to 5 ms.
        self._next.append(f)
        if self.closed:
            self._turned()
        else:
            self._turn.ref = True
            self._turn.send()

    def _turned(self) -> None:
        while self._next:
            self.call_soon(self._next[0])
            self._next.popleft()
        if not self.closed:
            self._turn.ref = False

    def _turn_failed(self, error: BaseException) -> None:
        if not self.closed:
            self._turn.send()  # what a signal handler has kept from its turn has the next
        self.report(error)

    def spawn(self, f: Callable[[], object]) -> None:
        gevent.spawn(f)  # as this does

    def no_switch(self) -> RLock:
        return self._guard.arm()

    def check_caller(self) -> None:
        if forking.pid != self.pid:
            raise MisuseError(f"this belongs to process {self.pid}; a forked child must open its own")
        if _get_ident() != self._thread:
            raise MisuseError(
                "this belongs to the gevent hub of another thread; call it from a greenlet there, or open another here"
            )
        if self._guard.entered():
            self._guard.check(getcurrent())

    def check_open(self) -> None:
        if self.closed:
            raise MisuseError("this binding to the gevent hub is closed")

    def report(self, exc: BaseException) -> None:
        try:
            if isinstance(exc, self.hub.SYSTEM_ERROR):
                # The hub throws these into the main greenlet, which is a switch: not from where we are.
                self.loop.run_callback(self.hub.handle_error, self, type(exc), exc, exc.__traceback__)
            else:
                self.hub.handle_error(self, type(exc), exc, exc.__traceback__)
        except BaseException:
            traceback.print_exception(exc, file=sys.__stderr__)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        _bindings.discard(self)
        if os.getpid() != self.pid:
            # A forked child shares the loop's own epoll set with its parent until its loop runs. libuv takes a
            # stopped fd out of that set at once; it can't once the fd is closed here, and so the parent keeps its.
            self._fds.close()
        if self.loop.ptr:  # else the hub was destroyed, and every watcher with it
            if self.childproc is not None:
                self.childproc.close()
            self.osevent.close()
            self._turned()
            _discard(self._turn)
            _discard(self.keeper)
            _discard(self._watcher)
        self._fds.close()

    def start_timer(self, seconds: float, callback: Callable[..., object], *args: object) -> Any:
        """A started timer. Always a new one: libev restarts a used one with what was left of it."""
        if not seconds < _LONGEST_TIMER:  # libev takes nan and inf, and loses the order of its timers
            seconds = _LONGEST_TIMER
        if self._coarse:
            seconds = (math.ceil(seconds * 1000) + 1.5) / 1000
        timer = self.loop.timer(seconds, ref=False)
        # The loop's idea of now is as old as the last time it slept: libxl's call may have taken long since.
        timer.start(callback, *args, update=True)
        return timer

    def _later(self, seconds: float, f: Callable[[], object]) -> Cancel:
        timer = self.start_timer(seconds, f)
        return lambda: _discard(timer)

    def _watch_child(self, pid: int, tell: Callable[[int], object]) -> Cancel:
        # Not gevent.os.fork_and_watch: that shows libxl's children to the application, in the results of
        # os.waitpid(-1) and as calls of its SIGCHLD handler.
        watcher = self.loop.child(pid, ref=False)
        watcher.start(lambda: tell(watcher.rstatus))
        return lambda: _discard(watcher)


@implementer(IHub)
class GeventHub:
    """The provider for gevent programs."""

    name = "gevent"

    @property
    def version(self) -> str:
        # What is configured: a hub would be made by looking for it.
        loop = gevent.config.loop.__module__
        patched = ", ".join(filter(is_module_patched, _PATCHABLE)) or "nothing"
        return f"gevent {gevent.__version__}, loop {loop}, patched: {patched}"

    def attach(self, sink: IEventSink) -> GeventBinding:
        return GeventBinding(gevent.get_hub(), sink)


def _nothing() -> None:
    pass


_bindings: weakref.WeakSet[GeventBinding] = weakref.WeakSet()


def _leave_parents_loop() -> None:
    # gevent runs copies of the parent's watchers in a forked child as soon as its hub runs.
    if not in_library_fork():
        for binding in tuple(_bindings):
            binding.close()


os.register_at_fork(after_in_child=_leave_parents_loop)
