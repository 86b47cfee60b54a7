# SPDX-License-Identifier: LGPL-2.1-or-later
"""The xenstore wire protocol, without any input or output.

The simulated host's server and gxl's own client share it. `Decoder` turns bytes into messages, `encode` does the
opposite, and `Client` is one client's side of a connection: it numbers requests, matches replies to them and keeps
watch events apart. Whoever owns the connection moves the bytes.

A message is a header of four little-endian 32-bit numbers (type, request id, transaction id, payload length) and a
payload of at most 4096 bytes, in either direction. Paths and values are bytes: guests write them.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

PAYLOAD_MAX = 4096
PATH_MAX = 2048

_HEADER = struct.Struct("<4I")
_PATH = re.compile(rb"/|(/[-A-Za-z0-9_@]+)+")
_DOMAIN_DIRECTORY = re.compile(rb"/local/domain/\d{1,5}/")


class Operation(IntEnum):
    """A message's type, with its number on the wire."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22


# The errors that have a name on the wire; xenstored sends any other as EINVAL.
_NUMBERS: dict[bytes, int] = {
    errno.errorcode[number].encode(): number
    for number in (
        *(errno.EINVAL, errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENOMEM, errno.ENOSPC, errno.EIO),
        *(
            errno.ENOTEMPTY,
            errno.ENOSYS,
            errno.EROFS,
            errno.EBUSY,
            errno.EAGAIN,
            errno.EISCONN,
            errno.E2BIG,
            errno.EPERM,
        ),
    )
}
_NAMES: dict[int, bytes] = {number: name for name, number in _NUMBERS.items()}


class ProtocolError(ValueError):
    """The other side broke the protocol. The connection can't be used any more: the next message can't be found."""


class Message(NamedTuple):
    """One message; `operation` is an Operation's number, or one that no Operation has."""

    operation: int
    request_id: int
    transaction_id: int
    payload: bytes


def encode(message: Message) -> bytes:
    """`message` as it goes over the wire. ValueError: the payload is longer than the protocol allows."""
    if len(message.payload) > PAYLOAD_MAX:
        raise ValueError(f"a xenstore payload has at most {PAYLOAD_MAX} bytes, not {len(message.payload)}")
    header = _HEADER.pack(message.operation, message.request_id, message.transaction_id, len(message.payload))
    return header + message.payload


def error_name(number: int) -> bytes:
    """The name by which an errno goes over the wire."""
    return _NAMES.get(number, b"EINVAL")


def error_number(name: bytes) -> int:
    """The errno that an ERROR reply names; EINVAL for a name that the protocol does not have."""
    return _NUMBERS.get(name, errno.EINVAL)


def is_valid_path(path: bytes) -> bool:
    """Whether `path` may name a node: xenstored's rule for characters, slashes and length.

    Below a domain's own directory the length counts from there, so that a guest's relative path and its absolute form
    are equally long.
    """
    if not _PATH.fullmatch(path):
        return False
    directory = _DOMAIN_DIRECTORY.match(path)
    return len(path) <= PATH_MAX + (directory.end() if directory else 0)


class Decoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        """How many bytes are there of what is not complete, or was not asked for."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take `data` in, and give every message that is now complete, one by one.

        ProtocolError: a header announces more than the protocol allows. Messages before it are given first, nothing
        after it ever is. Bytes that are not asked for stay for the next call.
        """
        self._buffer += data
        return self._messages()

    def _messages(self) -> Iterator[Message]:
        buffer = self._buffer
        while len(buffer) >= _HEADER.size:
            operation, request_id, transaction_id, length = _HEADER.unpack_from(buffer)
            if length > PAYLOAD_MAX:
                raise ProtocolError(f"a payload of {length} bytes; the protocol allows {PAYLOAD_MAX}")
            end = _HEADER.size + length
            if len(buffer) < end:
                return
            payload = bytes(buffer[_HEADER.size : end])
            del buffer[:end]
            yield Message(operation, request_id, transaction_id, payload)


class WatchEvent(NamedTuple):
    """Something at or below a watched path changed, or the watch is new."""

    path: bytes
    token: bytes


