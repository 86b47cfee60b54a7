# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every part of the embedded engine shares: the lock, the event queue, and the way in and out of the engine.

Every public call is an Entry. While it holds the lock the application's code must not come back in; what the
application is to be told is collected meanwhile, and told after the lock is released: first its events, then its
operations' ends, in the order in which they happened.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from _thread import RLock
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import get_native_id
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from gxl.engines.embedded import native
from gxl.engines.embedded.osevents import OSEvents
from gxl.errors import Disaster, MisuseError
from gxl.eventqueue import EventQueue
from gxl.events import Event, EventType
from gxl.shield import Shield

logger = logging.getLogger("gxl.embedded")

_Result = TypeVar("_Result")


class StoreLost(Exception):
    """Unwinds a call at whose hands the connection to xenstored broke. Never leaves the engine."""


class EventHooks(NamedTuple):
    """IEventHooks, checked."""

    event_occurs_mask: int = 0
    event_occurs: Callable[[Event], object] | None = None
    disaster: Callable[[int, str, int], object] | None = None


class Entry:
    """One call into the engine, from taking the lock to the last callback. `nested`: this thread is in another one.

    Handlers of signals wait until it ends, but for those that come while the application's code runs: one that raised
    in its midst would leave the engine for ever in a call that nobody makes.
    """

    __slots__ = ("_core", "_shield", "_thread", "completions", "errors", "events", "log", "nested")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._shield = Shield()
        # Not get_ident, which under gevent's patches tells greenlets apart.
        self._thread = get_native_id()
        self.nested = False
        self.log: list[tuple[int, str]] = []
        self.events: deque[Event] = deque()
        self.completions: deque[tuple[Callable[[int], object], int]] = deque()
        self.errors: list[BaseException] = []

    def __enter__(self) -> Entry:
        core = self._core
        self._shield.__enter__()
        core.lock.acquire()
        if core.entry is not None:
            core.lock.release()
            self._shield.__exit__()
            raise MisuseError(
                "the engine was called from inside one of its own hooks or predicates: note what is to be done, and do "
                "it when the engine call that led there has returned"
            )
        core.entry = self
        depth = core.inside.get(self._thread, 0)
        core.inside[self._thread] = depth + 1
        self.nested = depth > 0
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        core = self._core
        core.osevents.wake_outdated()
        core.entry = None
        core.lock.release()
        try:
            # Handlers of the log may do anything, such as to wait for a lock, which is no business of the engine's.
            if self.log:
                self._run(core.later, self._pass_on)
            while self.events or self.completions:
                if self.events:
                    self._tell(core.event_hooks.event_occurs, self.events.popleft())
                else:
                    self._tell(*self.completions.popleft())
        finally:
            with core.lock:
                core.inside[self._thread] -= 1
                if not core.inside[self._thread]:
                    del core.inside[self._thread]
        try:
            self._shield.__exit__()
        except BaseException as struck:
            self.errors.append(struck)
        if isinstance(error, StoreLost):
            assert core.dead is not None
            error = None if self.errors else core.dead.again()
        if self.errors or kind is StoreLost:
            raise_all([*([error] if error else []), *self.errors])

    def _pass_on(self) -> None:
        for level, message in self.log:
            try:
                logger.log(level, "%s", message)
            except Exception:
                if logging.raiseExceptions:
                    traceback.print_exc()

    def _tell(self, callback: Callable[[Any], object] | None, argument: object) -> None:
        assert callback is not None
        self._run(self._guarded, callback, argument)

    def _guarded(self, callback: Callable[[Any], object], argument: object) -> None:
        with self._core.guard():
            callback(argument)

    def _run(self, f: Callable[..., object], *args: object) -> None:
        """Call what is the owner's. A Context is quick, and may not be interrupted; others may take their time."""
        try:
            with nullcontext() if self._core.claimed else self._shield.lifted():
                f(*args)
        except BaseException as error:
            self.errors.append(error)


def _at_once(f: Callable[[], object]) -> None:
    f()


