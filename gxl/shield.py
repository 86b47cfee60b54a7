# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeps signal handlers out of what must not be left half done.

Python runs them between any two steps of the main thread, and they may raise there: Ctrl-C does. Where that costs an
event, waiters can be told. Where it would leave a Context without its connection to Xen, and nobody to look for
another, it has to wait. Blocking the signals would not do: the kernel would give them to another thread, and Python
would run their handlers in this one all the same.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes it as part of signal
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

# SIGCHLD's handler may be an engine's, which looks whether it still is.
_HELD = sorted(signal.valid_signals() - {signal.SIGCHLD})

Handler = Callable[[int, FrameType | None], Any]

# Of all that are held, as they were when last looked at, and of those the ones in Python.
_known: tuple[list[Any], list[tuple[int, Handler]]] = ([], [])
# The shield that holds them now: those inside it have nothing to do.
_outermost: Shield | None = None


class Shield:
    """A context manager: signals that come meanwhile are handled at the end. Costs some microseconds.

    Not to be held while greenlets switch: another one's would be in the way.
    """

    __slots__ = ("_came", "_handlers")

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._came: dict[int, None] = {}

    def __enter__(self) -> Self:
        global _outermost
        if _outermost is not None:
            return self
        try:
            for number, handler in _python_handlers():
                self._handlers[number] = handler
                _signal.signal(number, self._note)
            if self._handlers:
                _outermost = self
        except ValueError:  # another thread than the main one, where no handler runs
            self._handlers.clear()
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        global _outermost
        if not self._handlers:
            return
        try:
            self._give_back()
        finally:
            _outermost = None
            while self._came:
                signal.raise_signal(self._came.popitem()[0])

    def lifted(self) -> Lifted:
        """For what takes its time, inside the block: it can be interrupted, and by what came before, too."""
        return Lifted(self)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came[number] = None

    def _give_back(self) -> None:
        handlers = self._handlers
        try:
            while handlers:
                number = next(iter(handlers))
                _signal.signal(number, handlers[number])
                del handlers[number]
        except BaseException:  # the first that is back may strike at once
            self._give_back()
            raise


def _python_handlers() -> list[tuple[int, Handler]]:
    global _known
    now = list(map(_signal.getsignal, _HELD))
    before, known = _known
    if now != before:
        known = [(number, handler) for number, handler in zip(_HELD, now, strict=True) if callable(handler)]
        _known = now, known
    return known


class Lifted:
    """A context manager: inside it, the shield is off."""

    __slots__ = ("_shield",)

    def __init__(self, shield: Shield) -> None:
        self._shield = shield

    def __enter__(self) -> None:
        try:
            self._shield.__exit__()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        struck: BaseException | None = None
        while True:
            try:
                self._shield.__enter__()
            except BaseException as error:
                struck = error
            else:
                break
        if struck is not None:
            raise struck
