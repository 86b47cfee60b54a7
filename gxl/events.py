# SPDX-License-Identifier: LGPL-2.1-or-later
"""The events: small immutable objects, one class per libxl event type, and their JSON.

An engine makes an event with what libxl says, and gives it away; a Context stamps it with what it knows, such as `seq`,
before anybody else sees it, and a copy for each further one that it is for. A storm makes 10^5 of them a second, so
they are slotted classes that fill their slots through the slot descriptors: as immutable as a frozen dataclass, at half
the price.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable
from typing import Any, ClassVar, Self
from uuid import UUID

from gxl import jsonvalues


class EventType(enum.IntEnum):
    """libxl_event_type, and two types of gxl's own at the top of the 64-bit mask."""

    DOMAIN_SHUTDOWN = 1
    DOMAIN_DEATH = 2
    DISK_EJECT = 3
    OPERATION_COMPLETE = 4
    DOMAIN_CREATE_CONSOLE_AVAILABLE = 5
    RESYNCED = 62
    EVENTS_LOST = 63


class ShutdownReason(enum.IntEnum):
    """Why a domain shut down. A guest can claim any number from 0 to 255; one without a name stays a bare int."""

    POWEROFF = 0
    REBOOT = 1
    SUSPEND = 2
    CRASH = 3
    WATCHDOG = 4
    SOFT_RESET = 5


class DiskBackend(enum.IntEnum):
    """libxl_disk_backend."""

    UNKNOWN = 0
    PHY = 1
    TAP = 2
    QDISK = 3
    STANDALONE = 4


class DiskFormat(enum.IntEnum):
    """libxl_disk_format."""

    UNKNOWN = 0
    QCOW = 1
    QCOW2 = 2
    VHD = 3
    RAW = 4
    EMPTY = 5
    QED = 6


EVENTMASK_ALL = 2**64 - 1
"""Every event, those of types that this version of gxl does not know included (LIBXL_EVENTMASK_ALL)."""

_REASONS: dict[int, ShutdownReason] = {int(reason): reason for reason in ShutdownReason}


def shutdown_reason(value: int) -> ShutdownReason | int:
    """The ShutdownReason with this number, or the bare number where there is none."""
    return _REASONS.get(value, value)


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """What an eject says of its disk, with libxl_device_disk's field names.

    The guest owns the directory that libxl reads this from (backend, backend_domid and vdev are whatever it claims):
    show it, log it, but never hand it to an operation such as inserting a disk.
    """

    backend_domid: int = 0
    backend_domname: str | None = None
    pdev_path: str | None = None
    vdev: str | None = None
    backend: DiskBackend | int = DiskBackend.UNKNOWN
    format: DiskFormat | int = DiskFormat.UNKNOWN
    script: str | None = None
    removable: int = 0
    readwrite: int = 0
    is_cdrom: int = 0


