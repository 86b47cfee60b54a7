# SPDX-License-Identifier: LGPL-2.1-or-later
"""libxl's other way to be driven: beforepoll, poll, afterpoll; and event_wait, which is made of them.

libxl_event_wait itself would not do. It sleeps on through signals, so that Ctrl-C has no effect, and misses both
events that another thread's call has queued and fds that another thread's call has added.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gxl.arguments import check_fd
from gxl.engines.libxl.calls import Call
from gxl.engines.libxl.loading import CData, ffi, libc
from gxl.errors import BufferFull, from_rc
from gxl.events import Event
from gxl.interfaces import Predicate

if TYPE_CHECKING:
    from gxl.engines.libxl.ctx import Ctx

POLLIN, POLLNVAL = 0x001, 0x020


def timeval(now: float | None) -> tuple[int, int]:
    """Seconds since the epoch as libxl takes them; None: the clock's."""
    if now is None:
        now = time.time()
    elif isinstance(now, bool) or not isinstance(now, (int, float)):
        raise TypeError(f"now must be seconds since the epoch or None, not {now!r}")
    elif not 0 <= now < 2**62:
        raise ValueError(f"now must be seconds since the epoch, not {now!r}")
    # Rounded, not cut off: a deadline that libxl named as a timeval must come back as the same one.
    return divmod(round(now * 1_000_000), 1_000_000)


class PollSet:
    """The array that beforepoll fills, with room for one fd of the engine's own."""

    def __init__(self, ctx: Ctx) -> None:
        self._ctx = ctx
        self._room = 8
        self.fds: CData = ffi.new("struct pollfd[]", self._room + 1)

    def before(self, now: float | None) -> tuple[int, int]:
        """libxl_osevent_beforepoll: how many fds there are, and the timeout in milliseconds or -1."""
        count, timeout = ffi.new("int *"), ffi.new("int *")
        moment = timeval(now)
        while True:
            count[0], timeout[0] = self._room, -1
            rc = self._ctx.lib.libxl_osevent_beforepoll(self._ctx.pointer, count, self.fds, timeout, moment)
            if rc == 0:
                return count[0], timeout[0]
            if rc != BufferFull.code:
                raise from_rc(rc, "osevent_beforepoll")
            self._room = count[0] + 8
            self.fds = ffi.new("struct pollfd[]", self._room + 1)

    def after(self, count: int, now: float | None) -> None:
        """libxl_osevent_afterpoll."""
        moment = timeval(now)
        for index in range(count):
            # libxl aborts over a POLLNVAL, unless it knows of an fd that has gone. It looks at each fd again anyway.
            self.fds[index].revents &= ~POLLNVAL
        self._ctx.lib.libxl_osevent_afterpoll(self._ctx.pointer, count, self.fds, moment)


def beforepoll(ctx: Ctx, now: float | None) -> tuple[list[tuple[int, int]], int | None]:
    """osevent_beforepoll."""
    polled = PollSet(ctx)
    count, timeout = polled.before(now)
    fds = [(polled.fds[index].fd, polled.fds[index].events) for index in range(count)]
    return fds, None if timeout < 0 else timeout


def afterpoll(ctx: Ctx, fds: Sequence[tuple[int, int, int]], now: float | None) -> None:
    """osevent_afterpoll."""
    timeval(now)
    ctx.children.check_pump()
    polled = PollSet(ctx)
    polled.fds = ffi.new("struct pollfd[]", len(fds) + 1)
    for index, (fd, events, revents) in enumerate(fds):
        try:
            polled.fds[index] = (check_fd(fd), events, revents)
        except OverflowError as error:
            raise ValueError(f"events and revents must be bits of poll's, not {events!r}, {revents!r}") from error
    polled.after(len(fds), now)


def wait(ctx: Ctx, call: Call, typemask: int, predicate: Predicate | None) -> Event:
    """event_wait. Other threads may be inside the engine meanwhile, and may wait as well."""
    polled = PollSet(ctx)
    wake = ctx.borrow_wake()
    try:
        while True:
            event = ctx.events.check(call, typemask, predicate)
            ctx.settle(call)
            if event is not None:
                return event
            if ctx.refusal is not None:
                raise ctx.refusal()
            count, timeout = polled.before(None)
            ctx.settle(call)
            polled.fds[count] = (wake, POLLIN, 0)
            ready = libc.poll(polled.fds, count + 1, timeout)
            if ready < 0:
                if ffi.errno != errno.EINTR:
                    raise OSError(ffi.errno, f"poll: {os.strerror(ffi.errno)}")
                continue
            if polled.fds[count].revents:
                os.eventfd_read(wake)
                ready -= 1
                if not ready:
                    continue
            ctx.children.check_pump()
            polled.after(count, None)
            ctx.settle(call)
            ctx.wake_waiting(but=wake)
    finally:
        ctx.return_wake(wake)
