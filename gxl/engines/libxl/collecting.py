# SPDX-License-Identifier: LGPL-2.1-or-later
"""Takes libxl's events off its queue, many at a time, for a Context.

In Python; or in C (gxl.compiled), which leaves to Python what is not of every day: other types than those that evgens
generate, disks that it has not seen yet, and errors.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from gxl import compiled
from gxl.drafts import DeathDraft, EjectDraft, ShutdownDraft, death_draft, eject_draft, shutdown_draft
from gxl.engines.libxl.calls import Call
from gxl.engines.libxl.events import DEATH, EJECT, REASONS, SHUTDOWN
from gxl.engines.libxl.loading import CData, ffi
from gxl.errors import NotReady, from_rc
from gxl.events import EVENTMASK_ALL, Event

if TYPE_CHECKING:
    from gxl.engines.libxl.ctx import Ctx

_DISK_TEXTS = ("backend_domname", "pdev_path", "vdev", "script")
_DISK_NUMBERS = ("backend_domid", "backend", "format", "removable", "readwrite", "is_cdrom")


class Lost(Exception):
    """A C event could not be copied, such as for a MemoryError. libxl has no second one: whoever waits must know."""

    def __init__(self, event: CData, error: BaseException) -> None:
        super().__init__(f"an event of domain {event.domid} was lost: {error!r}")
        self.type: int = event.type


class Collecting:
    """One ctx's events, as they are taken off it."""

    def __init__(self, ctx: Ctx) -> None:
        self._ctx = ctx
        # The event that libxl gave, until somebody else has a copy: NULL at other times.
        self._given = ffi.new("libxl_event **")
        # Where those go that a call of the loop's has found, as long as there are fewer than so many.
        self._into: deque[Any] | None = None
        self._limit = 0

    def collect(self, into: deque[Any], limit: int) -> bool:
        """libxl_event_check, again and again: up to `limit` events. False: there are no more. Raises Lost."""
        ctx, out, null = self._ctx, self._given, ffi.NULL
        pointer, check = ctx.pointer, ctx.lib.libxl_event_check
        for _ in range(limit):
            event = out[0]
            if not event:
                rc = check(pointer, out, EVENTMASK_ALL, null, null)
                if rc == NotReady.code:
                    return False
                if rc:
                    raise from_rc(rc, "event_check")
                event = out[0]
            try:
                found = self.draft(event)
            except Exception as error:
                raise self._lost(error) from error
            # Python handles signals when it calls something or jumps back: so Ctrl-C strikes not between these, and the
            # event is in one place.
            into += (found,)
            out[0] = null
            ctx.events.free(event)
        return True

    def draft(self, event: CData) -> Event:
        """A copy of a C event, to be completed; whoever asks knows the UUIDs of those that are watched."""
        kind = event.type
        if kind == DEATH:
            return death_draft(event.domid, event.for_user)
        if kind == SHUTDOWN:
            reason = event.u.domain_shutdown.shutdown_reason
            return shutdown_draft(event.domid, event.for_user, REASONS.get(reason, reason))
        if kind == EJECT:
            domid, for_user = event.domid, event.for_user
            return eject_draft(domid, for_user, *self._ctx.events.ejected(event, domid, for_user))
        return self._ctx.events.read(event)

    def take_into(self, into: deque[Any], limit: int) -> None:
        """Have found() take events there."""
        self._into, self._limit = into, limit

    def found(self, call: Call) -> None:
        """At the end of a call that the loop has made: see ICollectedEngine.event_notify."""
        into = self._into
        if into is None:
            return
        try:
            room = self._limit - len(into)
            if room > 0 and not self.collect(into, room):
                return
        except Lost as lost:
            self.tell_of(call, lost)
        self._ctx.notice()

    def tell_of(self, call: Call, lost: Lost) -> None:
        """What collect() has raised is a disaster of one type."""
        self._ctx.disaster(call, lost.type, str(lost), 0, fatal=False, cause=lost.__cause__)

    def _lost(self, error: Exception) -> Lost:
        event = self._given[0]
        lost = Lost(event, error)
        self._given[0] = ffi.NULL
        self._ctx.events.free(event)
        return lost


class Compiled(Collecting):
    """The same, in C."""

    def __init__(self, ctx: Ctx) -> None:
        super().__init__(ctx)
        address, offset = partial(ffi.cast, "uintptr_t"), partial(ffi.offsetof, "libxl_event")
        eject, reason = ("u", "disk_eject"), ("u", "domain_shutdown", "shutdown_reason")
        self._collector = compiled.part.Collector(
            check=int(address(ctx.lib.libxl_event_check)),
            free=int(address(ctx.lib.libxl_event_free)),
            not_ready=NotReady.code,
            ctx=int(address(ctx.pointer)),
            out=int(address(self._given)),
            members=(offset("domid"), offset("for_user"), offset("type"), offset(*reason)),
            texts=(offset(*eject, "vdev"), *(offset(*eject, "disk", name) for name in _DISK_TEXTS)),
            numbers=tuple(offset(*eject, "disk", name) for name in _DISK_NUMBERS),
            classes=(ShutdownDraft, DeathDraft, EjectDraft),
            reasons=tuple(REASONS.get(number, number) for number in range(256)),
        )

    def found(self, call: Call) -> None:
        into = self._into
        if into is not None:
            try:
                if self._collector.collect(into, self._limit - len(into)) is False:
                    return
            except Exception:
                pass  # for lack of memory: the event is still there
            super().found(call)

    def collect(self, into: deque[Any], limit: int) -> bool:
        end = len(into) + limit
        while True:
            try:
                more: bool | None = self._collector.collect(into, end - len(into))
            except Exception as error:
                raise self._lost(error) from error
            if more is not None:
                return more
            if not super().collect(into, 1):
                return False

    def draft(self, event: CData) -> Event:
        found = super().draft(event)
        # Of a disk that xenstore has no name for, what it is called depends on who asks.
        if isinstance(found, EjectDraft) and found.vdev and found.vdev == found.disk.vdev:
            self._collector.remember(found.vdev, found.disk)
        return found


def collecting(ctx: Ctx) -> Collecting:
    """What collects the events of `ctx`."""
    return Collecting(ctx) if compiled.part is None else Compiled(ctx)
