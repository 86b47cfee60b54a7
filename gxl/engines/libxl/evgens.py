# SPDX-License-Identifier: LGPL-2.1-or-later
"""Event generators: enabled interest in a domain's end or in a disk's ejection."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from gxl.engines.libxl.calls import Call
from gxl.engines.libxl.loading import CData, ffi, libc
from gxl.errors import Fail, MisuseError, from_rc
from gxl.interfaces import IEvgen

if TYPE_CHECKING:
    from gxl.engines.libxl.ctx import Ctx


@implementer(IEvgen)
class Evgen:
    """A live libxl_evgen; its pointer is None when it has been disabled."""

    __slots__ = ("ctx", "domid", "pointer", "user")

    def __init__(self, ctx: Ctx, domid: int, user: int, pointer: CData) -> None:
        self.ctx = ctx
        self.domid = domid
        self.user = user
        self.pointer: CData = pointer

    def __repr__(self) -> str:
        return f"<{type(self).__name__} domid={self.domid} user={self.user}>"


class DomainDeathEvgen(Evgen):
    __slots__ = ()


class DiskEjectEvgen(Evgen):
    __slots__ = ()


class Evgens:
    """A ctx's evgens."""

    def __init__(self, ctx: Ctx) -> None:
        self._ctx = ctx
        self._live: set[Evgen] = set()

    def __len__(self) -> int:
        return len(self._live)

    def enable_death(self, call: Call, domid: int, user: int) -> DomainDeathEvgen:
        """libxl_evenable_domain_death."""
        out = ffi.new("libxl_evgen_domain_death **")
        rc = self._ctx.lib.libxl_evenable_domain_death(self._ctx.pointer, domid, user, out)
        evgen = DomainDeathEvgen(self._ctx, domid, user, out[0])
        self._enabled(call, rc, evgen, f"evenable_domain_death({domid})")
        return evgen

    def enable_eject(self, call: Call, domid: int, vdev: str, user: int) -> DiskEjectEvgen:
        """libxl_evenable_disk_eject."""
        self._check_xenstore()
        out = ffi.new("libxl_evgen_disk_eject **")
        rc = self._ctx.lib.libxl_evenable_disk_eject(self._ctx.pointer, domid, vdev.encode(), user, out)
        evgen = DiskEjectEvgen(self._ctx, domid, user, out[0])
        self._enabled(call, rc, evgen, f"evenable_disk_eject({domid}, {vdev!r})")
        self._ctx.events.remember_vdev(domid, user, vdev)
        return evgen

    def _check_xenstore(self) -> None:
        """libxl_evenable_disk_eject crashes where it can't read xenstore, so ask for something harmless first."""
        name = self._ctx.lib.libxl_domid_to_name(self._ctx.pointer, 0)
        if name == ffi.NULL and ffi.errno != errno.ENOENT:
            raise Fail(message=f"evenable_disk_eject: xenstore can't be read ({os.strerror(ffi.errno)})")
        libc.free(name)

    def _enabled(self, call: Call, rc: int, evgen: Evgen, doing: str) -> None:
        """C has returned `rc`; whether the event loop has played its part is in `call`."""
        failed, call.failed = call.failed, []
        if rc:
            raise from_rc(rc, doing)
        if failed or call.raised:
            # Nobody will get the handle, and nobody would watch the fd.
            self._disable(evgen)
        if failed:
            raise failed[0][1]
        if not call.raised:
            self._live.add(evgen)

    def disable(self, call: Call, evgen: Any, kind: type[Evgen]) -> None:
        """libxl_evdisable_…"""
        if evgen.__class__ is not kind or evgen.ctx is not self._ctx or evgen.pointer is None:
            self._check(evgen, kind)
        self._live.discard(evgen)
        self._disable(evgen)
        if kind is DiskEjectEvgen:
            self._ctx.events.forget_vdev(call, evgen.domid, evgen.user)

    def _check(self, evgen: object, kind: type[Evgen]) -> None:
        if not isinstance(evgen, Evgen):
            raise TypeError(f"an evgen is needed, not {evgen!r}")
        if not isinstance(evgen, kind):
            raise MisuseError(f"{evgen!r} is no {kind.__name__}: it has another evdisable")
        if evgen.ctx is not self._ctx:
            raise MisuseError(f"{evgen!r} belongs to another engine")
        if evgen.pointer is None:
            raise MisuseError(f"{evgen!r} has been disabled already")

    def _disable(self, evgen: Evgen) -> None:
        pointer, evgen.pointer = evgen.pointer, None
        if isinstance(evgen, DomainDeathEvgen):
            self._ctx.lib.libxl_evdisable_domain_death(self._ctx.pointer, pointer)
        else:
            self._ctx.lib.libxl_evdisable_disk_eject(self._ctx.pointer, pointer)
