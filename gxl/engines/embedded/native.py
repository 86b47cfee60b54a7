# SPDX-License-Identifier: LGPL-2.1-or-later
"""System calls as the operating system has them, whoever patched Python's modules.

gevent's monkey.patch_all() makes select.poll switch greenlets, takes select.epoll away, and puts versions of fork,
waitpid and signal into their modules that serve its own loop. An engine holds a lock while it calls these.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes it as part of signal
import posix
from typing import Any

from gxl.unpatched import unpatched

# select is nothing but C, so a patch replaces its only copy; os and signal wrap C modules that nobody patches.
_select: Any = unpatched("select")
epoll: Any = _select.epoll
# The patched os.close returns before the fd is closed, and in a forked child it never is.
close = posix.close
fork = posix.fork
waitpid = posix.waitpid
getsignal = _signal.getsignal
signal = _signal.signal
SIG_DFL = _signal.SIG_DFL  # signal's is an enum, which this function refuses


def poll(fds: list[tuple[int, int]], timeout_ms: int | None) -> list[tuple[int, int, int]]:
    """poll(2) on (fd, events) pairs, None meaning for ever; returns (fd, events, revents) in the same order.

    One fd may be listed several times, as poll(2) allows and Python's own poll objects do not.
    """
    wanted: dict[int, int] = {}
    for fd, events in fds:
        wanted[fd] = wanted.get(fd, 0) | events
    poller = _select.poll()
    for fd, events in wanted.items():
        poller.register(fd, events)
    ready = dict(poller.poll(timeout_ms))
    always = _select.POLLERR | _select.POLLHUP | _select.POLLNVAL
    return [(fd, events, ready.get(fd, 0) & (events | always)) for fd, events in fds]
