# SPDX-License-Identifier: LGPL-2.1-or-later
"""The header's six hooks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zope.interface import implementer

from gxl.hubhooks.children import Cancel
from gxl.hubhooks.epollset import Interest
from gxl.interfaces import IOSEventHooks

if TYPE_CHECKING:
    from gxl_trio.binding import TrioBinding


class Timeout:
    """One registration of a timeout."""

    def __init__(self, for_libxl: object) -> None:
        self.for_libxl = for_libxl
        self.cancel: Cancel | None = None


@implementer(IOSEventHooks)
class TrioOSEvent:
    """The hooks of one binding. An EpollSet does what is difficult about fds; timeouts are tasks that sleep."""

    def __init__(self, binding: TrioBinding) -> None:
        self._binding = binding
        self._timeouts: set[Timeout] = set()

    def close(self) -> None:
        """Forget all timeouts."""
        for timeout in tuple(self._timeouts):
            self.timeout_deregister(timeout)

    def fd_register(self, fd: int, events: int, for_libxl: object) -> Interest:
        self._binding.check_open()
        return self._binding.fds.watch(fd, events, for_libxl, self._binding.sink.fd_ready)

    def fd_modify(self, fd: int, registration: object, events: int) -> Interest:
        assert isinstance(registration, Interest)
        self._binding.fds.change(registration, events)
        return registration

    def fd_deregister(self, fd: int, registration: object) -> None:
        assert isinstance(registration, Interest)
        self._binding.fds.forget(registration)

    def timeout_register(self, abs: float, for_libxl: object) -> Timeout:
        self._binding.check_open()
        if isinstance(abs, bool) or not isinstance(abs, (int, float)) or abs != abs:
            raise ValueError(f"abs must be seconds since the epoch, not {abs!r}")
        timeout = Timeout(for_libxl)
        self._timeouts.add(timeout)
        # From the wall clock to the one that trio sleeps by, which does not jump.
        self._start(timeout, abs - time.time())
        return timeout

    def timeout_modify(self, registration: object, abs: float) -> Timeout:
        assert isinstance(registration, Timeout)
        if registration in self._timeouts:
            if registration.cancel is not None:
                registration.cancel()
            self._start(registration, 0)
        return registration

    def timeout_deregister(self, registration: object) -> None:
        assert isinstance(registration, Timeout)
        self._timeouts.discard(registration)
        if registration.cancel is not None:
            registration.cancel()

    def _start(self, timeout: Timeout, seconds: float) -> None:
        def due() -> None:
            if timeout in self._timeouts:
                self._timeouts.remove(timeout)
                self._binding.sink.timeout_due(timeout.for_libxl)

        timeout.cancel = self._binding.later(seconds, due)
