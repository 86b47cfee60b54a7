# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a Context adds to an event as it delivers it: its number, the time, and whose it is."""

from __future__ import annotations

import itertools
import time
from uuid import UUID

from gxl.drafts import SEALED
from gxl.events import Event
from gxl.metrics import Counters


class Stamps:
    """One Context's: each event that it delivers gets the next `seq`, and is counted."""

    def __init__(self, counters: Counters) -> None:
        self.counts = counters.events
        self.seqs = itertools.count(1)

    def stamp(self, event: Event, uuid: UUID | None, user: int, name: str | None) -> Event:
        """`event` as its Context delivers it. A copy, if it was delivered to somebody before."""
        self.counts[event.type] += 1
        sealed = SEALED.get(event.__class__)
        if sealed is None:
            stamp = event._stamp if event.seq is None else event.stamped
            return stamp(uuid, user, next(self.seqs), time.time(), name)
        event.domuuid, event.for_user, event.name = uuid, user, name
        event.seq, event.time = next(self.seqs), time.time()
        event.__class__ = sealed
        return event
