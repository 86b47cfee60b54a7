# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small program on the real libxenlight, which tests run against a simulated host. It needs nothing of gxl.

`events DOMID VDEV` prints the domain's and the disk's events until the domain dies; `operations DOMID` does to the
domain what a toolstack does.
"""

from __future__ import annotations

import ctypes
import select
import sys
import time
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_uint32, c_uint64, c_void_p

xl = ctypes.CDLL(sys.argv[1])
xtl = ctypes.CDLL(sys.argv[2])
libc = ctypes.CDLL(None)


class Timeval(ctypes.Structure):
    _fields_ = (("tv_sec", c_long), ("tv_usec", c_long))


class PollFd(ctypes.Structure):
    _fields_ = (("fd", c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def say(*words: object) -> None:
    print(*words, flush=True)


def open_ctx() -> c_void_p:
    libc.fdopen.restype = xtl.xtl_createlogger_stdiostream.restype = c_void_p
    logger = c_void_p(xtl.xtl_createlogger_stdiostream(c_void_p(libc.fdopen(2, b"w")), 4, 0))
    ctx = c_void_p()
    rc = xl.libxl_ctx_alloc(byref(ctx), 0, 0, logger)
    if rc:
        sys.exit(f"libxl_ctx_alloc: {rc}")
    return ctx


def run_loop_once(ctx: c_void_p) -> None:
    now = time.time()
    tv = Timeval(int(now), int(now % 1 * 1e6))
    count, timeout, fds = c_int(8), c_int(-1), (PollFd * 8)()
    assert xl.libxl_osevent_beforepoll(ctx, byref(count), fds, byref(timeout), tv) == 0
    poll = select.poll()
    for entry in fds[: count.value]:
        poll.register(entry.fd, entry.events)
    ready = dict(poll.poll(timeout.value))
    for entry in fds[: count.value]:
        entry.revents = ready.get(entry.fd, 0)
    xl.libxl_osevent_afterpoll(ctx, count, fds, tv)


def events(ctx: c_void_p, domid: int, vdev: bytes) -> None:
    death, eject = c_void_p(), c_void_p()
    say("enable death", xl.libxl_evenable_domain_death(ctx, c_uint32(domid), c_uint64(1), byref(death)))
    say("enable eject", xl.libxl_evenable_disk_eject(ctx, c_uint32(domid), vdev, c_uint64(2), byref(eject)))
    while True:
        run_loop_once(ctx)
        event = c_void_p()
        while xl.libxl_event_check(ctx, byref(event), c_uint64(2**64 - 1), None, None) == 0:
            base = event.value or 0
            kind = c_int.from_address(base + 48).value
            if kind == 1:
                say("shutdown", ctypes.c_uint8.from_address(base + 56).value)
            elif kind == 3:
                vdev_name = c_char_p.from_address(base + 64 + 24).value or b""
                say("eject", c_uint32.from_address(base + 16).value, vdev_name.decode())
            xl.libxl_event_free(ctx, event)
            if kind == 2:
                say("death")
                return


def operations(ctx: c_void_p, domid: int) -> None:
    info = ctypes.create_string_buffer(256)
    target = c_uint32(domid)
    count = c_int()
    xl.libxl_list_domain.restype = c_void_p
    assert xl.libxl_list_domain(ctx, byref(count))
    say("listed", count.value)
    for name in ("pause", "unpause", "shutdown"):
        rc = getattr(xl, f"libxl_domain_{name}")(ctx, target, None)
        assert xl.libxl_domain_info(ctx, info, target) == 0
        say(name, rc, "paused" if info.raw[33] or info.raw[34] else "not paused")
    say("destroy", xl.libxl_domain_destroy(ctx, target, None))
    say("info", xl.libxl_domain_info(ctx, info, target))


xl.libxl_ctx_alloc.argtypes = (POINTER(c_void_p), c_int, ctypes.c_uint, c_void_p)
context = open_ctx()
if sys.argv[3] == "events":
    events(context, int(sys.argv[4]), sys.argv[5].encode())
else:
    operations(context, int(sys.argv[4]))
say("free", xl.libxl_ctx_free(context))
