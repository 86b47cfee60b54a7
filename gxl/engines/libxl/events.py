# SPDX-License-Identifier: LGPL-2.1-or-later
"""libxl's events as gxl's, and the two ways they come: from the queue, or to event_occurs. And disasters."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from gxl.arguments import check_typemask
from gxl.engines.libxl.calls import EVENT_OCCURS, PREDICATE, Call, callback
from gxl.engines.libxl.loading import CData, ffi
from gxl.errors import NotReady, from_rc
from gxl.events import (
    Disk,
    DiskBackend,
    DiskEject,
    DiskFormat,
    DomainCreateConsoleAvailable,
    DomainDeath,
    DomainShutdown,
    Event,
    OperationComplete,
    ShutdownReason,
    UnknownEvent,
)
from gxl.interfaces import Predicate

if TYPE_CHECKING:
    from gxl.engines.libxl.ctx import Ctx

SHUTDOWN, DEATH, EJECT, _OPERATION_COMPLETE, _CONSOLE = 1, 2, 3, 4, 5
_NULL = ffi.NULL
_NIL = bytes(16)
_BACKENDS: dict[int, DiskBackend] = {int(backend): backend for backend in DiskBackend}
REASONS: dict[int, ShutdownReason] = {int(reason): reason for reason in ShutdownReason}
_FORMATS: dict[int, DiskFormat] = {int(disk_format): disk_format for disk_format in DiskFormat}

# What libxl reports as a disaster of all events, although only one child is affected.
_ABOUT_A_CHILD = "waitpid() gave ECHILD"


def text(pointer: CData) -> str | None:
    """A C string, None for NULL. Most of it comes from xenstore, where guests write any bytes they like."""
    return ffi.string(pointer).decode("utf-8", "backslashreplace") if pointer else None


def uuid(field: CData) -> UUID | None:
    """A libxl_uuid, None for the nil one: libxl leaves events' domuuid empty."""
    content = bytes(ffi.buffer(field))
    return None if content == _NIL else UUID(bytes=content)


class Events:
    """A ctx's events and callbacks for them. `disaster_hook` is the application's."""

    def __init__(self, ctx: Ctx) -> None:
        self._ctx = ctx
        self._vdevs: dict[tuple[int, int], str] = {}
        self.event_occurs: Callable[[Event], object] | None = None
        self.disaster_hook: Callable[[int, str, int], object] | None = None
        self._hooks = ffi.new("libxl_event_hooks *")
        self._hooks.event_occurs = _event_occurs
        self._hooks.disaster = _disaster
        # Always: without a disaster hook libxl ends the process.
        ctx.lib.libxl_event_register_callbacks(ctx.pointer, self._hooks, ctx.handle)

    def register(self, hooks: Any) -> None:
        """Take an IEventHooks, or None for none."""
        mask, event_occurs, disaster = 0, None, None
        if hooks is not None:
            try:
                mask, event_occurs, disaster = hooks.event_occurs_mask, hooks.event_occurs, hooks.disaster
            except AttributeError as error:
                raise TypeError(f"hooks must provide IEventHooks, or be None: {error}") from error
            check_typemask(mask)
            for name, function in (("event_occurs", event_occurs), ("disaster", disaster)):
                if function is not None and not callable(function):
                    raise TypeError(f"{name} must be callable or None, not {function!r}")
            if mask and event_occurs is None:
                raise ValueError(f"event_occurs_mask is {mask:#x}, but there is no event_occurs to take those events")
        self.event_occurs, self.disaster_hook = event_occurs, disaster
        self._hooks.event_occurs_mask = mask

    def check(self, call: Call, typemask: int, predicate: Predicate | None) -> Event | None:
        """libxl_event_check: the oldest event that passes, taken off the queue."""
        ctx = self._ctx
        out = ffi.new("libxl_event **")
        if predicate is None:
            rc = ctx.lib.libxl_event_check(ctx.pointer, out, typemask, ffi.NULL, ffi.NULL)
            found = None if rc else self.read(out[0])
        else:
            scan = _Scan(ctx, call, predicate)
            handle = ffi.new_handle(scan)
            rc = ctx.lib.libxl_event_check(ctx.pointer, out, typemask, _predicate, handle)
            found = scan.found
        if rc == NotReady.code:
            return None
        if rc:
            raise from_rc(rc, "event_check")
        self.free(out[0])
        return found

    def queued(self, call: Call, typemask: int) -> list[Event]:
        """What is in libxl's queue, left there."""
        seen: list[Event] = []
        self.check(call, typemask, seen.append)
        return seen

    def remember_vdev(self, domid: int, user: int, vdev: str) -> None:
        """The name to give to ejects whose disk has none in xenstore."""
        self._vdevs[domid, user] = vdev

    def forget_vdev(self, call: Call, domid: int, user: int) -> None:
        """No more such ejects will come, but for those in the queue."""
        queued = self.queued(call, 1 << EJECT)
        if not any(event.domid == domid and event.for_user == user for event in queued):
            self._vdevs.pop((domid, user), None)

    def ejected(self, event: CData, domid: int, for_user: int) -> tuple[str | None, Disk]:
        """An eject's disk: by which name, and what it is."""
        disk = _disk(event.u.disk_eject.disk)
        # libxl leaves the event's own vdev NULL, and takes the disk's from xenstore, where it may be missing.
        return text(event.u.disk_eject.vdev) or disk.vdev or self._vdevs.get((domid, for_user)), disk

    def read(self, event: CData) -> Event:
        """A copy of a C event, which stays the caller's."""
        kind, domid, for_user = event.type, event.domid, event.for_user
        domuuid = uuid(event.domuuid)
        if kind == DEATH:
            return DomainDeath(domid, domuuid=domuuid, for_user=for_user)
        if kind == SHUTDOWN:
            reason = event.u.domain_shutdown.shutdown_reason
            return DomainShutdown(domid, reason, domuuid=domuuid, for_user=for_user)
        if kind == EJECT:
            return DiskEject(domid, *self.ejected(event, domid, for_user), domuuid=domuuid, for_user=for_user)
        if kind == _OPERATION_COMPLETE:
            rc = event.u.operation_complete.rc
            for_user = self._ctx.operations.ended(for_user, rc)
            return OperationComplete(domid, rc, domuuid=domuuid, for_user=for_user)
        if kind == _CONSOLE:
            return DomainCreateConsoleAvailable(domid, domuuid=domuuid, for_user=for_user)
        return UnknownEvent(domid, kind, domuuid=domuuid, for_user=for_user)

    def free(self, event: CData) -> None:
        """libxl_event_free."""
        if event.type == _OPERATION_COMPLETE:
            self._ctx.operations.forget(event.for_user)
        self._ctx.lib.libxl_event_free(self._ctx.pointer, event)

    def occurred(self, event: CData) -> None:
        """libxl gives an event to event_occurs."""
        call = self._ctx.current()
        try:
            found = self.read(event)
        except Exception as error:
            # Such as MemoryError. libxl has no second copy: whoever waits must know that one is missing.
            message = f"an event of domain {event.domid} was lost: {error!r}"
            self._ctx.disaster(call, event.type, message, 0, fatal=False, cause=error)
            self._give_back(call, event)
            return
        assert self.event_occurs is not None
        call.inside = EVENT_OCCURS
        try:
            with self._ctx.no_switch():
                self.event_occurs(found)
        except Exception:
            call.told = event
            raise
        call.told = event
        call.inside = None
        self._give_back(call, event)

    def interrupted(self, error: BaseException, event: CData) -> None:
        """Giving an event to event_occurs has raised, at whatever step: Ctrl-C respects none."""
        call = self._ctx.current()
        if call.freed is event:
            return
        if call.told is not event:
            message = f"an event of domain {event.domid} may be lost: {error!r}"
            self._ctx.disaster(call, event.type, message, 0, fatal=False, cause=error)
        self._give_back(call, event)

    def _give_back(self, call: Call, event: CData) -> None:
        call.freed = event
        self.free(event)

    def disaster(self, type: int, message: str, errnoval: int) -> None:
        """libxl reports a disaster."""
        fatal = type == 0 and not message.startswith(_ABOUT_A_CHILD)
        self._ctx.disaster(self._ctx.current(), type, message.strip(), errnoval, fatal=fatal)


