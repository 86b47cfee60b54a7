# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fds and timeouts that the engine is interested in, and the two ways to learn of them: polling, and hooks.

Reports may be stale: an application's loop can deliver a readiness after the engine lost interest in it, or after it
gave the same token to another fd. So a token leads through a nexus, which outlives every registration, and readiness
is looked at again before it is believed.
"""

from __future__ import annotations

import os
from bisect import insort_left
from collections.abc import Callable, Iterable
from select import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI
from typing import TYPE_CHECKING, Any, TypeVar

from gxl.engines.embedded import native
from gxl.errors import MisuseError, OSEventRegFail, TimedOut

if TYPE_CHECKING:
    from gxl.engines.embedded.core import Core

_BITS = (POLLIN, POLLPRI, POLLOUT)
_LONGEST_TIMEOUT_MS = 2_000_000_000
AS_SOON_AS_POSSIBLE = 0.0


class Nexus:
    """What a hook gets as `for_libxl`: recycled, and never forgotten while the engine lives."""

    __slots__ = ("events", "registration")

    def __init__(self, events: OSEvents) -> None:
        self.events = events
        self.registration: object = None


class FdNexus(Nexus):
    __slots__ = ("interest",)

    def __init__(self, events: OSEvents) -> None:
        super().__init__(events)
        self.interest: FdInterest | None = None


class TimeoutNexus(Nexus):
    __slots__ = ("interest", "pending")

    def __init__(self, events: OSEvents) -> None:
        super().__init__(events)
        self.interest: TimeoutInterest | None = None
        self.pending = False
        """Registered with the application, which has not reported it yet."""


_AnyNexus = TypeVar("_AnyNexus", FdNexus, TimeoutNexus)


class FdInterest:
    """An fd that the engine watches; `callback` gets the revents that were really there."""

    __slots__ = ("callback", "events", "fd", "nexus")

    def __init__(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        self.fd = fd
        self.events = events
        self.callback = callback
        self.nexus: FdNexus | None = None


class TimeoutInterest:
    """A moment that the engine waits for; `callback` gets libxl's code for having reached it."""

    __slots__ = ("callback", "deadline", "nexus")

    def __init__(self, deadline: float, callback: Callable[[int], None]) -> None:
        self.deadline = deadline
        self.callback = callback
        self.nexus: TimeoutNexus | None = None


