# SPDX-License-Identifier: LGPL-2.1-or-later
"""An application's callbacks at Context level: run one after the other, in code of their own.

libxl calls event_occurs from whatever call happened to find the event, with callers up the stack that hold locks: the
classic deadlock of its users. Here an event for a callback joins a list, and one greenlet (or what the hub has
instead) works the list off. It lives only while there is work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from gxl.arguments import check_callable, check_typemask
from gxl.errors import Disaster
from gxl.events import Event
from gxl.interfaces import ICoroutineBinding, IEventHooks, IHubBinding


class Callbacks:
    """The hooks of Context.event_register_callbacks, and what is still to be told them."""

    def __init__(self, binding: IHubBinding, lock: AbstractContextManager[object]) -> None:
        self._binding = binding
        self._lock = lock
        self._awaits = ICoroutineBinding.providedBy(binding)
        self._hooks: IEventHooks | None = None
        self.mask = 0
        """The types of the events that are for a callback."""
        self._work: deque[Callable[[], object]] = deque()
        self._running = False
        self._stopped = False

    def register(self, hooks: IEventHooks | None) -> None:
        """Use these from now on. What is listed already still goes to those it was listed for."""
        if hooks is not None:
            hooks = IEventHooks(hooks)
            check_typemask(hooks.event_occurs_mask)
            check_callable(hooks.event_occurs, "event_occurs")
            check_callable(hooks.disaster, "disaster")
            if hooks.event_occurs_mask and hooks.event_occurs is None:
                raise ValueError(f"a mask of {hooks.event_occurs_mask:#x} needs a callable event_occurs")
        self._hooks = hooks
        self.mask = 0 if hooks is None else hooks.event_occurs_mask

    def event(self, event: Event) -> None:
        """List `event` for the callback: its type is in `mask`."""
        assert self._hooks is not None
        occurs = self._hooks.event_occurs
        self._list(lambda: occurs(event))

    def disaster(self, disaster: Disaster) -> bool:
        """Whether there is a callback for `disaster`; if so it is listed."""
        hooks = self._hooks
        if hooks is None or hooks.disaster is None:
            return False
        tell = hooks.disaster
        self._list(lambda: tell(disaster.type, disaster.message, disaster.errnoval))
        return True

    def stop(self) -> None:
        """Forget what is listed; a callback that is running ends in its own time."""
        self._stopped = True
        self._work.clear()

    def _list(self, work: Callable[[], object]) -> None:
        if self._stopped:
            return
        self._work.append(work)
        if not self._running:
            self._running = True
            self._binding.spawn(self._run)

    def _run(self) -> object:
        while work := self._next():
            try:
                result = work()
            except Exception as error:
                self._binding.report(error)
            except BaseException:
                # A callback may end its greenlet (GreenletExit is no Exception); the rest must still run.
                self._binding.spawn(self._run)
                raise
            else:
                if self._awaits and isinstance(result, Awaitable):
                    return self._finish(result)
        return None

    async def _finish(self, result: Awaitable[object]) -> None:
        try:
            await result
        except Exception as error:
            self._binding.report(error)
        finally:
            self._binding.spawn(self._run)

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            if self._work:
                return self._work.popleft()
            self._running = False
            return None
