# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hub for programs without a loop: whichever thread waits polls, and does the work.

This is the header's first style, beforepoll, poll and afterpoll, for scripts and for plain threads. Several threads may
wait on one Context. One of them pumps: it is in poll(2), or does what poll's result implies. The others are parked.
Each event wakes the thread that gets it and no other; a thread that leaves while others wait hands the pumping on. The
real library leaves open what happens when a thread adds interest while another polls (it may sleep on); here whoever
leaves the lock wakes the one that polls.

What it can't do: nothing progresses while nobody waits. No event arrives, no operation goes on, and no child is reaped.
Callbacks (event_register_callbacks) run in a daemon thread of their own.

Children are watched by pidfd, so SIGCHLD and the application's own children are left alone, in any thread.

In a process that gevent has patched, a thread is a greenlet, and poll(2) lets others run: nothing here keeps an
original by name. Not on libuv, where attach refuses.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import os
import platform
import select
import sys
import threading
import time
import weakref
from _thread import RLock
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from zope.interface import implementer

from gxl import forking
from gxl.errors import MisuseError
from gxl.forking import in_library_fork
from gxl.hubhooks.children import Cancel, Children, reaper_beside_gevent
from gxl.hubhooks.epollset import EpollSet, native_epoll
from gxl.interfaces import IEventSink, IHub, IPolledBinding, IPollSource, IWaiter
from gxl.shield import Shield, unshielded

_log = logging.getLogger("gxl")

_UNASKED = select.POLLERR | select.POLLHUP | select.POLLNVAL
_Result = TypeVar("_Result")
_LONGEST = 1e6  # seconds; poll(2) takes an int of milliseconds


class Monitor:
    """A re-entrant lock that can be let go of as a whole. Whoever leaves it rouses the thread that polls.

    Handlers of signals wait until it is left: one that raised as __exit__ began would leave it locked for ever.
    """

    def __init__(self, rouse: Callable[[], object]) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        # Of the thread that is inside.
        self._shield = Shield()
        self._rouse = rouse
        # Whether a thread is in poll(2), with what it knew when it went there.
        self._polled = False

    def __enter__(self) -> None:
        shield = Shield()
        shield.__enter__()
        # Not to wait behind the shield: in a process that gevent has patched, greenlets would leave theirs out of turn.
        while not self._lock.acquire(blocking=False):
            with shield.lifted(), self._lock:
                pass
        if self._depth:
            shield.__exit__()
        else:
            self._shield = shield
        self._depth += 1

    def __exit__(self, *exc_info: object) -> None:
        self._depth -= 1
        if self._depth:
            self._lock.release()
            return
        shield = self._leave(to_poll=False)
        self._lock.release()
        shield.__exit__()

    def outside(self, f: Callable[[], _Result], to_poll: bool = False) -> _Result:
        """Let go of the lock, however often it was entered, call `f`, and be inside again as before.

        While `f` runs, Ctrl-C may strike.
        """
        depth, self._depth = self._depth, 0
        shield = self._leave(to_poll)
        for _ in range(depth):
            self._lock.release()
        try:
            with shield.lifted():
                return f()
        finally:
            while not self._lock.acquire(blocking=False):
                with shield.lifted(), self._lock:
                    pass
            for _ in range(depth - 1):
                self._lock.acquire()
            self._depth, self._shield, self._polled = depth, shield, False

    def _leave(self, to_poll: bool) -> Shield:
        if self._polled:
            self._rouse()
        self._polled = to_poll
        return self._shield


class _Guard(threading.local):
    """Each thread's own lock, which is held where that thread can't wait.

    A lock is left in one step of C: as a __exit__ of ours began, a signal handler could raise, and the thread could
    wait no more.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self.entered: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]  # threading.Condition asks it, too; typeshed lacks it


class _Rouser:
    """An eventfd that makes poll(2) return. Any thread may write to it, also while another closes it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may rouse, too
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def rouse(self) -> None:
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def drain(self) -> None:
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass

    def close(self) -> None:
        with self._lock:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@implementer(IWaiter)