class Event:
    """What all events have.

    `type`: the EventType (an int where gxl knows no name for it). `domid`: the guest. `domuuid`: its UUID, where known.
    `for_user`: the value given when the event was enabled. `seq`: 1, 2, 3 … in the order in which one Context took its
    events; `time`: POSIX seconds at which it did; `name`: the domain's name as known when it was watched. Those three
    are None in an event that comes straight from an engine.

    Events of one Context are ordered by `seq`: sorted(events), `<` and `>`. Between two contexts that says nothing.
    """

    __slots__ = ("domid", "domuuid", "for_user", "name", "seq", "time")
    __match_args__: ClassVar[tuple[str, ...]] = ("domid",)
    own: ClassVar[tuple[str, ...]] = ()

    type: ClassVar[EventType | int]
    domid: int
    domuuid: UUID | None
    for_user: int
    seq: int | None
    time: float | None
    name: str | None

    def __init__(
        self,
        domid: int,
        *,
        domuuid: UUID | None = None,
        for_user: int = 0,
        seq: int | None = None,
        time: float | None = None,
        name: str | None = None,
    ) -> None:
        _set_domid(self, domid)
        _set_domuuid(self, domuuid)
        _set_for_user(self, for_user)
        _set_seq(self, seq)
        _set_time(self, time)
        _set_name(self, name)

    def stamped(self, domuuid: UUID | None, for_user: int, seq: int, time: float, name: str | None) -> Self:
        """A copy of this event as a Context delivers it."""
        copy = self.__class__.__new__(self.__class__)
        _set_domid(copy, self.domid)
        for field, put in _OWN_SETTERS[self.__class__]:
            put(copy, getattr(self, field))
        return copy._stamp(domuuid, for_user, seq, time, name)

    def _stamp(self, domuuid: UUID | None, for_user: int, seq: int, time: float, name: str | None) -> Self:
        """Fill in what the Context knows that delivers this event, which nobody has seen yet. Returns it."""
        _set_domuuid(self, domuuid)
        _set_for_user(self, for_user)
        _set_seq(self, seq)
        _set_time(self, time)
        _set_name(self, name)
        return self

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} can't be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} can't be deleted")

    def _fields(self) -> tuple[str, ...]:
        return ("domid", *self.own, "domuuid", "for_user", "seq", "time", "name")

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in self._fields())

    def __hash__(self) -> int:
        return hash((self.__class__, *(getattr(self, field) for field in self._fields())))

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        if self.seq is None or other.seq is None:
            raise TypeError("only events that a Context delivered are in an order: one of these has no seq")
        return self.seq < other.seq

    def __gt__(self, other: object) -> bool:
        return NotImplemented if not isinstance(other, Event) else other < self

    def __repr__(self) -> str:
        shown = ", ".join(f"{field}={getattr(self, field)!r}" for field in self._fields())
        return f"{type(self).__name__}({shown})"

    def __reduce__(self) -> tuple[Callable[[str], Event], tuple[str]]:
        return from_json, (self.to_json(),)

    def as_dict(self) -> dict[str, Any]:
        """The event as plain JSON values; every key is always present. See from_json for the way back."""
        content: dict[str, Any] = {
            "seq": self.seq,
            "time": None if self.time is None else jsonvalues.rfc3339(self.time),
            "type": self.type.name.lower() if isinstance(self.type, EventType) else self.type,
            "domid": self.domid,
            "uuid": None if self.domuuid is None else str(self.domuuid),
            "name": self.name,
            "for_user": self.for_user,
        }
        for field in self.own:
            value = getattr(self, field)
            content[field] = jsonvalues.rfc3339(value) if field == "since" else _plain(value)
        return content

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.as_dict())


def _slot(owner: type, name: str) -> Callable[[Any, Any], None]:
    put: Callable[[Any, Any], None] = owner.__dict__[name].__set__
    return put


_set_domid, _set_domuuid, _set_for_user, _set_name, _set_seq, _set_time = (
    _slot(Event, name) for name in Event.__slots__
)


class DomainShutdown(Event):
    """The domain stopped running and still exists: `shutdown_reason` says why.

    At most once per evgen. A domain that is destroyed before it shuts down has only a DomainDeath.
    """

    __slots__ = ("shutdown_reason",)
    __match_args__ = ("domid", "shutdown_reason")
    own = ("shutdown_reason",)
    type = EventType.DOMAIN_SHUTDOWN
    shutdown_reason: ShutdownReason | int

    def __init__(self, domid: int, shutdown_reason: ShutdownReason | int, **common: Any) -> None:
        super().__init__(domid, **common)
        _set_shutdown_reason(self, _REASONS.get(shutdown_reason, shutdown_reason))


class DomainDeath(Event):
    """The domain is gone, or is being torn down and can't come back. Once per evgen at most, and its last event."""

    __slots__ = ()
    type = EventType.DOMAIN_DEATH


