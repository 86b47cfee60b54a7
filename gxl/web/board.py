# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all browsers look at: the host's domains and its latest events, kept once, by one watcher.

Nobody who reads the board has a queue on it, only a Cursor: how far it has read. Events are numbered and the latest of
them kept, so a reader that falls further behind is told how many it missed. Domains are versioned, not queued: a reader
gets those that have changed since it last looked, once, however often they changed. So a slow reader costs no memory
and delays nobody, and one that comes back with its cursor goes on where it was.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gevent
from gevent.event import Event as Flag
from gevent.lock import BoundedSemaphore

from gxl.context import Context
from gxl.domains import Domain
from gxl.errors import ContextClosed, GxlError, Outage
from gxl.events import Event, ShutdownReason
from gxl.interfaces import DomainInfo

_log = logging.getLogger("gxl.web")

HISTORY = 1000
"""How many events are kept, and how many domains that are gone are remembered."""
REFRESH = 5.0
"""Seconds between looks at what nothing reports: pauses, memory, processor time. Only while somebody reads."""
PACE = 0.05
"""Readers are woken, and domains looked at, no more often than so many seconds: in a storm, one wake-up tells much."""
_IDENTITY = ("uuid", "name", "state", "shutdown_reason")
_ID = re.compile(r"([0-9a-f]{8})\.(\d{1,15})\.(-?\d{1,15})")


class Cursor(NamedTuple):
    """How far a reader has read. As text it is the id of a server-sent event."""

    epoch: str
    """Which board: numbers begin anew with each."""
    number: int
    """The latest event."""
    version: int
    """The latest change to a domain; -1: none."""

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}.{self.version}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """The cursor that `text` shows; None if it shows none."""
        found = _ID.fullmatch(text)
        return None if found is None else cls(found[1], int(found[2]), int(found[3]))


