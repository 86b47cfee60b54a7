# SPDX-License-Identifier: LGPL-2.1-or-later
"""The end of a Context: whoever waits is told, operations are aborted, and libxl is freed once nothing is pending."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

from gxl.errors import GxlError
from gxl.events import EVENTMASK_ALL
from gxl.pump import Pump
from gxl.shield import Shield
from gxl.waiting import Waiters


class Closing:
    """Begins it; wait() or awaited() ends it. All of it within `shield`, but for the waiting.

    What Ctrl-C interrupted could not be resumed: a Context that has been told to close refuses all else.
    """

    def __init__(self, pump: Pump, shield: Shield, error: Callable[[], GxlError]) -> None:
        self._pump = pump
        self._shield = shield
        pump.stop_recovering()
        pump.mailbox.fail(error, EVENTMASK_ALL, closing=True)
        pump.mailbox.discard()
        pump.callbacks.stop()
        for operation in list(pump.operations):
            operation.abort()
        self._waiters = Waiters(pump.binding)
        pump.on_progress(self._waiters.wake)

    def wait(self, timeout: float | None) -> None:
        """Free the engine, waiting for what is pending; after `timeout` seconds abandon it, with a ResourceWarning."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            woken = True
            while not self._pump.free() and woken:
                with self._shield.lifted():
                    woken = self._waiters.wait(_left(deadline))
        finally:
            # Also when the caller is killed here, or may not wait at all.
            self._end(timeout)

    async def awaited(self, timeout: float | None) -> None:
        """wait(), as something to await."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            woken = True
            while not self._pump.free() and woken:
                with self._shield.lifted():
                    woken = await self._waiters.awaited(_left(deadline))
        finally:
            self._end(timeout)

    def _end(self, timeout: float | None) -> None:
        if not self._pump.free():
            self._pump.abandon()
            when = "when close() was interrupted" if timeout is None else f"after {timeout} s"
            warnings.warn(
                f"the libxl context was abandoned, not freed: operations or children were pending {when}",
                ResourceWarning,
                stacklevel=4,
            )


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
