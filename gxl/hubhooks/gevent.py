# SPDX-License-Identifier: LGPL-2.1-or-later
"""The gevent hub: fds, timeouts and children are watched by the hub's own loop, and waiting parks a greenlet.

Works on libev (the default), libev-cffi and libuv, with and without monkey.patch_all(). A binding belongs to the hub
of the native thread that attached it.

Children can be watched only in the main thread, whose loop is gevent's default one. From the first fork on, gevent's
SIGCHLD handler is installed, as it is by gevent.subprocess; it reaps every child of the process. An application that
sets a SIGCHLD handler of its own must do so through gevent's patched `signal`, and must not call os.wait or
os.waitpid(-1).
"""

from __future__ import annotations

import os
import select
import sys
import time
import traceback
import warnings
import weakref
from collections.abc import Callable
from itertools import starmap
from typing import Any

import gevent
from gevent.exceptions import BlockingSwitchOutError
from gevent.monkey import get_original
from greenlet import getcurrent, greenlet
from zope.interface import implementer

from gxl.arguments import check_fd
from gxl.errors import GxlError, MisuseError
from gxl.forking import in_library_fork, library_fork
from gxl.interfaces import (
    IChildProcHooks,
    IEventSink,
    IHub,
    IHubBinding,
    IOSEventHooks,
    IWaiter,
    SigchldOwner,
)

# monkey.patch_all() takes epoll away and replaces the others by cooperative versions, which switch.
_epoll = get_original("select", "epoll")
_fork: Callable[[], int] = get_original("os", "fork")
_get_ident: Callable[[], int] = get_original("_thread", "get_ident")

_POLL_BITS = select.POLLIN | select.POLLPRI | select.POLLOUT | select.POLLERR | select.POLLHUP | select.POLLRDHUP
_ALWAYS_REPORTED = select.POLLERR | select.POLLHUP
_READ = 1  # gevent's own name for "readable", on all loops
_BATCH = 64
_LONGEST_TIMER = 1e9
_STATUS_GRACE = 0.05
_STATUS_LOST = 255 << 8  # what libxl itself assumes of a child whose status it can't have


class SwitchRefused(MisuseError, BlockingSwitchOutError):
    """Code that runs inside libxl tried to switch to another greenlet."""


def _refuse_switch() -> None:
    raise SwitchRefused(
        "a hook or callback that runs inside libxl tried to switch greenlets: it must neither block nor wait; "
        "let it note what happened, and do the rest in a greenlet"
    )


class _Guard:
    """While entered, the current greenlet can't switch to the hub. One per binding, and reused."""

    __slots__ = ("_depth", "_found", "_hub", "holder")

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._depth = 0
        self._found: Any = None
        self.holder: greenlet | None = None

    def __enter__(self) -> None:
        current = getcurrent()
        if self._depth:
            self.check(current)
        else:
            self.holder = current
            # The hub asks the greenlet that switches to it by this attribute first. It refuses its own calls itself.
            if current is not self._hub:
                attributes = current.__dict__
                self._found = attributes.get("switch_out")
                attributes["switch_out"] = _refuse_switch
        self._depth += 1

    def __exit__(self, *exc_info: object) -> None:
        self._depth -= 1
        if not self._depth:
            holder, self.holder = self.holder, None
            if holder is not None and holder is not self._hub:
                if self._found is None:
                    del holder.__dict__["switch_out"]
                else:
                    holder.__dict__["switch_out"], self._found = self._found, None

    def check(self, current: greenlet) -> None:
        # A bare greenlet.switch() or Waiter.switch() gets past the hub. libxl's lock is recursive: it would let the
        # greenlet that runs now in, and that one would overwrite the other's C stack.
        if self.holder is not None and self.holder is not current:
            raise MisuseError(f"{self.holder!r} switched away from inside libxl, where no other greenlet may enter now")


