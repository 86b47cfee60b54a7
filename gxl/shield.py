# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeps signal handlers out of what must not be left half done.

Python runs them between any two steps of the main thread, and they may raise there: Ctrl-C does. Where that costs an
event, waiters can be told. Where it would leave a Context without its connection to Xen, and nobody to look for
another, it has to wait. Blocking the signals would not do: the kernel would give them to another thread, and Python
would run their handlers in this one all the same.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes it as part of signal
import contextlib
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

# SIGCHLD's handler may be an engine's, which looks whether it still is.
_HELD = signal.valid_signals() - {signal.SIGCHLD}


class Shield:
    """A context manager: signals that come meanwhile are handled at the end. Costs some microseconds."""

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._came: dict[int, None] = {}

    def __enter__(self) -> Self:
        try:
            for number in _HELD:
                handler = _signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    _signal.signal(number, self._note)
        except ValueError:  # another thread than the main one, where no handler runs
            self._handlers.clear()
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._give_back()
        while self._came:
            signal.raise_signal(self._came.popitem()[0])

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came[number] = None

    def _give_back(self) -> None:
        with contextlib.ExitStack() as rest:
            rest.callback(self._handlers.clear)
            for number, handler in self._handlers.items():
                rest.callback(_signal.signal, number, handler)
