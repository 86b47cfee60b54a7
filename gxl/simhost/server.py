# SPDX-License-Identifier: LGPL-2.1-or-later
"""Serves a simulated host on Unix sockets, to programs that think it is real.

In the served directory, `socket` speaks xenstore (its clients set XENSTORED_RUNDIR to the directory), `hypercalls`
serves the preloaded library, and `control` is for whoever plays with the host.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gxl.simhost import abi, control
from gxl.simhost.host import SimHost

# Small, since each of two hundred requests in it may have an answer as large.
_CHUNK = 4096
# A client that leaves so much unread, or sends so much that waits, is not listened to for the time being.
_UNREAD_MAX = 1024 * 1024


class Server:
    """Serves `host` (a new one if None) in `directory` until `stop` is called."""

    def __init__(self, directory: str | Path, host: SimHost | None = None, version: tuple[int, int] = (4, 17)) -> None:
        self.directory = Path(directory)
        self.host = SimHost() if host is None else host
        self.version = abi.Version(*version)
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._peers: set[_Peer] = set()
        self._blocked: deque[_Peer] = deque()
        # Whose requests wait to be answered, one of each in turn: a client that asks for much does not hold up others.
        self._busy: dict[_Peer, None] = {}
        self._stopping = False
        self._doors: list[tuple[socket.socket, type[_Peer]]] = []
        self._wake.setblocking(False)
        self._watch(self._woken, lambda: self._woken.recv(_CHUNK))
        for name, kind in (("socket", _XenstorePeer), ("hypercalls", _HypercallPeer), ("control", _ControlPeer)):
            self._listen(self.directory / name, kind)
        self._furnish()

    def _listen(self, path: Path, kind: type[_Peer]) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen(128)
        self._watch(listener, lambda: self._accept(listener, kind))
        self._doors.append((listener, kind))

    def _furnish(self) -> None:
        """Make what the preloaded library puts in place of the machine's own files.

        What Linux tells in /sys/hypervisor decides which release's tools Debian's wrapper runs.
        """
        for place in ("run", "lib"):
            (self.directory / place).mkdir()
        directory = self.directory / "hypervisor" / "version"
        directory.mkdir(parents=True)
        (directory / "major").write_text(f"{self.version.major}\n")
        (directory / "minor").write_text(f"{self.version.minor}\n")
        (directory.parent / "type").write_text("xen\n")

    def _watch(self, sock: socket.socket, ready: Callable[[], object]) -> None:
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, lambda events: ready())

    def let_in(self) -> None:
        """Accept whoever has connected by now: to a client, its connection exists since connect(2) returned."""
        for listener, kind in self._doors:
            while self._accept(listener, kind):
                pass

    def _accept(self, listener: socket.socket, kind: type[_Peer]) -> bool:
        try:
            sock, _ = listener.accept()
        except OSError:
            # Nobody is there, or not any more, or this process has no fd left; either way there is nobody to tell.
            return False
        sock.setblocking(False)
        peer = kind(self, sock)
        if peer.refused:
            sock.close()
        else:
            self._peers.add(peer)
            self._selector.register(sock, selectors.EVENT_READ, peer.ready)
        return True

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopping:
            for key, events in self._selector.select(0 if self._busy else None):
                key.data(events)
            busy, self._busy = self._busy, {}
            for peer in busy:
                if peer in self._peers:
                    peer.answer_one()
            while self._blocked:
                peer = self._blocked.popleft()
                if peer in self._peers:
                    self._listen_to(peer, peer.interest())

    def _listen_to(self, peer: _Peer, events: int) -> None:
        # epoll(7) would report a hangup even to those who are interested in nothing, again and again.
        known = peer.sock in self._selector.get_map()
        if events and known:
            self._selector.modify(peer.sock, events, peer.ready)
        elif events:
            self._selector.register(peer.sock, events, peer.ready)
        elif known:
            self._selector.unregister(peer.sock)

    def watch_stdin(self) -> None:
        """Stop when standard input ends: when the process at its other end does."""
        self._selector.register(0, selectors.EVENT_READ, lambda events: None if os.read(0, _CHUNK) else self.stop())

    def busy(self, peer: _Peer) -> None:
        """`peer` may have a request to answer."""
        self._busy[peer] = None

    def blocked(self, peer: _Peer) -> None:
        """What `peer` is to wait for may have changed. Any thread may call this."""
        self._blocked.append(peer)
        self._poke()

    def _poke(self) -> None:
        try:
            self._wake.send(b"x")
        except BlockingIOError:
            # It is awake.
            pass

    def forget(self, peer: _Peer) -> None:
        """`peer`'s client is gone."""
        self._peers.discard(peer)
        self._listen_to(peer, 0)
        peer.sock.close()

    def reset(self) -> None:
        """Begin again with a new host."""
        self.host.close()
        self.host = SimHost()

    @contextmanager
    def down(self) -> Iterator[None]:
        """SimHost.down, which its clients can't tell from a daemon that is not running: its socket is gone."""
        place = self.directory / "socket"
        if not place.exists():
            raise ValueError("xenstored is down already")
        for door in [door for door in self._doors if door[1] is _XenstorePeer]:
            self._doors.remove(door)
            self._selector.unregister(door[0])
            door[0].close()
        place.unlink()
        with self.host.down():
            try:
                yield
            finally:
                self._listen(place, _XenstorePeer)

    def stop(self) -> None:
        """Let `run` return. Any thread may call this."""
        self._stopping = True
        self._poke()

    def close(self) -> None:
        """Hang up on every client. The host stays as it is."""
        for peer in list(self._peers):
            peer.gone()
        for sock in (*(listener for listener, _ in self._doors), self._wake, self._woken):
            sock.close()
        self._selector.close()


