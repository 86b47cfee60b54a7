# SPDX-License-Identifier: LGPL-2.1-or-later
"""What parks a task."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio
from zope.interface import implementer

from gxl.errors import MisuseError
from gxl.interfaces import IAwaitableWaiter

if TYPE_CHECKING:
    from gxl_trio.binding import TrioBinding


@implementer(IAwaitableWaiter)
class TrioWaiter:
    """Made by TrioBinding.waiter."""

    def __init__(self, binding: TrioBinding) -> None:
        self._binding = binding
        self._woken = False
        self._event: trio.Event | None = None

    def wait(self, timeout: float | None) -> bool:
        self._binding.check_can_block("await the waiter's awaited()")
        return False

    async def awaited(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._woken and (deadline is None or deadline > time.monotonic()):
            self._binding.check_can_wait()
            if self._event is not None:
                raise MisuseError("another task waits here already")
            self._event = trio.Event()
            try:
                with trio.CancelScope() as scope:
                    if deadline is not None:
                        scope.deadline = trio.current_time() + deadline - time.monotonic()
                    await self._event.wait()
            finally:
                self._event = None
        woken, self._woken = self._woken, False
        return woken

    def wake(self) -> None:
        self._woken = True
        if self._event is not None:
            self._event.set()
