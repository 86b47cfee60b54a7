# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tells libxl's own forks from the application's.

Both go through os.fork, so Python's at-fork handlers run in both children. The application's child must lose its
contexts; libxl's own child must keep what it has, above all the fds that it was forked to use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_library_forks = 0


@contextmanager
def library_fork() -> Iterator[None]:
    """Marks a fork, made inside the block, as an engine's own. At-fork handlers run inside it, in both processes."""
    global _library_forks
    _library_forks += 1
    try:
        yield
    finally:
        _library_forks -= 1


def in_library_fork() -> bool:
    """Whether an engine's own fork is being made: what an at-fork handler asks."""
    return _library_forks > 0
