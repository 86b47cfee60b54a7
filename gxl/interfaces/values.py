# SPDX-License-Identifier: LGPL-2.1-or-later
"""What engines, hubs and applications hand each other, beside events and functions."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from gxl.arguments import check_user
from gxl.events import Event, ShutdownReason

Predicate = Callable[[Event], object]


class SigchldOwner(enum.IntEnum):
    """Who catches SIGCHLD and who reaps (libxl_sigchld_owner)."""

    LIBXL = 0
    """The engine owns SIGCHLD while it has a child, and reaps every child of the process. The default."""
    MAINLOOP = 1
    """The application reaps, and reports to childproc_reaped or childproc_sigchld_occurred. What a gevent hub needs."""
    LIBXL_ALWAYS = 2
    """The engine owns SIGCHLD all the time, and reaps every child of the process."""
    LIBXL_ALWAYS_SELECTIVE_REAP = 3
    """The engine owns SIGCHLD all the time, but reaps only its own children."""


class AsyncHow:
    """How an operation reports its end: by an OperationComplete event, or by a callback (libxl_asyncop_how).

    AsyncHow(for_event=7) queues an OperationComplete whose for_user is 7. AsyncHow(callback=f) calls f(rc) once, rc
    being 0 or a libxl error code, possibly before the call that started the operation has returned; f runs inside the
    engine, so it may call the engine but must not switch or block. Identity counts: ao_abort takes the object that the
    operation was started with.
    """

    __slots__ = ("callback", "for_event")

    def __init__(self, for_event: int = 0, callback: Callable[[int], object] | None = None) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        if callback is not None and for_event:
            raise ValueError("an operation reports by for_event or by callback, not by both")
        self.for_event = check_user(for_event, "for_event")
        self.callback = callback


class DomainInfo(NamedTuple):
    """What the hypervisor says of a domain, read in one hypercall and never through xenstore."""

    domid: int
    uuid: UUID
    running: bool
    blocked: bool
    paused: bool
    shutdown: bool
    dying: bool
    shutdown_reason: ShutdownReason | int | None
    """None unless `shutdown`."""
    current_memory_kb: int
    max_memory_kb: int
    cpu_time_ns: int
    """Grows only while the domain runs."""


class NewDomain:
    """A domain that is being created. `domid` is None until the operation has ended well."""

    __slots__ = ("domid",)

    def __init__(self) -> None:
        self.domid: int | None = None
