# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a case for engines works with: an engine on a simulated host, and a loop that drives it either way.

The host is a SimHost, or something with the same methods. What the host did has reached the engine only when its
xenstored's messages have: `settle` waits for that, by a message that comes after all others.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import pytest
from zope.interface import implementer

from gxl.errors import MisuseError
from gxl.events import EVENTMASK_ALL, DomainDeath, Event, EventType, mask
from gxl.interfaces import IEngine, IEventHooks, IOSEventHooks
from gxl.testing.differences import Difference, Side

_Value = TypeVar("_Value")

Drive = Literal["poll", "hooks"]

BARRIER = 0xBA221E2 << 32
"""The user value of the evgens that `settle` uses."""

_SKIPPED = 77
"""The exit status of a fresh process whose case can't run on this host, as test harnesses have it."""


@implementer(IOSEventHooks)
class Loop:
    """An event loop in a few lines: it registers what the engine's hooks say, and reports what is ready."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        """Every hook call: its name and its arguments."""
        self.fds: dict[int, tuple[int, int, object]] = {}
        """What is registered: by registration, the fd, its events and the engine's token."""
        self.timeouts: dict[int, tuple[float, object]] = {}
        """Likewise the moment and the engine's token."""
        self.fail: dict[str, BaseException] = {}
        """What the next call of a hook raises, by the hook's name."""
        self.during: dict[str, Callable[[], object]] = {}
        """What to do inside the next call of a hook."""
        self._registrations = 0

    def fd_register(self, fd: int, events: int, for_libxl: object) -> int:
        """IOSEventHooks."""
        self._note("fd_register", fd, events, for_libxl)
        self._registrations += 1
        self.fds[self._registrations] = fd, events, for_libxl
        return self._registrations

    def fd_modify(self, fd: int, registration: object, events: int) -> object:
        """IOSEventHooks."""
        self._note("fd_modify", fd, registration, events)
        assert isinstance(registration, int)
        self.fds[registration] = fd, events, self.fds[registration][2]
        return registration

    def fd_deregister(self, fd: int, registration: object) -> None:
        """IOSEventHooks."""
        self._note("fd_deregister", fd, registration)
        assert isinstance(registration, int)
        assert self.fds.pop(registration)[0] == fd

    def timeout_register(self, abs: float, for_libxl: object) -> int:
        """IOSEventHooks."""
        self._note("timeout_register", abs, for_libxl)
        self._registrations += 1
        self.timeouts[self._registrations] = abs, for_libxl
        return self._registrations

    def timeout_modify(self, registration: object, abs: float) -> object:
        """IOSEventHooks."""
        self._note("timeout_modify", registration, abs)
        assert isinstance(registration, int)
        self.timeouts[registration] = abs, self.timeouts[registration][1]
        return registration

    def timeout_deregister(self, registration: object) -> None:
        """IOSEventHooks."""
        raise AssertionError("timeout_deregister is never called")

    def named(self, hook: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of `hook` so far."""
        return [call[1:] for call in self.calls if call[0] == hook]

    def turn(self, engine: IEngine, timeout_ms: int) -> None:
        """Wait until an fd is ready, and report everything that is ready or due."""
        poller = select.poll()
        wanted: dict[int, int] = {}
        for fd, events, _ in self.fds.values():
            wanted[fd] = wanted.get(fd, 0) | events
        for fd, events in wanted.items():
            poller.register(fd, events)
        now = time.time()
        due = [registration for registration, (moment, _) in self.timeouts.items() if moment <= now]
        ready = dict(poller.poll(0 if due else timeout_ms))
        for registration, (fd, events, token) in list(self.fds.items()):
            if registration in self.fds and ready.get(fd, 0) & (events | select.POLLERR | select.POLLHUP):
                engine.osevent_occurred_fd(token, fd, events, ready[fd])
        for registration in due:
            _, token = self.timeouts.pop(registration)
            engine.osevent_occurred_timeout(token)

    def _note(self, hook: str, *arguments: Any) -> None:
        self.calls.append((hook, *arguments))
        if hook in self.during:
            self.during.pop(hook)()
        if hook in self.fail:
            raise self.fail.pop(hook)


@implementer(IEventHooks)
class Listener:
    """Event callbacks that write down what they are given. `then` is done inside each."""

    def __init__(self, typemask: int, disaster: bool) -> None:
        self.event_occurs_mask = typemask
        self.event_occurs: Callable[[Event], None] | None = self._occurs
        self.disaster: Callable[[int, str, int], None] | None = self._disaster if disaster else None
        self.events: list[Event] = []
        self.disasters: list[tuple[int, str, int]] = []
        self.then: Callable[[Event], object] = lambda event: None
        self.at_disaster: Callable[[], object] = lambda: None
        self.barriers = 0

    def _occurs(self, event: Event) -> None:
        if event.for_user == BARRIER:
            self.barriers += 1
            return
        self.events.append(event)
        self.then(event)

    def _disaster(self, type: int, msg: str, errnoval: int) -> None:
        self.disasters.append((type, msg, errnoval))
        self.at_disaster()


class Rig:
    """One engine on a host, and its loop.

    `side` says which column of the table of differences applies, `drive` how the loop works: with osevent hooks, or
    with beforepoll and afterpoll. `patience` is how long a case waits for what must happen, in seconds.
    """

    def __init__(
        self,
        host: Any,
        make_engine: Callable[[], IEngine],
        side: Side,
        drive: Drive = "poll",
        patience: float = 10.0,
    ) -> None:
        self.host = host
        self.side = side
        self.drive = drive
        self.patience = patience
        self.cleanup = contextlib.ExitStack()
        self._make_engine = make_engine
        self.engine = make_engine()
        self.loop = Loop()
        if drive == "hooks":
            self.engine.osevent_register_hooks(self.loop)
        self.cleanup.callback(self.free)
        self._barrier: int | None = None
        self._listener: Listener | None = None

    def another(self) -> Rig:
        """A rig with another engine on the same host, freed with this one."""
        rig = self.fresh()
        self.cleanup.enter_context(rig.cleanup)
        return rig

    def fresh(self, drive: Drive | None = None) -> Rig:
        """A rig with another engine on the same host, with a loop of its own kind, to be freed by its cleanup."""
        return Rig(self.host, self._make_engine, self.side, drive or self.drive, self.patience)

    def expected(self, difference: Difference[_Value]) -> _Value:
        """What is to be seen here, by the table of differences."""
        return difference.on(self.side)

    def free(self) -> None:
        """Free the engine, once the operations that are under way have run out of time and their children ended."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                self.engine.ctx_free()
                return
            except MisuseError:
                if time.monotonic() > deadline or self.engine.dead is not None:
                    raise
            self.engine.osevent_beforepoll()
            self.engine.osevent_afterpoll([], time.time() + 100)
            self.turn(50)

    def listen(self, typemask: int = EVENTMASK_ALL, *, disaster: bool = True) -> Listener:
        """Register callbacks for these types, and for disasters."""
        self._listener = Listener(typemask, disaster)
        self.engine.event_register_callbacks(self._listener)
        return self._listener

    def stop_listening(self) -> None:
        """Take the callbacks back."""
        self.engine.event_register_callbacks(None)
        self._listener = None

    def domain(self, **how: Any) -> int:
        """A new domain."""
        domid: int = self.host.create_domain(**how)
        return domid

    def domain_with_disk(self, vdev: str = "xvda") -> int:
        """A new domain with a removable disk."""
        domid = self.domain()
        self.host.add_disk(domid, vdev)
        return domid

    def turn(self, timeout_ms: int = 0) -> None:
        """Let the engine do what is to be done, after waiting for it for at most so long."""
        if self.drive == "hooks":
            self.loop.turn(self.engine, timeout_ms)
        else:
            self.poll(timeout_ms)

    def poll(self, timeout_ms: int = 0) -> list[tuple[int, int, int]]:
        """One beforepoll, poll and afterpoll. Returns what afterpoll was given."""
        fds, limit_ms = self.engine.osevent_beforepoll()
        results = poll(fds, timeout_ms if limit_ms is None else min(limit_ms, timeout_ms))
        self.engine.osevent_afterpoll(results)
        return results

    def until(self, condition: Callable[[], _Value], what: str) -> _Value:
        """Take turns until `condition` holds, and return what it returned."""
        deadline = time.monotonic() + self.patience
        while not (result := condition()):
            assert time.monotonic() < deadline, f"not within {self.patience} s: {what}"
            self.turn(50)
        return result

    def settle(self) -> None:
        """Return when all that has happened on the host so far has reached the engine.

        xenstored tells a client of changes in the order in which they happen, so an eject that is made now arrives
        last. @releaseDomain does not fire.
        """
        if self._barrier is None:
            self._barrier = self.domain_with_disk("xvdz")
        evgen = self.engine.evenable_disk_eject(self._barrier, "xvdz", BARRIER)
        heard = 0 if self._listener is None else self._listener.barriers
        self.host.eject_disk(self._barrier, "xvdz")
        self.until(
            lambda: (
                (self._listener is not None and self._listener.barriers > heard)
                or self.engine.event_check(mask(EventType.DISK_EJECT), lambda event: event.for_user == BARRIER)
            ),
            "the eject of a disk is reported",
        )
        self.engine.evdisable_disk_eject(evgen)

    def queued(self) -> list[Event]:
        """What is in the engine's queue, taken out."""
        return list(iter(self.engine.event_check, None))

    def events(self) -> list[Event]:
        """What is in the engine's queue once everything has arrived, taken out."""
        self.settle()
        return self.queued()

    def queue_deaths(self, *users: int) -> list[Event]:
        """Put a DomainDeath into the engine's queue for each user value, in this order; what they will be."""
        domids = sorted(self.domain() for _ in users)
        for domid, user in zip(domids, users, strict=True):
            self.engine.evenable_domain_death(domid, user)
        with self.host.quiet():
            for domid in domids:
                self.host.destroy_domain(domid)
        self.settle()
        return [DomainDeath(domid, for_user=user) for domid, user in zip(domids, users, strict=True)]


def poll(fds: Iterable[tuple[int, int]], timeout_ms: int) -> list[tuple[int, int, int]]:
    """poll(2) on (fd, events) pairs; the same with revents."""
    entries = list(fds)
    poller = select.poll()
    wanted: dict[int, int] = {}
    for fd, events in entries:
        wanted[fd] = wanted.get(fd, 0) | events
    for fd, events in wanted.items():
        poller.register(fd, events)
    ready = dict(poller.poll(timeout_ms))
    always = select.POLLERR | select.POLLHUP | select.POLLNVAL
    return [(fd, events, ready.get(fd, 0) & (events | always)) for fd, events in entries]


def users(events: Iterable[Event]) -> list[int]:
    """The user values of events."""
    return [event.for_user for event in events]


def in_a_fresh_process(case: Callable[[], object]) -> None:
    """Run `case` in a fork of this process in which nobody owns SIGCHLD and nobody has children."""
    status, said = _fork(case)
    assert status == 0, f"in the fresh process (wait status {status}):\n{said}"


def signal_that_ends(case: Callable[[], object]) -> int:
    """The number of the signal that ends a fork of this process in which `case` runs; 0 if none does."""
    status, _ = _fork(case)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _fork(case: Callable[[], object]) -> tuple[int, str]:
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        # From Python 3.12 on. The fork's threads are not needed in it.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()
        said, status = b"", 1
        try:
            case()
            status = 0
        except pytest.skip.Exception as skipped:
            said, status = str(skipped).encode(), _SKIPPED
        except BaseException:
            said = traceback.format_exc().encode()
        finally:
            os.write(write_end, said[-60000:])
            os._exit(status)
    os.close(write_end)
    _, status = os.waitpid(pid, 0)
    # A case that failed may have left children, stopped or waiting, and they have its end of the pipe as well.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with open(read_end, "rb") as pipe:
        text = pipe.read().decode()
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _SKIPPED:
        pytest.skip(text)
    return status, text
