# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that creates or restores a domain, as its Context sees it.

It is made by posix_spawn, which copies no memory, runs no at-fork handlers, and returns once the new program runs. Its
end shows at a pidfd, which works in every thread and beside every loop. Whoever else reaps it, takes nothing but its
exit status, and the result comes by the channel.
"""

from __future__ import annotations

import _socket
import json
import logging
import os
import posix
import select
import signal
import sys
import time
from collections.abc import Callable
from fcntl import F_DUPFD_CLOEXEC, fcntl
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from gxl.builder import CHANNEL_FD, REQUEST_FD, STREAM_FD
from gxl.errors import Fail, GxlError, LibxlError
from gxl.interfaces import AsyncHow

if TYPE_CHECKING:
    from gxl.pump import Pump

SILENCE_SECONDS = 30.0
"""How long a process may neither burn time nor wait for events before it is taken to be stuck, and killed."""

_PROGRAM = "import sys; sys.path[:] = {path!r}; from gxl.builder import main; main()"
_ABOVE_STANDARD = 10
_log = logging.getLogger("gxl")

End = Callable[[int, str, int | None], object]


class _Stream:
    """The fd that is restored from. libxl makes its file description blocking, and may die before it undoes it."""

    def __init__(self, fd: int) -> None:
        try:
            self._blocking = os.get_blocking(fd)
            self._fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)
        except OSError as error:
            raise Fail(message=f"fd {fd} can't be used: {error}") from error

    def give_back(self) -> None:
        os.set_blocking(self._fd, self._blocking)
        self.let_go()

    def let_go(self) -> None:
        posix.close(self._fd)


class Build:
    """One such process. It is its own token at the hooks.

    `on_end(rc, why, domid)` is called once, when the process has ended and is reaped; `on_console(domid)` before, if at
    all.
    """

    def __init__(
        self,
        pump: Pump,
        config: dict[str, Any],
        console: int | None,
        stream: int | None,
        on_end: End,
        on_console: Callable[[int], object],
    ) -> None:
        self._pump = pump
        self._hooks = pump.hooks
        self._on_end = on_end
        self._on_console = on_console
        self._uuid = UUID(str(config["c_info"]["uuid"]))
        self._before = self._of_this_uuid()
        self._received = b""
        self._result: tuple[int, str, int | None] | None = None
        self._why = ""
        self._killed = False
        request = {
            "engine": pump.engine.builder,
            "config": json.dumps(config),
            "console": console,
            "restore": stream is not None,
            "level": _log.getEffectiveLevel(),
        }
        self._stream = None if stream is None else _Stream(stream)
        theirs = None
        try:
            self._channel, theirs = _socket.socketpair()
            self._pid = _spawn(json.dumps(request).encode(), theirs.fileno(), stream)
            self._pidfd = os.pidfd_open(self._pid)
        except BaseException as error:
            if theirs is not None:
                self._channel.close()
            if self._stream is not None:
                self._stream.give_back()
            if isinstance(error, OSError):
                raise Fail(message=f"the process that builds domains can't be started: {error}") from error
            raise
        finally:
            if theirs is not None:
                theirs.close()
        self._channel.setblocking(False)
        self._heard = time.monotonic()
        self._channel_watch: object = self._hooks.fd_register(self._channel.fileno(), select.POLLIN, self)
        self._pidfd_watch: object = self._hooks.fd_register(self._pidfd, select.POLLIN, self)
        self._timer: object = self._hooks.timeout_register(time.time() + SILENCE_SECONDS, self)
        pump.builds[self] = None

    def abort(self) -> None:
        """Ask it to abort the operation."""
        try:
            self._channel.send(b"abort\n")
        except OSError as error:
            _log.debug("a process that builds a domain can't be asked to stop: %s", error)

    def fd_ready(self, fd: int, events: int, revents: int) -> None:
        """It says something, or has ended."""
        if self not in self._pump.builds:
            return
        self._listen()
        if fd == self._pidfd:
            self._reap()

    def timeout_due(self) -> None:
        """Time to see whether it still lives."""
        if self not in self._pump.builds:
            return
        self._listen()
        silence = time.monotonic() - self._heard
        if silence >= SILENCE_SECONDS:
            if self._killed:
                # The kernel holds it, in a hypercall perhaps. Whoever waits must not be held as well.
                self._forget()
                self._on_end(
                    Fail.code, f"process {self._pid} is stuck and can't be killed; what it left is there", None
                )
                return
            self._killed = True
            self._why = self._why or f"was killed, since it had been stuck for {silence:.0f} s"
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._timer = self._hooks.timeout_register(time.time() + SILENCE_SECONDS, self)

    def let_go(self) -> None:
        """The Context ends: forget the process, which will notice that, abort, and end. Nothing is reported."""
        self._pump.builds.pop(self, None)
        self._channel.close()
        posix.close(self._pidfd)
        if self._stream is not None:
            self._stream.let_go()

    def _listen(self) -> None:
        try:
            while data := self._channel.recv(65536):
                self._heard = time.monotonic()
                *lines, self._received = (self._received + data).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
        except BlockingIOError:
            return
        except OSError as error:
            _log.debug("a process that builds a domain has hung up: %s", error)
        # Its end; if it goes on all the same, the timer will tell.
        self._channel_watch = self._hooks.fd_modify(self._channel.fileno(), self._channel_watch, 0)

    def _take(self, message: dict[str, Any]) -> None:
        if "log" in message:
            logger = logging.getLogger(message["logger"])
            self._pump.aside(lambda: logger.log(message["log"], "%s", message["text"]))
        elif "console" in message:
            self._on_console(message["console"])
        elif "failed" in message:
            self._why = f"failed: {message['failed']}"
        elif "end" in message:
            self._result = message["end"], message.get("why", ""), message.get("domid")

    def _reap(self) -> None:
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            how = "ended"  # somebody else has its status
        else:
            if result is None:
                return
            exited = result.si_code == os.CLD_EXITED
            how = f"{'exited with' if exited else 'was killed by signal'} {result.si_status}"
        self._forget()
        self._hooks.timeout_modify(self._timer, 0)
        if self._result is not None:
            for other in self._pump.builds:
                other.leave_alone(self._result[2])
            self._on_end(*self._result)
        else:
            self._clean_up(f"the process that was to build the domain {self._why or how}")

    def _forget(self) -> None:
        self._pump.builds.pop(self)
        self._hooks.fd_deregister(self._channel.fileno(), self._channel_watch)
        self._hooks.fd_deregister(self._pidfd, self._pidfd_watch)
        self._channel.close()
        posix.close(self._pidfd)
        if self._stream is not None:
            self._stream.give_back()

    def _clean_up(self, why: str) -> None:
        """It has left the domain unfinished, perhaps: whatever has its UUID now, and was not there before."""
        try:
            left = self._of_this_uuid() - self._before
        except GxlError as error:
            why, left = f"{why}; what it left can't be looked for: {error}", set()
        if not left:
            self._on_end(Fail.code, why, None)

        def destroyed(domid: int, rc: int) -> None:
            left.discard(domid)
            if rc:
                self._pump.log(
                    logging.ERROR, "domain %d, left half built, can't be destroyed: libxl error %d", domid, rc
                )
            if not left:
                self._pump.arrived(lambda: self._on_end(Fail.code, why, None))

        for domid in tuple(left):
            how = AsyncHow(callback=partial(destroyed, domid))
            try:
                self._pump.engine.domain_destroy(domid, how)
            except GxlError as error:
                destroyed(domid, error.rc if isinstance(error, LibxlError) else Fail.code)

    def leave_alone(self, domid: int | None) -> None:
        """Another one has built this domain, perhaps from the same configuration, when this was given up."""
        if domid is not None:
            self._before.add(domid)

    def _of_this_uuid(self) -> set[int]:
        return {info.domid for info in self._pump.engine.list_domain() if info.uuid == self._uuid}


def _spawn(request: bytes, channel: int, stream: int | None) -> int:
    """Start the program; it gets copies of these fds, and no others."""
    if not sys.executable:
        raise Fail(message="creating a domain takes another Python process, and sys.executable does not say which")
    # An application may have changed where modules come from since it was started.
    path = [entry for entry in sys.path if entry and isinstance(entry, str)]  # others are ignored by Python, too
    path.append(str(Path(__file__).parent.parent))
    memory = os.memfd_create("gxl-request")
    held: list[int] = []
    try:
        os.write(memory, request)
        os.lseek(memory, 0, os.SEEK_SET)
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
        for target, fd in ((REQUEST_FD, memory), (CHANNEL_FD, channel), (STREAM_FD, stream)):
            if fd is not None:
                # Out of the way of the numbers that they are copied to.
                held.append(fcntl(fd, F_DUPFD_CLOEXEC, _ABOVE_STANDARD))
                actions.append((os.POSIX_SPAWN_DUP2, held[-1], target))
        # stdout is the application's.
        actions.append((os.POSIX_SPAWN_DUP2, 2, 1))
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", _PROGRAM.format(path=path)],
            os.environ,
            file_actions=actions,
            # Out of the reach of a terminal's Ctrl-C, which is the application's to answer.
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP),
        )
    finally:
        for fd in (memory, *held):
            posix.close(fd)
