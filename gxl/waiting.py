# SPDX-License-Identifier: LGPL-2.1-or-later
"""Those who wait for one thing to change: parked by the hub, woken together."""

from __future__ import annotations

from gxl.errors import MisuseError
from gxl.interfaces import IAwaitableWaiter, IHubBinding, IWaiter


def awaitable(waiter: IWaiter) -> IAwaitableWaiter:
    """`waiter`, if its hub runs coroutines; MisuseError otherwise."""
    if not IAwaitableWaiter.providedBy(waiter):
        raise MisuseError("this hub runs no coroutines, so there is nothing to await: use the blocking form")
    return waiter


class Waiters:
    """The waiters of one object."""

    __slots__ = ("_binding", "_waiters")

    def __init__(self, binding: IHubBinding) -> None:
        self._binding = binding
        self._waiters: list[IWaiter] = []

    def wait(self, timeout: float | None) -> bool:
        """Park the caller until wake(). False after `timeout` seconds."""
        waiter = self._binding.waiter()
        self._waiters.append(waiter)
        try:
            return waiter.wait(timeout)
        finally:
            self._waiters.remove(waiter)

    async def awaited(self, timeout: float | None) -> bool:
        """wait(timeout), as something to await."""
        waiter = awaitable(self._binding.waiter())
        self._waiters.append(waiter)
        try:
            return await waiter.awaited(timeout)
        finally:
            self._waiters.remove(waiter)

    def wake(self) -> None:
        """Wake all of them. Never switches."""
        for waiter in self._waiters:
            waiter.wake()