class OSEvents:
    """All interests of one engine, and the pollers that look at them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.hooks: Any = None
        # In order of registration; pollers list the newest first.
        self._fds: dict[FdInterest, None] = {}
        self._timeouts: list[TimeoutInterest] = []
        self._idle_fd_nexi: list[FdNexus] = []
        self._idle_timeout_nexi: list[TimeoutNexus] = []
        self.app_poller = Poller()
        self._waiting: dict[Poller, None] = {}

    @property
    def interested(self) -> bool:
        return bool(self._fds or self._timeouts)

    @property
    def awaited(self) -> bool:
        """Whether a thread blocks in the engine."""
        return bool(self._waiting)

    def register_fd(self, fd: int, events: int, callback: Callable[[int], None]) -> FdInterest:
        """Raises OSEventRegFail, and has changed nothing, if the application's hook fails."""
        interest = FdInterest(fd, events, callback)
        if self.hooks is not None:
            nexus = self._idle_fd_nexi.pop() if self._idle_fd_nexi else FdNexus(self)
            nexus.interest, interest.nexus = interest, nexus
            try:
                nexus.registration = self._hook("fd_register", fd, events, nexus)
            except BaseException:
                nexus.interest = None
                self._idle_fd_nexi.append(nexus)
                raise
        self._fds[interest] = None
        self._added()
        return interest

    def modify_fd(self, interest: FdInterest, events: int) -> None:
        nexus = interest.nexus
        if nexus is not None:
            nexus.registration = self._hook("fd_modify", interest.fd, nexus.registration, events)
        if events & ~interest.events:
            self._added()
        interest.events = events

    def deregister_fd(self, interest: FdInterest) -> None:
        nexus = interest.nexus
        if nexus is not None:
            nexus.interest = None
            self._idle_fd_nexi.append(nexus)
            try:
                with self._core.guard():
                    self.hooks.fd_deregister(interest.fd, nexus.registration)
            except BaseException as error:
                # The header gives this hook no way to fail.
                self._core.keep(error)
        del self._fds[interest]

    def register_timeout(self, deadline: float, callback: Callable[[int], None]) -> TimeoutInterest:
        """Raises OSEventRegFail, and has changed nothing, if the application's hook fails."""
        interest = TimeoutInterest(deadline, callback)
        if self.hooks is not None:
            nexus = self._idle_timeout_nexi.pop() if self._idle_timeout_nexi else TimeoutNexus(self)
            nexus.interest, interest.nexus, nexus.pending = interest, nexus, True
            try:
                nexus.registration = self._hook("timeout_register", deadline, nexus)
            except BaseException:
                nexus.interest, nexus.pending = None, False
                self._idle_timeout_nexi.append(nexus)
                raise
        insort_left(self._timeouts, interest, key=lambda other: other.deadline)
        self._added()
        return interest

    def cancel_timeout(self, interest: TimeoutInterest) -> None:
        """The application is asked to report it at once, so that its nexus can be used again."""
        nexus = interest.nexus
        self._timeouts.remove(interest)
        if nexus is not None:
            nexus.interest = None
            try:
                nexus.registration = self._hook("timeout_modify", nexus.registration, AS_SOON_AS_POSSIBLE)
            except OSEventRegFail as error:
                self._core.keep(error)

    def occurred_fd(self, for_libxl: object, fd: int) -> None:
        nexus = self._nexus(for_libxl, FdNexus)
        interest = nexus.interest
        if interest is not None and interest.fd == fd:
            self._fd_occurs(interest)

    def occurred_timeout(self, for_libxl: object) -> None:
        nexus = self._nexus(for_libxl, TimeoutNexus)
        if not nexus.pending:
            raise MisuseError(
                "this timeout has occurred already: osevent_occurred_timeout must be called exactly once for each "
                "timeout_register"
            )
        interest, nexus.interest, nexus.pending = nexus.interest, None, False
        self._idle_timeout_nexi.append(nexus)
        if interest is not None:
            self._timeouts.remove(interest)
            interest.callback(TimedOut.code)

    def beforepoll(self, poller: Poller, now: float) -> tuple[list[tuple[int, int]], int | None]:
        fds = [(interest.fd, interest.events) for interest in reversed(self._fds) if interest.events]
        fds.append((poller.fileno(), POLLIN))
        poller.prepare(fds)
        if not self._timeouts:
            return fds, None
        # In whole microseconds, as libxl counts: a float's last bits must not become a millisecond more.
        remaining_us = round((self._timeouts[0].deadline - now) * 1e6)
        return fds, min(max(-(-remaining_us // 1000), 0), _LONGEST_TIMEOUT_MS)

    def afterpoll(self, poller: Poller, fds: Iterable[tuple[int, int, int]], now: float) -> None:
        results = {(fd, events): revents for fd, events, revents in fds}
        while True:
            # From the start again after each callback, which may have changed anything.
            for interest in reversed(self._fds):
                if interest.events and poller.honour(interest.fd, interest.events, results):
                    break
            else:
                break
            self._fd_occurs(interest)
        while self._timeouts and self._timeouts[0].deadline <= now:
            due = self._timeouts[0]
            self.cancel_timeout(due)
            due.callback(TimedOut.code)
        if poller.honour(poller.fileno(), POLLIN, results):
            poller.drain()

    def start_waiting(self) -> Poller:
        """A poller for a thread that is going to block."""
        poller = Poller()
        self._waiting[poller] = None
        return poller

    def stop_waiting(self, poller: Poller) -> None:
        del self._waiting[poller]
        poller.close()

    def wake_waiting(self) -> None:
        """An event was queued, or an operation ended: whoever blocks must look."""
        for poller in self._waiting:
            poller.wake()

    def wake_outdated(self) -> None:
        """At the end of an engine call: wake those that poll for less than the engine now wants."""
        for poller in (self.app_poller, *self._waiting):
            if poller.outdated:
                poller.outdated = False
                poller.wake()

    def close(self) -> None:
        self.app_poller.close()

    def _added(self) -> None:
        for poller in (self.app_poller, *self._waiting):
            poller.outdated = poller.prepared

    def _fd_occurs(self, interest: FdInterest) -> None:
        [(_, _, revents)] = native.poll([(interest.fd, interest.events)], 0)
        if revents:
            interest.callback(revents)

    def _nexus(self, for_libxl: object, kind: type[_AnyNexus]) -> _AnyNexus:
        if not isinstance(for_libxl, kind):
            raise TypeError(f"for_libxl must be what the register hook was given, not {for_libxl!r}")
        if for_libxl.events is not self:
            raise MisuseError(f"{for_libxl!r} belongs to another engine")
        return for_libxl

    def _hook(self, name: str, *args: object) -> Any:
        hook = getattr(self.hooks, name)
        try:
            with self._core.guard():
                return hook(*args)
        except OSEventRegFail:
            raise
        except Exception as error:
            raise OSEventRegFail(message=f"the hook {name} failed: {error!r}") from error


class Poller:
    """One poll(2) after the other, by the application or by a thread that blocks in the engine, and how to wake it."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._awake = False
        # For each fd and bit, the entry of the latest prepare() that asked for it and was not honoured since.
        self._entries: dict[tuple[int, int], tuple[int, int]] = {}
        self.prepared = False
        self.outdated = False

    def fileno(self) -> int:
        return self._read_end

    def prepare(self, fds: list[tuple[int, int]]) -> None:
        """`fds` are going to be polled."""
        self._entries = {(entry[0], bit): entry for entry in fds for bit in _BITS if entry[1] & bit}
        self.prepared, self.outdated = True, False

    def honour(self, fd: int, events: int, results: dict[tuple[int, int], int]) -> bool:
        """Whether any of `events` was polled for on `fd`, is in `results`, and was not honoured before."""
        found = False
        for bit in _BITS:
            entry = self._entries.get((fd, bit))
            if entry is not None and results.get(entry, 0) & (events | POLLERR | POLLHUP):
                del self._entries[fd, bit]
                found = True
        return found

    def wake(self) -> None:
        """Make the poll that is under way, or else the next, return."""
        if not self._awake:
            self._awake = True
            os.write(self._write_end, b"\0")

    def drain(self) -> None:
        if self._awake:
            self._awake = False
            os.read(self._read_end, 1)

    def close(self) -> None:
        self.outdated = False
        native.close(self._read_end)
        native.close(self._write_end)
