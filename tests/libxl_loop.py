# SPDX-License-Identifier: LGPL-2.1-or-later
"""A minimal event loop for tests: it keeps the register that the header asks of an application."""

from __future__ import annotations

import select
import time
from typing import Any

from gxl.interfaces import IEngine


class Loop:
    """IOSEventHooks that remember. `raises` names hooks that fail, with what they raise."""

    def __init__(self, engine: IEngine) -> None:
        self.engine = engine
        self.fds: dict[object, tuple[int, int, object]] = {}
        self.timeouts: dict[object, tuple[float, object]] = {}
        self.raises: dict[str, BaseException] = {}
        self.log: list[tuple[Any, ...]] = []
        self.during: Any = None
        engine.osevent_register_hooks(self)

    def _called(self, name: str, *arguments: Any) -> None:
        self.log.append((name, *arguments))
        if self.during is not None:
            self.during(name)
        if name in self.raises:
            raise self.raises[name]

    def fd_register(self, fd: int, events: int, for_libxl: object) -> object:
        self._called("fd_register", fd, events)
        registration = object()
        self.fds[registration] = (fd, events, for_libxl)
        return registration

    def fd_modify(self, fd: int, registration: object, events: int) -> object:
        self._called("fd_modify", fd, events)
        self.fds[registration] = (fd, events, self.fds[registration][2])
        return registration

    def fd_deregister(self, fd: int, registration: object) -> None:
        self._called("fd_deregister", fd)
        del self.fds[registration]

    def timeout_register(self, abs: float, for_libxl: object) -> object:
        self._called("timeout_register", abs)
        registration = object()
        self.timeouts[registration] = (abs, for_libxl)
        return registration

    def timeout_modify(self, registration: object, abs: float) -> object:
        self._called("timeout_modify", abs)
        if registration in self.timeouts:
            self.timeouts[registration] = (abs, self.timeouts[registration][1])
        return registration

    def timeout_deregister(self, registration: object) -> None:
        raise AssertionError("libxl never calls this")

    def turn(self, limit: float = 10.0) -> None:
        """Wait until something is ready, and report it."""
        poll = select.poll()
        wanted = dict[int, int]()
        for fd, events, _ in self.fds.values():
            wanted[fd] = wanted.get(fd, 0) | events
        for fd, events in wanted.items():
            poll.register(fd, events)
        now = time.time()
        first = min((when for when, _ in self.timeouts.values()), default=now + limit)
        ready = dict(poll.poll(max(0.0, min(first - now, limit)) * 1000))
        for fd, events, for_libxl in list(self.fds.values()):
            if ready.get(fd, 0) & events:
                self.engine.osevent_occurred_fd(for_libxl, fd, events, ready[fd])
        for registration, (when, for_libxl) in list(self.timeouts.items()):
            if when <= time.time():
                del self.timeouts[registration]
                self.engine.osevent_occurred_timeout(for_libxl)

    def until(self, condition: Any, limit: float = 10.0) -> None:
        """Turn until `condition()`."""
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, "it does not happen"
            self.turn(limit)

    def event(self) -> Any:
        """The next event."""
        found: list[Any] = []

        def check() -> bool:
            event = self.engine.event_check()
            if event is not None:
                found.append(event)
            return bool(found)

        self.until(check)
        return found[0]
