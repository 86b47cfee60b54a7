# SPDX-License-Identifier: LGPL-2.1-or-later
"""A browser as far as the wire goes: it follows the events of a web application by a real socket."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import socket
from gevent.pywsgi import WSGIServer

TOKEN = "0123456789abcdef-token"


def bearer(token: str = TOKEN) -> dict[str, str]:
    """The header that carries a token."""
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def serving(application: Any, **how: Any) -> Iterator[WSGIServer]:
    """`application`, at a free port of this machine."""
    server = WSGIServer(("127.0.0.1", 0), application, log=None, environ={"SERVER_NAME": "localhost"}, **how)
    server.start()
    yield server
    server.stop(1)


class Browser:
    """Follows a stream, from where `before` or `last` ended, and keeps what the page would."""

    def __init__(
        self, server: WSGIServer, before: Browser | None = None, last: str | None = None, path: str = "/api/stream"
    ) -> None:
        self.last: str | None = last if before is None else before.last
        self.domains: dict[int, dict[str, Any]] = {} if before is None else before.domains
        self.anew = False
        """Whether it was sent all domains, to replace those that it knew."""
        self.kinds: set[str] = set()
        self.comments = 0
        self._deadline = time.monotonic() + 10
        self._text = ""
        self.waiting: deque[tuple[str, Any]] = deque()
        self._socket = socket.create_connection(("127.0.0.1", server.server_port))
        resume = "" if self.last is None else f"Last-Event-ID: {self.last}\r\n"
        # By HTTP/1.0, which knows no chunks.
        self._socket.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n{resume}\r\n".encode())
        while "\r\n\r\n" not in self._text:
            data = self._socket.recv(65536)
            assert data, f"the answer ends after {self._text!r}"
            self._text += data.decode()
        self.head, _, self._text = self._text.partition("\r\n\r\n")
        assert " 200 " in self.head, self.head
        self._parse()

    def read(self) -> bool:
        """Read on. True at the end."""
        left = self._deadline - time.monotonic()
        with gevent.Timeout(max(left, 0.01), AssertionError(f"that did not come: {self.waiting}, {self.domains}")):
            data = self._socket.recv(65536)
        self._text += data.decode()
        self._parse()
        return not data

    def next(self, kind: str) -> Any:
        """The data of the next message of this kind; those of other kinds before it are taken in."""
        while True:
            while self.waiting:
                found, data = self.waiting.popleft()
                if found == kind:
                    return data
            assert not self.read(), f"the stream ends without {kind!r}"

    def until_domains(self, condition: Callable[[dict[int, dict[str, Any]]], object]) -> None:
        """Read until the domains are as `condition` wants them. Keeps the other messages."""
        while not self.domains or not condition(self.domains):
            assert not self.read(), f"the stream ends with {self.domains}"

    def ended(self) -> bool:
        """Read to the end."""
        while not self.read():
            pass
        return True

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _parse(self) -> None:
        *messages, self._text = self._text.split("\n\n")
        for message in messages:
            if message.startswith(":"):
                self.comments += 1
                continue
            fields = dict(line.split(": ", 1) for line in message.split("\n"))
            data = json.loads(fields["data"])
            self.last = fields.get("id", self.last)
            self.kinds.add(fields["event"])
            if fields["event"] == "domains":
                if data["all"]:
                    self.anew = True
                    self.domains = {}
                self.domains |= {row["domid"]: row for row in data["changed"]}
                for domid in data["gone"]:
                    self.domains.pop(domid, None)
            self.waiting.append((fields["event"], data))