class _Peer:
    """A client's connection."""

    refused = False

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self._outgoing = bytearray()

    def ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self.flush()
            self.server.busy(self)
            self.server.blocked(self)
        if events & selectors.EVENT_READ:
            try:
                data = self.sock.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self.received(data)
            else:
                self.gone()

    def interest(self) -> int:
        write = selectors.EVENT_WRITE if self.unread() else 0
        return write | (selectors.EVENT_READ if self.unread() + self.unanswered() < _UNREAD_MAX else 0)

    def unread(self) -> int:
        """How many bytes wait for the client to read them."""
        return len(self._outgoing)

    def unanswered(self) -> int:
        """How many bytes of the client's wait to be served."""
        return 0

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def answer_one(self) -> None:
        """Answer one of the requests that were received, unless the client does not read the answers."""

    def send(self, data: bytes) -> None:
        self._outgoing += data
        self.flush()
        if self._outgoing:
            self.server.blocked(self)

    def flush(self) -> None:
        try:
            del self._outgoing[: self.sock.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            # The client is gone; its end of file is about to be read.
            self._outgoing.clear()

    def gone(self) -> None:
        self.server.forget(self)


class _XenstorePeer(_Peer):
    def __init__(self, server: Server, sock: socket.socket) -> None:
        super().__init__(server, sock)
        try:
            self._session = server.host.serve(sock)
        except OSError:
            self.refused = True
            return
        self._session.on_blocked = lambda: server.blocked(self)

    def received(self, data: bytes) -> None:
        self._session.feed(data)

    def unread(self) -> int:
        return self._session.unread

    def unanswered(self) -> int:
        return self._session.unanswered

    def flush(self) -> None:
        self._session.flush()

    def gone(self) -> None:
        self._session.drop()
        super().gone()


class _RequestPeer(_Peer):
    """A client whose requests are answered one by one, each as a whole."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        super().__init__(server, sock)
        self._incoming = bytearray()

    def unanswered(self) -> int:
        return len(self._incoming)

    def received(self, data: bytes) -> None:
        self._incoming += data
        self.server.busy(self)

    def answer_one(self) -> None:
        # The answer may hold ten thousand domains, and the request for it is short.
        if self.unread() >= _UNREAD_MAX:
            return
        answer = self.next_answer()
        if answer is None:
            return
        self.send(answer)
        self.server.busy(self)
        if self._incoming:
            self.server.blocked(self)

    def next_answer(self) -> bytes | None:
        """Take the next request, carry it out and return the answer; None: there is none yet, or never will be."""
        raise NotImplementedError


class _HypercallPeer(_RequestPeer):
    def next_answer(self) -> bytes | None:
        if len(self._incoming) < abi.REQUEST.size:
            return None
        *call, length = abi.REQUEST.unpack_from(self._incoming)
        end = abi.REQUEST.size + length
        if length > abi.BLOCK_MAX:
            self.gone()
            return None
        if len(self._incoming) < end:
            return None
        block = bytes(self._incoming[abi.REQUEST.size : end])
        del self._incoming[:end]
        return abi.answer(self.server.host.hypercalls, self.server.version, tuple(call), block)


class _ControlPeer(_RequestPeer):
    def __init__(self, server: Server, sock: socket.socket) -> None:
        super().__init__(server, sock)
        self._blocks: control.Blocks = []

    def next_answer(self) -> bytes | None:
        end = self._incoming.find(b"\n")
        if end > control.LINE_MAX or (end < 0 and len(self._incoming) >= control.LINE_MAX):
            self.gone()
            return None
        if end < 0:
            return None
        line = bytes(self._incoming[:end])
        del self._incoming[: end + 1]
        self.server.let_in()
        return control.call(self.server, self._blocks, line)

    def gone(self) -> None:
        while self._blocks:
            self._blocks.pop().__exit__(None, None, None)
        super().gone()
