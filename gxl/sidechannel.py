# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Context's own connection to xenstored, for what libxl can't tell.

libxl's reader thread ends without a word when xenstored dies, and the one fd that libxl shows to the event loop stays
silent: its evgens would be deaf for ever. Here the same death is an end of file. libxl has no event for a domain that
appears, either, and can read a domain's name only by waiting for the answer.

Nothing here blocks: the connection is non-blocking, and is watched through the same hooks as libxl's fds.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import termios
import time
from collections.abc import Callable

from gxl.errors import EngineUnavailable
from gxl.interfaces import IEngine, IOSEventHooks, IStoreConnection
from gxl.shield import Shield
from gxl.xenstore import Client, ProtocolError, Request, WatchEvent

# /dev/xen/xenbus has no end of file: a daemon that is gone just never answers.
PING_INTERVAL = 30.0

# How much is read in one turn of the loop, and how many such slices may follow one another before they are acted upon.
_SLICE = 65536
_LONGEST_BURST = 64

_INTRODUCE = b"@introduceDomain"
_TOKEN = b"gxl"
_ZERO = bytes(4)


def connected(engine: IEngine) -> IStoreConnection:
    """A connection to the engine's xenstored; EngineUnavailable if there is none to be had."""
    try:
        return engine.xenstore_connect()
    except OSError as error:
        raise EngineUnavailable(f"the engine works, but no connection to xenstored can be had: {error}") from None


class SideChannel:
    """Names, new domains, and whether xenstored is alive. It is its own token at the hooks.

    `on_lost(why, since, hung)` is called once, if the connection fails: since when xenstored may have been silent, None
    meaning this moment; and whether it may still be there, and let everybody wait who asks it something.
    """

    def __init__(
        self,
        connection: IStoreConnection,
        hooks: IOSEventHooks,
        on_lost: Callable[[str, float | None, bool], object],
        on_introduced: Callable[[], object],
        later: Callable[[Callable[[], object]], object],
    ) -> None:
        self._connection = connection
        self._hooks = hooks
        self._on_lost = on_lost
        self._on_introduced = on_introduced
        self._later = later
        self._client = Client()
        self._expected: dict[Request, Callable[[str | None], object]] = {}
        self._ping: Request | None = None
        # Whether xenstored is known to have taken the watch: it says so by firing it once.
        self._watched = False
        self._changed = False
        self._looking = False
        self._slices = 0
        self._failure = ""
        self._heard = time.time()
        self._fd = connection.fileno()
        self._events = select.POLLIN
        self._is_socket = stat.S_ISSOCK(os.fstat(self._fd).st_mode)
        try:
            self._registration = hooks.fd_register(self._fd, self._events, self)
            with Shield():
                self._client.watch(_INTRODUCE, _TOKEN)
                self._flush()
            if not self._is_socket:
                hooks.timeout_register(time.time() + PING_INTERVAL, self)
        except BaseException:
            connection.close()
            raise

    def fd_ready(self, fd: int, events: int, revents: int) -> None:
        """The fd is readable or writable."""
        self.ready()

    def timeout_due(self) -> None:
        """The ping interval has passed."""
        self.ping()

    def name_of(self, domid: int, then: Callable[[str | None], object]) -> None:
        """Ask for a domain's name, and call `then` with it if it comes: None where there is none."""
        if self._fd < 0:
            return
        with Shield():
            self._expected[self._client.read(b"/local/domain/%d/name" % domid)] = then
            self._flush()

    def ready(self) -> None:
        """Take in what has come, and act upon it."""
        self._read()
        # One look at the domains answers for all that is known by now: a burst of new ones is read to its end first.
        if self._changed and not 0 < self._slices < _LONGEST_BURST:
            self._changed = False
            self._slices = 0
            self._looking = True
            try:
                self._on_introduced()
            except BaseException:  # Ctrl-C: whoever appeared is still to be looked at
                self._changed = True
                raise
            finally:
                self._looking = False
        if self._failure and self._fd >= 0:
            self._lose(self._failure)

    def catch_up(self) -> bool:
        """Take in what has come already, without acting upon it: for when events are about to be delivered.

        xenstored tells each connection of things in their order, and flushes one that has room before it takes the next
        request. What it was asked before a domain died is here before the news of the death is, and a domain can't do
        anything before it was introduced. So after this the names of those that events are about are known; and where
        it returns True, no domain had appeared by then that has not been looked at: each domid is still whose it was.
        """
        # A recv that finds nothing raises, which costs more than all the rest of the way of an event. At the end of
        # file there is nothing, either: that shows by the fd's being readable.
        nothing = self._is_socket and self._fd >= 0 and fcntl.ioctl(self._fd, termios.FIONREAD, _ZERO) == _ZERO
        if self._slices or not nothing:
            self._read()
        if self._changed or self._failure:
            self._later(self.ready)
            return False
        return self._watched and not self._looking and not self._slices and self._fd >= 0

    def _read(self) -> None:
        # One slice a turn: a store that never stops talking must not hold the hub.
        if self._fd < 0 or self._failure:
            return
        # What was sent or received, and not noted, would break the protocol.
        with Shield():
            self._exchange()

    def _exchange(self) -> None:
        try:
            data = self._connection.recv(_SLICE)
        except (BlockingIOError, InterruptedError):
            self._slices = 0
            self._flush()
            return
        except OSError as error:
            self._failure = f"the connection to xenstored failed: {error}"
            return
        self._heard = time.time()
        self._slices = self._slices + 1 if len(data) == _SLICE else 0
        if not data:
            self._failure = "xenstored has closed the connection: it died or was restarted"
            return
        try:
            for message in self._client.receive(data):
                if isinstance(message, WatchEvent):
                    self._watched = self._changed = True
                else:
                    self._finish(message)
        except (ProtocolError, OSError) as error:
            self._failure = f"xenstored broke the protocol: {error}"
            return
        self._flush()

    def ping(self) -> None:
        """Ask xenstored for anything; that it answers is what matters."""
        if self._fd < 0:
            return
        if self._ping is not None and not self._ping.done:
            self._lose(f"xenstored has not answered for {PING_INTERVAL:.0f} s", self._heard, hung=True)
            return
        with Shield():
            self._ping = self._client.read(b"/")
            self._flush()
        if self._fd >= 0:
            self._hooks.timeout_register(time.time() + PING_INTERVAL, self)

    @property
    def closed(self) -> bool:
        """Whether it has let go of the fd."""
        return self._fd < 0

    def close(self) -> None:
        """Let go of the fd. Idempotent. Names that are still being asked for will not come: nobody is called."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._hooks.fd_deregister(fd, self._registration)
            self._connection.close()
            self._expected.clear()

    def _flush(self) -> None:
        outgoing = self._client.outgoing
        while outgoing:
            try:
                self._client.sent(self._connection.send(bytes(outgoing)))
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._failure = f"the connection to xenstored failed: {error}"
                self._later(self.ready)
                return
        events = select.POLLIN | select.POLLOUT if outgoing else select.POLLIN
        if events != self._events:
            self._registration = self._hooks.fd_modify(self._fd, self._registration, events)
            self._events = events

    def _finish(self, request: Request) -> None:
        then = self._expected.pop(request, None)
        if then is None:
            if request is not self._ping:
                request.result()
            return
        try:
            # Whatever is in the store is untrusted; a name need not be text.
            then(request.result().decode("utf-8", "backslashreplace"))
        except OSError:
            then(None)

    def _lose(self, why: str, since: float | None = None, hung: bool = False) -> None:
        self.close()
        self._on_lost(why, since, hung)
