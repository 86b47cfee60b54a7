# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the hypervisor says of domains. Both functions of libxl's make hypercalls only."""

from __future__ import annotations

from uuid import UUID

from gxl.engines.libxl.abi import ROOM
from gxl.engines.libxl.loading import CData, Library, ffi
from gxl.errors import Fail, from_rc
from gxl.events import shutdown_reason
from gxl.interfaces import DomainInfo


def domain_info(library: Library, ctx: CData, domid: int) -> DomainInfo:
    """libxl_domain_info."""
    room = ffi.new("char[]", ROOM)
    info = ffi.cast("libxl_dominfo *", room)
    library.lib.libxl_dominfo_init(room)
    rc = library.lib.libxl_domain_info(ctx, info, domid)
    if rc:
        raise from_rc(rc, f"domain_info({domid})")
    try:
        return _read(info)
    finally:
        library.lib.libxl_dominfo_dispose(info)


def list_domain(library: Library, ctx: CData) -> list[DomainInfo]:
    """libxl_list_domain."""
    count = ffi.new("int *")
    infos = library.lib.libxl_list_domain(ctx, count)
    if infos == ffi.NULL:
        raise Fail(message="list_domain: libxl could not list the domains")
    first = ffi.cast("char *", infos)
    try:
        # The elements are as far apart as this library has them, not as they are declared.
        return [_read(ffi.cast("libxl_dominfo *", first + index * library.dominfo_size)) for index in range(count[0])]
    finally:
        library.lib.libxl_dominfo_list_free(infos, count[0])


def _read(info: CData) -> DomainInfo:
    return DomainInfo(
        domid=info.domid,
        uuid=UUID(bytes=bytes(ffi.buffer(info.uuid))),
        running=info.running,
        blocked=info.blocked,
        paused=info.paused,
        shutdown=info.shutdown,
        dying=info.dying,
        shutdown_reason=shutdown_reason(info.shutdown_reason) if info.shutdown else None,
        current_memory_kb=info.current_memkb,
        max_memory_kb=info.max_memkb,
        cpu_time_ns=info.cpu_time,
    )
