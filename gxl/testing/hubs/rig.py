# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a case for hub providers works with: a binding, a sink that records, and a way to let the loop run.

Cases close fds by posix.close: monkey-patching replaces os.close by one that closes in the loop's next turn.
"""

from __future__ import annotations

import contextlib
import os
import posix
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from gxl.interfaces import IChildProcHooks, IEventSink, IHub, IHubBinding, IOSEventHooks, IWaiter

PATIENCE = 10.0


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


class Rig:
    """One binding of the provider under test, and what the case opened; all of it closed at the end."""

    def __init__(self, hub: IHub, fork: Callable[[], int] = os.fork) -> None:
        self.hub = hub
        self._fork = fork
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

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Let the loop run until `condition()`; the case fails if that takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            left = deadline - time.monotonic()
            for error in self.sink.errors:
                raise error
            assert left > 0, (
                f"it did not happen within {PATIENCE} s that {what}; reported were fds {self.sink.fds[-20:]}, "
                f"timeouts {self.sink.timeouts[-20:]}, children {self.sink.children[-20:]}"
            )
            self.waiter.wait(left)

    def turn(self, times: int = 3) -> None:
        """Let the loop look at its fds and at what is due: whatever is ready now is reported when this returns."""
        for _ in range(times):
            reader, writer = os.pipe()
            canary = object()
            os.write(writer, b"x")
            registration = self.osevent.fd_register(reader, 1, canary)
            due = object()
            self.osevent.timeout_register(0, due)
            self.until(lambda c=canary: self.sink.of(c), "a readable pipe is reported")  # type: ignore[misc]
            self.until(lambda d=due: d in self.sink.timeouts, "a timeout at 0 is reported")  # type: ignore[misc]
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
        other = Rig(self.hub, self._fork)
        self.cleanup.callback(other.cleanup.close)
        return other

    @staticmethod
    def close_fd(fd: int) -> None:
        """Closes `fd`, which the case may have closed already."""
        with contextlib.suppress(OSError):
            posix.close(fd)

    def fork(self, child: Callable[[], Any]) -> Callable[[], None]:
        """Run `child` in a process that the application forks, not the engine.

        Returns what waits for its end and fails the case if it raised. The loop doesn't run meanwhile.
        """
        reader, writer = os.pipe()
        pid = self._fork()
        if pid == 0:
            outcome = "it never returned"
            try:
                signal.alarm(int(2 * PATIENCE))
                child()
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
