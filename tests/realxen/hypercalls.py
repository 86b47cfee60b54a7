# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens to a domain, made to happen by the hypercall itself: at once, and without the store."""

from __future__ import annotations

import ctypes
import ctypes.util
import os

# From xen/domctl.h of 4.17 and xen/xen.h; the hypervisor refuses any other version of the interface.
_DOMCTL, _INTERFACE_VERSION, _RESUME_DOMAIN = 36, 0x15, 27


class _Domctl(ctypes.Structure):
    _fields_ = (
        ("command", ctypes.c_uint32),
        ("interface_version", ctypes.c_uint32),
        ("domid", ctypes.c_uint16),
        ("padding", ctypes.c_uint16 * 3),
        ("arguments", ctypes.c_uint64 * 16),
    )


class Hypercalls:
    """The toolstack's calls on domains. OSError where Xen refuses."""

    def __init__(self) -> None:
        self._control, self._call = _library("xenctrl"), _library("xencall")
        self._control.xc_interface_open.restype = ctypes.c_void_p
        self._call.xencall_open.restype = ctypes.c_void_p
        self._call.xencall_alloc_buffer.restype = ctypes.c_void_p
        self._interface = ctypes.c_void_p(self._control.xc_interface_open(None, None, 0))
        self._calls = ctypes.c_void_p(self._call.xencall_open(None, 0))
        assert self._interface
        assert self._calls

    def pause(self, domid: int) -> None:
        self._do("xc_domain_pause", domid)

    def unpause(self, domid: int) -> None:
        self._do("xc_domain_unpause", domid)

    def shut_down(self, domid: int, reason: int) -> None:
        """As if the guest had ended with `reason`; its virtual CPUs stop where they are."""
        self._do("xc_domain_shutdown", domid, ctypes.c_int(reason))

    def destroy(self, domid: int) -> None:
        """The domain dies. It is in the list until nobody has its memory mapped any more: xenstored, xenconsoled."""
        self._do("xc_domain_destroy", domid)

    def resume(self, domid: int) -> None:
        """Takes a shutdown back. libxenctrl would do so only for a suspended domain."""
        buffer = ctypes.c_void_p(self._call.xencall_alloc_buffer(self._calls, ctypes.c_size_t(ctypes.sizeof(_Domctl))))
        try:
            request = _Domctl(_RESUME_DOMAIN, _INTERFACE_VERSION, domid)
            ctypes.memmove(buffer, ctypes.byref(request), ctypes.sizeof(request))
            address = ctypes.c_uint64(buffer.value or 0)
            _check("resumedomain", domid, self._call.xencall1(self._calls, ctypes.c_uint(_DOMCTL), address))
        finally:
            self._call.xencall_free_buffer(self._calls, buffer)

    def close(self) -> None:
        self._control.xc_interface_close(self._interface)
        self._call.xencall_close(self._calls)

    def _do(self, name: str, domid: int, *arguments: ctypes.c_int) -> None:
        function = getattr(self._control, name)
        _check(name, domid, function(self._interface, ctypes.c_uint32(domid), *arguments))


def _library(name: str) -> ctypes.CDLL:
    found = ctypes.util.find_library(name)
    assert found is not None, f"no lib{name}"
    return ctypes.CDLL(found, use_errno=True)


def _check(name: str, domid: int, result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name} of domain {domid}: {os.strerror(number)}")
