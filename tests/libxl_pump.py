# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests of the libxl engine do to it and hang on it."""

from __future__ import annotations

import select
from collections import deque
from typing import Any, NoReturn

from gxl.engines.libxl import LibxlEngine
from gxl.events import EVENTMASK_ALL, Event


class Hooks:
    """IEventHooks that collect."""

    def __init__(self, event_occurs_mask: int = EVENTMASK_ALL, disaster: Any = None) -> None:
        self.event_occurs_mask = event_occurs_mask
        self.events: list[Event] = []
        self.event_occurs: Any = self.events.append
        self.disaster = disaster


class Full(deque[Event]):
    """Memory runs out as it takes its first event."""

    full = True

    def append(self, event: Event) -> None:
        full, self.full = self.full, False
        if full:
            raise MemoryError
        super().append(event)


def pump(engine: LibxlEngine, limit: float = 10.0) -> None:
    """Once round the header's simple loop."""
    fds, timeout_ms = engine.osevent_beforepoll()
    poll = select.poll()
    for fd, events in fds:
        poll.register(fd, events)
    ready = dict(poll.poll(limit * 1000 if timeout_ms is None else min(timeout_ms, limit * 1000)))
    engine.osevent_afterpoll([(fd, events, ready.get(fd, 0)) for fd, events in fds])


def pump_for_ever(engine: LibxlEngine) -> NoReturn:
    while True:
        pump(engine)


def queued(engine: LibxlEngine) -> list[Event]:
    """What is in the queue, left there."""
    seen: list[Event] = []
    engine.event_check(predicate=seen.append)
    return seen


def drained(engine: LibxlEngine) -> list[Event]:
    """What was in the queue, taken off it."""
    return list(iter(engine.event_check, None))
