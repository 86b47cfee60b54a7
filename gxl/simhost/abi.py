# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hypercalls as libxenctrl packs them, for the simulated hypervisor.

Xen's structures for tools change with its releases and carry an interface version; the layouts here serve tools of Xen
4.14 to 4.22 on x86-64. What is not served gets ENOSYS, an unknown version EACCES, as from Xen.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import NamedTuple

from gxl.simhost.domains import DOMID_FIRST_RESERVED, DomainInfo, Kind
from gxl.simhost.hypercalls import Hypercalls

# A call: its number and five arguments, and the length of the structure that follows it.
REQUEST = struct.Struct("=6QQ")
BLOCK_MAX = 4096
_ANSWER = struct.Struct("=qQ")
_WRITE = struct.Struct("=QQ")

_PAGE_KB = 4
_CPUPOOL = 0

_DYING, _HVM, _SHUTDOWN, _PAUSED, _BLOCKED, _RUNNING = 1, 2, 4, 8, 16, 32
_REASON_SHIFT = 16

# xen_domctl_getdomaininfo, by the sysctl interface's version and the domctl interface's: the same structure is in both.
_UP_TO_4_15 = struct.Struct("=HHI 7Q III16sI 8x")
_SINCE_4_16 = struct.Struct("=HHI 7Q III16sI 8x 8x")
_BY_SYSCTL = {0x13: _UP_TO_4_15, 0x14: _SINCE_4_16, 0x15: _SINCE_4_16, 0x16: _SINCE_4_16}
_BY_DOMCTL = {0x12: _UP_TO_4_15, 0x13: _UP_TO_4_15, **dict.fromkeys(range(0x14, 0x19), _SINCE_4_16)}
# Up to here, asking for a domain that is not there gives the next one that is.
_LAST_DOMCTL_THAT_SEARCHES = 0x15


class Version(NamedTuple):
    """The release of Xen that the host claims to be."""

    major: int
    minor: int


Answer = tuple[int, list[tuple[int, bytes]]]
"""What a hypercall returns, and what it writes at which addresses of the caller's."""


def answer(hypercalls: Hypercalls, version: Version, call: tuple[int, ...], block: bytes) -> bytes:
    """Carry out the hypercall `call` (its number and arguments, with the structure `block`); what to send back."""
    try:
        number, *arguments = call
        handler = _HANDLERS.get(number)
        if handler is None:
            raise OSError(errno.ENOSYS, f"hypercall {number}")
        result, writes = handler(hypercalls, version, arguments, block)
        return _ANSWER.pack(result, len(writes)) + b"".join(
            _WRITE.pack(address, len(data)) + data for address, data in writes
        )
    except OSError as error:
        return _ANSWER.pack(-(error.errno or errno.EIO), 0)
    except struct.error:
        # A structure shorter than the call needs, or an address that is none.
        return _ANSWER.pack(-errno.EFAULT, 0)


def _pack(layout: struct.Struct, info: DomainInfo) -> bytes:
    flags = 0
    for is_set, flag in (
        (info.dying, _DYING),
        (info.kind is not Kind.PV, _HVM),
        (info.shutdown, _SHUTDOWN),
        (info.paused, _PAUSED),
        (info.blocked, _BLOCKED),
        (info.running, _RUNNING),
    ):
        flags |= flag if is_set else 0
    flags |= info.shutdown_reason << _REASON_SHIFT
    pages = info.memory_kb // _PAGE_KB
    counters = (pages, pages, 0, 0, 0, 0, info.cpu_time_ns)
    return layout.pack(info.domid, 0, flags, *counters, info.vcpus, info.vcpus - 1, 0, info.uuid.bytes, _CPUPOOL)


def _physinfo(hypercalls: Hypercalls) -> bytes:
    """A host with as many CPUs as its dom0, and as much memory as all its domains."""
    infos = hypercalls.getdomaininfolist(0, DOMID_FIRST_RESERVED)
    cpus, pages = infos[0].vcpus, sum(info.memory_kb for info in infos) // _PAGE_KB
    return struct.pack("=10I5Q", 1, cpus, cpus, cpus - 1, 1, 0, 2_000_000, 3, 0, 0, pages, 0, 0, 0, pages)


