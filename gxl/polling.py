# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pumping without a loop: what the thread that waits polls for, and what it does then.

An engine without osevent hooks says by beforepoll what to poll for, and does its work in afterpoll. gxl's own fd (the
side channel's) has no engine to speak for it, so it is registered here, by the same hooks that a loop offers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zope.interface import implementer

from gxl.errors import GxlError
from gxl.interfaces import IOSEventHooks, IPollSource

if TYPE_CHECKING:
    from gxl.pump import Pump
    from gxl.reign import Reign


class _Interest:
    __slots__ = ("events", "fd", "for_libxl")

    def __init__(self, fd: int, events: int, for_libxl: object) -> None:
        self.fd = fd
        self.events = events
        self.for_libxl = for_libxl


@implementer(IPollSource, IOSEventHooks)
class Polling:
    """What there is to poll for at one pump: the engine's interest, and gxl's own."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._asked: list[tuple[Reign, int]] = []
        self._polled: list[_Interest] = []
        self._interests: dict[_Interest, None] = {}
        self._timeouts: dict[object, tuple[float, object]] = {}

    def before_poll(self) -> tuple[list[tuple[int, int]], float | None]:
        fds: list[tuple[int, int]] = []
        spans: list[float] = []
        self._asked.clear()
        for reign in self._pump.reigns():
            if reign.served and reign.engine.dead is None:
                try:
                    wanted, timeout_ms = reign.engine.osevent_beforepoll()
                except GxlError as error:
                    self._pump.binding.report(error)
                    continue
                self._asked.append((reign, len(wanted)))
                fds += wanted
                spans += [] if timeout_ms is None else [timeout_ms / 1000]
        self._polled = list(self._interests)
        fds += [(interest.fd, interest.events) for interest in self._polled]
        spans += [moment - time.monotonic() for moment, _ in self._timeouts.values()]
        return fds, min(spans, default=None)

    def after_poll(self, fds: list[tuple[int, int, int]]) -> None:
        for reign, count in tuple(self._asked):
            polled, fds = fds[:count], fds[count:]
            self._pump.polled(reign, polled)
        for interest, (fd, events, revents) in zip(self._polled, fds, strict=True):
            if revents and interest in self._interests:
                self._pump.fd_ready(interest.for_libxl, fd, events, revents)
        for registration, (moment, for_libxl) in list(self._timeouts.items()):
            if moment <= time.monotonic():
                try:
                    del self._timeouts[registration]
                    self._pump.timeout_due(for_libxl)
                except BaseException:  # Ctrl-C
                    self._pump.struck()
                    raise

    def fd_register(self, fd: int, events: int, for_libxl: object) -> _Interest:
        interest = _Interest(fd, events, for_libxl)
        self._interests[interest] = None
        return interest

    def fd_modify(self, fd: int, registration: object, events: int) -> _Interest:
        assert isinstance(registration, _Interest)
        registration.events = events
        return registration

    def fd_deregister(self, fd: int, registration: object) -> None:
        assert isinstance(registration, _Interest)
        del self._interests[registration]

    def timeout_register(self, abs: float, for_libxl: object) -> object:
        registration = object()
        self._timeouts[registration] = (abs - time.time() + time.monotonic(), for_libxl)
        return registration

    def timeout_modify(self, registration: object, abs: float) -> object:
        if registration in self._timeouts:
            self._timeouts[registration] = (0.0, self._timeouts[registration][1])
        return registration

    def timeout_deregister(self, registration: object) -> None:
        self._timeouts.pop(registration, None)
