# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pretend Xen host: domains, disks and xenstore, in this process and without an event loop."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import RLock
from uuid import UUID

from gxl.arguments import devid
from gxl.simhost import layout
from gxl.simhost.connection import Connection
from gxl.simhost.daemon import Daemon
from gxl.simhost.domains import DOMID_FIRST_RESERVED, DomainInfo, Domains, Kind
from gxl.simhost.failures import CONNECT, Failures
from gxl.simhost.hypercalls import Hypercalls
from gxl.simhost.sessions import Session
from gxl.simhost.tree import READ, TOOLSTACK, Caller

# Of a payload of 4096 bytes, the path takes some.
NAME_MAX = 2048
# A PV guest of Xen's has no more, and a host of 2⁴² KiB has no successor yet.
VCPUS_MAX = 8192
MEMORY_KB_MAX = 2**42
_CONTROL = re.compile(rb"/local/domain/(\d+)/control/shutdown")
_BACKEND_STATE = re.compile(rb"/local/domain/\d+/backend/[^/]+/\d+/\d+/state")
_CLOSING, _CLOSED = b"5", b"6"
# What a guest's kernel does when the toolstack asks it to.
_REASONS = {b"poweroff": 0, b"halt": 0, b"reboot": 1, b"suspend": 2}


class SimHost:
    """A simulated Xen host.

    Domains live and die when a test, a demonstration or a hypercall says so. The xenstore tree is what a toolstack and
    guests make of it, and `connect` gives connections to it whose fds are real. Several threads may use one host.

    Its guests are cooperative: a running one acknowledges `control/shutdown` and shuts down at once, and backends let
    go of a device when asked; a paused guest does nothing. Errors are OSError with the errno that Xen or xenstored
    would give; a domain that does not exist is ESRCH.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._failures = Failures()
        self._domains = Domains(self._exception)
        self._daemon = Daemon(self._lock, lambda domid: self._domains.find(domid) is not None, self._failures.take)
        self._daemon.on_change = self._store_changed
        self._daemon.on_served = self._settle
        self._disks: dict[int, dict[int, layout.DiskPlan]] = {}
        self._stub_domains: dict[int, int] = {}
        self._reactions: deque[bytes] = deque()
        self._closed = False
        self._down = 0
        self._plant(layout.dom0())
        #: The door for engines: what libxl does by hypercall, with injected errors.
        self.hypercalls = Hypercalls(self._domains, self._lock, self._failures.take, self._woken)

    def create_domain(
        self,
        name: str | None = None,
        domid: int | None = None,
        *,
        uuid: UUID | None = None,
        kind: str = "pv",
        memory_kb: int = 256 * 1024,
        vcpus: int = 1,
        paused: bool = False,
        stub_domain_of: int | None = None,
    ) -> int:
        """Create a domain that runs at once, and return its id; `@introduceDomain` fires.

        Without `domid` the id is the next one after the last that was handed out so, below 0x7ff0, as in Xen. `kind`
        is "pv", "pvh" or "hvm". With `stub_domain_of` the domain runs that guest's device model, and has its disks.
        """
        if name is not None and len(_text("name", name).encode()) > NAME_MAX:
            raise ValueError(f"name must have at most {NAME_MAX} bytes, for xenstore to carry it, not {name!r}")
        if uuid is not None and not isinstance(uuid, UUID):
            raise TypeError(f"uuid must be a UUID, not {uuid!r}")
        if domid is not None:
            _number("domid", domid, 1, DOMID_FIRST_RESERVED - 1)
        _number("memory_kb", memory_kb, 0, MEMORY_KB_MAX)
        _number("vcpus", vcpus, 1, VCPUS_MAX)
        with self._lock:
            if stub_domain_of is not None:
                self._domains.guest(stub_domain_of)
            domain = self._domains.create(domid, uuid, Kind(kind), memory_kb, vcpus)
            domid = domain.domid
            self._daemon.store.domain_appeared(domid)
            name = f"domain-{domid}" if name is None else name
            self._plant(layout.domain(layout.DomainPlan(domid, name, domain.uuid, domain.kind, memory_kb, vcpus)))
            if paused:
                self._domains.pause(domid)
            self._daemon.introduce(domid)
            if stub_domain_of is not None:
                self._plant(layout.stub_domain(stub_domain_of, domid))
                self._daemon.targets[domid] = stub_domain_of
                self._stub_domains[stub_domain_of] = domid
                for disk in self._disks.get(stub_domain_of, {}).values():
                    self._attach(disk._replace(domid=domid))
            return domid

    def pause_domain(self, domid: int) -> None:
        """Stop the domain; its CPU time stands still."""
        with self._lock:
            self._domains.pause(domid)

    def unpause_domain(self, domid: int) -> None:
        """Let the domain run again."""
        with self._lock:
            self._domains.unpause(domid)
            self._woken(domid)

    def shutdown_domain(self, domid: int, reason: int = 0) -> None:
        """The guest shuts down with `reason` (0 to 255; 0 is poweroff); `@releaseDomain` fires.

        A second shutdown without `resume_domain` between changes nothing, and fires nothing.
        """
        _number("reason", reason, 0, 255)
        with self._lock:
            self._domains.shut_down(domid, int(reason))

    def resume_domain(self, domid: int) -> None:
        """Take back a shutdown, as a toolstack does after a suspend that stayed here; fires nothing."""
        with self._lock:
            self._domains.resume(domid)
            self._daemon.resume(domid)
            self._woken(domid)

    def mark_dying(self, domid: int) -> None:
        """The domain begins to die, but stays in the list; `@releaseDomain` fires, and won't when it vanishes."""
        with self._lock:
            self._domains.start_dying(domid)

    def destroy_domain(self, domid: int) -> None:
        """Remove the domain and all that the toolstack wrote for it; `@releaseDomain` fires unless it was dying."""
        with self._lock:
            domain = self._domains.guest(domid)
            disks = self._disks.pop(domid, {}).values()
            self._stub_domains = {g: s for g, s in self._stub_domains.items() if domid not in (g, s)}
            for path in [*(os.path.dirname(disk.backend) for disk in disks), *layout.remains(domid, domain.uuid)]:
                self._remove(path)
            self._domains.destroy(domid)

    def add_disk(
        self,
        domid: int,
        vdev: str,
        backend_type: str = "qdisk",
        *,
        backend_domid: int = 0,
        target: str = "",
        removable: bool = True,
    ) -> None:
        """Give the domain, and its stub domain if it has one, a disk called `vdev`, by default a CD drive.

        `backend_type` is the name of its backend's directory ("qdisk", "vbd", …), `target` what its medium is.
        OSError(EEXIST): the domain has this disk.
        """
        plan = layout.DiskPlan(
            domid, vdev, devid(vdev), backend_type, backend_domid, _text("target", target), removable
        )
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", _text("backend_type", backend_type)):
            raise ValueError(f"backend_type must be a directory's name such as 'qdisk', not {backend_type!r}")
        with self._lock:
            self._domains.guest(domid)
            self._domains.get(backend_domid)
            if plan.devid in self._disks.get(domid, ()):
                raise OSError(errno.EEXIST, f"{os.strerror(errno.EEXIST)}: disk {vdev} of domain {domid}")
            self._attach(plan)
            if domid in self._stub_domains:
                self._attach(plan._replace(domid=self._stub_domains[domid]))

    def eject_disk(self, domid: int, vdev: str) -> None:
        """The guest asks for the disk's medium to be ejected. OSError(ENODEV): it has no such disk."""
        with self._lock:
            self._domains.guest(domid)
            owner = self._stub_domains.get(domid, domid)
            disk = self._disks.get(owner, {}).get(devid(vdev))
            if disk is None:
                raise OSError(errno.ENODEV, f"{os.strerror(errno.ENODEV)}: disk {vdev} of domain {domid}")
            self.write(disk.frontend + "/eject", "eject")

    def domains(self) -> list[DomainInfo]:
        """Every domain, dom0 included, in ascending order of ids."""
        with self._lock:
            return self._domains.list()

    def domain_info(self, domid: int) -> DomainInfo:
        """One domain. OSError(ESRCH): there is none with this id."""
        with self._lock:
            return self._domains.get(domid).info()

    def changes_since(self, serial: int) -> tuple[int, list[int]]:
        """The host's present serial, and the ids of domains that came, went or changed state after `serial`.

        So whoever hears `@releaseDomain` need not look at every domain. The serial of a new host is that of dom0.
        """
        with self._lock:
            return self._domains.changes_since(serial)

    def read(self, path: str) -> bytes:
        """The value of a node. FileNotFoundError: there is none."""
        with self._lock:
            return self._daemon.store.read(TOOLSTACK, path.encode())

    def write(self, path: str, value: str | bytes, domid: int = 0) -> None:
        """Write a node, and create what is missing above it. Its watches fire.

        As a tool in dom0 does, or as the guest `domid`: with its rights (PermissionError) and its quotas (ENOSPC).
        """
        with self._lock:
            self._domains.get(domid)
            caller = Caller(domid, self._daemon.targets.get(domid))
            self._daemon.store.write(caller, path.encode(), value.encode() if isinstance(value, str) else value)
            self._settle()

    def rm(self, path: str) -> None:
        """Remove a node and all below it. FileNotFoundError: not even its parent exists."""
        with self._lock:
            self._daemon.store.remove(TOOLSTACK, path.encode())
            self._settle()

    def ls(self, path: str) -> list[str]:
        """The names of the nodes directly below a node."""
        with self._lock:
            return [name.decode() for name in self._daemon.store.node(TOOLSTACK, path.encode(), READ).children]

    def release(self) -> None:
        """Fire `@releaseDomain` although nothing happened."""
        with self._lock:
            self._daemon.fire_release()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Let changes inside fire nothing; at the end each watch that would have fired does so once per path."""
        with self._lock:
            self._daemon.hush()
        try:
            yield
        finally:
            with self._lock:
                self._daemon.speak()

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """A slow xenstored: inside, it accepts requests but neither answers nor reports; then it catches up."""
        with self._lock:
            self._daemon.stall()
        try:
            yield
        finally:
            with self._lock:
                self._daemon.catch_up()

    @contextmanager
    def down(self) -> Iterator[None]:
        """xenstored is dead: every client reads end of file, and nobody can connect. At the end it is back.

        What is in the store stays, and domains go on living and dying; only nobody hears of it.
        """
        with self._lock:
            self._down += 1
            self.drop_connections()
        try:
            yield
        finally:
            with self._lock:
                self._down -= 1

    def fail_next(self, call: str, errno: int) -> None:
        """Let the next invocation of `call` fail with `errno`; several add up, in order.

        `call` is a hypercall ("getdomaininfolist", …), a request of a xenstore client ("WATCH", "READ", …), or
        "connect". A request that fails with EPIPE or ECONNRESET breaks the connection instead of being answered.
        """
        with self._lock:
            self._failures.add(call, errno)

    def connect(self, domid: int = 0) -> Connection:
        """A xenstore connection: a tool's in dom0, or the guest `domid`'s own, with its rights and quotas."""
        with self._lock:
            self._check_connect()
            self._domains.get(domid)
            return Connection(self._daemon, domid)

    def serve(self, sock: socket.socket) -> Session:
        """For a server: treat the other end of the non-blocking `sock` as a tool in dom0."""
        with self._lock:
            self._check_connect()
            return self._daemon.connect(sock)

    def _check_connect(self) -> None:
        if self._closed:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the simulated host is closed")
        if self._down:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the simulated xenstored is down")
        if number := self._failures.take(CONNECT):
            raise OSError(number, f"{os.strerror(number)}: injected into {CONNECT}")

    def drop_connections(self) -> None:
        """xenstored dies, and another starts at once on the same store: every client reads end of file."""
        with self._lock:
            for session in self._daemon.sessions():
                session.drop()

    def close(self) -> None:
        """Drop every connection and accept no more. Harmless if done before."""
        with self._lock:
            self._closed = True
            self.drop_connections()

    def __enter__(self) -> SimHost:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _plant(self, entries: Iterable[layout.Entry]) -> None:
        for path, value, permissions in entries:
            self._daemon.store.plant(path.encode(), value.encode(), permissions)
        self._settle()

    def _attach(self, plan: layout.DiskPlan) -> None:
        self._disks.setdefault(plan.domid, {})[plan.devid] = plan
        self._plant(layout.disk(plan))

    def _remove(self, path: str) -> None:
        try:
            self._daemon.store.remove(TOOLSTACK, path.encode())
        except FileNotFoundError:
            # Somebody with the right to do so removed its parent before.
            pass

    def _exception(self, domid: int) -> None:
        """What xenstored does at the hypervisor's exception interrupt."""
        domain = self._domains.find(domid)
        if domain is None or domain.dying:
            self._daemon.release(domid)
        elif domain.shutdown_reason is not None:
            self._daemon.domain_shut_down(domid)
        self._settle()

    def _store_changed(self, path: bytes) -> None:
        if path.endswith((b"/control/shutdown", b"/state")):
            self._reactions.append(path)

    def _settle(self) -> None:
        """Let guests and backends react to what was written for them."""
        while self._reactions:
            path = self._reactions.popleft()
            try:
                value = self._daemon.store.read(TOOLSTACK, path)
            except FileNotFoundError:
                continue
            if match := _CONTROL.fullmatch(path):
                domain = self._domains.find(int(match[1]))
                if domain is not None and domain.runs and value in _REASONS:
                    self._daemon.store.write(TOOLSTACK, path, b"")
                    self._domains.shut_down(domain.domid, _REASONS[value])
            elif _BACKEND_STATE.fullmatch(path) and value == _CLOSING:
                self._daemon.store.write(TOOLSTACK, path, _CLOSED)

    def _woken(self, domid: int) -> None:
        self._reactions.append(f"{layout.domain_directory(domid)}/control/shutdown".encode())
        self._settle()


def _number(what: str, value: object, lowest: int, highest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ValueError(f"{what} must be an int from {lowest} to {highest}, not {value!r}")


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {value!r}")
    value.encode()  # ValueError: half a character, which xenstore can't hold
    return value