class DiskEject(Event):
    """The guest ejected the medium of a removable disk.

    `vdev` is the disk's name as the application gave it (an engine without a Context reports libxl's own idea of it);
    `disk` is what the guest claims.
    """

    __slots__ = ("disk", "vdev")
    __match_args__ = ("domid", "vdev")
    own = ("vdev", "disk")
    type = EventType.DISK_EJECT
    vdev: str | None
    disk: Disk

    def __init__(self, domid: int, vdev: str | None, disk: Disk, **common: Any) -> None:
        super().__init__(domid, **common)
        _set_vdev(self, vdev)
        _set_disk(self, disk)


class OperationComplete(Event):
    """An operation that was started with AsyncHow(for_event=…) has ended; `rc` is 0 or a libxl error code."""

    __slots__ = ("rc",)
    __match_args__ = ("domid", "rc")
    own = ("rc",)
    type = EventType.OPERATION_COMPLETE
    rc: int

    def __init__(self, domid: int, rc: int, **common: Any) -> None:
        super().__init__(domid, **common)
        _set_rc(self, rc)


class DomainCreateConsoleAvailable(Event):
    """A domain that is being created has its console now."""

    __slots__ = ()
    type = EventType.DOMAIN_CREATE_CONSOLE_AVAILABLE


class Resynced(Event):
    """gxl was cut off from Xen and has a new connection: what has become of the domains is reported after this event.

    `reason`: how the old one was lost. `since`: POSIX seconds, from when on events may be missing. `missed`: the types
    of those that may be: a DOMAIN_SHUTDOWN, if the domain was resumed or died meanwhile; a DISK_EJECT, if another
    program has answered it; a DOMAIN_DEATH only where all domains are watched, if one came and went meanwhile. It
    concerns no single domain; `domid` is that of the control domain.
    """

    __slots__ = ("missed", "reason", "since")
    __match_args__ = ("reason",)
    own = ("reason", "since", "missed")
    type = EventType.RESYNCED
    reason: str
    since: float
    missed: tuple[EventType, ...]

    def __init__(
        self, domid: int, reason: str, since: float, missed: tuple[EventType, ...] = (), **common: Any
    ) -> None:
        super().__init__(domid, **common)
        _set_reason(self, reason)
        _set_since(self, since)
        _set_missed(self, missed)


class EventsLost(Event):
    """`count` events are missing where this one stands: a bounded sink was full, or they could not be delivered.

    With a `domid`: that guest ejected so often (gxl.floods) that the evgen of this `for_user` was disabled.
    """

    __slots__ = ("count",)
    __match_args__ = ("count",)
    own = ("count",)
    type = EventType.EVENTS_LOST
    count: int

    def __init__(self, domid: int, count: int, **common: Any) -> None:
        super().__init__(domid, **common)
        _set_count(self, count)


class UnknownEvent(Event):
    """An event of a type that this version of gxl has no class for: `type` is its number."""

    __slots__ = ("type",)
    __match_args__ = ("domid", "type")
    own = ("type",)
    type: int  # type: ignore[misc]  # the one class whose instances differ in it

    def __init__(self, domid: int, type: int, **common: Any) -> None:
        super().__init__(domid, **common)
        _set_type(self, type)


_set_shutdown_reason = _slot(DomainShutdown, "shutdown_reason")
_set_vdev = _slot(DiskEject, "vdev")
_set_disk = _slot(DiskEject, "disk")
_set_rc = _slot(OperationComplete, "rc")
_set_reason = _slot(Resynced, "reason")
_set_since = _slot(Resynced, "since")
_set_missed = _slot(Resynced, "missed")
_set_count = _slot(EventsLost, "count")
_set_type = _slot(UnknownEvent, "type")

