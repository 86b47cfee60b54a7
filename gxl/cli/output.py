# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes to standard output, whole lines only, whatever is at its other end."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import click

READER_GONE = 128 + signal.SIGPIPE
"""The exit status when nobody reads the output any more: what the shell says of those whom SIGPIPE ends."""


class Output:
    """Standard output. `interruptible` is entered where a signal may end the program: before a line has begun."""

    def __init__(self, interruptible: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self._interruptible = interruptible
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        try:
            self.fd = -1 if sys.stdout is None else sys.stdout.fileno()
        except (OSError, io.UnsupportedOperation):  # captured within the process
            self.fd = -1
        self._writable = select.poll()
        if self.fd >= 0:
            self._writable.register(self.fd, select.POLLOUT)

    def check(self) -> None:
        """ClickException if standard output was closed before the program began, as by `>&-` in a shell."""
        if sys.stdout is None:
            raise click.ClickException("standard output is closed, and nothing can be written to it: use >/dev/null")

    def line(self, text: str) -> None:
        """Write a line at once. A name that the terminal's encoding lacks letters for is escaped.

        Ends the program if nobody reads, with READER_GONE. ClickException: the disk is full, or the like.
        """
        self.check()
        data = f"{text}\n".encode(self._encoding, "backslashreplace")
        if self.fd < 0:
            click.echo(data, nl=False)
            return
        try:
            # A pipe that poll(2) calls writable takes up to PIPE_BUF bytes as a whole, and at once.
            with self._interruptible():
                self._writable.poll()
            while data:
                data = data[os.write(self.fd, data) :]
        except BrokenPipeError:
            sys.exit(READER_GONE)
        except BlockingIOError:
            raise click.ClickException("standard output is in non-blocking mode, and full") from None
        except OSError as error:
            raise click.ClickException(f"standard output can't be written: {error.strerror}") from error
