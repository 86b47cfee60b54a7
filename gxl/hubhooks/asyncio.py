# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hub for asyncio programs, on asyncio's own loops and on uvloop.

A Context belongs to the loop in which it was made. Whatever waits is awaited: `await` an Operation or an expectation,
`async for` over a watcher or over the Context, `async with` the Context; their blocking forms raise MisuseError while
the loop runs. Callbacks (event_register_callbacks) run in the loop; they may be coroutine functions, and the next one
runs when the one before is done.

What it can't do: block. A callback that is no coroutine function holds up the loop for as long as it runs, and so does
what libxl does inside a call. To know a domain's name takes waiting, so whoever gives one awaits: `adomid_of`,
`alist_domain`, `await_shutdown`, or `async with` a watcher or an expectation. Loops that can't watch fds are refused.

Children are watched by pidfd, so neither a child watcher of asyncio's nor SIGCHLD is needed, nor are they disturbed.

In a process that gevent has patched, this hub has to be asked for by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import sys
import threading
import time
import traceback
import weakref
from _thread import RLock
from collections.abc import Callable

from zope.interface import implementer

from gxl import forking
from gxl.errors import MisuseError
from gxl.forking import in_library_fork
from gxl.hubhooks.children import Cancel, Children, reaper_beside_gevent
from gxl.hubhooks.epollset import EpollSet, Interest, native_epoll
from gxl.interfaces import (
    IAwaitableWaiter,
    ICoroutineBinding,
    IEventSink,
    IHub,
    IOSEventHooks,
)

_LONGEST_TIMER = 1e6  # uvloop counts milliseconds in a C integer; _due looks at the clock again


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Timeout:
    __slots__ = ("for_libxl", "handle", "moment")

    def __init__(self, for_libxl: object, moment: float) -> None:
        self.for_libxl = for_libxl
        self.moment = moment
        self.handle: asyncio.Handle | None = None


@implementer(IOSEventHooks)
class _OSEvent:
    def __init__(self, binding: AsyncioBinding, fds: EpollSet) -> None:
        self._binding = binding
        self._fds = fds
        self._timeouts: set[_Timeout] = set()

    def close(self) -> None:
        for timeout in self._timeouts:
            _cancel(timeout.handle)
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
        if isinstance(abs, bool) or not isinstance(abs, (int, float)) or abs != abs:
            raise ValueError(f"abs must be seconds since the epoch, not {abs!r}")
        # From here on a jump of the wall clock must not matter.
        timeout = _Timeout(for_libxl, abs - time.clock_gettime(time.CLOCK_REALTIME) + time.monotonic())
        self._timeouts.add(timeout)
        self._arm(timeout)
        return timeout

    def timeout_modify(self, registration: object, abs: float) -> _Timeout:
        assert isinstance(registration, _Timeout)
        if registration in self._timeouts:
            _cancel(registration.handle)
            registration.moment = 0
            self._arm(registration)
        return registration

    def timeout_deregister(self, registration: object) -> None:
        assert isinstance(registration, _Timeout)
        self._timeouts.discard(registration)
        _cancel(registration.handle)

    def _arm(self, timeout: _Timeout) -> None:
        left = timeout.moment - time.monotonic()
        loop = self._binding.loop
        if left <= 0:
            timeout.handle = loop.call_soon(self._due, timeout)
        else:
            timeout.handle = loop.call_later(min(left, _LONGEST_TIMER), self._due, timeout)

    def _due(self, timeout: _Timeout) -> None:
        if timeout.moment > time.monotonic():
            # uvloop counts in whole milliseconds, from when its loop last slept.
            self._arm(timeout)
            return
        self._timeouts.discard(timeout)
        try:
            self._binding.sink.timeout_due(timeout.for_libxl)
        except BaseException as error:
            self._binding.report(error)


def _cancel(handle: asyncio.Handle | None) -> None:
    if handle is not None:
        handle.cancel()


