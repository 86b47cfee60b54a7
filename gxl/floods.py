# SPDX-License-Identifier: LGPL-2.1-or-later
"""How often a guest may eject a disk before it is not listened to any more.

A guest asks for an eject by writing to xenstore, as often as it likes; each time costs libxl some fifty system calls,
in which the event loop stands still, and the application an event. Inside one call libxl reads on until there is
nothing left to read, and nobody can stop it there. But its evgen can be disabled, and the next call finds nothing.
"""

from __future__ import annotations

import time

EJECTS_AT_ONCE = 1000
"""So many ejects of one disk are reported whenever they come. A guest that means them needs years for as many."""

EJECTS_PER_SECOND = 100.0
"""As many more are, per second that has passed."""


SAID = "domain %d ejects disk %s all the time, and is not listened to any more"


class Allowance:
    """The ejects of one disk that are still to be reported."""

    __slots__ = ("_left", "_since")

    def __init__(self) -> None:
        self._left = float(EJECTS_AT_ONCE)
        self._since = time.monotonic()

    def spend(self) -> bool:
        """Take one eject off; False if that is one too many."""
        now = time.monotonic()
        self._left = min(EJECTS_AT_ONCE, self._left + (now - self._since) * EJECTS_PER_SECOND)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
