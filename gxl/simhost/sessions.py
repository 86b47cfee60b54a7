# SPDX-License-Identifier: LGPL-2.1-or-later
"""One connection, as xenstored sees it: bytes in, replies and watch events out, and what the client left here."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from gxl.simhost.store import Transaction
from gxl.simhost.tree import Caller
from gxl.xenstore import PAYLOAD_MAX, Decoder, Message, Operation, ProtocolError, encode

if TYPE_CHECKING:
    from gxl.simhost.daemon import Daemon
    from gxl.simhost.watches import Watch

# A client that does not read is told no more than this before it is dropped.
PENDING_MAX = 64 * 1024 * 1024


class Session:
    """The daemon's end of a connection.

    `sock` is non-blocking, and only ever written to here; whoever made it closes it. `on_blocked` is called when it
    takes no more for now; then `flush` must be called once it does. Any thread may call `feed`, `flush` and `drop`.
    """

    def __init__(self, daemon: Daemon, sock: socket.socket, number: int, domid: int) -> None:
        self.number = number
        self.domid = domid
        self.watches: dict[tuple[bytes, bytes], Watch] = {}
        self.transactions: dict[int, Transaction] = {}
        self.last_transaction = 0
        self.closed = False
        self.on_blocked: Callable[[], None] | None = None
        self._daemon = daemon
        self._sock = sock
        self._decoder = Decoder()
        # What was not yet sent, with the payload of those watch events of which one waiting is enough.
        self._pending: deque[tuple[bytes, bytes | None]] = deque()
        self._unread = 0
        self._pending_events: set[bytes] = set()

    @property
    def caller(self) -> Caller:
        return Caller(self.domid, self._daemon.targets.get(self.domid))

    @property
    def unread(self) -> int:
        """How many bytes wait for the client to read, besides those that its socket holds; none of a stalled one's."""
        return 0 if self._daemon.stalled else self._unread

    @property
    def unanswered(self) -> int:
        """How many bytes of the client's wait to be served: there are many of them only while the daemon is stalled."""
        return len(self._decoder) + (self._unread if self._daemon.stalled else 0)

    def feed(self, data: bytes) -> None:
        """The client sent `data`: serve every request that is now complete."""
        with self._daemon.lock:
            messages = self._decoder.feed(data)
            try:
                while not self.closed and not self._daemon.stalled and (message := next(messages, None)):
                    self._daemon.serve(self, message)
            except ProtocolError:
                self.drop()
            if len(self._decoder) and self.on_blocked is not None:
                self.on_blocked()

    def reply(self, message: Message) -> None:
        self._send(encode(message))

    def event(self, payload: bytes) -> None:
        """Report a change, unless the very same report still waits to be read; special events always count."""
        if len(payload) > PAYLOAD_MAX or payload in self._pending_events:
            return
        data = encode(Message(Operation.WATCH_EVENT, 0, 0, payload))
        self._send(data, None if payload[:1] == b"@" else payload)

    def _send(self, data: bytes, once: bytes | None = None) -> None:
        if self.closed:
            return
        if not self._pending and not self._daemon.stalled:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.drop()
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._pending.append((data, once))
        self._unread += len(data)
        if once is not None:
            self._pending_events.add(once)
        if self._unread > PENDING_MAX:
            self.drop()
        elif self.on_blocked is not None:
            self.on_blocked()

    def flush(self) -> None:
        """Send what waits, as far as the client has made room for it."""
        with self._daemon.lock:
            while self._pending and not self._daemon.stalled:
                data, once = self._pending[0]
                try:
                    sent = self._sock.send(data)
                except BlockingIOError:
                    return
                except OSError:
                    self.drop()
                    return
                self._unread -= sent
                if sent < len(data):
                    self._pending[0] = (data[sent:], once)
                    return
                self._pending.popleft()
                if once is not None:
                    self._pending_events.discard(once)

    def drop(self) -> None:
        """Hang up; the client reads end of file. Harmless if done before."""
        with self._daemon.lock:
            if not self.closed:
                self.closed = True
                self._pending.clear()
                self._unread = 0
                self._daemon.forget(self)
                try:
                    self._sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    # The client hung up first.
                    pass