class _Waiter:
    __slots__ = ("_binding", "_gate", "woken")

    def __init__(self, binding: PollBinding) -> None:
        self._binding = binding
        self._gate = threading.Lock()
        self._gate.acquire()
        self.woken = False

    def wait(self, timeout: float | None) -> bool:
        with self._binding.lock:
            if self.woken:
                self.woken = False
                return True
            if timeout is not None and timeout <= 0:
                return False
            return self._binding.park(self, timeout)

    def wake(self) -> None:
        self.woken = True
        if self._binding.pumping is self:
            self._binding.rouse()
        else:
            self.nudge()

    def nudge(self) -> None:
        """Let the parked thread look around."""
        try:
            self._gate.release()
        except RuntimeError:
            pass  # it is about to

    def sleep(self, seconds: float | None) -> None:
        self._gate.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))


@implementer(IPolledBinding)
class PollBinding:
    """One engine's place in a process without a loop."""

    osevent = None

    def __init__(self, sink: IEventSink) -> None:
        self.pid = os.getpid()
        self._closed = False
        self._guard = _Guard()
        self._rouser = _Rouser()
        self.rouse = self._rouser.rouse
        self.lock = Monitor(self.rouse)
        self._source: IPollSource | None = None
        self._soon: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._serials = itertools.count()
        self._waiting: dict[_Waiter, None] = {}
        self.pumping: _Waiter | None = None
        self._pumping_thread: int | None = None
        self._interrupt: BaseException | None = None
        self._fds = EpollSet(native_epoll(), self.report)
        self.childproc = Children(self, sink, self._fds, self._later, reaper=reaper_beside_gevent(self.call_soon))
        _bindings.add(self)

    def __repr__(self) -> str:
        return f"<gxl binding to the threads of process {self.pid}{' (closed)' if self._closed else ''}>"

    def poll_for(self, source: IPollSource) -> None:
        self._source = source
        self.rouse()

    def waiter(self) -> _Waiter:
        self.check_can_wait()
        return _Waiter(self)

    def call_soon(self, f: Callable[[], object]) -> None:
        self._soon.append(f)
        self.rouse()

    def spawn(self, f: Callable[[], object]) -> None:
        threading.Thread(target=unshielded(partial(self._run, f)), name="gxl callback", daemon=True).start()

    def no_switch(self) -> RLock:
        return self._guard.lock

    def check_caller(self) -> None:
        if forking.pid != self.pid:
            raise MisuseError(f"this belongs to process {self.pid}; a forked child must open its own")

    def check_can_wait(self) -> None:
        self.check_caller()
        if self._guard.entered():
            raise MisuseError(
                "code that runs inside libxl tried to wait: let it note what happened, and wait when it has returned"
            )
        if _in_unpatched_greenlet():
            raise MisuseError(
                "a greenlet that waits at the poll hub would stop all others: open the Context with hub='gevent'"
            )
        if self._pumping_thread == threading.get_ident():
            raise MisuseError("a callback of the hub's can't wait: it runs in a thread that is waiting already")

    def report(self, exc: BaseException) -> None:
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            self._interrupt = exc  # for the thread that waits, in which it was raised
            self.rouse()
        else:
            _log.error("nobody can catch this: %r", exc, exc_info=exc)

    def close(self) -> None:
        _bindings.discard(self)
        if os.getpid() != self.pid:
            # Another of the parent's threads may have held the lock, and is not here to release it.
            self._closed = True
            self._fds.close()
            self._rouser.close()
            return
        with self.lock:
            if self._closed:
                return
            self._closed = True
            self.childproc.close()
            self._soon.clear()
            self._timers.clear()
            if self.pumping is None:
                self._close_fds()
            for waiter in self._waiting:
                waiter.nudge()

    def park(self, waiter: _Waiter, timeout: float | None) -> bool:
        """Pump, or sleep while another thread does, until the waiter is woken or `timeout` seconds are over."""
        self.check_can_wait()
        if waiter in self._waiting:
            raise MisuseError("another thread waits here already")
        deadline = None if timeout is None else time.monotonic() + timeout
        self._waiting[waiter] = None
        try:
            while not waiter.woken:
                if self._closed:
                    raise MisuseError("this binding to the poll hub is closed")
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                if self.pumping is None:
                    self._pump(waiter, left)
                else:
                    self.lock.outside(partial(waiter.sleep, left))
            waiter.woken = False
            return True
        finally:
            del self._waiting[waiter]
            if self.pumping is None and self._waiting:
                next(iter(self._waiting)).nudge()

    def _pump(self, waiter: _Waiter, left: float | None) -> None:
        # wake() looks at `pumping` after it has set `woken`, so here it is the other way round.
        self.pumping, self._pumping_thread = waiter, threading.get_ident()
        try:
            self._run_soon()
            if not waiter.woken and not self._closed:
                self._turn(left)
        finally:
            self.pumping = self._pumping_thread = None
            if self._closed:
                self._close_fds()
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt

    def _turn(self, left: float | None) -> None:
        fds, due = ([], None) if self._source is None else self._source.before_poll()
        ready = self._poll([*fds, (self._rouser.fd, select.POLLIN), (self._fds.fileno(), select.POLLIN)], left, due)
        if self._closed:
            return
        self._rouser.drain()
        if self._fds.fileno() in ready:
            self._fds.dispatch()
        self._run_timers()
        if self._source is not None:
            self._source.after_poll([(fd, events, ready.get(fd, 0) & (events | _UNASKED)) for fd, events in fds])

    def _poll(self, fds: list[tuple[int, int]], *limits: float | None) -> dict[int, int]:
        wanted: dict[int, int] = {}
        for fd, events in fds:
            wanted[fd] = wanted.get(fd, 0) | events
        poller = select.poll()
        for fd, events in wanted.items():
            poller.register(fd, events)
        spans = [span for span in limits if span is not None]
        if self._timers:
            spans.append(self._timers[0][0] - time.monotonic())
        milliseconds = math.ceil(min(max(min(spans), 0), _LONGEST) * 1000) if spans else None
        return dict(self.lock.outside(partial(poller.poll, milliseconds), to_poll=True))

    def _run_soon(self) -> None:
        for _ in range(len(self._soon)):  # what is added meanwhile comes after the next look at the fds
            self._call(self._soon.popleft())

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            self._call(heapq.heappop(self._timers)[2])

    def _call(self, f: Callable[[], object]) -> None:
        try:
            f()
        except BaseException as error:
            self.report(error)

    def _run(self, f: Callable[[], object]) -> None:
        try:
            f()
        except Exception as error:
            self.report(error)

    def _later(self, seconds: float, f: Callable[[], object]) -> Cancel:
        live = [f]
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._serials), lambda: live and live[0]()))
        return live.clear

    def _close_fds(self) -> None:
        self._fds.close()
        self._rouser.close()


