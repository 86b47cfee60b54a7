# SPDX-License-Identifier: LGPL-2.1-or-later
"""A connection to the simulated xenstored from within the same process, with a real fd to wait on."""

from __future__ import annotations

import errno
import os
import socket

from zope.interface import implementer

from gxl.interfaces import IStoreConnection
from gxl.simhost.daemon import Daemon


@implementer(IStoreConnection)
class Connection:
    """The client's end: like a non-blocking stream socket, except that a request is served while it is sent."""

    def __init__(self, daemon: Daemon, domid: int) -> None:
        self._sock, self._other = socket.socketpair()
        self._sock.setblocking(False)
        self._other.setblocking(False)
        self._session = daemon.connect(self._other, domid)

    def fileno(self) -> int:
        """The fd that becomes readable when a reply, a watch event or end of file is there; -1 once closed."""
        return self._sock.fileno()

    def send(self, data: bytes) -> int:
        """Serve the requests in `data`; always takes all of it. BrokenPipeError: the host dropped the connection."""
        if self._sock.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._session.closed:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self._session.feed(bytes(data))
        return len(data)

    def recv(self, size: int) -> bytes:
        """At most `size` bytes of what the host sent, b"" at end of file. BlockingIOError: nothing is there."""
        data = self._sock.recv(size)
        # What did not fit into the socket's buffer waits in the session; move some up, so that the fd stays readable
        # for as long as something is left.
        self._session.flush()
        return data

    def close(self) -> None:
        """Hang up. Harmless if done before."""
        self._session.drop()
        self._other.close()
        self._sock.close()
