# SPDX-License-Identifier: LGPL-2.1-or-later
"""Expecting one event: armed before the action that causes it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from functools import partial
from typing import Any, Self

from gxl.arguments import check_callable, check_timeout
from gxl.domains import locate, located
from gxl.errors import ContextClosed, Disaster, GxlError, MisuseError, WaitTimeout
from gxl.events import Event, EventsLost, EventType
from gxl.interfaces import Predicate
from gxl.pump import Pump
from gxl.waiting import Waiters

_LIFE = 1 << EventType.DOMAIN_SHUTDOWN | 1 << EventType.DOMAIN_DEATH
_EJECT = 1 << EventType.DISK_EJECT


class Expectation:
    """One event that is expected: made by Context.expect, armed by its `with` block, or `async with`."""

    def __init__(
        self, pump: Pump, domain: int | str, typemask: int, vdev: str | None, predicate: Predicate | None
    ) -> None:
        if not typemask or typemask & ~(_LIFE | _EJECT):
            raise ValueError("what can be expected is DomainShutdown, DomainDeath and DiskEject")
        if bool(typemask & _EJECT) != (vdev is not None):
            raise ValueError(f"a DiskEject is expected of one disk, whose name is vdev: not {vdev!r}")
        check_callable(predicate, "predicate")
        self._pump = pump
        self._domain = domain
        self._typemask = typemask
        self._vdev = vdev
        self._predicate = predicate
        self._waiters = Waiters(pump.binding)
        self._armed = contextlib.ExitStack()
        self._was_armed = False
        self._ended: GxlError | BaseException | None = None
        # What was true already when it was armed, until the domain's name has come.
        self._held: list[Event] = []
        self.event: Event | None = None
        """The event, once it has come."""

    def wait(self, timeout: float | None = None) -> Event:
        """The event; waits for it, cooperatively.

        Raises WaitTimeout after `timeout` seconds, what the predicate raised, and ContextClosed or Disaster if the
        context ended first. Outside the `with` block, and without an event, MisuseError.
        """
        pump = self._pump
        pump.binding.check_caller()
        timeout = check_timeout(timeout)
        pump.check_can_block("await the expectation itself")
        self._check_armed()
        with pump.lock:
            if not self._settled() and not self._waiters.wait(timeout):
                self._judge_held()
            if not self._settled():
                kinds = " or ".join(kind.name for kind in EventType if self._typemask >> kind & 1)
                raise WaitTimeout(f"no {kinds} of domain {self._domain} that was expected came within {timeout} s")
            return self._result()

    def __await__(self) -> Generator[Any, Any, Event]:
        """wait(), where the loop runs coroutines."""
        self._pump.binding.check_caller()
        self._check_armed()
        if not self._settled():
            yield from self._waiters.awaited(None).__await__()
        return self._result()

    def __enter__(self) -> Self:
        self._pump.binding.check_caller()
        if self._pump.freed:
            raise ContextClosed("the Context was closed")
        if self._was_armed:
            raise MisuseError("an expectation is used once: ask the Context for another")
        domid = locate(self._pump, self._domain)
        self._was_armed = True
        feeds = self._pump.feeds
        with self._pump.lock, contextlib.ExitStack() as arming:
            self._pump.enders[self] = None
            arming.callback(self._pump.enders.pop, self, None)
            if self._typemask & _LIFE:
                arming.enter_context(feeds.watch_domain(domid, 0, self._take, present=True))
            if self._vdev is not None:
                arming.enter_context(feeds.watch_disk(domid, self._vdev, 0, self._take))
            self._armed = arming.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._pump.check_caller()
        with self._pump.lock:
            self._armed.close()
            self.end(MisuseError("the expectation's `with` block is over, and the event had not come"))

    async def __aenter__(self) -> Self:
        """As `with`, where the loop runs coroutines: the domain may be given by its name."""
        self._pump.binding.check_caller()
        self._domain = await located(self._pump, self._domain)
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.__exit__()

    def end(self, error: GxlError) -> None:
        """No event will come any more."""
        self._judge_held()
        if not self._settled():
            self._ended = error
            self._waiters.wake()

    def resynced(self, reason: str, since: float) -> None:
        """The event may still come."""

    def missed(self, disaster: Disaster) -> bool:
        """It may have been the event that is expected."""
        if self._settled() or not self._typemask >> disaster.type & 1:
            return False
        self.end(disaster.again())
        return True

    def _take(self, event: Event) -> None:
        if isinstance(event, EventsLost):
            self.end(
                GxlError(f"domain {event.domid} ejected {self._vdev} so often that it is not listened to any more")
            )
        elif self._pump.feeds.names.when_named(event, partial(self._christen, event)):
            self._held.append(event)
        else:
            self._judge(event)

    def _christen(self, event: Event, named: Event) -> None:
        if event in self._held:
            self._held.remove(event)
            self._judge(named)

    def _judge_held(self) -> None:
        held, self._held = self._held, []
        for event in held:
            self._judge(event)

    def _judge(self, event: Event) -> None:
        if self._settled() or not self._typemask >> event.type & 1:
            return
        try:
            if self._predicate is not None:
                with self._pump.binding.no_switch():
                    if not self._predicate(event):
                        return
            self.event = event
        except BaseException as error:
            self._ended = error
        self._waiters.wake()

    def _check_armed(self) -> None:
        if not self._was_armed:
            raise MisuseError("nothing is expected yet: wait inside the expectation's `with` block, which arms it")

    def _settled(self) -> bool:
        return self.event is not None or self._ended is not None

    def _result(self) -> Event:
        if self.event is not None:
            return self.event
        if self._ended is None:
            raise ContextClosed("the Context was closed")
        raise self._ended
