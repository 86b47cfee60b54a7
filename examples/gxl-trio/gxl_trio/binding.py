# SPDX-License-Identifier: LGPL-2.1-or-later
"""One engine's place in a trio run.

An engine's hooks are plain functions, and trio's loop is reached by tasks. So each thing to wait for has a system task:
one for all fds, since an EpollSet makes them one, and one for each timeout. System tasks outlive every nursery, and end
with the run.
"""

from __future__ import annotations

import inspect
import logging
import os
import select
import time
from collections.abc import Callable

import trio
from zope.interface import implementer

from gxl.errors import MisuseError
from gxl.hubhooks.children import Cancel, Children
from gxl.hubhooks.epollset import EpollSet
from gxl.interfaces import ICoroutineBinding, IEventSink
from gxl_trio.hooks import TrioOSEvent
from gxl_trio.waiter import TrioWaiter

_log = logging.getLogger("gxl")


class _Guard:
    """While entered, nothing can be waited for."""

    depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *exc_info: object) -> None:
        self.depth -= 1


@implementer(ICoroutineBinding)
class TrioBinding:
    """Made by TrioHub.attach."""

    def __init__(self, token: trio.lowlevel.TrioToken, sink: IEventSink) -> None:
        self.token = token
        self.sink = sink
        self.closed = False
        self._pid = os.getpid()
        self._guard = _Guard()
        self.fds = EpollSet(select.epoll, self.report)
        self.osevent = TrioOSEvent(self)
        self.childproc = Children(self, sink, self.fds, self.later)
        trio.lowlevel.spawn_system_task(self._watch_fds)

    def waiter(self) -> TrioWaiter:
        self.check_caller()
        return TrioWaiter(self)

    def check_can_block(self, instead: str) -> None:
        raise MisuseError(f"this would block trio: {instead}")

    def call_soon(self, f: Callable[[], object]) -> None:
        try:
            self.token.run_sync_soon(self._call, f)
        except trio.RunFinishedError:
            pass  # what trio runs last may have more to do; there will be no turn for it

    def spawn(self, f: Callable[[], object]) -> None:
        trio.lowlevel.spawn_system_task(self._run, f)

    def no_switch(self) -> _Guard:
        return self._guard

    def check_caller(self) -> None:
        if os.getpid() != self._pid:
            raise MisuseError(f"this belongs to process {self._pid}; a forked child must open its own")
        try:
            here = trio.lowlevel.current_trio_token() is self.token
        except RuntimeError:
            here = False
        if not here:
            raise MisuseError("this belongs to a trio run that is not the one of this thread: use trio.from_thread")

    def check_can_wait(self) -> None:
        """Raises MisuseError where nothing can be waited for."""
        self.check_caller()
        self.check_open()
        if self._guard.depth:
            raise MisuseError("code that runs inside libxl tried to wait: let it note what happened, and wait later")

    def check_open(self) -> None:
        """Raises MisuseError after close()."""
        if self.closed:
            raise MisuseError("this binding to trio is closed")

    def report(self, exc: BaseException) -> None:
        _log.error("nobody can catch this: %r", exc, exc_info=exc)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if os.getpid() == self._pid:
            self.childproc.close()
            self.osevent.close()
            trio.lowlevel.notify_closing(self.fds.fileno())
        self.fds.close()

    def later(self, seconds: float, f: Callable[[], object]) -> Cancel:
        """Call `f` after so many seconds, and never before. Returns what cancels it."""
        scope = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._sleep, time.monotonic() + seconds, scope, f)
        return scope.cancel

    async def _watch_fds(self) -> None:
        while not self.closed:
            try:
                await trio.lowlevel.wait_readable(self.fds.fileno())
            except trio.ClosedResourceError:
                return
            if not self.closed:
                self.fds.dispatch()

    async def _sleep(self, moment: float, scope: trio.CancelScope, f: Callable[[], object]) -> None:
        with scope:
            while (left := moment - time.monotonic()) > 0:
                await trio.sleep(left)
        if not scope.cancel_called:
            self._call(f)

    async def _run(self, f: Callable[[], object]) -> None:
        try:
            result = f()
            if inspect.isawaitable(result):
                await result
        except Exception as error:  # which would end the run
            self.report(error)

    def _call(self, f: Callable[[], object]) -> None:
        try:
            f()
        except Exception as error:
            self.report(error)
