# SPDX-License-Identifier: LGPL-2.1-or-later
"""The engine's child processes, and whose SIGCHLD is.

SIGCHLD belongs to a process, not to an engine: one handler serves all engines that want it, by a byte into a pipe of
each. Python runs signal handlers on the main thread only, and lets only that thread install them.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from errno import ECHILD
from select import POLLIN
from signal import SIG_BLOCK, SIG_DFL, SIG_IGN, SIG_SETMASK, SIGCHLD, pthread_sigmask, valid_signals
from typing import Any, NamedTuple

from gxl.engines.embedded import native
from gxl.engines.embedded.core import Core
from gxl.engines.embedded.osevents import FdInterest
from gxl.errors import Fail, MisuseError
from gxl.forking import library_fork
from gxl.interfaces import SigchldOwner
from gxl.shield import take_off

# What libxl takes for the status of a child that somebody else reaped: exit status 255.
_STATUS_UNKNOWN = 255 << 8
_USE_MAINLOOP = "use SigchldOwner.MAINLOOP, and report children to childproc_reaped or childproc_sigchld_occurred"


class ChildprocMode(NamedTuple):
    """IChildProcHooks, checked."""

    owner: SigchldOwner = SigchldOwner.LIBXL
    fork_replacement: Callable[[], int] | None = None
    reaped_callback: Callable[[int, int], object] | None = None


class _Signal:
    """The process's SIGCHLD handler, shared by the engines that want it."""

    def __init__(self) -> None:
        self._wakeups: dict[Children, int] = {}
        self._saved: Any = None
        self._pid = 0

    @property
    def installed(self) -> bool:
        return bool(native.getsignal(SIGCHLD) == self._handle)

    def check(self) -> None:
        """Raises MisuseError where the handler can't be installed."""
        if self.installed:
            return
        owner = _owner_of_sigchld()
        if owner is not None:
            raise MisuseError(f"SIGCHLD is in use already, by {owner}: {_USE_MAINLOOP}")
        if threading.current_thread() is not threading.main_thread():
            raise MisuseError(
                "a handler for SIGCHLD can be installed on the main thread only: call childproc_setmode there with "
                f"SigchldOwner.LIBXL_ALWAYS, or {_USE_MAINLOOP}"
            )

    def add(self, children: Children, write_end: int) -> None:
        self.check()
        if not self.installed:
            self._saved = native.signal(SIGCHLD, self._handle)
            self._pid = os.getpid()
        self._wakeups[children] = write_end

    def remove(self, children: Children) -> None:
        self._wakeups.pop(children, None)
        # Elsewhere than on the main thread it stays, and does nothing; the next engine takes it over.
        if not self._wakeups and self.installed and threading.current_thread() is threading.main_thread():
            native.signal(SIGCHLD, self._saved)

    def restore(self) -> None:
        """In a forked child: the pipes are the parent's."""
        for children in list(self._wakeups):
            self.remove(children)

    def _handle(self, number: int, frame: object) -> None:
        if os.getpid() != self._pid:
            return
        # A copy: this may interrupt whoever is changing it.
        for write_end in tuple(self._wakeups.values()):
            try:
                os.write(write_end, b"\0")
            except BlockingIOError:
                # Full: it is readable anyway.
                pass


SIGNAL = _Signal()


def _owner_of_sigchld() -> str | None:
    handler = native.getsignal(SIGCHLD)
    if handler not in (SIG_DFL, SIG_IGN, None):
        return f"the handler {handler!r}"
    # A handler that C code installed is known to the kernel only.
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        caught = next((int(line.split()[1], 16) for line in status if line.startswith("SigCgt:")), 0)
    if not caught >> (SIGCHLD - 1) & 1:
        return None
    return "gevent's event loop" if "gevent" in sys.modules else "a C library of this process"


