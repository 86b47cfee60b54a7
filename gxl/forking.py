# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tells libxl's own forks from the application's.

Both go through os.fork, so Python's at-fork handlers run in both children. The application's child must lose its
contexts; libxl's own child must keep what it has, above all the fds that it was forked to use.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Forks(threading.local):
    """Per thread, since a fork copies the thread that makes it, and only that one, while others may fork as well."""

    of_the_library = 0


_forks = _Forks()


@contextmanager
def library_fork() -> Iterator[None]:
    """Marks a fork, made inside the block, as an engine's own. At-fork handlers run inside it, in both processes."""
    _forks.of_the_library += 1
    try:
        yield
    finally:
        _forks.of_the_library -= 1


pid = os.getpid()
"""This process, as os.getpid, but without the system call: it is asked for each event.

A child that C has forked, past os.fork, is taken for its parent.
"""


def _forked() -> None:
    global pid
    pid = os.getpid()


os.register_at_fork(after_in_child=_forked)


def in_library_fork() -> bool:
    """Whether an engine's own fork is being made: what an at-fork handler asks."""
    return _forks.of_the_library > 0
