# SPDX-License-Identifier: LGPL-2.1-or-later
"""What Python costs without gxl: client.c, line by line, with gevent's loop, cffi's calls and a greenlet for a domain.

It keeps none of gxl's promises: a greenlet waits for one domid and for nothing else, an event is three integers, a
hook or callback that fails is not noticed, nothing is ever disabled, lives are not told apart, a burst has the loop for
itself until it is over. It is what a program with a loop, cffi and greenlets takes that is written in the simplest way.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Any

import gevent
from greenlet import getcurrent, greenlet

from benchmarks.job import Job, serve
from benchmarks.raw import Ctx, Event
from gxl.engines.libxl.loading import ffi

_FAILED = -1
_READ = 1


class HookedCtx(Ctx):
    """A ctx whose fds are in an epoll set, and the events that it has reported."""

    def __init__(self) -> None:
        super().__init__()
        self.epoll = select.epoll()
        # What libxl wants to have back, by fd.
        self._registered: dict[int, tuple[int, Any]] = {}
        self._found: list[Event] = []
        self.occurred_fd: Callable[..., object] = self.lib.libxl_osevent_occurred_fd
        # What libxl refers to, and cffi would free.
        self._kept: list[Any] = []
        self.lib.libxl_osevent_register_hooks(self.pointer, self._osevent_hooks(), ffi.NULL)
        self.lib.libxl_event_register_callbacks(self.pointer, self._event_hooks(), ffi.NULL)

    def _osevent_hooks(self) -> Any:
        def fd_register(user: Any, fd: int, out: Any, events: int, for_libxl: Any) -> int:
            self._registered[fd] = events, for_libxl
            self.epoll.register(fd, events)
            return 0

        def fd_modify(user: Any, fd: int, update: Any, events: int) -> int:
            self._registered[fd] = events, self._registered[fd][1]
            self.epoll.modify(fd, events)
            return 0

        def fd_deregister(user: Any, fd: int, registration: Any) -> None:
            del self._registered[fd]
            self.epoll.unregister(fd)

        hooks: dict[str, Callable[..., object]] = {
            "fd_register": fd_register,
            "fd_modify": fd_modify,
            "fd_deregister": fd_deregister,
            # No workload here has a timeout.
            "timeout_register": lambda *args: _FAILED,
            "timeout_modify": lambda *args: _FAILED,
        }
        return self._struct("libxl_osevent_hooks", hooks)

    def _event_hooks(self) -> Any:
        free, pointer, found = self.lib.libxl_event_free, self.pointer, self._found

        def event_occurs(user: Any, event: Any) -> None:
            found.append(Event(event.type, event.domid, event.for_user))
            free(pointer, event)

        def disaster(user: Any, type: int, message: Any, errnoval: int) -> None:
            os._exit(1)

        hooks = self._struct("libxl_event_hooks", {"event_occurs": event_occurs, "disaster": disaster})
        hooks.event_occurs_mask = 2**64 - 1
        return hooks

    def _struct(self, name: str, functions: dict[str, Callable[..., object]]) -> Any:
        struct = ffi.new(f"{name} *")
        fields = dict(ffi.typeof(name).fields)
        for field, function in functions.items():
            pointer = ffi.callback(fields[field].type, function)
            self._kept.append(pointer)
            setattr(struct, field, pointer)
        self._kept.append(struct)
        return struct

    def events(self) -> list[Event]:
        """Tell libxl of the fds that are ready; what it has found by then."""
        for fd, revents in self.epoll.poll(0):
            events, for_libxl = self._registered[fd]
            self.occurred_fd(self.pointer, for_libxl, fd, events, revents)
        found = self._found[:]
        self._found.clear()
        return found


def run(job: Job) -> None:
    """Be the candidate."""
    job.connect()
    hub = gevent.get_hub()
    ctx = job.opening(HookedCtx)
    parked: dict[int, greenlet] = {}

    def wait_for_one(domid: int) -> None:
        parked[domid] = getcurrent()
        while True:
            job.event(hub.switch())

    def wait_for_all() -> None:
        parked[0] = getcurrent()
        while True:
            for event in hub.switch():
                job.event(event)

    def to_each() -> None:
        for event in ctx.events():
            parked[event.domid].switch(event)

    def to_one() -> None:
        events = ctx.events()
        if events:
            parked[0].switch(events)

    for domid in job.domids:
        ctx.enable(job.kind, domid)
    if job.one_greenlet:
        gevent.spawn(wait_for_all)
    else:
        for domid in job.awaited:
            gevent.spawn(wait_for_one, domid)
    gevent.sleep(0)
    watcher = hub.loop.io(ctx.epoll.fileno(), _READ)
    watcher.start(to_one if job.one_greenlet else to_each)
    job.timed_call = lambda timed: setattr(ctx, "occurred_fd", timed(ctx.occurred_fd))
    serve(job)
