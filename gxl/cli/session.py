# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the commands that wait for events have in common: how they open Xen, and how they end."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from gxl.context import Context
from gxl.errors import GxlError

TIMED_OUT = 124
"""As timeout(1) has it."""


@contextmanager
def opened() -> Iterator[Context]:
    """A Context, whose errors become messages."""
    try:
        with Context() as ctx:
            yield ctx
    except GxlError as error:
        raise click.ClickException(f"{error}\n`gxl doctor` says what gxl found here.") from error
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read has gone: click ends without a word
            raise
        raise click.ClickException(f"the events can't be written: {error.strerror}") from error


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the block as sys.exit does: what was opened is closed, and nothing is printed."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def problems() -> Iterator[None]:
    """What a simulated host refuses becomes a message."""
    try:
        yield
    except (OSError, ValueError, LookupError) as error:
        raise click.ClickException(str(error)) from error