class Request:
    """A request that a Client sent, and its reply once that came."""

    __slots__ = ("_error", "_reply", "done", "operation", "request_id")

    def __init__(self, operation: Operation, request_id: int) -> None:
        self.operation = operation
        self.request_id = request_id
        self.done = False
        self._reply = b""
        self._error: OSError | None = None

    def result(self) -> bytes:
        """The reply's payload. OSError: what xenstored answered, or ECONNRESET if it went away first."""
        if not self.done:
            raise RuntimeError(f"xenstored has not answered this {self.operation.name} yet")
        if self._error is not None:
            raise self._error
        return self._reply

    def _finish(self, reply: bytes, error: int = 0) -> None:
        self.done = True
        self._reply = reply
        if error:
            self._error = OSError(error, f"xenstore {self.operation.name}: {os.strerror(error)}")


class Client:
    """One client's side of a connection to xenstored.

    Requests are collected in `outgoing`; whoever owns the connection sends from its front and calls `sent`, gives what
    arrives to `receive`, and calls `lost` at end of file.
    """

    def __init__(self) -> None:
        self.outgoing = bytearray()
        self._decoder = Decoder()
        self._requests: dict[int, Request] = {}
        self._last_id = 0

    def request(self, operation: Operation, payload: bytes, transaction_id: int = 0) -> Request:
        """Queue a request; its reply comes out of `receive`."""
        while True:
            self._last_id = self._last_id % 0xFFFFFFFF + 1
            if self._last_id not in self._requests:
                break
        self.outgoing += encode(Message(operation, self._last_id, transaction_id, payload))
        request = self._requests[self._last_id] = Request(operation, self._last_id)
        return request

    def watch(self, path: bytes, token: bytes) -> Request:
        """Ask for a WatchEvent with `token` whenever something at or below `path` changes, and for one at once."""
        return self.request(Operation.WATCH, _strings(path, token))

    def unwatch(self, path: bytes, token: bytes) -> Request:
        """Take back a watch. Events that xenstored sent before may still arrive."""
        return self.request(Operation.UNWATCH, _strings(path, token))

    def read(self, path: bytes) -> Request:
        """Ask for a node's value."""
        return self.request(Operation.READ, _strings(path))

    def sent(self, count: int) -> None:
        """The first `count` bytes of `outgoing` are on their way."""
        del self.outgoing[:count]

    def receive(self, data: bytes) -> Iterator[Request | WatchEvent]:
        """Take what arrived, and give finished requests and watch events in the order in which xenstored sent them.

        ProtocolError: xenstored sent what no xenstored sends; the connection is of no use any more.
        """
        for message in self._decoder.feed(data):
            if message.operation == Operation.WATCH_EVENT:
                fields = message.payload.split(b"\0")
                if len(fields) != 3 or fields[2]:
                    raise ProtocolError(f"a watch event that is no path and token: {message.payload!r}")
                yield WatchEvent(fields[0], fields[1])
            else:
                yield self._reply(message)

    def _reply(self, message: Message) -> Request:
        request = self._requests.pop(message.request_id, None)
        if request is None:
            raise ProtocolError(f"a reply to request {message.request_id}, which was not made")
        if message.operation == Operation.ERROR:
            request._finish(b"", error_number(message.payload.rstrip(b"\0")))
        elif message.operation == request.operation:
            request._finish(message.payload)
        else:
            raise ProtocolError(f"a reply of type {message.operation} to {request.operation.name}")
        return request

    def lost(self) -> list[Request]:
        """The connection is gone: every open request ends with ECONNRESET and is returned."""
        requests = list(self._requests.values())
        self._requests.clear()
        self.outgoing.clear()
        for request in requests:
            request._finish(b"", errno.ECONNRESET)
        return requests


def _strings(*fields: bytes) -> bytes:
    for field in fields:
        if b"\0" in field:
            raise ValueError(f"a xenstore path or token can't hold a zero byte: {field!r}")
    return b"".join(field + b"\0" for field in fields)
