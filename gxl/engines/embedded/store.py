# SPDX-License-Identifier: LGPL-2.1-or-later
"""The engine's connection to xenstored: requests that block until they are answered, and watches.

A reply may be preceded by watch events. Once such an event has been read, the connection is no longer readable, and a
loop that polls it would never come to fetch the event. So what is polled is an epoll set of the connection and of a
pipe that is readable for as long as events have been read and not dealt with to their end.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections import deque
from collections.abc import Callable
from select import POLLIN, POLLOUT

from gxl.engines.embedded import native
from gxl.engines.embedded.core import Core, StoreLost
from gxl.engines.embedded.osevents import FdInterest
from gxl.errors import Fail
from gxl.interfaces import IStoreConnection
from gxl.xenstore import Client, Operation, ProtocolError, Request, WatchEvent

_AT_ONCE = 4
"""So many watch events are dealt with in one call: each may be an eject, of which there is much to ask."""

_NUMBER = re.compile(rb"\s*(\d{1,9})")


class Watch:
    """One watch; `callback` is called whenever something at or below `path` may have changed, and once at first."""

    __slots__ = ("callback", "path", "token")

    def __init__(self, path: bytes, token: bytes, callback: Callable[[], None]) -> None:
        self.path = path
        self.token = token
        self.callback = callback


class Store:
    """One connection. A request that xenstored refuses is an OSError; a lost connection ends the engine."""

    def __init__(self, core: Core, connection: IStoreConnection) -> None:
        self._core = core
        self._connection = connection
        self._client = Client()
        self._watches: dict[bytes, Watch] = {}
        self._last_token = 0
        self._events: deque[WatchEvent] = deque()
        # What has more to do than one call should.
        self._unfinished: deque[Callable[[], None]] = deque()
        self._interest: FdInterest | None = None
        self._fds = native.epoll()
        try:
            self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            self._fds.close()
            raise
        self._readable = False
        self._fds.register(connection.fileno(), POLLIN)
        self._fds.register(self._read_end, POLLIN)

    def read(self, path: bytes) -> bytes | None:
        """A node's value, as far as C would read it; None if there is no such node."""
        try:
            value = self._request(self._client.read(path))
        except FileNotFoundError:
            return None
        return value.split(b"\0", 1)[0]

    def write(self, path: bytes, value: bytes) -> None:
        self._request(self._client.request(Operation.WRITE, path + b"\0" + value))

    def remove(self, path: bytes) -> None:
        """Removes a node, if it exists, and all below it."""
        try:
            self._request(self._client.request(Operation.RM, path + b"\0"))
        except FileNotFoundError:
            return

    def directory(self, path: bytes) -> list[bytes]:
        """The names of the nodes directly below `path`; none if it does not exist."""
        try:
            names = self._request(self._client.request(Operation.DIRECTORY, path + b"\0"))
        except FileNotFoundError:
            return []
        return names.split(b"\0")[:-1]

    def stub_domain(self, domid: int) -> int:
        """The domain that runs the device model of `domid`, and so has its disks; 0 if there is none."""
        try:
            value = self.read(b"/local/domain/%d/image/device-model-domid" % domid)
        except OSError:
            return 0
        number = _NUMBER.match(value or b"")
        return int(number[1]) if number else 0

    def watch(self, path: bytes, callback: Callable[[], None]) -> Watch:
        """Raises OSEventRegFail if the application's hook fails, Fail if xenstored does."""
        if self._interest is None:
            self._interest = self._core.osevents.register_fd(self._fds.fileno(), POLLIN, self._ready)
        self._last_token += 1
        watch = Watch(path, b"%d" % self._last_token, callback)
        try:
            self._request(self._client.watch(watch.path, watch.token))
        except OSError as error:
            self._stop_if_unwatched()
            raise Fail(message=f"xenstored refused to watch {path!r}: {error}") from error
        self._watches[watch.token] = watch
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Never fails: events that xenstored might go on sending are ignored."""
        del self._watches[watch.token]
        try:
            if self._core.dead is None:
                self._request(self._client.unwatch(watch.path, watch.token))
        except OSError as error:
            self._core.log(logging.ERROR, f"xenstored refused to forget the watch on {watch.path!r}: {error}")
        except StoreLost:
            # The application has been told. Whoever frees the engine must still get to the end of it.
            pass
        finally:
            self._stop_if_unwatched()

    def call_again(self, f: Callable[[], None]) -> None:
        """Call `f` when the fd, which stays readable until then, is ready the next time."""
        if f not in self._unfinished:
            self._unfinished.append(f)

    def close(self) -> None:
        self._fds.close()
        native.close(self._read_end)
        native.close(self._write_end)
        self._connection.close()

    def _stop_if_unwatched(self) -> None:
        if not self._watches and self._interest is not None:
            interest, self._interest = self._interest, None
            self._core.osevents.deregister_fd(interest)

    def _ready(self, revents: int) -> None:
        """Deal with some of the watch events: the fd stays readable while there are more."""
        try:
            for _ in range(len(self._unfinished)):
                self._unfinished.popleft()()
            # What has happened since waits until that is done which was begun before: events keep their order.
            dealt_with = 0
            while not self._unfinished and dealt_with < _AT_ONCE:
                if self._events:
                    dealt_with += 1
                    self._dispatch(self._events.popleft())
                elif not self._receive():
                    break
        except StoreLost:
            # The application knows already, or will as soon as the call that led here returns.
            return
        finally:
            self._show()

    def _dispatch(self, event: WatchEvent) -> None:
        watch = self._watches.get(event.token)
        # An event of a watch that has been taken back may still come.
        if watch is not None:
            watch.callback()

    def _request(self, request: Request) -> bytes:
        """The payload of the reply, once it is there. OSError: what xenstored answered instead."""
        try:
            self._send()
            while not request.done:
                if not self._receive():
                    native.poll([(self._connection.fileno(), POLLIN)], None)
        finally:
            self._show()
        return request.result()

    def _send(self) -> None:
        outgoing = self._client.outgoing
        while outgoing:
            try:
                self._client.sent(self._connection.send(bytes(outgoing)))
            except BlockingIOError:
                native.poll([(self._connection.fileno(), POLLOUT)], None)
            except OSError as error:
                self._lost(error.errno or errno.EPIPE)

    def _receive(self) -> bool:
        """Take in what has arrived; False if nothing has."""
        try:
            data = self._connection.recv(65536)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lost(error.errno or errno.EIO)
        if not data:
            self._lost(0)
        try:
            for arrival in self._client.receive(data):
                if isinstance(arrival, WatchEvent):
                    self._events.append(arrival)
        except ProtocolError as error:
            self._core.log(logging.ERROR, f"xenstored broke the protocol: {error}")
            self._lost(errno.EPROTO)
        return True

    def _lost(self, number: int) -> None:
        if self._core.dead is None:
            self._core.disaster(0, "the connection to xenstored is lost", number)
        raise StoreLost

    def _show(self) -> None:
        """Keep the pipe readable exactly while there is something to do."""
        waiting = bool(self._events or self._unfinished)
        if waiting and not self._readable:
            os.write(self._write_end, b"\0")
        elif self._readable and not waiting:
            os.read(self._read_end, 1)
        self._readable = waiting
