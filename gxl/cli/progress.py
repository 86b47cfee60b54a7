# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far something is that takes long: on standard error, and only where that is a terminal."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import click

_NOT_WORTH_IT = 2.0
"""Seconds that anybody waits without being told how far it is."""
_ERASE = "\r\x1b[K"


def at_terminal() -> bool:
    """Whether standard error is a terminal, at which a line can be erased."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def show(text: str) -> None:
    """Show `text` in place of what was shown before, where that is possible; empty: erase it."""
    if at_terminal():
        click.echo(_ERASE + text, nl=False, err=True)


class Bar:
    """A bar that is full after `seconds`. Any thread may move it."""

    def __init__(self, label: str, seconds: float) -> None:
        self._lock = threading.RLock()
        shown = at_terminal() and seconds > _NOT_WORTH_IT
        self._bar = click.progressbar(length=math.ceil(seconds), label=label, file=sys.stderr) if shown else None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, it is there."""
        with self._bar or nullcontext():
            try:
                yield
            finally:
                with self._lock:  # whoever moves it afterwards would hide the cursor again
                    self._bar = None

    def move(self, seconds: float) -> None:
        """So long it has taken until now."""
        with self._lock:
            if self._bar is not None:
                self._bar.update(int(seconds) - self._bar.pos)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Inside, a line may be printed. The bar is back when it next moves."""
        with self._lock:
            if self._bar is not None:
                show("")
            yield