class Core:
    """The state of one ctx that is nobody's in particular."""

    def __init__(self) -> None:
        # Not threading's, which under gevent's patches would switch greenlets.
        self.lock = RLock()
        self.entry: Entry | None = None
        # How many calls each thread is in, one inside the other.
        self.inside: dict[int, int] = {}
        self.claimed = False
        """Whether a Context owns the engine."""
        self.guard: Callable[[], AbstractContextManager[object]] = nullcontext
        self.later: Callable[[Callable[[], object]], object] = _at_once
        self.queue = EventQueue()
        self.event_hooks = EventHooks()
        self.dead: Disaster | None = None
        self.on_death: Callable[[], None] = lambda: None
        self.refusal = ""
        """Why every call raises MisuseError; empty if none does."""
        self.osevents = OSEvents(self)
        self._pid = os.getpid()
        self._last_seq = 0

    @property
    def in_child(self) -> bool:
        """Whether this is a fork of the process that opened the engine."""
        return os.getpid() != self._pid

    def enter(self, even_dead: bool = False) -> Entry:
        """The way in, for everything but ctx_free. Raises where the engine can't be used (any more)."""
        self.check_usable()
        if self.dead is not None and not even_dead:
            raise self.dead.again()
        return Entry(self)

    def check_usable(self) -> None:
        if self.refusal:
            raise MisuseError(self.refusal)
        if self.in_child:
            raise MisuseError("this engine belongs to the parent process: call postfork_child_noexec and open another")

    def occurred(self, event: Event) -> None:
        """Route an event: to the application's callback, or into the queue."""
        if self.event_hooks.event_occurs_mask >> event.type & 1:
            self._current.events.append(event)
            return
        self._last_seq += 1
        self.queue.put(self._last_seq, event)
        self.osevents.wake_waiting()

    def completed(self, callback: Callable[[int], object], rc: int) -> None:
        """An operation that is reported to a callback has ended."""
        self._current.completions.append((callback, rc))

    def keep(self, error: BaseException) -> None:
        """Let the engine call that is under way raise `error` at its end."""
        self._current.errors.append(error)

    def log(self, level: int, message: str) -> None:
        """Say something, as soon as the lock is released."""
        self._current.log.append((level, message))

    def disaster(
        self, type: int, message: str, errnoval: int = 0, *, fatal: bool = True, cause: BaseException | None = None
    ) -> None:
        """Events of this type (0: of all types) may be missing. If `fatal`, the engine is dead from now on."""
        disaster = Disaster(type, message, errnoval)
        disaster.__cause__ = cause
        related = f" (relates to event type {EventType(type).name})" if type else ""
        self.log(logging.CRITICAL, f"DISASTER in event loop: {disaster}{related}")
        if fatal and self.dead is None:
            self.dead = disaster
            self.on_death()
        if self.event_hooks.disaster is None:
            self.keep(disaster)
            return
        try:
            with self.guard():
                self.event_hooks.disaster(type, message, errnoval)
        except BaseException as error:
            self.keep(error)

    @contextmanager
    def unlocked(self) -> Iterator[None]:
        """Lets the application's code, run inside the block, call the engine in the middle of an entry."""
        entry, self.entry = self.entry, None
        self.lock.release()
        try:
            with self.guard():
                yield
        finally:
            self.lock.acquire()
            self.entry = entry

    def run_until(self, done: Callable[[], _Result | None], errors: list[Exception] | None = None) -> _Result:
        """Block the calling thread, and do the engine's work, until `done`, called with the lock held, says so.

        Callbacks run meanwhile. What they raise goes to `errors`; without that list the first of them ends this.
        """
        with self.lock:
            poller = self.osevents.start_waiting()
        try:
            while True:
                with self.enter():
                    result = done()
                    if result is not None:
                        return result
                    fds, timeout_ms = self.osevents.beforepoll(poller, time.time())
                results = native.poll(fds, timeout_ms)
                entry = self.enter()
                try:
                    with entry:
                        self.osevents.afterpoll(poller, results, time.time())
                except Exception as error:
                    if errors is None:
                        raise
                    errors.append(error)
        finally:
            with self.lock:
                self.osevents.stop_waiting(poller)

    @property
    def _current(self) -> Entry:
        assert self.entry is not None
        return self.entry


def raise_all(errors: Sequence[BaseException]) -> None:
    """Raise what went wrong in one call, as a group only if it is more than one thing."""
    if len(errors) > 1:
        raise BaseExceptionGroup("several things failed in one engine call", errors)
    if errors:
        raise errors[0]