class Board:
    """Follows a Context's host, for any number of readers in its thread."""

    def __init__(self, ctx: Context, heartbeat: float) -> None:
        self.epoch = secrets.token_hex(4)
        self.over = Flag()
        """Set once nothing new will be shown any more."""
        self.closed = False
        self.readers = 0
        self.missed = 0
        self._ctx = ctx
        self._end = ""
        self._heartbeat = heartbeat
        # Each as it goes into JSON, and as JSON.
        self._events: deque[tuple[dict[str, Any], str]] = deque(maxlen=HISTORY)
        self._number = 0
        self._domains: dict[int, dict[str, Any]] = {}
        self._versions: dict[int, int] = {}
        self._gone: deque[tuple[int, int]] = deque()
        self._version = 0
        self._forgotten = 0
        self._told: dict[int, str] = {}
        self._time = 0.0
        self._looking = BoundedSemaphore()
        self._looked = self._figures = -math.inf
        self._slowness = 0.0
        self._changed = Flag()
        self._dirty = Flag()
        self._news = Flag()
        self._watcher = ctx.watch(maxlen=10 * HISTORY)
        self._follower = _Appearances(self._changed)
        ctx._pump.followings[self._follower] = None
        self.refresh()
        self._greenlets = [gevent.spawn(work) for work in (self._follow, self._look_again, self._announce, self._beat)]

    @property
    def problem(self) -> str:
        """Why nothing new is shown, for now or for good; empty while all is well."""
        return self._end or ("" if self._ctx.outage is None else str(self._ctx.outage))

    def close(self) -> None:
        """Stop following, and send the readers away. Idempotent."""
        if self.closed:
            return
        self.closed = True
        gevent.killall(self._greenlets)
        self._wake()
        self._ctx._pump.followings.pop(self._follower, None)
        self._watcher.close()

    def show(self, event: Event) -> None:
        """Put an event on the board."""
        content = event.as_dict()
        self._number += 1
        self._events.append((content, json.dumps(content)))
        self._dirty.set()

    def start(self) -> Cursor:
        """Where a reader begins that has read nothing: all domains, and the events that are still here."""
        return Cursor(self.epoch, self._number - len(self._events), -1)

    def knows(self, cursor: Cursor) -> bool:
        """Whether `cursor` is this board's: not a former one's, nor invented."""
        return cursor.epoch == self.epoch and cursor.number <= self._number and cursor.version <= self._version

    def events(self) -> list[dict[str, Any]]:
        """The events that are still here, oldest first."""
        return [content for content, _ in self._events]

    def domains(self) -> list[dict[str, Any]]:
        """All domains, by domid."""
        return [self._domains[domid] for domid in sorted(self._domains)]

    def refresh(self) -> None:
        """Look at the domains now. Waits, cooperatively, for their names. Those who ask at once share one look."""
        self._look(time.monotonic())

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Inside, there is a reader, for whom figures are kept up to date."""
        self.readers += 1
        self._changed.set()
        try:
            yield
        finally:
            self.readers -= 1

    def newer(self, cursor: Cursor) -> bool:
        """Whether there is something that a reader at `cursor` has not read."""
        return cursor.number < self._number or cursor.version < self._version

    def wait(self) -> None:
        """Until there is something new, or a heartbeat is due."""
        self._news.wait()

    def after(self, cursor: Cursor, most: int = 200) -> tuple[list[bytes], Cursor]:
        """What is new since `cursor`, a message each, and the cursor after it; at most so many events."""
        messages = []
        if cursor.version < self._version:
            told = self._domains_since(cursor.version)
            cursor = cursor._replace(version=self._version)
            messages.append(message("domains", told, cursor))
        first = self._number - len(self._events) + 1
        if cursor.number + 1 < first:
            count = first - 1 - cursor.number
            self.missed += count
            cursor = cursor._replace(number=first - 1)
            messages.append(message("missed", json.dumps({"count": count}), cursor))
        begin = cursor.number + 1 - first
        for _, text in itertools.islice(self._events, begin, begin + most):
            cursor = cursor._replace(number=cursor.number + 1)
            messages.append(message("event", text, cursor))
        return messages, cursor

    def _domains_since(self, version: int) -> str:
        told = self._told.get(version)
        if told is None:
            everything = version < self._forgotten
            changed = [self._domains[domid] for domid, at in self._versions.items() if everything or at > version]
            gone = {domid for at, domid in self._gone if at > version} - self._domains.keys()
            content = {"all": everything, "changed": changed, "gone": [] if everything else sorted(gone)}
            told = json.dumps(content)
            # Most readers are equally far. Those who lag, each elsewhere, are few.
            if len(self._told) < 10:
                self._told[version] = told
        return told

    def _look(self, since: float) -> None:
        with self._looking:
            if self._looked >= since:
                return
            self._looked, self._time = time.monotonic(), time.time()
            present = self._ctx.list_domain()
            self._slowness = time.monotonic() - self._looked
        self._take({domain.domid: _row(domain) for domain in present})

    def _take(self, present: dict[int, dict[str, Any]]) -> None:
        # Memory and processor time are taken over now and then only: readers would be sent every domain in each look.
        figures = self._looked - self._figures >= REFRESH
        if figures:
            self._figures = self._looked
        changed = []
        for domid, row in present.items():
            known = self._domains.get(domid)
            if known is not None and all(known[key] == row[key] for key in (row if figures else _IDENTITY)):
                present[domid] = known
            else:
                row["time"] = self._time
                changed.append(domid)
        gone = self._domains.keys() - present.keys()
        if not changed and not gone:
            return
        self._version += 1
        self._told.clear()
        for domid in changed:
            self._versions[domid] = self._version
        for domid in gone:
            del self._versions[domid]
            self._gone.append((self._version, domid))
        while len(self._gone) > HISTORY:
            self._forgotten, _ = self._gone.popleft()
        self._domains = present
        self._dirty.set()

    def _wake(self) -> None:
        # One flag, set and cleared again, would miss those who are about to wait for it.
        news, self._news = self._news, Flag()
        news.set()

    def _announce(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            self._wake()
            gevent.sleep(PACE)

    def _beat(self) -> None:
        while True:
            gevent.sleep(self._heartbeat)
            self._wake()

    def _follow(self) -> None:
        with self._over_with_the_context():
            for event in self._watcher:
                self.show(event)
                self._changed.set()

    def _look_again(self) -> None:
        with self._over_with_the_context():
            while True:
                if self._changed.wait(REFRESH) or self.readers:
                    self._changed.clear()
                    try:
                        self.refresh()
                    except Outage:
                        self._dirty.set()
                    # A host that takes long to look at is looked at less often.
                    gevent.sleep(max(PACE, 10 * self._slowness))

    @contextmanager
    def _over_with_the_context(self) -> Iterator[None]:
        try:
            yield
        except ContextClosed:
            self._end = "the program has closed its Context"
        except GxlError as error:
            self._end = str(error)
            _log.error("the page shows nothing new any more: %s", error)
        else:
            return
        self.over.set()
        self._dirty.set()


class _Appearances:
    """Hears from the pump that there may be new domains. Their events are the watcher's."""

    def __init__(self, changed: Flag) -> None:
        self.sink: Callable[[Event], object] = _nothing
        self._changed = changed

    def look(self, domains: Iterable[DomainInfo]) -> None:
        self._changed.set()


def _nothing(event: Event) -> None:
    pass


def message(kind: str, data: str, cursor: Cursor | None = None) -> bytes:
    """A server-sent event. `data` is JSON, on one line."""
    head = "" if cursor is None else f"id: {cursor}\n"
    return f"{head}event: {kind}\ndata: {data}\n\n".encode()


def _row(domain: Domain) -> dict[str, Any]:
    reason = domain.shutdown_reason
    return {
        "domid": domain.domid,
        "uuid": str(domain.uuid),
        "name": domain.name,
        "state": domain.state,
        "shutdown_reason": reason.name.lower() if isinstance(reason, ShutdownReason) else reason,
        "current_memory_kb": domain.current_memory_kb,
        "max_memory_kb": domain.max_memory_kb,
        "cpu_time": round(domain.cpu_time, 1),
    }
