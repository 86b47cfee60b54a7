# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an engine generates no more for anybody, and is to be told so: later, since an event has come first.

To disable an evgen is a call of the engine's, and after the last libxl takes its watch off xenstored and waits for the
answer. Whoever waits for the news that a domain is dead need not wait for that, too; nor for what is done after the
deaths of others.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from gxl.errors import Disaster, LibxlError
from gxl.shield import Shield, unbroken

Disengage = Callable[[], object]

# So long a turn of the loop may take, in seconds, and so long events come first: where they never end, what has left
# must not pile up.
_SLICE = 0.00025
_PATIENCE = 1.0


class Leaving:
    """Calls that disable an engine's evgens, until they are made: `later` runs a function in a later turn of the loop.

    `lost`: whether a call has failed because the engine is gone, which is known elsewhere then. `busy`: whether there
    are events to deliver. `report` takes what is raised.
    """

    def __init__(
        self,
        later: Callable[[Callable[[], object]], object],
        lost: Callable[[], bool],
        busy: Callable[[], bool],
        report: Callable[[BaseException], object],
    ) -> None:
        self._later = later
        self._lost = lost
        self._busy = busy
        self._report = report
        self._calls: list[Disengage] = []
        self._since = 0.0
        self._scheduled = False
        self._turn = unbroken(self._leave, self._failed)

    def add(self, disengage: Disengage) -> None:
        """Make this call soon. Never switches or raises."""
        if not self._calls:
            self._since = perf_counter()
        self._calls.append(disengage)
        self._schedule()

    def take(self) -> list[Disengage]:
        """Those that were not made, and will not be."""
        calls, self._calls = self._calls, []
        return calls

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            try:
                self._later(self._turn)
            except BaseException:
                self._scheduled = False
                raise

    def _leave(self) -> None:
        with Shield():
            self._scheduled = False
            began = perf_counter()
            try:
                if self._busy() and began - self._since < _PATIENCE:
                    return
                # Not a list of our own: a call that finds the engine lost has the others taken.
                while self._calls:
                    self.call(self._calls.pop())
                    if perf_counter() - began >= _SLICE:
                        return
            finally:
                # What raises, even Ctrl-C, takes one with it.
                if self._calls:
                    self._schedule()

    def _failed(self, error: BaseException) -> None:
        # A signal's handler may have raised before anything was done, or when all was. Once too often does no harm.
        self._scheduled = False
        if self._calls:
            self._schedule()
        self._report(error)

    def call(self, disengage: Disengage) -> None:
        """Make such a call now."""
        try:
            disengage()
        except (LibxlError, Disaster):
            if not self._lost():
                raise