def _disk(disk: CData) -> Disk:
    return _known_disk(
        disk.backend_domid,
        text(disk.backend_domname),
        text(disk.pdev_path),
        text(disk.vdev),
        disk.backend,
        disk.format,
        text(disk.script),
        disk.removable,
        disk.readwrite,
        disk.is_cdrom,
    )


# A drive is ejected again and again, and to make a Disk costs as much as to read it from C.
@lru_cache(maxsize=128)
def _known_disk(
    backend_domid: int,
    backend_domname: str | None,
    pdev_path: str | None,
    vdev: str | None,
    backend: int,
    disk_format: int,
    script: str | None,
    removable: int,
    readwrite: int,
    is_cdrom: int,
) -> Disk:
    return Disk(
        backend_domid=backend_domid,
        backend_domname=backend_domname,
        pdev_path=pdev_path,
        vdev=vdev,
        backend=_BACKENDS.get(backend, backend),
        format=_FORMATS.get(disk_format, disk_format),
        script=script,
        removable=removable,
        readwrite=readwrite,
        is_cdrom=is_cdrom,
    )


class _Scan:
    """One look through the queue with a predicate."""

    __slots__ = ("before", "call", "ctx", "found", "predicate")

    def __init__(self, ctx: Ctx, call: Call, predicate: Predicate) -> None:
        self.ctx = ctx
        self.call = call
        self.predicate = predicate
        self.before = len(call.raised)
        self.found: Event | None = None


@callback("int(*)(const libxl_event *, void *)", error=0)
def _predicate(event: CData, user: CData) -> int:
    scan: _Scan = ffi.from_handle(user)
    call = scan.call
    if len(call.raised) > scan.before:
        return 0  # the predicate raised for an older event: the queue is to stay as it is
    event_read = scan.ctx.events.read(event)
    call.inside = PREDICATE
    try:
        with scan.ctx.no_switch():
            wanted = bool(scan.predicate(event_read))
    finally:
        call.inside = None
    if wanted:
        scan.found = event_read
    return wanted


def _interrupted(error: BaseException, user: CData, event: CData) -> None:
    ctx: Ctx = ffi.from_handle(user)
    ctx.events.interrupted(error, event)


@callback("void(*)(void *, libxl_event *)", raised=_interrupted)
def _event_occurs(user: CData, event: CData) -> None:
    ctx: Ctx = ffi.from_handle(user)
    ctx.events.occurred(event)


@callback("void(*)(void *, int, const char *, int)")
def _disaster(user: CData, type: int, msg: CData, errnoval: int) -> None:
    ctx: Ctx = ffi.from_handle(user)
    ctx.events.disaster(type, text(msg) or "", errnoval)