class Children:
    """One engine's children; `callback(status)` of each is called once it has been reaped."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.mode = ChildprocMode()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._pipe: tuple[int, int] | None = None
        self._interest: FdInterest | None = None
        self._pidfds: dict[int, FdInterest] = {}

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    @property
    def always(self) -> bool:
        """Whether SIGCHLD is the engine's even while it has no child."""
        return self.mode.owner in (SigchldOwner.LIBXL_ALWAYS, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP)

    def set_mode(self, mode: ChildprocMode) -> None:
        """Raises MisuseError or OSEventRegFail, and has changed nothing, if SIGCHLD can't be had."""
        previous, self.mode = self.mode, mode
        try:
            if self.always:
                self._need_signal()
            else:
                self._release_signal()
        except BaseException:
            self.mode = previous
            raise

    def prepare(self, synchronous: bool) -> None:
        """Be ready to fork. Raises MisuseError or OSEventRegFail if a child could not be reaped."""
        if self.mode.owner is not SigchldOwner.MAINLOOP:
            self._need_signal()
        elif synchronous:
            raise MisuseError(
                "a synchronous operation would wait for ever for its child, which nobody can report while the call "
                "blocks: pass an AsyncHow, or leave SIGCHLD to the engine (SigchldOwner.LIBXL)"
            )

    def fork(self, body: Callable[[], int], callback: Callable[[int], None]) -> int:
        """Run `body` in a child, which exits with what it returns. The pid; raises Fail if there can be no child."""
        # Until the child has no handlers of the parent's, an abort must wait, or it would be lost in them.
        mask = pthread_sigmask(SIG_BLOCK, valid_signals())
        try:
            with library_fork():
                pid = self._fork()
                if pid == 0:
                    _run(body, mask)
        except BaseException as error:
            if not isinstance(error, OSError):
                self._core.keep(error)
            self.release_unless_needed()
            raise Fail(message=f"fork failed: {error!r}") from error
        finally:
            pthread_sigmask(SIG_SETMASK, mask)
        self._callbacks[pid] = callback
        self._poll_for(pid)
        return pid

    def release_unless_needed(self) -> None:
        """What was prepared is not wanted (any more)."""
        if not self.always and not self._callbacks:
            self._release_signal()

    def abandon(self) -> None:
        """The engine is dead: whoever owns SIGCHLD may reap what it leaves."""
        self._callbacks.clear()
        for pid in list(self._pidfds):
            self._poll_no_more_for(pid)
        self.release_unless_needed()

    def reaped(self, pid: int, status: int) -> bool:
        """`pid` was reaped by somebody; False if it is no child of the engine's."""
        callback = self._callbacks.pop(pid, None)
        if callback is None:
            return False
        self._poll_no_more_for(pid)
        callback(status)
        self.release_unless_needed()
        return True

    def check_all(self) -> None:
        """Reap those of the engine's own children that have ended."""
        for pid in list(self._callbacks):
            try:
                got, status = native.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                self._core.disaster(0, "waitpid() gave ECHILD but we have a child", ECHILD, fatal=False)
                got, status = pid, _STATUS_UNKNOWN
            if got:
                self.reaped(pid, status)

    def close(self) -> None:
        for pid in list(self._pidfds):
            self._poll_no_more_for(pid)
        self._release_signal()
        if self._pipe is not None:
            native.close(self._pipe[0])
            native.close(self._pipe[1])
            self._pipe = None

    def _fork(self) -> int:
        replacement = self.mode.fork_replacement
        if replacement is not None:
            with self._core.guard():
                return replacement()
        with warnings.catch_warnings():
            # From 3.12 on Python warns of forks in threaded programs. This child calls nothing that could need a lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            return native.fork()

    def _poll_for(self, pid: int) -> None:
        """Let the end of a child be seen by whoever polls, too.

        Python runs its handler when the main thread gets to its next bytecode. A SIGCHLD that comes just before
        poll(2), or in another thread, leaves the poll asleep, and the handler waits for the poll.
        """
        if self.mode.owner is SigchldOwner.MAINLOOP or self._core.osevents.hooks is not None:
            return
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return
        self._pidfds[pid] = self._core.osevents.register_fd(fd, POLLIN, lambda revents: self.check_all())

    def _poll_no_more_for(self, pid: int) -> None:
        interest = self._pidfds.pop(pid, None)
        if interest is not None:
            self._core.osevents.deregister_fd(interest)
            native.close(interest.fd)

    def _need_signal(self) -> None:
        SIGNAL.check()
        if self._pipe is None:
            self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._interest is None:
            self._interest = self._core.osevents.register_fd(self._pipe[0], POLLIN, self._signalled)
        else:
            self._core.osevents.modify_fd(self._interest, POLLIN)
        SIGNAL.add(self, self._pipe[1])

    def _release_signal(self) -> None:
        SIGNAL.remove(self)
        if self._interest is not None:
            interest, self._interest = self._interest, None
            self._core.osevents.deregister_fd(interest)

    def _signalled(self, revents: int) -> None:
        assert self._pipe is not None
        try:
            while len(os.read(self._pipe[0], 256)) == 256:
                pass
        except BlockingIOError:
            pass
        if self.mode.owner is SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP:
            self.check_all()
            return
        while self.always or self._callbacks:
            try:
                pid, status = native.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # If the engine still has children, somebody else reaped them.
                self.check_all()
                return
            if pid == 0:
                return
            if not self.reaped(pid, status):
                self._foreign(pid, status)

    def _foreign(self, pid: int, status: int) -> None:
        """Ask the application about a child. Whatever its answer, the next may be the engine's own."""
        known: object = False
        if self.mode.reaped_callback is not None:
            try:
                with self._core.unlocked():
                    known = self.mode.reaped_callback(pid, status)
            except Exception as error:
                message = f"reaped_callback failed for pid {pid}, status {status}: {error!r}"
                self._core.disaster(0, message, fatal=False, cause=error)
                return
            except BaseException as error:
                self._core.keep(error)
                return
        if not known:
            self._core.log(logging.WARNING, f"unknown child {pid} ended with status {status}")


def _run(body: Callable[[], int], mask: set[int]) -> None:
    """The life of a forked child. It shares its memory's past with a process that may have had many threads."""
    status = 255
    try:
        for number in valid_signals():
            # As exec would: the parent's handlers have no business here, and an abort is a SIGTERM.
            if callable(native.getsignal(number)):
                native.signal(number, native.SIG_DFL)
        pthread_sigmask(SIG_SETMASK, mask)
        take_off()
        status = body()
    finally:
        os._exit(status)
