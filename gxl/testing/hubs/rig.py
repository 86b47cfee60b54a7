# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a case for hub providers works with: a binding, a sink that records, and a way to let the loop run.

Cases close fds by posix.close: monkey-patching replaces os.close by one that closes in the loop's next turn.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import posix
import signal
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from zope.interface import implementer

from gxl.interfaces import (
    IAwaitableWaiter,
    IChildProcHooks,
    ICoroutineBinding,
    IEventSink,
    IHub,
    IHubBinding,
    IOSEventHooks,
    IWaiter,
)


@implementer(IEventSink)
class Recorder:
    """Writes down what a provider reports, does what the case wants done about it, and wakes the case."""

    def __init__(self) -> None:
        self.fds: list[tuple[object, int, int, int]] = []
        self.timeouts: list[object] = []
        self.children: list[tuple[int, int]] = []
        self.waiter: IWaiter | None = None
        self.answers: dict[object, Callable[..., object]] = {}
        """By token, or by "child": what to do, inside the report, with its arguments."""
        self.errors: list[Exception] = []
        """What the answers raised."""
        self.inside_hook = False

    def fd_ready(self, for_libxl: object, fd: int, events: int, revents: int) -> None:
        """IEventSink."""
        self.fds.append((for_libxl, fd, events, revents))
        self._answer(for_libxl, for_libxl, fd, events, revents)

    def timeout_due(self, for_libxl: object) -> None:
        """IEventSink."""
        self.timeouts.append(for_libxl)
        self._answer(for_libxl, for_libxl)

    def child_reaped(self, pid: int, status: int) -> None:
        """IEventSink."""
        self.children.append((pid, status))
        self._answer("child", pid, status)

    def _answer(self, key: object, *args: object) -> None:
        assert not self.inside_hook, "the sink was called from inside a hook"
        if self.waiter is not None:
            self.waiter.wake()
        if key in self.answers:
            try:
                self.answers[key](*args)
            except Exception as error:
                self.errors.append(error)
                raise

    def of(self, token: object) -> list[tuple[object, int, int, int]]:
        """The reports for one registered fd."""
        return [report for report in self.fds if report[0] == token]


Main = Callable[[], Coroutine[Any, Any, None]]


def run_blocking(main: Main) -> None:
    """Runs what waits only by blocking: for hubs without coroutines."""
    coroutine = main()
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise AssertionError("a waiter can be awaited: say how to run this loop, by `run`")


class Provider(NamedTuple):
    """What the suite has to know of a provider."""

    make_hub: Callable[[], IHub]
    """The factory; a hub that was made in one loop is not used in another."""
    run: Callable[[Main], object] = run_blocking
    """Runs main() in a new loop, to its end: asyncio.run(main()), for instance."""
    fork: Callable[[], int] = os.fork
    """Forks as programs of this loop do."""
    patience: float = 10.0
    """Seconds after which what has not happened counts as never happening."""


