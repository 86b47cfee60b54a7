# SPDX-License-Identifier: LGPL-2.1-or-later
"""Those who wait at one object: parked by the hub, and woken together, or one for each thing that there is to take."""

from __future__ import annotations

from collections import OrderedDict

from gxl.errors import MisuseError
from gxl.interfaces import IAwaitableWaiter, IHubBinding, IWaiter


def awaitable(waiter: IWaiter) -> IAwaitableWaiter:
    """`waiter`, if its hub runs coroutines; MisuseError otherwise."""
    if not IAwaitableWaiter.providedBy(waiter):
        raise MisuseError(
            "this hub runs no coroutines, so there is nothing to await: use the blocking form, or open the "
            "Context with hub='asyncio'"
        )
    return waiter


class Waiters:
    """The waiters of one object."""

    __slots__ = ("_binding", "_waiters")

    def __init__(self, binding: IHubBinding) -> None:
        self._binding = binding
        self._waiters: OrderedDict[IWaiter, None] = OrderedDict()

    def wait(self, timeout: float | None) -> bool:
        """Park the caller until wake(). False after `timeout` seconds."""
        waiter = self._binding.waiter()
        self._waiters[waiter] = None
        try:
            return waiter.wait(timeout)
        except BaseException:
            self._hand_on(waiter)
            raise
        finally:
            self._waiters.pop(waiter, None)

    async def awaited(self, timeout: float | None) -> bool:
        """wait(timeout), as something to await."""
        waiter = awaitable(self._binding.waiter())
        self._waiters[waiter] = None
        try:
            return await waiter.awaited(timeout)
        except BaseException:
            self._hand_on(waiter)
            raise
        finally:
            self._waiters.pop(waiter, None)

    def wake(self) -> None:
        """Wake all of them. Never switches."""
        for waiter in self._waiters:
            waiter.wake()

    def wake_one(self) -> None:
        """Wake the one that has waited longest and was not woken yet. If it is killed, another is woken instead."""
        if self._waiters:
            self._waiters.popitem(last=False)[0].wake()

    def _hand_on(self, waiter: IWaiter) -> None:
        if waiter not in self._waiters:
            self.wake_one()