_NAMED: tuple[type[Event], ...] = (
    *(DomainShutdown, DomainDeath, DiskEject, OperationComplete, DomainCreateConsoleAvailable),
    *(Resynced, EventsLost),
)
_CLASSES: tuple[type[Event], ...] = (*_NAMED, UnknownEvent)
_OWN_SETTERS: dict[type[Event], tuple[tuple[str, Callable[[Any, Any], None]], ...]] = {
    cls: tuple((field, _slot(cls, field)) for field in cls.own) for cls in _CLASSES
}

BY_TYPE: dict[int, type[Event]] = {int(cls.type): cls for cls in _NAMED}


def mask(*types: EventType | type[Event]) -> int:
    """The typemask that lets exactly these types through: EventType members or event classes.

    Raises TypeError for anything else, and for UnknownEvent, which has no type of its own.
    """
    bits = 0
    for entry in types:
        kind = entry.type if isinstance(entry, type) and issubclass(entry, Event) and entry in _NAMED else entry
        if not isinstance(kind, EventType):
            raise TypeError(f"an EventType or an event class is needed, not {entry!r}")
        bits |= 1 << kind
    return bits


def _plain(value: Any) -> Any:
    if isinstance(value, Disk):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value.name.lower() if isinstance(value, enum.IntEnum) else value


_DOMID = jsonvalues.number(0, 2**32)
_C_INT = jsonvalues.number(-(2**31), 2**31)
_READERS: dict[str, jsonvalues.Reader] = {
    "domid": _DOMID,
    "for_user": jsonvalues.number(0, 2**64),
    "seq": jsonvalues.optional(jsonvalues.number(1, 2**63)),
    "name": jsonvalues.optional(jsonvalues.text),
    "shutdown_reason": jsonvalues.named(ShutdownReason, jsonvalues.number(0, 2**32)),
    "vdev": jsonvalues.optional(jsonvalues.text),
    "disk": lambda field, value: _disk(value),
    "rc": _C_INT,
    "reason": jsonvalues.text,
    "since": jsonvalues.moment,
    "missed": jsonvalues.several(jsonvalues.named(EventType)),
    "count": jsonvalues.number(1, 2**63),
}
_DISK_READERS: dict[str, jsonvalues.Reader] = {
    **dict.fromkeys(("backend_domname", "pdev_path", "vdev", "script"), jsonvalues.optional(jsonvalues.text)),
    **dict.fromkeys(("removable", "readwrite", "is_cdrom"), _C_INT),
    "backend_domid": _DOMID,
    "backend": jsonvalues.named(DiskBackend, _C_INT),
    "format": jsonvalues.named(DiskFormat, _C_INT),
}


def _disk(content: object) -> Disk:
    return Disk(
        **{
            part.name: _DISK_READERS[part.name](f"disk.{part.name}", jsonvalues.member(content, part.name, "disk"))
            for part in dataclasses.fields(Disk)
        }
    )


def from_json(text: str) -> Event:
    """The event that `text`, made by Event.to_json, describes.

    Raises ValueError for anything else: it names the field, what was expected there and what was found.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not an event that gxl wrote: not JSON: {error}") from None
    try:
        return _event(content)
    except ValueError as error:
        raise ValueError(f"not an event that gxl wrote: {error}") from None


def _event(content: object) -> Event:
    kind = jsonvalues.named(EventType, jsonvalues.number(0, 64))("type", jsonvalues.member(content, "type"))
    cls = BY_TYPE[kind] if isinstance(kind, EventType) else UnknownEvent
    own: dict[str, Any] = {"type": kind} if cls is UnknownEvent else {field: _read(content, field) for field in cls.own}
    return cls(
        **own,
        domuuid=jsonvalues.optional(jsonvalues.uuid)("uuid", jsonvalues.member(content, "uuid")),
        time=jsonvalues.optional(jsonvalues.moment)("time", jsonvalues.member(content, "time")),
        **{field: _read(content, field) for field in ("domid", "for_user", "seq", "name")},
    )


def _read(content: object, field: str) -> Any:
    return _READERS[field](field, jsonvalues.member(content, field))
