# SPDX-License-Identifier: LGPL-2.1-or-later
"""One connection, as xenstored sees it: bytes in, replies and watch events out, and what the client left here."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from gxl.simhost.store import Caller, Transaction
from gxl.xenstore import PAYLOAD_MAX, Decoder, Message, Operation, ProtocolError, encode

if TYPE_CHECKING:
    from gxl.simhost.daemon import Daemon
    from gxl.simhost.watches import Watch

# A client that does not read is told no more than this before it is dropped.
PENDING_MAX = 64 * 1024 * 1024


class Session:
    """The daemon's end of a connection: `sock` is non-blocking, and only ever written to here.

    `on_blocked` is called when `sock` takes no more for now; then `flush` must be called once it does.
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
        self._pending_bytes = 0
        self._pending_events: set[bytes] = set()

    @property
    def caller(self) -> Caller:
        return Caller(self.domid, self._daemon.targets.get(self.domid))

    @property
    def pending(self) -> bool:
        """Whether something waits for the client to read."""
        return bool(self._pending)

    def feed(self, data: bytes) -> None:
        """The client sent `data`: serve every request that is now complete."""
        if self._daemon.stalled:
            self._decoder.feed(data)
            return
        try:
            for message in self._decoder.feed(data):
                self._daemon.serve(self, message)
                if self.closed or self._daemon.stalled:
                    return
        except ProtocolError:
            self.drop()

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
        self._pending_bytes += len(data)
        if once is not None:
            self._pending_events.add(once)
        if self._pending_bytes > PENDING_MAX:
            self.drop()
        elif self.on_blocked is not None:
            self.on_blocked()

    def flush(self) -> None:
        """Send what waits, as far as the client has made room for it."""
        while self._pending and not self.closed and not self._daemon.stalled:
            data, once = self._pending[0]
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                return
            except OSError:
                self.drop()
                return
            self._pending_bytes -= sent
            if sent < len(data):
                self._pending[0] = (data[sent:], once)
                return
            self._pending.popleft()
            if once is not None:
                self._pending_events.discard(once)

    def drop(self) -> None:
        """Close the connection from the daemon's side; the client reads end of file. Harmless if it is closed."""
        if not self.closed:
            self.closed = True
            self._pending.clear()
            self._daemon.forget(self)
            self._sock.close()
