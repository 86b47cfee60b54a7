# SPDX-License-Identifier: LGPL-2.1-or-later
"""libxl by cffi's calls alone, as programs have it that have no gxl. Of gxl only the declarations are used."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from gxl.engines.libxl.loading import ffi, libc, load, mapped_object

_XTL_ERROR = 8
_ALL = 2**64 - 1


class Event:
    __slots__ = ("type", "domid", "for_user")

    def __init__(self, type: int, domid: int, for_user: int) -> None:
        self.type = type
        self.domid = domid
        self.for_user = for_user


class Ctx:
    """A libxl_ctx whose log goes to stderr, as C's does here."""

    def __init__(self) -> None:
        self.lib = lib = load().lib
        log = lib.xtl_createlogger_stdiostream(libc.fdopen(os.dup(2), b"w"), _XTL_ERROR, 0)
        out = ffi.new("libxl_ctx **")
        if lib.libxl_ctx_alloc(out, 0, 0, log):
            raise RuntimeError("libxl_ctx_alloc failed")
        self.pointer = out[0]
        # gxl never calls this one, and so has not declared it. Its type is that of libxl_event_check.
        library, _ = mapped_object(lib.libxl_event_check)
        address = ctypes.cast(ctypes.CDLL(library).libxl_event_wait, ctypes.c_void_p).value
        self._event_wait = ffi.cast(ffi.typeof(lib.libxl_event_check), address)

    def enable(self, kind: str, domid: int) -> None:
        """An evgen whose user value is the domid."""
        if kind == "eject":
            rc = self.lib.libxl_evenable_disk_eject(
                self.pointer, domid, b"xvda", domid, ffi.new("libxl_evgen_disk_eject **")
            )
        else:
            rc = self.lib.libxl_evenable_domain_death(
                self.pointer, domid, domid, ffi.new("libxl_evgen_domain_death **")
            )
        if rc:
            raise RuntimeError(f"an evgen for domain {domid} can't be enabled: {rc}")

    def event_wait(self) -> Event:
        """libxl_event_wait: blocks this thread, and no other."""
        out: Any = ffi.new("libxl_event **")
        if self._event_wait(self.pointer, out, _ALL, ffi.NULL, ffi.NULL):
            raise RuntimeError("libxl_event_wait failed")
        event = out[0]
        found = Event(event.type, event.domid, event.for_user)
        self.lib.libxl_event_free(self.pointer, event)
        return found
