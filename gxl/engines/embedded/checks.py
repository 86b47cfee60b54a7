# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an application may hand to the engine, beyond gxl.arguments."""

from __future__ import annotations

import time
from typing import Any

from gxl import arguments
from gxl.engines.embedded.children import ChildprocMode
from gxl.engines.embedded.core import EventHooks
from gxl.interfaces import AsyncHow, SigchldOwner


def check_now(now: float | None) -> float:
    """Seconds since the epoch; None: the clock's."""
    if now is None:
        return time.time()
    if isinstance(now, bool) or not isinstance(now, (int, float)):
        raise TypeError(f"now must be seconds since the epoch or None, not {now!r}")
    if not 0 <= now < 2**62:
        raise ValueError(f"now must be seconds since the epoch, not {now!r}")
    return float(now)


def check_pollfd(pollfd: Any) -> tuple[int, int, int]:
    """One of what afterpoll gets."""
    match pollfd:
        case (fd, int(events), int(revents)):
            arguments.check_fd(fd)
        case _:
            raise TypeError(f"fds must be (fd, events, revents) tuples of ints, not {pollfd!r}")
    if not (-0x8000 <= events <= 0x7FFF and -0x8000 <= revents <= 0x7FFF):
        raise ValueError(f"events and revents must be bits of poll's, not {events}, {revents}")
    return fd, events, revents


def check_console(console: int | None) -> None:
    """A user value, or None."""
    if console is not None:
        arguments.check_user(console, "console")


def check_how(how: AsyncHow) -> None:
    """How an operation reports its end."""
    if not isinstance(how, AsyncHow):
        raise TypeError(f"how must be an AsyncHow, not {how!r}")


def check_event_hooks(hooks: Any) -> EventHooks:
    """IEventHooks, or None for none."""
    if hooks is None:
        return EventHooks()
    try:
        checked = EventHooks(arguments.check_typemask(hooks.event_occurs_mask), hooks.event_occurs, hooks.disaster)
    except AttributeError as error:
        raise TypeError(f"hooks must provide IEventHooks, or be None: {error}") from error
    if checked.event_occurs is None and checked.event_occurs_mask:
        raise ValueError(f"event_occurs can be None only if event_occurs_mask is 0, not {checked.event_occurs_mask:#x}")
    for what, hook in (("event_occurs", checked.event_occurs), ("disaster", checked.disaster)):
        if hook is not None and not callable(hook):
            raise TypeError(f"{what} must be callable or None, not {hook!r}")
    return checked


def check_childproc_hooks(hooks: Any) -> ChildprocMode:
    """IChildProcHooks, or None for the default."""
    if hooks is None:
        return ChildprocMode()
    try:
        mode = ChildprocMode(SigchldOwner(hooks.chldowner), hooks.fork_replacement, hooks.reaped_callback)
    except AttributeError as error:
        raise TypeError(f"hooks must provide IChildProcHooks, or be None: {error}") from error
    for what, hook in (("fork_replacement", mode.fork_replacement), ("reaped_callback", mode.reaped_callback)):
        if hook is not None and not callable(hook):
            raise TypeError(f"{what} must be callable or None, not {hook!r}")
    return mode


def check_osevent_hooks(hooks: object) -> None:
    """IOSEventHooks, but for timeout_deregister, which is never called."""
    for name in ("fd_register", "fd_modify", "fd_deregister", "timeout_register", "timeout_modify"):
        if not callable(getattr(hooks, name, None)):
            raise TypeError(f"hooks must provide IOSEventHooks, and {hooks!r} has no {name}")


def check_reaped(pid: int, status: int) -> None:
    """What waitpid returned."""
    for what, value in (("pid", pid), ("status", status)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{what} must be an int, not {value!r}")
    if not 0 < pid < 2**31 or not 0 <= status < 2**31:
        raise ValueError(f"pid and status must be as from waitpid, not {pid} and {status}")
