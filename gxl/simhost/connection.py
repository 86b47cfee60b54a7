# SPDX-License-Identifier: LGPL-2.1-or-later
"""A connection to the simulated xenstored from within the same process, with a real fd to wait on."""

from __future__ import annotations

import socket
from threading import RLock

from gxl.simhost.daemon import Daemon


class Connection:
    """The client's end: like a non-blocking stream socket, except that a request is served while it is sent."""

    def __init__(self, daemon: Daemon, lock: RLock, domid: int) -> None:
        self._lock = lock
        self._sock, other = socket.socketpair()
        self._sock.setblocking(False)
        other.setblocking(False)
        self._session = daemon.connect(other, domid)

    def fileno(self) -> int:
        """The fd that becomes readable when a reply, a watch event or end of file is there; -1 once closed."""
        return self._sock.fileno()

    def send(self, data: bytes) -> int:
        """Serve the requests in `data`; always takes all of it. BrokenPipeError: the host dropped the connection."""
        with self._lock:
            if self._sock.fileno() < 0:
                raise OSError(9, "the connection is closed")
            if self._session.closed:
                raise BrokenPipeError(32, "the simulated xenstored dropped this connection")
            self._session.feed(bytes(data))
            return len(data)

    def recv(self, size: int) -> bytes:
        """At most `size` bytes of what the host sent, b"" at end of file. BlockingIOError: nothing is there."""
        with self._lock:
            data = self._sock.recv(size)
            # What did not fit into the socket's buffer waits in the session; move some up, so that the fd stays
            # readable for as long as something is left.
            self._session.flush()
            return data

    def close(self) -> None:
        """Hang up. Harmless if done before."""
        with self._lock:
            self._session.drop()
            self._sock.close()