@implementer(IAwaitableWaiter)
class _Waiter:
    """Parks one task."""

    __slots__ = ("_binding", "_future", "_woken")

    def __init__(self, binding: AsyncioBinding) -> None:
        self._binding = binding
        self._future: asyncio.Future[None] | None = None
        self._woken = False

    def wait(self, timeout: float | None) -> bool:
        self._binding.check_can_block("await the waiter's awaited()")
        if self._must_wait(timeout):
            future, handle = self._park(timeout)
            try:
                self._binding.loop.run_until_complete(future)
            finally:
                self._unpark(handle)
        return self._used_up()

    async def awaited(self, timeout: float | None) -> bool:
        if self._must_wait(timeout):
            future, handle = self._park(timeout)
            try:
                await future
            finally:
                self._unpark(handle)
        return self._used_up()

    def wake(self) -> None:
        self._woken = True
        self._resume()

    def _must_wait(self, timeout: float | None) -> bool:
        if self._woken or (timeout is not None and timeout <= 0):
            return False
        self._binding.check_can_wait()
        if self._future is not None:
            raise MisuseError("another task waits here already")
        return True

    def _park(self, timeout: float | None) -> tuple[asyncio.Future[None], Cancel]:
        self._future = self._binding.loop.create_future()
        cancel: Cancel = lambda: None  # noqa: E731  a def could not be assigned anew
        if timeout is not None:
            cancel = self._binding.later(timeout, self._resume)
        return self._future, cancel

    def _unpark(self, cancel: Cancel) -> None:
        self._future = None
        cancel()

    def _resume(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _used_up(self) -> bool:
        woken, self._woken = self._woken, False
        return woken


@implementer(ICoroutineBinding)
class AsyncioBinding:
    """One engine's place in an asyncio loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sink: IEventSink) -> None:
        self.loop = loop
        self.sink = sink
        self.pid = os.getpid()
        self._thread = threading.get_ident()
        self._closed = False
        # What is entered where nothing can be waited for. A lock is left in one step of C: as a __exit__ of ours began,
        # a signal handler could raise, and nobody could wait any more.
        self._guard = RLock()
        self._guarded: Callable[[], bool] = self._guard._is_owned  # type: ignore[attr-defined]  # threading.Condition asks it, too; typeshed lacks it
        self._fds = EpollSet(native_epoll(), self.report)
        self._fileno = self._fds.fileno()
        try:
            loop.add_reader(self._fileno, self._fds.dispatch)
        except NotImplementedError:
            self._fds.close()
            raise MisuseError(f"{loop!r} can't watch fds") from None
        self.osevent = _OSEvent(self, self._fds)
        self.childproc = Children(
            self, sink, self._fds, self.later, reaper=reaper_beside_gevent(loop.call_soon_threadsafe)
        )
        self._tasks: set[asyncio.Future[object]] = set()
        _bindings.add(self)

    def __repr__(self) -> str:
        return f"<gxl binding to {self.loop!r}{' (closed)' if self._closed else ''}>"

    def waiter(self) -> _Waiter:
        self.check_caller()
        return _Waiter(self)

    def check_can_block(self, instead: str) -> None:
        if _running() is not None:
            raise MisuseError(f"this would block the asyncio loop that runs here: {instead}")

    def call_soon(self, f: Callable[[], object]) -> None:
        # As it is: Ctrl-C could strike as a function around it begins. The loop hands exceptions to its handler.
        self.loop.call_soon(f)

    def spawn(self, f: Callable[[], object]) -> None:
        self.loop.call_soon(self._run, f)

    def no_switch(self) -> RLock:
        return self._guard

    def check_caller(self) -> None:
        if forking.pid != self.pid:
            raise MisuseError(f"this belongs to process {self.pid}; a forked child must open its own")
        if threading.get_ident() != self._thread:
            raise MisuseError(
                "this belongs to the asyncio loop of another thread: call it there, by loop.call_soon_threadsafe"
            )
        running = _running()
        if running is not None and running is not self.loop:
            raise MisuseError("this belongs to another asyncio loop than the one that runs here")

    def check_can_wait(self) -> None:
        self.check_caller()
        self.check_open()
        if self._guarded():
            raise MisuseError(
                "code that runs inside libxl tried to wait: let it note what happened, and wait when it has returned"
            )

    def check_open(self) -> None:
        if self._closed:
            raise MisuseError("this binding to the asyncio loop is closed")

    def report(self, exc: BaseException) -> None:
        try:
            if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                self.loop.call_soon(_raise, exc)  # asyncio lets these end the loop
            else:
                self.loop.call_exception_handler({"message": "nobody can catch this, in gxl", "exception": exc})
        except BaseException:
            traceback.print_exception(exc, file=sys.__stderr__)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        _bindings.discard(self)
        if os.getpid() == self.pid:
            # In a forked child the loop's own epoll set is still its parent's.
            if not self.loop.is_closed():
                self.loop.remove_reader(self._fileno)
            self.childproc.close()
            self.osevent.close()
        self._fds.close()

    def later(self, seconds: float, f: Callable[[], object]) -> Cancel:
        """Call `f` after so many seconds, and not before. Returns what cancels it."""
        moment = time.monotonic() + seconds
        handles: list[asyncio.Handle] = []

        def due() -> None:
            left = moment - time.monotonic()
            if left > 0:
                handles[:] = [self.loop.call_later(min(left, _LONGEST_TIMER), due)]
            else:
                f()

        due() if seconds > 0 else handles.append(self.loop.call_soon(f))
        return lambda: handles[0].cancel() if handles else None

    def _run(self, f: Callable[[], object]) -> None:
        try:
            result = f()
        except BaseException as error:
            self.report(error)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(result)
            # The loop itself keeps only a weak reference.
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                self.report(error)


def _raise(exc: BaseException) -> None:
    raise exc


@implementer(IHub)
class AsyncioHub:
    """The provider for asyncio programs: binds to the loop that runs where attach is called."""

    name = "asyncio"

    @property
    def version(self) -> str:
        running = _running()
        if running is None:
            return "asyncio, no loop runs here"
        return f"asyncio, loop {type(running).__module__}.{type(running).__qualname__}"

    def attach(self, sink: IEventSink) -> AsyncioBinding:
        loop = _running()
        if loop is None:
            raise MisuseError("no asyncio loop runs here: open the Context in a coroutine")
        return AsyncioBinding(loop, sink)


_bindings: weakref.WeakSet[AsyncioBinding] = weakref.WeakSet()


def _leave_parents_loop() -> None:
    if not in_library_fork():
        for binding in tuple(_bindings):
            with contextlib.suppress(OSError):
                binding.close()


os.register_at_fork(after_in_child=_leave_parents_loop)
