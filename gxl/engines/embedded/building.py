# SPDX-License-Identifier: LGPL-2.1-or-later
"""Creating, saving and restoring domains, and filling CD drives, as far as a simulated host needs them.

Where libxl has something done by a child (a device's hotplug script, the helper that reads or writes a guest's memory),
a real one is forked here, which does what can be done outside this process, where the host is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from select import POLLIN
from typing import Any
from uuid import UUID

from gxl.arguments import check_vdev, devid
from gxl.engines.embedded import native
from gxl.engines.embedded.operations import Operation, Operations
from gxl.errors import Aborted, Fail, Inval
from gxl.events import DomainCreateConsoleAvailable, ShutdownReason
from gxl.interfaces import NewDomain
from gxl.simhost import DomainInfo

_MAGIC = b"gxl simulated domain %8d\n"
_HEADER = len(_MAGIC % 0)
_LONGEST = 1 << 20
_KINDS = ("pv", "pvh", "hvm")
_BACKENDS = {"qdisk": "qdisk", "phy": "vbd"}


class Building:
    """What takes more than a domid."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._core = operations.core
        self._children = operations.children
        self._host = operations.host

    def create(self, operation: Operation, config: dict[str, Any], new: NewDomain, console: int | None) -> None:
        """libxl_domain_create_new."""
        b_info = config["b_info"]
        try:
            memory_kb, vcpus = int(b_info.get("max_memkb", 131072)), int(b_info.get("vcpus", 1))
        except (TypeError, ValueError, OverflowError) as error:
            raise Inval(message=f"b_info can't be read: {error}") from error
        self._children.prepare(operation.how is None)
        self._make(operation, config, new, console, memory_kb, vcpus)

    def restore(
        self, operation: Operation, config: dict[str, Any], fd: int, new: NewDomain, console: int | None
    ) -> None:
        """libxl_domain_create_restore."""
        self._children.prepare(operation.how is None)
        give_back = self._borrow(fd)
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        received = bytearray()

        def receive(revents: int) -> None:
            try:
                received.extend(os.read(read_end, 65536))
            except BlockingIOError:
                return

        def reaped(status: int) -> None:
            receive(0)
            self._core.osevents.deregister_fd(interest)
            native.close(read_end)
            give_back()
            try:
                state = None if status else json.loads(bytes(received))
            except ValueError:
                state = None
            if operation.aborting:
                self._operations.complete(operation, Aborted.code)
            elif state is None:
                self._operations.say("the saved domain can't be read")
                self._operations.complete(operation, Fail.code)
            else:
                self._make(operation, config, new, console, state["memory_kb"], state["vcpus"])

        interest = self._core.osevents.register_fd(read_end, POLLIN, receive)
        try:
            self._run(operation, lambda: _copy_in(fd, write_end), reaped)
        except BaseException:
            self._core.osevents.deregister_fd(interest)
            native.close(read_end)
            give_back()
            raise
        finally:
            native.close(write_end)

    def suspend(self, operation: Operation, fd: int) -> None:
        """libxl_domain_suspend."""
        self._children.prepare(operation.how is None)
        give_back = self._borrow(fd)

        def end(rc: int) -> None:
            give_back()
            self._operations.complete(operation, rc)

        def acknowledged(rc: int) -> None:
            if rc:
                end(rc)
                return
            info = self._host.domain_info(operation.domid)
            if not info.shutdown or info.shutdown_reason != ShutdownReason.SUSPEND:
                self._operations.say(f"domain {operation.domid} has not suspended itself")
                end(Fail.code)
                return
            try:
                self._run(operation, lambda: _write_out(fd, info), lambda status: end(self._rc(operation, status)))
            except Fail as error:
                self._operations.say(str(error))
                end(Fail.code)

        try:
            self._operations.request(operation, b"suspend", acknowledged)
        except BaseException:
            give_back()
            self._children.release_unless_needed()
            raise

    def insert(self, operation: Operation, vdev: str, path: str | None, format: str) -> None:
        """libxl_cdrom_insert."""
        store = self._operations.store
        if store.read(b"/libxl/%d/type" % operation.domid) != b"hvm":
            self._operations.say("cdrom-insert requires an HVM domain")
            self._operations.complete(operation, Inval.code)
            return
        record = b"/libxl/%d/device/vbd/%d" % (operation.domid, devid(vdev))
        backend = store.read(record + b"/backend")
        if not backend or store.read(record + b"/device-type") != b"cdrom":
            self._operations.say(f"domain {operation.domid} has no CD drive {vdev}")
            self._operations.complete(operation, Fail.code)
            return
        params = b"" if path is None else os.fsencode(f"{format}:{path}")
        store.write(backend + b"/params", params)
        store.write(record + b"/params", params)
        self._operations.complete(operation, 0)

    def _make(
        self,
        operation: Operation,
        config: dict[str, Any],
        new: NewDomain,
        console: int | None,
        memory_kb: int,
        vcpus: int,
    ) -> None:
        c_info = config["c_info"]
        name, kind, disks = c_info.get("name"), c_info.get("type"), config.get("disks", [])
        taken = any(self._name(info.domid) == name for info in self._host.domains())
        if kind not in _KINDS or not isinstance(name, str) or taken:
            self._operations.say(f"a domain needs a type, one of {_KINDS}, and a name of its own, not {kind}, {name}")
            self._finish(operation, Inval.code)
            return
        try:
            uuid = UUID(c_info["uuid"]) if "uuid" in c_info else None
            self._operations.hypercalls.createdomain()
            domid = self._host.create_domain(name, uuid=uuid, kind=kind, memory_kb=memory_kb, vcpus=vcpus, paused=True)
        except (OSError, ValueError) as error:
            self._operations.say(f"domain creation failed: {error}")
            self._finish(operation, Fail.code)
            return

        def ready(rc: int) -> None:
            if rc:
                self._host.destroy_domain(domid)
            else:
                new.domid = domid
                if console is not None:
                    self._core.occurred(DomainCreateConsoleAvailable(domid, for_user=console))
            self._finish(operation, rc)

        try:
            for disk in disks:
                self._host.add_disk(
                    domid,
                    check_vdev(disk.get("vdev")),
                    _BACKENDS.get(disk.get("backend", "qdisk"), "qdisk"),
                    target=disk.get("pdev_path") or "",
                    removable=bool(disk.get("is_cdrom", 0)),
                )
            if disks or config.get("nics") or kind == "hvm":
                # A hotplug script, or the device model.
                self._run(operation, lambda: 0, lambda status: ready(self._rc(operation, status)))
                return
        except (Fail, OSError, AttributeError, TypeError, ValueError) as error:
            self._operations.say(f"the domain's devices can't be added: {error}")
            ready(Fail.code)
        else:
            ready(0)

    def _name(self, domid: int) -> str:
        return (self._operations.store.read(b"/local/domain/%d/name" % domid) or b"").decode(errors="replace")

    def _finish(self, operation: Operation, rc: int) -> None:
        self._children.release_unless_needed()
        self._operations.complete(operation, rc)

    def _borrow(self, fd: int) -> Callable[[], None]:
        """Make `fd` blocking, as the child wants it. Returns what undoes that."""
        try:
            before = os.get_blocking(fd)
            os.set_blocking(fd, True)
        except OSError as error:
            self._children.release_unless_needed()
            raise Fail(message=f"fd {fd} can't be used: {error}") from error

        def give_back() -> None:
            try:
                os.set_blocking(fd, before)
            except OSError as error:
                self._operations.say(f"fd {fd} was closed before the operation had ended: {error}")

        return give_back

    def _run(self, operation: Operation, body: Callable[[], int], reaped: Callable[[int], None]) -> None:
        """Let a child do `body`. Aborting the operation kills it."""
        if operation.aborting:
            raise Fail(message="the operation was aborted")

        def ended(status: int) -> None:
            operation.stop = None
            reaped(status)

        def kill(rc: int) -> None:
            # A loop that reaps by itself may have done so, and not said so yet.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

        pid = self._children.fork(body, ended)
        operation.stop = kill

    @staticmethod
    def _rc(operation: Operation, status: int) -> int:
        if not status:
            return 0
        return Aborted.code if operation.aborting else Fail.code


def _write_out(fd: int, info: DomainInfo) -> int:
    state = json.dumps({"memory_kb": info.memory_kb, "vcpus": info.vcpus}).encode()
    data = _MAGIC % len(state) + state
    while data:
        data = data[os.write(fd, data) :]
    return 0


def _copy_in(fd: int, write_end: int) -> int:
    """Take exactly one saved domain from `fd`: what is behind it in the stream is the caller's."""
    header = _exactly(fd, _HEADER)
    length = header[-9:-1].strip()
    if not length.isdigit() or not 0 < int(length) <= _LONGEST or header != _MAGIC % int(length):
        return 1
    os.set_blocking(write_end, True)
    state = _exactly(fd, int(length))
    while state:
        state = state[os.write(write_end, state) :]
    return 0


def _exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(fd, size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
