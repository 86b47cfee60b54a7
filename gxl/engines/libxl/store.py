# SPDX-License-Identifier: LGPL-2.1-or-later
"""A connection to the same xenstored as libxl's, for a Context's side channel."""

from __future__ import annotations

import _socket
import os
import posix
import stat
from collections.abc import Callable

from zope.interface import implementer

from gxl.engines.libxl.loading import Library, ffi
from gxl.interfaces import IEngine, IStoreConnection, ISuccession


def connect(library: Library) -> IStoreConnection:
    """Connects as libxenstore does: to the daemon's socket, else the kernel's device. OSError if there is neither."""
    socket_path = os.fsdecode(ffi.string(library.lib.xs_daemon_socket()))
    failures: list[OSError] = []
    for path in (socket_path, _device_path()):
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                return SocketConnection(path)
            return DeviceConnection(path)
        except OSError as error:
            failures.append(error)
    raise failures[0]


def open_connections(library: Library) -> dict[int, int]:
    """This process's connections to the daemon's socket, libxl's included: their fds, and which file each is."""
    daemon = os.path.realpath(os.fsdecode(ffi.string(library.lib.xs_daemon_socket())))
    found: dict[int, int] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode) and _peer(int(name)) == daemon:
                found[int(name)] = status.st_ino
        except OSError:  # closed meanwhile, or connected to nobody
            continue
    return found


def _peer(fd: int) -> str | None:
    peer = _socket.socket(fileno=fd)
    try:
        address = peer.getpeername()
        return os.path.realpath(address) if isinstance(address, str) and address else None
    finally:
        peer.detach()


def _device_path() -> str:
    path = os.environ.get("XENSTORED_PATH")
    if path is not None:
        return path
    return "/dev/xen/xenbus" if os.path.exists("/dev/xen/xenbus") else "/proc/xen/xenbus"


@implementer(ISuccession)
class Succession:
    """Opens engines anew. The library stays what it is in this process, and so does the way to its xenstored."""

    def __init__(self, library: Library, engine: Callable[[], IEngine]) -> None:
        self._library = library
        self._engine = engine

    def xenstore_connect(self) -> IStoreConnection:
        return connect(self._library)

    def open(self) -> IEngine:
        return self._engine()


@implementer(IStoreConnection)
class SocketConnection:
    """The daemon's Unix socket. It reports the end of the daemon as the end of file.

    Not socket.socket, which a patched process replaces by one that wants a hub.
    """

    def __init__(self, path: str) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            # Even the connecting: a daemon that hangs stops accepting, and would stop whoever waits for it.
            self._socket.setblocking(False)
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def recv(self, size: int) -> bytes:
        return self._socket.recv(size)

    def send(self, data: bytes) -> int:
        # A daemon that is gone must be an error, not the end of this process by SIGPIPE.
        return self._socket.send(data, _socket.MSG_NOSIGNAL)

    def close(self) -> None:
        self._socket.close()


@implementer(IStoreConnection)
class DeviceConnection:
    """The kernel's way to a xenstored that may run in another domain. It never reports an end of file."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def recv(self, size: int) -> bytes:
        return os.read(self._fd, size)

    def send(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def close(self) -> None:
        if self._fd >= 0:
            posix.close(self._fd)
            self._fd = -1