def _sysctl(hypercalls: Hypercalls, version: Version, arguments: list[int], block: bytes) -> Answer:
    command, interface = struct.unpack_from("=II", block)
    layout = _BY_SYSCTL.get(interface)
    if layout is None:
        raise OSError(errno.EACCES, f"sysctl interface version {interface:#x}")
    if command == 3:
        return 0, [(arguments[0] + 8, _physinfo(hypercalls).ljust(128, b"\0"))]
    if command != 6:
        raise OSError(errno.ENOSYS, f"sysctl {command}")
    first, limit, buffer = struct.unpack_from("=H2xIQ", block, 8)
    infos = hypercalls.getdomaininfolist(first, limit)
    count_at = arguments[0] + 24
    return 0, [(buffer, b"".join(_pack(layout, info) for info in infos)), (count_at, struct.pack("=I", len(infos)))]


def _domctl(hypercalls: Hypercalls, version: Version, arguments: list[int], block: bytes) -> Answer:
    command, interface, domid = struct.unpack_from("=IIH", block)
    layout = _BY_DOMCTL.get(interface)
    if layout is None:
        raise OSError(errno.EACCES, f"domctl interface version {interface:#x}")
    if command == 5:
        info = hypercalls.getdomaininfo(domid, or_next=interface <= _LAST_DOMCTL_THAT_SEARCHES)
        return 0, [(arguments[0] + 8, struct.pack("=H", info.domid)), (arguments[0] + 16, _pack(layout, info))]
    simple: dict[int, Callable[[int], None]] = {
        2: hypercalls.destroydomain,
        3: hypercalls.pausedomain,
        4: hypercalls.unpausedomain,
        27: hypercalls.resumedomain,
    }
    if command not in simple:
        raise OSError(errno.ENOSYS, f"domctl {command}")
    simple[command](domid)
    return 0, []


def _sched_op(hypercalls: Hypercalls, version: Version, arguments: list[int], block: bytes) -> Answer:
    if arguments[0] != 4:
        raise OSError(errno.ENOSYS, f"sched_op {arguments[0]}")
    domid, reason = struct.unpack_from("=H2xI", block)
    hypercalls.remote_shutdown(domid, reason & 255)
    return 0, []


def _hvm_op(hypercalls: Hypercalls, version: Version, arguments: list[int], block: bytes) -> Answer:
    command, (domid, parameter) = arguments[0], struct.unpack_from("=H2xI", block)
    if command != 1 or parameter != 0:
        raise OSError(errno.ENOSYS, f"hvm_op {command}, parameter {parameter}")
    hypercalls.getdomaininfo(domid)
    # The interrupt by which the guest hears of events: one that is set tells that it has PV drivers.
    return 0, [(arguments[1] + 8, struct.pack("=Q", 1))]


def _xen_version(hypercalls: Hypercalls, version: Version, arguments: list[int], block: bytes) -> Answer:
    hypercalls.xen_version()
    command = arguments[0]
    if command == 0:
        return version.major << 16 | version.minor, []
    if command == 7:
        return _PAGE_KB * 1024, []
    texts = {
        1: (b".0-gxl", 16),
        2: (b"", 144),
        3: (b"xen-3.0-x86_64 ", 1024),
        4: (b"", 64),
        5: (b"", 8),
        9: (b"", 1024),
    }
    if command not in texts:
        raise OSError(errno.ENOSYS, f"xen_version {command}")
    text, size = texts[command]
    return 0, [(arguments[1], text.ljust(size, b"\0"))]


_HANDLERS: dict[int, Callable[[Hypercalls, Version, list[int], bytes], Answer]] = {
    17: _xen_version,
    29: _sched_op,
    34: _hvm_op,
    35: _sysctl,
    36: _domctl,
}
