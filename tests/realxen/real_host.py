# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real Xen host, with those of SimHost's methods that it has: for suites that were written for a SimHost.

Like a SimHost's, the methods return when the thing has happened: when xenstored has told everybody.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from uuid import uuid4

import pytest
from hypercalls import Hypercalls

from gxl.arguments import devid
from gxl.engines.libxl import LibxlEngine
from gxl.errors import DomainNotFound
from gxl.interfaces import DomainInfo
from gxl.xenstore import Client, Operation, Request, WatchEvent


class _Disk(NamedTuple):
    frontend: str
    backend: str


class _Connections:
    """Of one process: neither a ctx nor libxenctrl's buffers outlive a fork."""

    def __init__(self) -> None:
        self.xen = Hypercalls()
        self.eyes = LibxlEngine()
        self.store = _Store()

    def close(self) -> None:
        self.store.close()
        self.eyes.ctx_free()
        self.xen.close()


class RealHost:
    """Domains are made with xl, end by hypercall, and obey orders: see realxen/guest/tiny.c.

    A domain that a case left in order serves the next one. A disk is what the toolstack would write of it to the
    store; nobody serves its backend, but a running guest ejects its medium itself.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._image = os.path.join(os.environ["GXL_REALXEN"], "guests", "tiny")
        self._numbers = count(1)
        self._connections: dict[int, _Connections] = {}
        self._xenstored = int(Path("/run/xenstored.pid").read_text())
        self._stopped = False
        self._ended: list[int] = []
        self._spare: list[int] = []
        self._used: list[int] = []
        self._disks: dict[tuple[int, int], _Disk] = {}

    @property
    def _here(self) -> _Connections:
        pid = os.getpid()
        if pid not in self._connections:
            self._connections[pid] = _Connections()
        return self._connections[pid]

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        pytest.skip(f"a real host has no {name}")

    def create_domain(self, *, paused: bool = False, **how: Any) -> int:
        """SimHost's."""
        if how or self._stopped:
            pytest.skip(f"a real host makes no domain so: {how or 'while xenstored stands still'}")
        domid = self._spare.pop() if self._spare else self._xl_create()
        self._used.append(domid)
        if not paused:
            self.unpause_domain(domid)
            # A guest that has not yet begun would not answer.
            self._until(lambda: self._value(f"/local/domain/{domid}/data/answer") != b"")
        return domid

    def pause_domain(self, domid: int) -> None:
        """SimHost's."""
        if not self._here.eyes.domain_info(domid).paused:
            self._here.xen.pause(domid)

    def unpause_domain(self, domid: int) -> None:
        """SimHost's."""
        if self._here.eyes.domain_info(domid).paused:
            self._here.xen.unpause(domid)

    def shutdown_domain(self, domid: int, reason: int = 0) -> None:
        """SimHost's."""
        if not self._here.eyes.domain_info(domid).shutdown:
            self._release_follows(lambda: self._here.xen.shut_down(domid, reason))

    def resume_domain(self, domid: int) -> None:
        """SimHost's."""
        self._here.xen.resume(domid)
        self._here.store.request(Operation.RESUME, b"%d\0" % domid)

    def mark_dying(self, domid: int) -> None:
        """SimHost's, but it may well be gone at once."""
        self._here.xen.destroy(domid)
        if self._stopped:
            self._ended.append(domid)
        else:
            self._forgotten(domid)

    def destroy_domain(self, domid: int) -> None:
        """SimHost's; in a `quiet` block it goes when the block ends."""
        try:
            uuid = self._here.eyes.domain_info(domid).uuid
        except DomainNotFound:
            uuid = None
        else:
            self.mark_dying(domid)
        if not self._stopped:
            self._until(lambda: domid not in self._listed())
            self._clear(domid)
            if uuid is not None:
                self._here.store.remove(f"/vm/{uuid}")

    def add_disk(self, domid: int, vdev: str, backend_type: str = "qdisk", *, backend_domid: int = 0) -> None:
        """SimHost's. No kernel has a driver for a qdisk; for others' backends there is none here either."""
        number = devid(vdev)
        front = f"/local/domain/{domid}/device/vbd/{number}"
        back = f"/local/domain/{backend_domid}/backend/{backend_type}/{domid}/{number}"
        if backend_type == "vbd":
            pytest.skip("the kernel would want to serve this backend")
        self._disks[domid, number] = _Disk(front, back)
        self.write(f"{back}/frontend", front)
        # The frontend belongs to the guest, and all below it inherits that.
        self.write(front, "")
        self._here.store.request(Operation.SET_PERMS, front.encode() + b"\0n%d\0r0\0" % domid)
        for name, value in (("backend", back), ("dev", vdev), ("device-type", "cdrom")):
            self.write(f"{front}/{name}", value)

    def eject_disk(self, domid: int, vdev: str) -> None:
        """SimHost's: by the guest where it runs."""
        number = devid(vdev)
        info = self._here.eyes.domain_info(domid)
        if info.paused or info.shutdown or info.dying:
            self.write(f"{self._disks[domid, number].frontend}/eject", "eject")
            return
        data = f"/local/domain/{domid}/data"
        self.write(f"{data}/answer", "")
        self.write(f"{data}/order", f"eject {number}")
        self._until(lambda: self._value(f"{data}/answer") != b"")

    def domain_info(self, domid: int) -> DomainInfo:
        """As libxl sees it, through a ctx of the host's own."""
        return self._here.eyes.domain_info(domid)

    def domains(self) -> list[DomainInfo]:
        """Likewise."""
        return self._here.eyes.list_domain()

    def read(self, path: str) -> bytes:
        """SimHost's."""
        return self._here.store.request(Operation.READ, path.encode() + b"\0")

    def write(self, path: str, value: str | bytes) -> None:
        """SimHost's."""
        data = value.encode() if isinstance(value, str) else value
        self._here.store.request(Operation.WRITE, path.encode() + b"\0" + data)

    def rm(self, path: str) -> None:
        """SimHost's."""
        self._here.store.remove(path)

    def release(self) -> None:
        """SimHost's: something happens to a domain that nobody watches."""
        bystander = self._spare[-1] if self._spare else self._xl_create()
        if not self._spare:
            self._spare.append(bystander)
        self.shutdown_domain(bystander, 2)
        self.resume_domain(bystander)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """SimHost's: xenstored stands still. What needs no store can happen meanwhile."""
        before = self._here.store.catch_up()
        os.kill(self._xenstored, signal.SIGSTOP)
        self._stopped = True
        try:
            yield
        finally:
            os.kill(self._xenstored, signal.SIGCONT)
            self._stopped = False
        self._until(lambda: self._here.store.releases > before)
        while self._ended:
            domid = self._ended.pop()
            self._forgotten(domid)
            self._clear(domid)

    def next_case(self) -> None:
        """Keep the domains that are in order for the next case, and destroy all others."""
        for domid, number in list(self._disks):
            self._remove_disk(domid, number)
        listed = self._listed()
        # A case in a process of its own makes and takes domains behind this one's back.
        kept = [d for d in (*self._spare, *self._used) if d in listed and self._in_order(d, listed[d])]
        # A new domain's number is the highest: cases are served in that order, which is libxl's order of events.
        self._spare = sorted(kept, reverse=True)
        self._used.clear()
        for domid in listed.keys() - {0, *self._spare}:
            self.destroy_domain(domid)

    def close(self) -> None:
        """Destroy every domain."""
        for domid in self._listed().keys() - {0}:
            self.destroy_domain(domid)
        self._here.close()

    def _in_order(self, domid: int, info: DomainInfo) -> bool:
        if info.dying or info.shutdown or self._value(f"/local/domain/{domid}/control/shutdown") != b"":
            return False
        self.pause_domain(domid)
        return True

    def _xl_create(self) -> int:
        name = f"case-{next(self._numbers)}-{uuid4().hex[:8]}"
        config = self._folder / f"{name}.cfg"
        config.write_text(f'name = "{name}"\ntype = "pv"\nvcpus = 1\nmemory = 8\nkernel = "{self._image}"\n')
        before = self._listed()
        subprocess.run(["xl", "create", "-q", "-e", "-p", config], check=True, timeout=120)
        [domid] = self._listed().keys() - before.keys()
        return domid

    def _listed(self) -> dict[int, DomainInfo]:
        return {info.domid: info for info in self._here.eyes.list_domain()}

    def _release_follows(self, act: Callable[[], None]) -> None:
        if self._stopped:
            act()
            return
        before = self._here.store.catch_up()
        act()
        self._until(lambda: self._here.store.releases > before)

    def _forgotten(self, domid: int) -> None:
        """Wait until xenstored has noticed the death. It tells the watchers in the same breath."""
        self._until(lambda: self._here.store.request(Operation.IS_DOMAIN_INTRODUCED, b"%d\0" % domid) == b"F\0")

    def _remove_disk(self, domid: int, number: int) -> None:
        disk = self._disks.pop((domid, number))
        for path in (disk.frontend, os.path.dirname(disk.backend)):
            self._here.store.remove(path)

    def _clear(self, domid: int) -> None:
        for path in (f"/local/domain/{domid}", f"/libxl/{domid}", f"/local/domain/0/backend/console/{domid}"):
            self._here.store.remove(path)

    def _value(self, path: str) -> bytes:
        try:
            return self.read(path)
        except FileNotFoundError:
            return b""

    def _until(self, condition: Callable[[], bool]) -> None:
        # Each question to xenstored takes its time, so this is no tight loop.
        for _ in range(20000):
            if condition():
                return
            self._here.store.catch_up()
        raise AssertionError("the host did not get there")


class _Store:
    """A tool's connection to xenstored, which counts the firings of @releaseDomain."""

    def __init__(self) -> None:
        self.releases = 0
        self._client = Client()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        self._socket.connect("/run/xenstored/socket")
        self._reply(self._client.watch(b"@releaseDomain", b""))
        self.catch_up()

    def request(self, operation: Operation, payload: bytes) -> bytes:
        return self._reply(self._client.request(operation, payload))

    def remove(self, path: str) -> None:
        try:
            self.request(Operation.RM, path.encode() + b"\0")
        except FileNotFoundError:
            # Nor is there a parent: somebody has removed more.
            pass

    def catch_up(self) -> int:
        """How often @releaseDomain has fired by now."""
        self.request(Operation.GET_DOMAIN_PATH, b"0\0")
        return self.releases

    def close(self) -> None:
        self._socket.close()

    def _reply(self, request: Request) -> bytes:
        while self._client.outgoing:
            self._client.sent(self._socket.send(self._client.outgoing))
        while not request.done:
            data = self._socket.recv(4096)
            assert data, "xenstored hung up"
            self.releases += sum(isinstance(item, WatchEvent) for item in self._client.receive(data))
        return request.result()