class Rig:
    """One binding of the provider under test, and what the case opened; all of it closed at the end."""

    def __init__(self, provider: Provider, hub: IHub | None = None) -> None:
        self._provider = provider
        self.hub = hub = provider.make_hub() if hub is None else hub
        self.cleanup = contextlib.ExitStack()
        self.sink = Recorder()
        self.binding: IHubBinding = hub.attach(self.sink)
        self.cleanup.callback(self.binding.close)
        self.waiter: IWaiter = self.binding.waiter()
        self.sink.waiter = self.waiter

    @property
    def osevent(self) -> IOSEventHooks:
        """The hooks for fds and timeouts; the case is for providers that have them."""
        assert self.binding.osevent is not None
        hooks: IOSEventHooks = self.binding.osevent
        return hooks

    @property
    def childproc(self) -> IChildProcHooks:
        """The hooks for children; the case is for providers that have them."""
        assert self.binding.childproc is not None
        hooks: IChildProcHooks = self.binding.childproc
        return hooks

    async def wait(self, waiter: IWaiter, timeout: float | None) -> bool:
        """Wait in the way that this loop has."""
        if IAwaitableWaiter.providedBy(waiter):
            return bool(await waiter.awaited(timeout))
        return waiter.wait(timeout)

    def spawn(self, main: Main) -> None:
        """Have the binding run main(), which may wait by this rig."""
        if ICoroutineBinding.providedBy(self.binding):
            self.binding.spawn(main)
        else:
            self.binding.spawn(lambda: run_blocking(main))

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Let the loop run until `condition()`; the case fails if that takes too long."""
        patience = self._provider.patience
        deadline = time.monotonic() + patience
        while not condition():
            left = deadline - time.monotonic()
            for error in self.sink.errors:
                raise error
            assert left > 0, (
                f"it did not happen within {patience} s that {what}; reported were fds {self.sink.fds[-20:]}, "
                f"timeouts {self.sink.timeouts[-20:]}, children {self.sink.children[-20:]}"
            )
            await self.wait(self.waiter, left)

    async def soon(self, start: Callable[[], Callable[[], object]], what: str, within: float = 0.1) -> None:
        """The case fails if what `start()` causes takes longer than `within` seconds, each of several times.

        `start` returns what says whether it has happened. One of them may be slow because the machine is.
        """
        took = []
        for _ in range(4):
            began = time.monotonic()
            await self.until(start(), what)
            took.append(time.monotonic() - began)
            if took[-1] < within:
                return
        raise AssertionError(f"it took {min(took):.3f} s and more until {what}")

    async def turn(self, times: int = 3) -> None:
        """Let the loop look at its fds and at what is due: whatever is ready now is reported when this returns."""
        if self.binding.osevent is None:
            called: list[bool] = []
            self.binding.call_soon(lambda: called.append(True))
            self.binding.call_soon(self.waiter.wake)
            await self.until(lambda: called, "what was to be called soon is called")
            return
        for _ in range(times):
            reader, writer = os.pipe()
            canary = object()
            os.write(writer, b"x")
            registration = self.osevent.fd_register(reader, 1, canary)
            due = object()
            self.osevent.timeout_register(0, due)
            await self.until(lambda c=canary: self.sink.of(c), "a readable pipe is reported")  # type: ignore[misc]  # mypy infers no lambda that has a default
            await self.until(lambda d=due: d in self.sink.timeouts, "a timeout at 0 is reported")  # type: ignore[misc]  # mypy infers no lambda that has a default
            self.osevent.fd_deregister(reader, registration)
            posix.close(reader)
            posix.close(writer)

    def pipe(self) -> tuple[int, int]:
        """A non-blocking pipe: (reader, writer)."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.cleanup.callback(self.close_fd, reader)
        self.cleanup.callback(self.close_fd, writer)
        return reader, writer

    def another(self) -> Rig:
        """A second binding of the same provider."""
        return self._beside(self.hub)

    def fresh(self) -> Rig:
        """A binding of a new instance of the provider, for a loop that is another one."""
        return self._beside(None)

    def _beside(self, hub: IHub | None) -> Rig:
        other = Rig(self._provider, hub)
        self.cleanup.callback(other.cleanup.close)
        return other

    @staticmethod
    def close_fd(fd: int) -> None:
        """Closes `fd`, which the case may have closed already."""
        with contextlib.suppress(OSError):
            posix.close(fd)

    def fork(self, child: Callable[[], Any]) -> Callable[[], None]:
        """Run `child`, which may be a coroutine function, in a process that the application forks, not the engine.

        Returns what waits for its end and fails the case if it raised. The loop doesn't run meanwhile.
        """
        reader, writer = os.pipe()
        pid = self._provider.fork()
        if pid == 0:
            outcome = "it never returned"
            try:
                signal.setitimer(signal.ITIMER_REAL, 2 * self._provider.patience)
                self._call(child)
                outcome = "fine"
            except BaseException:
                outcome = traceback.format_exc()
            finally:
                os.write(writer, outcome.encode())
                os._exit(0)
        posix.close(writer)

        def join() -> None:
            with open(reader) as end:
                outcome = end.read()
            with contextlib.suppress(ChildProcessError):  # a loop that reaps by itself may be faster
                os.waitpid(pid, 0)
            assert outcome == "fine", f"in the forked child: {outcome or 'killed'}"

        return join

    def _call(self, child: Callable[[], Any]) -> None:
        if not inspect.iscoroutinefunction(child):
            child()
        elif self._provider.run is run_blocking:
            run_blocking(child)
        else:
            # A copy of the parent's loop seems to run in this thread; in another there is room for a new one.
            failure: list[BaseException] = []

            def attempt() -> None:
                try:
                    self._provider.run(child)
                except BaseException as error:
                    failure.append(error)

            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()
            for error in failure:
                raise error