@implementer(IHub)
class PollHub:
    """The provider for programs without a loop."""

    name = "poll"

    @property
    def version(self) -> str:
        return f"poll(2), Python {platform.python_version()}"

    def attach(self, sink: IEventSink) -> PollBinding:
        if polls_by_libuv():
            # libuv makes each fd that it polls non-blocking: libxenstore's thread, which reads one of libxl's, dies.
            raise MisuseError("gevent has patched poll(2), and its loop is libuv: open the Context with hub='gevent'")
        return PollBinding(sink)


def _in_unpatched_greenlet() -> bool:
    # Who made this Context before gevent's hub first ran, was taken for a program without a loop.
    greenlet = sys.modules.get("greenlet")
    if greenlet is None or greenlet.getcurrent().parent is None:
        return False
    monkey = sys.modules.get("gevent.monkey")
    return monkey is None or not monkey.is_module_patched("select")


def polls_by_libuv() -> bool:
    """Whether poll(2) is gevent's here, and the loop libuv."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("select"):
        return False
    return type(sys.modules["gevent"].get_hub().loop).__module__.startswith("gevent.libuv")


_bindings: weakref.WeakSet[PollBinding] = weakref.WeakSet()


def _leave_parents_threads() -> None:
    if not in_library_fork():
        for binding in tuple(_bindings):
            binding.close()


os.register_at_fork(after_in_child=_leave_parents_threads)
