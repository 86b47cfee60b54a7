# SPDX-License-Identifier: LGPL-2.1-or-later
"""The operations that take more than a domid: creating, saving and restoring domains, and filling CD drives.

Their structs differ from release to release. So nothing here knows what is in them: libxl itself makes them from JSON,
in memory that is far larger than any of them, and disposes of them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gxl.engines.libxl.loading import CData, ffi
from gxl.errors import Fail, from_rc
from gxl.interfaces import AsyncHow, NewDomain

if TYPE_CHECKING:
    from gxl.engines.libxl.ctx import Ctx

_ROOM = 1 << 16
"""For any of these structs. The largest, libxl_domain_config, grew from 1264 bytes in Xen 4.14 to 1400 in 4.22."""
_FILLER = b"\xa5"
_INVALID_DOMID = 0xFFFFFFFF
_SUSPEND_LIVE = 2
_RESTORE_PARAMS = {"stream_version": 2}


class Struct:
    """A struct that libxl filled in from JSON; `room` is where. It is libxl's until `dispose`."""

    def __init__(self, ctx: Ctx, name: str, text: str) -> None:
        self._dispose = getattr(ctx.lib, f"libxl_{name}_dispose")
        self.room: CData = ffi.new("char[]", _FILLER * _ROOM)
        getattr(ctx.lib, f"libxl_{name}_init")(self.room)
        # It clears exactly one struct. What does not fit into half of this is nothing that gxl knows.
        if bytes(ffi.buffer(self.room)[_ROOM // 2 : _ROOM]) != _FILLER * (_ROOM // 2):
            raise Fail(message=f"libxl_{name} is larger than gxl expects of any release: {_ROOM // 2} bytes and more")
        rc = getattr(ctx.lib, f"libxl_{name}_from_json")(ctx.pointer, self.room, text.encode())
        if rc:
            self.dispose()
            raise from_rc(rc, f"libxl can't read the {name}")

    def dispose(self) -> None:
        self._dispose(self.room)


class _Lent:
    """Structs, and the domid of a new domain, while libxl uses them."""

    def __init__(self, *structs: Struct) -> None:
        self._structs = structs
        self.domid: CData = ffi.new("uint32_t *", _INVALID_DOMID)
        self.new = NewDomain()

    def end(self, rc: int) -> None:
        if rc == 0 and self.domid[0] != _INVALID_DOMID:
            self.new.domid = self.domid[0]
        for struct in self._structs:
            struct.dispose()


def create(ctx: Ctx, config: str, how: AsyncHow | None, console: int | None) -> NewDomain:
    """libxl_domain_create_new."""
    struct = Struct(ctx, "domain_config", config)
    lent = _Lent(struct)
    console_how = _progress(console)
    ctx.operations.start(
        "domain_create_new",
        lambda how: ctx.lib.libxl_domain_create_new(ctx.pointer, struct.room, lent.domid, how, console_how),
        how,
        True,
        lent,
    )
    return lent.new


def restore(ctx: Ctx, config: str, fd: int, how: AsyncHow | None, console: int | None) -> NewDomain:
    """libxl_domain_create_restore."""
    params = Struct(ctx, "domain_restore_params", json.dumps(_RESTORE_PARAMS))
    try:
        struct = Struct(ctx, "domain_config", config)
    except BaseException:
        params.dispose()
        raise
    lent = _Lent(struct, params)
    console_how = _progress(console)
    ctx.operations.start(
        "domain_create_restore",
        lambda how: ctx.lib.libxl_domain_create_restore(
            ctx.pointer, struct.room, lent.domid, fd, -1, params.room, how, console_how
        ),
        how,
        True,
        lent,
    )
    return lent.new


def suspend(ctx: Ctx, domid: int, fd: int, live: bool, how: AsyncHow | None) -> None:
    """libxl_domain_suspend."""
    flags = _SUSPEND_LIVE if live else 0
    ctx.operations.start(
        f"domain_suspend({domid})",
        lambda how: ctx.lib.libxl_domain_suspend(ctx.pointer, domid, fd, flags, how),
        how,
        True,
    )


def insert(ctx: Ctx, domid: int, vdev: str, path: str | None, format: str, how: AsyncHow | None) -> None:
    """libxl_cdrom_insert. The disk is made here, from what the caller said, and never taken from an event."""
    disk: dict[str, object] = {"vdev": vdev, "removable": 1, "is_cdrom": 1, "format": format, "pdev_path": path}
    if path is None:
        disk.update(format="empty", pdev_path="")
    struct = Struct(ctx, "device_disk", json.dumps(disk))
    ctx.operations.start(
        f"cdrom_insert({domid}, {vdev!r})",
        lambda how: ctx.lib.libxl_cdrom_insert(ctx.pointer, domid, struct.room, how),
        how,
        False,
        _Lent(struct),
    )


def _progress(console: int | None) -> CData:
    """libxl copies it; without a callback the event goes where the ctx's events go."""
    if console is None:
        return ffi.NULL
    how = ffi.new("libxl_asyncprogress_how *")
    how.for_event = console
    return how