class _Interest:
    """One registration of an fd; `watched` is None once it is over."""

    __slots__ = ("events", "fd", "tell", "token", "watched")

    def __init__(self, watched: _Watched, events: int, token: object, tell: Callable[..., object]) -> None:
        self.watched: _Watched | None = watched
        self.fd = watched.fd
        self.events = events
        self.token = token
        self.tell = tell


class _Watched:
    """One fd in the epoll set, and all who are interested in it. `key` is its number there."""

    __slots__ = ("fd", "interests", "key", "mask")

    def __init__(self, fd: int) -> None:
        self.fd = self.key = fd
        self.mask = 0
        self.interests: list[_Interest] = []


class _FDs:
    """An epoll set of the binding's own, which the loop watches as a single fd.

    Not one watcher per fd, because that is where the loops differ, and where they end the process: libev and libuv
    abort when epoll refuses an fd that was closed, libev never reports POLLPRI, libuv reports errors as negative
    numbers and then goes deaf, gives every watcher of an fd the union of all masks, rejects regular files, and keeps
    the loop alive. The set costs one system call per wake-up, about 1 us.
    """

    def __init__(self, binding: GeventBinding) -> None:
        self._binding = binding
        self._table: dict[int, _Watched] = {}
        self._open()

    def _open(self) -> None:
        self._set = _epoll()
        self._watcher = self._binding.loop.io(self._set.fileno(), _READ, ref=False)
        # libuv ignores ref=False for io. The watcher that it hands out is one of several on a shared handle, which
        # does have a reference to give up; nobody else watches our fd.
        handle = getattr(self._watcher, "_watcher_ref", None)
        if handle is not None:
            handle.ref = False
        self._watcher.start(self._ready)

    def close(self, forked: bool) -> None:
        for watched in self._table.values():
            for interest in watched.interests:
                interest.watched = None
            if watched.key != watched.fd:
                os.close(watched.key)
            watched.key = watched.fd
        self._table.clear()
        if forked:
            # The child shares its loop's epoll set with the parent until the loop has run once. libuv takes a
            # stopped fd out of it at once; it can't once the fd is closed here, and the parent keeps its own.
            self._set.close()
        self._watcher.stop()
        self._watcher.close()
        self._set.close()

    def watch(self, fd: int, events: int, token: object, tell: Callable[..., object]) -> _Interest:
        watched = self._table.get(fd) or _Watched(fd)
        self._arm(watched, watched.mask | events)
        interest = _Interest(watched, events, token, tell)
        watched.interests.append(interest)
        self._table[fd] = watched
        return interest

    def change(self, interest: _Interest, events: int) -> None:
        watched = interest.watched
        if watched is None:
            raise MisuseError(f"fd {interest.fd} is not registered any more")
        self._arm(watched, self._union(watched, interest) | events)
        interest.events = events

    def forget(self, interest: _Interest) -> None:
        watched = interest.watched
        if watched is None:
            return
        interest.watched = None
        watched.interests.remove(interest)
        try:
            self._arm(watched, self._union(watched))
        except OSError:
            # The fd was closed first. While another process has it open too, the kernel keeps reporting it, and has
            # no way left to say which one to forget.
            watched.mask = self._union(watched)
            self._renew()
        if not watched.interests:
            self._table.pop(watched.fd, None)
            if watched.key != watched.fd:
                self._table.pop(watched.key, None)
                os.close(watched.key)

    @staticmethod
    def _union(watched: _Watched, but: _Interest | None = None) -> int:
        mask = 0
        for interest in watched.interests:
            if interest is not but:
                mask |= interest.events
        return mask

    def _arm(self, watched: _Watched, mask: int) -> None:
        if mask == watched.mask:
            return
        if not mask:
            # Out of the set: epoll reports errors and hang-ups even to an empty mask, for ever.
            self._set.unregister(watched.key)
        elif watched.mask:
            if watched.key == watched.fd:
                self._set.modify(watched.fd, mask)
        else:
            self._enter(watched, mask)
        watched.mask = mask

    def _enter(self, watched: _Watched, mask: int) -> None:
        if watched.key == watched.fd:
            try:
                self._set.register(watched.fd, mask)
                return
            except PermissionError:
                # A regular file: always ready to poll(2), not acceptable to epoll. libxl saves domains to such. An
                # eventfd that is always readable stands in for it.
                watched.key = os.eventfd(1)
                self._table[watched.key] = watched
        self._set.register(watched.key, select.POLLIN)

    def _renew(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self._set.close()
        self._open()
        for key, watched in self._table.items():
            if watched.mask and key == watched.key:
                try:
                    self._set.register(key, watched.mask if key == watched.fd else select.POLLIN)
                except OSError:
                    pass  # closed as well

    def _ready(self) -> None:
        try:
            found = self._set.poll(0, _BATCH)
        except BaseException as error:  # a signal handler's
            self._binding.report(error)
            return
        # Taken together first: what is registered meanwhile under a number of this batch is not what was ready.
        batch = [
            (interest, revents)
            for key, revents in found
            if (watched := self._table.get(key)) is not None
            for interest in watched.interests
        ]
        for interest, revents in batch:
            watched = interest.watched
            if watched is None or not interest.events:
                continue
            if watched.key != watched.fd:
                revents = interest.events
            revents &= interest.events | _ALWAYS_REPORTED
            if revents:
                try:
                    interest.tell(interest.token, interest.fd, interest.events, revents)
                except BaseException as error:
                    # libev would print it and stop the watcher for good; the other loops, throw it into main.
                    self._binding.report(error)


class _Timeout:
    __slots__ = ("for_libxl", "timer")

    def __init__(self, for_libxl: object) -> None:
        self.for_libxl = for_libxl
        self.timer: Any = None


@implementer(IOSEventHooks)
class _OSEvent:
    def __init__(self, binding: GeventBinding, fds: _FDs) -> None:
        self._binding = binding
        self._fds = fds
        self._timeouts: set[_Timeout] = set()

    def close(self) -> None:
        for timeout in self._timeouts:
            _discard(timeout.timer)
        self._timeouts.clear()

    def fd_register(self, fd: int, events: int, for_libxl: object) -> _Interest:
        self._binding.check_open()
        return self._fds.watch(check_fd(fd), _check_events(events), for_libxl, self._binding.sink.fd_ready)

    def fd_modify(self, fd: int, registration: object, events: int) -> _Interest:
        assert isinstance(registration, _Interest)
        self._fds.change(registration, _check_events(events))
        return registration

    def fd_deregister(self, fd: int, registration: object) -> None:
        assert isinstance(registration, _Interest)
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


def _check_events(events: int) -> int:
    if isinstance(events, bool) or not isinstance(events, int):
        raise TypeError(f"events must be poll(2) bits, not {events!r}")
    if events & ~_POLL_BITS:
        raise ValueError(f"events {events:#x} has bits that poll(2) does not know")
    return events


def _discard(watcher: Any) -> None:
    if watcher is not None:
        watcher.stop()
        watcher.close()


class _Child:
    __slots__ = ("grace", "pid", "pidfd", "watcher")

    def __init__(self, pid: int, watcher: Any) -> None:
        self.pid = pid
        self.watcher = watcher
        self.pidfd: _Interest | None = None
        self.grace: Any = None


@implementer(IChildProcHooks)
class _ChildProc:
    """Two sources for one status, whichever comes first.

    The loop's child watcher, since gevent's SIGCHLD handler reaps whatever it finds and drops the status of a pid
    that nobody watches. And a pidfd, since a SIGCHLD can get lost: when somebody installs another handler with the
    unpatched `signal`, or reaps with os.waitpid(-1); libxl's operation would hang for ever.

    gevent.os.fork_and_watch is not used: it would show libxl's children to the application, in the results of
    os.waitpid(-1) and as calls of its SIGCHLD handler.
    """

    chldowner = SigchldOwner.MAINLOOP
    reaped_callback = None

    def __init__(self, binding: GeventBinding, fds: _FDs) -> None:
        self._binding = binding
        self._fds = fds
        self._children: set[_Child] = set()

    def fork_replacement(self) -> int:
        """Fork one of libxl's children and watch it (IChildProcHooks)."""
        binding = self._binding
        if os.getpid() != binding.pid:
            # libxl's middle process forks its own child. There is no loop here, and it does the reaping itself.
            with library_fork(), binding.no_switch():
                return _fork()
        binding.check_caller()
        binding.check_open()
        # Before the fork: a SIGCHLD that finds no handler is gone.
        binding.loop.install_sigchld()
        made: list[int] = []
        try:
            # An at-fork handler that yields would run the parent's greenlets in libxl's child. Python 3.12 warns of
            # threads; as an error, that would lose the pid of a child that exists.
            with library_fork(), binding.no_switch(), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                # Stored without a bytecode in between, where a signal handler could raise and lose the pid.
                made.extend(starmap(_fork, ((),)))
        except BaseException as error:
            if not made:
                raise
            binding.report(error)
        if made[0]:
            self._watch(made[0])
        return made[0]

    def _watch(self, pid: int) -> None:
        child = _Child(pid, self._binding.loop.child(pid, ref=False))
        self._children.add(child)
        child.watcher.start(self._reaped, child)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return  # Linux before 5.3, or out of fds: then only the loop tells
        child.pidfd = self._fds.watch(pidfd, select.POLLIN, child, self._ended)

    def close(self) -> None:
        for child in tuple(self._children):
            self._drop(child)

    def _drop(self, child: _Child) -> None:
        self._children.discard(child)
        _discard(child.watcher)
        _discard(child.grace)
        if child.pidfd is not None:
            self._fds.forget(child.pidfd)
            os.close(child.pidfd.fd)

    def _reaped(self, child: _Child) -> None:
        self._finish(child, child.watcher.rstatus)

    def _ended(self, child: _Child, pidfd: int, events: int, revents: int) -> None:
        assert child.pidfd is not None
        try:
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            # Reaped already: by the loop, whose child watcher is about to be called, or by a stranger.
            self._fds.change(child.pidfd, 0)
            child.grace = self._binding.start_timer(_STATUS_GRACE, self._lost, child)
            return
        if result is not None:
            core = 0x80 if result.si_code == os.CLD_DUMPED else 0
            code = result.si_status
            self._finish(child, code << 8 if result.si_code == os.CLD_EXITED else code | core)

    def _lost(self, child: _Child) -> None:
        self._binding.report(
            GxlError(
                f"the exit status of process {child.pid}, forked for libxl, was taken by somebody else: libxl is told "
                "that it failed. Does the application call os.wait, or os.waitpid(-1)?"
            )
        )
        self._finish(child, _STATUS_LOST)

    def _finish(self, child: _Child, status: int) -> None:
        if child not in self._children:
            return
        # First of all: the pid is free, and may be that of the next child already when libxl forks in answer.
        self._drop(child)
        try:
            self._binding.sink.child_reaped(child.pid, status)
        except BaseException as error:
            self._binding.report(error)


@implementer(IWaiter)
class _Waiter:
    """Parks one greenlet, without an object of gevent's: half the price of an Event, and no fd or timer."""

    __slots__ = ("_binding", "_expired", "_parked", "_woken")

    def __init__(self, binding: GeventBinding) -> None:
        self._binding = binding
        self._parked: greenlet | None = None
        self._woken = False
        self._expired = False

    def wait(self, timeout: float | None) -> bool:
        if self._woken:
            self._woken = False
            return True
        if timeout is not None and timeout <= 0:
            return False
        binding = self._binding
        binding.check_can_wait()
        binding.check_open()
        if self._parked is not None:
            raise MisuseError(f"{self._parked!r} waits here already")
        self._expired = False
        timer = None if timeout is None else binding.start_timer(timeout, self._expire)
        self._parked = getcurrent()
        binding.hold()
        try:
            switch = binding.hub.switch
            while not (self._woken or self._expired):
                switch()
            woken, self._woken = self._woken, False
            return woken
        finally:
            self._parked = None
            binding.release()
            if timer is not None:
                _discard(timer)

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            if self._parked is not None:
                self._binding.loop.run_callback(self._resume)

    def _expire(self) -> None:
        self._expired = True
        self._resume()

    def _resume(self) -> None:
        if self._parked is not None:
            try:
                self._parked.switch()
            except BaseException as error:
                self._binding.report(error)


@implementer(IHubBinding)
class GeventBinding:
    """One engine's place in a gevent hub."""

    def __init__(self, hub: Any, sink: IEventSink) -> None:
        self.hub = hub
        self.loop = hub.loop
        self.sink = sink
        self.pid = os.getpid()
        self._closed = False
        self._guard = _Guard(hub)
        self._parked = 0
        # While somebody waits, the loop must not end, although no watcher of ours keeps it going: an idle async
        # watcher does. loop.ref() has no effect on libuv.
        self._hold = self.loop.async_(ref=False)
        self._hold.start(_nothing)
        # libuv counts in whole milliseconds and cuts off fractions, both of the time and of the span.
        self._coarse = self.loop.approx_timer_resolution >= 0.001
        self._fds = _FDs(self)
        self.osevent = _OSEvent(self, self._fds)
        self.childproc = _ChildProc(self, self._fds) if self.loop.default and hub.main_hub else None
        _bindings.add(self)

    def __repr__(self) -> str:
        return f"<gxl binding to {self.hub!r}{' (closed)' if self._closed else ''}>"

    def waiter(self) -> _Waiter:
        self.check_can_wait()
        return _Waiter(self)

    def call_soon(self, f: Callable[[], object]) -> None:
        self.loop.run_callback(f)  # which hands exceptions to the hub's error handler

    def spawn(self, f: Callable[[], object]) -> None:
        gevent.spawn(f)  # as this does

    def no_switch(self) -> _Guard:
        return self._guard

    def check_caller(self) -> None:
        if os.getpid() != self.pid:
            raise MisuseError(f"this belongs to process {self.pid}; a forked child must open its own")
        if _get_ident() != self.hub.thread_ident:
            raise MisuseError(
                "this belongs to the gevent hub of another thread; call it from a greenlet there, or open another here"
            )
        self._guard.check(getcurrent())

    def check_can_wait(self) -> None:
        self.check_caller()
        if getcurrent() is self.hub:
            raise MisuseError("a callback of the loop can't wait: spawn a greenlet that does")

    def check_open(self) -> None:
        if self._closed:
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
        if self._closed:
            return
        self._closed = True
        _bindings.discard(self)
        if self.childproc is not None:
            self.childproc.close()
        self.osevent.close()
        self._fds.close(forked=os.getpid() != self.pid)
        _discard(self._hold)

    def start_timer(self, seconds: float, callback: Callable[..., object], *args: object) -> Any:
        """A started timer. Always a new one: libev restarts a used one with what was left of it."""
        if not seconds < _LONGEST_TIMER:  # libev takes nan and inf, and loses the order of its timers
            seconds = _LONGEST_TIMER
        if self._coarse:
            seconds = (int(seconds * 1000) + 2.5) / 1000
        timer = self.loop.timer(seconds, ref=False)
        # The loop's idea of now is as old as the last time it slept: libxl's call may have taken long since.
        timer.start(callback, *args, update=True)
        return timer

    def hold(self) -> None:
        self._parked += 1
        if self._parked == 1:
            self._hold.ref = True

    def release(self) -> None:
        self._parked -= 1
        if not self._parked and not self._closed:
            self._hold.ref = False


@implementer(IHub)
class GeventHub:
    """The provider for gevent programs."""

    name = "gevent"

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
