# SPDX-License-Identifier: LGPL-2.1-or-later
"""Evgens for the ejection of disks.

A guest asks for its medium to be ejected by writing "eject" into its frontend's directory; taking note of it means to
write the empty string there, which lets the guest ask again. In libxl each evgen has a watch of its own, and the first
one takes the request away from the others; the header promises an event for each, so here the evgens of one disk share
a watch.

The frontend's directory is the guest's: what is read from it is whatever the guest claims.
"""

from __future__ import annotations

import re

from zope.interface import implementer

from gxl.arguments import devid
from gxl.engines.embedded.core import Core
from gxl.engines.embedded.store import Store, Watch
from gxl.errors import Fail, MisuseError
from gxl.events import Disk, DiskBackend, DiskEject, DiskFormat, EventType
from gxl.interfaces import IEvgen

# As libxl's sscanf reads it: at most five letters of the type, so that "vbd3" counts as "vbd".
_BACKEND = re.compile(rb"/local/domain/(\d{1,9})/backend/([a-z]{1,5})")
_BACKENDS = {b"tap": DiskBackend.TAP, b"vbd": DiskBackend.TAP, b"qdisk": DiskBackend.QDISK}


@implementer(IEvgen)
class EjectEvgen:
    """A handle that evenable_disk_eject returned."""

    __slots__ = ("claimed_vdev", "directory", "domid", "user", "vdev")

    def __init__(self, domid: int, vdev: str, user: int, directory: bytes, claimed_vdev: str | None) -> None:
        self.domid = domid
        self.vdev = vdev
        self.user = user
        self.directory = directory
        self.claimed_vdev = claimed_vdev


class _Disk:
    __slots__ = ("evgens", "watch")

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        # In the order in which they were enabled.
        self.evgens: dict[EjectEvgen, None] = {}


class Ejects:
    """All eject evgens of one engine."""

    def __init__(self, core: Core, store: Store) -> None:
        self._core = core
        self._store = store
        # By the frontend's directory.
        self._disks: dict[bytes, _Disk] = {}

    def __bool__(self) -> bool:
        return bool(self._disks)

    def enable(self, domid: int, vdev: str, user: int) -> EjectEvgen:
        directory = b"/local/domain/%d/device/vbd/%d" % (self._store.stub_domain(domid) or domid, devid(vdev))
        try:
            claimed = self._store.read(directory + b"/dev")
        except OSError as error:
            raise Fail(message=f"xenstored did not say what {vdev} of domain {domid} is called: {error}") from error
        evgen = EjectEvgen(domid, vdev, user, directory, None if claimed is None else _text(claimed))
        disk = self._disks.get(directory)
        if disk is None:
            watch = self._store.watch(directory + b"/eject", lambda: self._look(directory))
            disk = self._disks[directory] = _Disk(watch)
        disk.evgens[evgen] = None
        return evgen

    def disable(self, evgen: object) -> None:
        if not isinstance(evgen, EjectEvgen):
            raise TypeError(f"what evenable_disk_eject returned is needed, not {evgen!r}")
        disk = self._disks.get(evgen.directory)
        if disk is None or evgen not in disk.evgens:
            raise MisuseError("this evgen is disabled already, or it is another engine's")
        del disk.evgens[evgen]
        if not disk.evgens:
            del self._disks[evgen.directory]
            self._store.unwatch(disk.watch)

    def disable_all(self) -> None:
        for evgen in [evgen for disk in self._disks.values() for evgen in disk.evgens]:
            self.disable(evgen)

    def _look(self, directory: bytes) -> None:
        node = directory + b"/eject"
        try:
            if self._store.read(node) != b"eject":
                return
        except OSError:
            return
        doing = "xs_write failed acknowledging eject"
        try:
            self._store.write(node, b"")
            doing = "xs_read failed reading be_ptr_path"
            backend = self._store.read(directory + b"/backend")
        except OSError as error:
            self._core.disaster(EventType.DISK_EJECT, doing, error.errno or 0, fatal=False)
            return
        if backend is None:
            # The whole device is gone, which is no ejection.
            return
        match = _BACKEND.match(backend)
        for evgen in self._disks[directory].evgens:
            disk = Disk(
                backend_domid=int(match[1]) if match else 0,
                pdev_path="",
                vdev=evgen.claimed_vdev,
                backend=_BACKENDS.get(match[2], DiskBackend.UNKNOWN) if match else DiskBackend.UNKNOWN,
                format=DiskFormat.EMPTY,
                removable=1,
                is_cdrom=1,
            )
            self._core.occurred(DiskEject(evgen.domid, evgen.vdev, disk, for_user=evgen.user))


def _text(value: bytes) -> str:
    """A guest's bytes, fit to be printed."""
    return value.decode("utf-8", "backslashreplace")
