# SPDX-License-Identifier: LGPL-2.1-or-later
"""Brings libxl's log to the logger `gxl.libxl`, outside any libxl call.

libxl formats and hands over every message before anybody has looked at its level, two or three for each death evgen at
each scan: a logger in Python would cost milliseconds per death, and in a child that libxl forked it could wait for
ever for a lock of the parent's. So the logger is libxentoollog's own, which drops what is below its level and writes
the rest to a file, here one in memory. The children of libxl share that file, and what they say is not lost.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Callable
from typing import Any

from gxl.engines.libxl.loading import Library, ffi, libc

logger = logging.getLogger("gxl.libxl")

# XTL_DEBUG, _VERBOSE, _DETAIL, _PROGRESS, _INFO, _NOTICE, _WARN, _ERROR and _CRITICAL are 1 to 9, by these names.
_LEVELS = {
    "debug": logging.DEBUG,
    "verbose": logging.DEBUG,
    "detail": logging.DEBUG,
    "progress": logging.INFO,
    "info": logging.INFO,
    "notice": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_XTL_ERROR = 8
_NO_CARRIAGE_RETURNS = 0o20  # XTL_STDIOSTREAM_PROGRESS_NO_CR
_LINE = re.compile(rf"(?:([\w.-]+): )?({'|'.join(_LEVELS)}): (.*)")
_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_PUNCH_HOLE_KEEP_SIZE = 3
_MEGABYTE = 1 << 20


def xtl_level(level: int) -> int:
    """The lowest level of libxentoollog that passes a Python logger of `level`.

    Errors always pass: they say why a ctx could not be opened.
    """
    wanted = [xtl for xtl, python_level in enumerate(_LEVELS.values(), 1) if python_level >= level]
    return min([*wanted, _XTL_ERROR])


class Log:
    """One ctx's logger. `xtl` is what libxl takes. Its level is that of `gxl.libxl` when it was made."""

    def __init__(self, library: Library) -> None:
        self._lib = library.lib
        self._fd = os.memfd_create("gxl-libxl-log")
        # "a" is O_APPEND: parent and children write behind one another, whoever reads.
        self._file: Any = libc.fdopen(self._fd, b"a")
        self.xtl: Any = self._lib.xtl_createlogger_stdiostream(
            self._file, xtl_level(logger.getEffectiveLevel()), _NO_CARRIAGE_RETURNS
        )
        if self.xtl == ffi.NULL:
            libc.fclose(self._file)
            raise MemoryError("libxentoollog has no memory for a logger")
        self._notes: list[tuple[int, str]] = []
        self._read = self._freed = 0
        self._unfinished = b""
        self.later: Callable[[Callable[[], object]], object] | None = None
        """Runs a function apart from the call at hand; None: drain() passes messages on at once."""
        self._due = self._closed = False
        # Popped by the thread that is draining: an atomic try-lock that no monkey-patching can make cooperative.
        self._turn = [True]

    def take(self) -> list[tuple[int, str]]:
        """What has been logged since, as (level, message) pairs."""
        end = os.lseek(self._fd, 0, os.SEEK_END)
        if end == self._read:
            return []
        try:
            self._turn.pop()
        except IndexError:
            return []
        try:
            data = self._unfinished + os.pread(self._fd, end - self._read, self._read)
            self._read = end
            if end - self._freed >= _MEGABYTE:
                libc.fallocate(self._fd, _PUNCH_HOLE_KEEP_SIZE, self._freed, end - self._freed)
                self._freed = end
            whole, _, self._unfinished = data.rpartition(b"\n")
        finally:
            self._turn.append(True)
        return parse(whole)

    def note(self, level: int, message: str) -> None:
        """Have the next drain() log something of gxl's own."""
        self._notes.append((level, message))

    def drain(self) -> None:
        """Pass on what has been logged since. Never raises: the result of the call that logged it matters more."""
        if os.lseek(self._fd, 0, os.SEEK_END) == self._read and not self._notes:
            return
        if self.later is None:
            self._pass_on(self._batch())
        elif not self._due:
            self._due = True
            self.later(self._drain_now)

    def _batch(self) -> list[tuple[int, str]]:
        notes, self._notes = self._notes, []
        return [*self.take(), *notes]

    def _drain_now(self) -> None:
        try:
            while not self._closed and (batch := self._batch()):
                self._pass_on(batch)
        finally:
            self._due = False

    @staticmethod
    def _pass_on(batch: list[tuple[int, str]]) -> None:
        for level, message in batch:
            try:
                logger.log(level, "%s", message)
            except Exception:
                if logging.raiseExceptions:
                    traceback.print_exc()

    def close(self) -> None:
        """After ctx_free: pass on the last words, and close the file."""
        batch = self._batch()
        if self.later is None:
            self._pass_on(batch)
        elif batch:
            self.later(lambda: self._pass_on(batch))
        self._closed = True
        self._lib.xtl_logger_destroy(self.xtl)
        libc.fclose(self._file)


def parse(lines: bytes) -> list[tuple[int, str]]:
    """libxentoollog's lines as (level, message) pairs.

    A line without a level belongs to the message before it. Messages quote xenstore, which guests write to: what can't
    be printed is escaped.
    """
    found: list[tuple[int, str]] = []
    for line in lines.decode("utf-8", "backslashreplace").split("\n"):
        match = _LINE.fullmatch(line)
        if match:
            context, level, text = match.groups()
            text = text if context in (None, "libxl") else f"{context}: {text}"
            found.append((_LEVELS[level], text.translate(_UNPRINTABLE)))
        elif line and found:
            level, text = found[-1]
            found[-1] = (level, f"{text}\\n{line.translate(_UNPRINTABLE)}")
        elif line:
            found.append((logging.INFO, line.translate(_UNPRINTABLE)))
    return found
