# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeps greenlets from switching where code of ours runs inside libxl."""

from __future__ import annotations

import weakref
from _thread import RLock
from collections.abc import Callable
from typing import Any

from gevent.exceptions import BlockingSwitchOutError
from greenlet import getcurrent, greenlet

from gxl.errors import MisuseError


class SwitchRefused(MisuseError, BlockingSwitchOutError):
    """Code that runs inside libxl tried to switch to another greenlet."""


class Guard:
    """Keeps greenlets from switching to the hub while `lock` is held. One per binding.

    A lock is left in one step of C. As a __exit__ of ours began, a signal handler could raise, and no greenlet could
    switch any more. So who is refused, is told when it tries, by whether the lock is held then.
    """

    __slots__ = ("_holder", "_hub", "entered", "lock")

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self.lock = RLock()
        self.entered: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]  # threading.Condition asks it, too; typeshed lacks it
        self._holder: weakref.ref[greenlet] = weakref.ref(hub)

    def arm(self) -> RLock:
        """The lock, for the current greenlet to hold."""
        current = getcurrent()
        if self.entered():
            self.check(current)
        elif self._holder() is not current:
            self._holder = weakref.ref(current)
        # The hub asks the greenlet that switches to it by this attribute first. It refuses its own calls itself.
        if current is not self._hub:
            attributes = current.__dict__
            before = attributes.get("switch_out")
            if not isinstance(before, _SwitchOut):
                attributes["switch_out"] = _SwitchOut(self.entered, before)
        return self.lock

    def check(self, current: greenlet) -> None:
        """Raises MisuseError if another greenlet holds the lock."""
        # A bare greenlet.switch() or Waiter.switch() gets past the hub. libxl's lock is recursive: it would let the
        # greenlet that runs now in, and that one would overwrite the other's C stack.
        if self.entered() and self._holder() is not current:
            raise MisuseError(
                f"{self._holder()!r} switched away from inside libxl, where no other greenlet may enter now"
            )


class _SwitchOut:
    """A greenlet's attribute switch_out, which is called before it switches to the hub, from arm() to the next time."""

    __slots__ = ("_before", "_refused")

    def __init__(self, refused: Callable[[], bool], before: Callable[[], object] | None) -> None:
        self._refused = refused
        self._before = before

    def __call__(self) -> None:
        if self._refused():
            raise SwitchRefused(
                "a hook or callback that runs inside libxl tried to switch greenlets: it must neither block nor wait; "
                "let it note what happened, and do the rest in a greenlet"
            )
        attributes = getcurrent().__dict__
        if self._before is None:
            del attributes["switch_out"]
        else:
            attributes["switch_out"] = self._before
            self._before()
