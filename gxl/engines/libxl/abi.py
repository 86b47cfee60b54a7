# SPDX-License-Identifier: LGPL-2.1-or-later
"""Proves, before first use, that the members of libxl's structs are where declarations.py says.

libxl can print the structs that gxl reads as JSON. So a struct is filled in here through the declared members and
printed there: if the library reads back what was written, both agree. That needs neither Xen nor a libxl_ctx. What
is passed the other way, structs of hooks and of libxl_asyncop_how, is the header's own, the same text in every release.
"""

from __future__ import annotations

import json
from typing import Any

ROOM = 512
"""More than any release needs for a struct that gxl has to bring itself. The largest so far, libxl_event, has 208."""

_FLAGS = ("running", "blocked", "paused", "shutdown", "dying")


class Mismatch(Exception):
    """The library disagrees with the declarations."""


def prove(ffi: Any, lib: Any, libc: Any) -> int:
    """Raises Mismatch, saying where, if `lib` is not laid out as declared. Returns its sizeof(libxl_dominfo)."""
    try:
        for name in dir(lib):
            getattr(lib, name)
        _prove_shutdown(ffi, lib, libc)
        _prove_operation(ffi, lib, libc)
        _prove_eject(ffi, lib, libc)
        _prove_dominfo(ffi, lib, libc)
        return _measure_dominfo(ffi, lib)
    except ffi.error as error:
        raise Mismatch(f"it lacks a function: {error}") from error


def _prove_shutdown(ffi: Any, lib: Any, libc: Any) -> None:
    event, room = _event(ffi, lib, 1)
    event.domid = 0x12345
    event.for_user = 0x0123456789ABCDEF
    event.domuuid[0] = 0xA0
    event.domuuid[15] = 0xAF
    event.u.domain_shutdown.shutdown_reason = 3
    said = _json(ffi, libc, lib.libxl_event_to_json(ffi.NULL, room))
    # Builds that use json-c print only the lower half of for_user, with its sign.
    for_user = said.pop("for_user", None)
    if not isinstance(for_user, int) or for_user & 0xFFFFFFFF != 0x89ABCDEF:
        raise Mismatch(f"event.for_user: wrote {event.for_user:#x}, the library reads {for_user!r}")
    _compare(
        "event",
        said,
        {
            "domid": 0x12345,
            "domuuid": "a0000000-0000-0000-0000-0000000000af",
            "type.domain_shutdown": {"shutdown_reason": 3},
        },
    )
    if event.type != 1:
        raise Mismatch(f"event.type: libxl_event_init_type wrote 1, gxl reads {event.type}")


def _prove_operation(ffi: Any, lib: Any, libc: Any) -> None:
    event, room = _event(ffi, lib, 4)
    event.u.operation_complete.rc = -22
    said = _json(ffi, libc, lib.libxl_event_to_json(ffi.NULL, room))
    _compare("event", said, {"type.operation_complete": {"rc": -22}})


def _prove_eject(ffi: Any, lib: Any, libc: Any) -> None:
    event, room = _event(ffi, lib, 3)
    eject = event.u.disk_eject
    names = ("vdev", "backend_domname", "pdev_path", "script")
    texts = {name: ffi.new("char[]", f"a {name}".encode()) for name in (*names, "disk.vdev")}
    eject.vdev = texts["vdev"]
    eject.disk.backend_domid = 7
    eject.disk.backend_domname = texts["backend_domname"]
    eject.disk.pdev_path = texts["pdev_path"]
    eject.disk.vdev = texts["disk.vdev"]
    eject.disk.backend = 3
    eject.disk.format = 5
    eject.disk.script = texts["script"]
    eject.disk.removable = 11
    eject.disk.readwrite = 12
    eject.disk.is_cdrom = 13
    said = _json(ffi, libc, lib.libxl_event_to_json(ffi.NULL, room))
    disk = {
        "backend_domid": 7,
        "backend_domname": "a backend_domname",
        "pdev_path": "a pdev_path",
        "vdev": "a disk.vdev",
        "backend": "qdisk",
        "format": "empty",
        "script": "a script",
        "removable": 11,
        "readwrite": 12,
        "is_cdrom": 13,
    }
    _compare("event", said, {"type.disk_eject": {"vdev": "a vdev", "disk": disk}})


def _prove_dominfo(ffi: Any, lib: Any, libc: Any) -> None:
    info, room = _dominfo(ffi, lib)
    info.uuid[0] = 0xB0
    info.uuid[15] = 0xBF
    info.domid = 0x23456
    info.shutdown_reason = 4
    info.current_memkb = 1 << 21
    info.max_memkb = 1 << 22
    info.cpu_time = 1 << 20
    expected = {
        "uuid": "b0000000-0000-0000-0000-0000000000bf",
        "domid": 0x23456,
        "shutdown_reason": "watchdog",
        "current_memkb": 1 << 21,
        "max_memkb": 1 << 22,
        "cpu_time": 1 << 20,
    }
    _compare("dominfo", _json(ffi, libc, lib.libxl_dominfo_to_json(ffi.NULL, room)), expected)
    for flag in _FLAGS:
        info, room = _dominfo(ffi, lib)
        setattr(info, flag, True)
        said = _json(ffi, libc, lib.libxl_dominfo_to_json(ffi.NULL, room))
        _compare("dominfo flags", [name for name in _FLAGS if said.get(name)], [flag])


def _measure_dominfo(ffi: Any, lib: Any) -> int:
    """How far apart the elements of libxl_list_domain's array are: 112 bytes up to Xen 4.15, 120 since.

    libxl_dominfo_init clears exactly one struct, padding included, before it sets what is not zero.
    """
    size = 0
    for filler in (b"\xa5", b"\x5a"):
        room = ffi.new("char[]", ROOM)
        ffi.buffer(room)[:] = filler * ROOM
        lib.libxl_dominfo_init(room)
        kept = bytes(ffi.buffer(room))
        size = max(size, len(kept.rstrip(filler)))
    if not ffi.sizeof("libxl_dominfo") <= size < ROOM or size % 8:
        raise Mismatch(f"sizeof(libxl_dominfo) seems to be {size}")
    return size


def _event(ffi: Any, lib: Any, kind: int) -> tuple[Any, Any]:
    room = ffi.new("char[]", ROOM)
    lib.libxl_event_init(room)
    lib.libxl_event_init_type(room, kind)
    return ffi.cast("libxl_event *", room), room


def _dominfo(ffi: Any, lib: Any) -> tuple[Any, Any]:
    room = ffi.new("char[]", ROOM)
    lib.libxl_dominfo_init(room)
    return ffi.cast("libxl_dominfo *", room), room


def _json(ffi: Any, libc: Any, text: Any) -> dict[str, Any]:
    if text == ffi.NULL:
        raise Mismatch("the library could not print a struct as JSON")
    try:
        content = json.loads(ffi.string(text))
    except ValueError as error:
        raise Mismatch(f"the library's JSON is none: {ffi.string(text)!r}") from error
    finally:
        libc.free(text)
    if not isinstance(content, dict):
        raise Mismatch(f"the library's JSON is no object: {content!r}")
    return content


def _compare(path: str, said: Any, written: Any) -> None:
    """The library may print more than was written: its defaults for members that gxl does not know."""
    if isinstance(written, dict) and isinstance(said, dict):
        for name, value in written.items():
            _compare(f"{path}.{name}", said.get(name), value)
    elif said != written:
        raise Mismatch(f"{path}: wrote {written!r}, the library reads {said!r}")
