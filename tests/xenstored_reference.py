# SPDX-License-Identifier: LGPL-2.1-or-later
"""Xen's own C xenstored, running on a simulated hypervisor, and clients of it: tools in dom0 and guests."""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gxl.simhost import SimHost, preload
from gxl.simhost.server import Server
from gxl.xenstore import Decoder, Message, Operation, encode

_VIRQ_PORT = 1
_RING, _PAGE = 1024, 4096
BARRIER = 0xFFFF


class Client(Protocol):
    """One connection to a xenstored."""

    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes:
        """Some of what it sent; waits for it."""


class Conversation:
    """Requests on a connection, and everything that comes back."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._decoder = Decoder()

    def send(self, operation: int, payload: bytes, transaction: int) -> None:
        self._client.send(encode(Message(operation, 1, transaction, payload)))

    def catch_up(self) -> list[tuple[int, bytes]]:
        """Types and payloads of all that came before the answer to one more request."""
        self._client.send(encode(Message(Operation.READ, BARRIER, 0, b"/tool\0")))
        came: list[tuple[int, bytes]] = []
        while True:
            for message in self._decoder.feed(self._client.receive()):
                if message.request_id == BARRIER:
                    return came
                came.append((message.operation, message.payload))


class InProcess:
    """A client of gxl's xenstored."""

    def __init__(self, host: SimHost, domid: int = 0) -> None:
        self.connection = host.connect(domid)

    def send(self, data: bytes) -> None:
        self.connection.send(data)

    def receive(self) -> bytes:
        return self.connection.recv(65536)


class OverSocket:
    """A tool's connection to the C xenstored."""

    def __init__(self, reference: Reference) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(10)
        self.connection.connect(str(reference.directory / "socket"))

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def receive(self) -> bytes:
        return self.connection.recv(65536)


class OverRing:
    """A guest's connection to the C xenstored: a page of shared memory with a ring for each direction."""

    def __init__(self, reference: Reference, page: int) -> None:
        self._reference = reference
        self._ring = reference.grants
        self._start = page * _PAGE

    # Through a view of whole words: the struct module would write an index byte by byte, and the daemon breaks off for
    # good when it reads one that is half new.
    def _index(self, number: int) -> int:
        with memoryview(self._ring) as page, page.cast("I") as words:
            return words[self._start // 4 + 2 * _RING // 4 + number]

    def _set_index(self, number: int, value: int) -> None:
        with memoryview(self._ring) as page, page.cast("I") as words:
            words[self._start // 4 + 2 * _RING // 4 + number] = value % 2**32

    def send(self, data: bytes) -> None:
        while data:
            consumed, produced = self._index(0), self._index(1)
            room = min(len(data), _RING - (produced - consumed) % 2**32, _RING - produced % _RING)
            at = self._start + produced % _RING
            self._ring[at : at + room] = data[:room]
            self._set_index(1, produced + room)
            data = data[room:]
            self._reference.fire(_VIRQ_PORT + 1)
            if data and self._index(0) == consumed:
                self._reference.wait()

    def receive(self) -> bytes:
        while (consumed := self._index(2)) == (produced := self._index(3)):
            self._reference.wait()
        length = min((produced - consumed) % 2**32, _RING - consumed % _RING)
        at = self._start + _RING + consumed % _RING
        data = bytes(self._ring[at : at + length])
        self._set_index(2, consumed + length)
        self._reference.fire(_VIRQ_PORT + 1)
        return data


class Reference:
    """The C xenstored as a process, its hypercalls answered by `host`."""

    def __init__(self, host: SimHost, directory: Path, xenstored: str, doors: str, options: Sequence[str]) -> None:
        self.directory = directory / "reference"
        self.directory.mkdir()
        (directory / "served").mkdir()
        self._server = Server(directory / "served", host)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(directory / "events"))
        listener.listen()
        with open(directory / "grants", "w+b") as file:
            file.truncate(64 * _PAGE)
            self.grants = mmap.mmap(file.fileno(), 64 * _PAGE)
        environment = {
            **os.environ,
            "XENSTORED_RUNDIR": str(self.directory),
            "XENSTORED_ROOTDIR": str(self.directory),
            "XENSTORED_EVENTS": str(directory / "events"),
            "XENSTORED_GRANTS": str(directory / "grants"),
            "GXL_SIM_HYPERCALLS": str(directory / "served" / "hypercalls"),
            "LD_PRELOAD": f"{doors} {preload.library()}",
        }
        self.process = subprocess.Popen([xenstored, "-N", *options], env=environment, stderr=subprocess.DEVNULL)
        listener.settimeout(10)
        self._events, _ = listener.accept()
        self._events.settimeout(10)
        listener.close()
        # The daemon tells dom0 that it is ready.
        self.wait()

    def fire(self, port: int) -> None:
        """Let an event channel fire."""
        # The daemon writes a word for each; nobody else makes room for more.
        while select.select([self._events], [], [], 0)[0]:
            self._wait_for_port()
        self._events.sendall(struct.pack("=I", port))

    def wait(self) -> None:
        """Wait until the daemon has done something about event channels."""
        self._wait_for_port()

    def _wait_for_port(self) -> int:
        data = self._events.recv(4, socket.MSG_WAITALL)
        if not data:
            raise EOFError("xenstored is gone")
        return int(struct.unpack("=I", data)[0])

    def domain_exception(self) -> None:
        """The hypervisor's interrupt: a domain shut down, began to die or vanished. Returns when it was handled."""
        self.fire(_VIRQ_PORT)
        while self._wait_for_port() != _VIRQ_PORT:
            pass

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._events.close()
        self.grants.close()
        self._server.stop()
        self._thread.join()
        self._server.close()
