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
from gxl.shield import Shield

Disengage = Callable[[], object]

# So long a turn of the loop may take, in seconds, and so long events come first: where they never end, what has left
# must not pile up.
_SLICE = 0.00025
_PATIENCE = 1.0


class Leaving:
    """Calls that disable an engine's evgens, until they are made: `later` runs a function in a later turn of the loop.

    `lost`: whether a call has failed because the engine is gone, which is known elsewhere then. `busy`: whether there
    are events to deliver.
    """

    def __init__(
        self, later: Callable[[Callable[[], object]], object], lost: Callable[[], bool], busy: Callable[[], bool]
    ) -> None:
        self._later = later
        self._lost = lost
        self._busy = busy
        self._calls: list[Disengage] = []
        self._since = 0.0

    def add(self, disengage: Disengage) -> None:
        """Make this call soon. Never switches or raises."""
        self._calls.append(disengage)
        if len(self._calls) == 1:
            self._since = perf_counter()
            self._later(self._leave)

    def take(self) -> list[Disengage]:
        """Those that were not made, and will not be."""
        calls, self._calls = self._calls, []
        return calls

    def _leave(self) -> None:
        calls = self._calls
        began = perf_counter()
        try:
            if self._busy() and began - self._since < _PATIENCE:
                return
            with Shield():
                while calls:
                    self.call(calls.pop())
                    if perf_counter() - began >= _SLICE:
                        return
        finally:
            # What raises, even Ctrl-C, takes one with it.
            if calls:
                self._later(self._leave)

    def call(self, disengage: Disengage) -> None:
        """Make such a call now."""
        try:
            disengage()
        except (LibxlError, Disaster):
            if not self._lost():
                raise
