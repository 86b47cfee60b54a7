# SPDX-License-Identifier: LGPL-2.1-or-later
"""libxl's child processes: who forks and reaps them, and who has SIGCHLD."""

from __future__ import annotations

import errno
import logging
import os
import posix
import signal
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gxl.engines.libxl.calls import FORK, REAPED, callback
from gxl.engines.libxl.loading import CData, Library, ffi, libc, mapped_object
from gxl.errors import MisuseError, UnknownChild
from gxl.forking import library_fork
from gxl.interfaces import SigchldOwner
from gxl.shield import take_off

if TYPE_CHECKING:
    from gxl.engines.libxl.ctx import Ctx

_ALWAYS = SigchldOwner.LIBXL_ALWAYS
_REAP_ALL = {SigchldOwner.LIBXL, _ALWAYS}


def plain_fork() -> int:
    """os.fork, even where gevent has put another in its place: libxl's children have no use for a hub."""
    with warnings.catch_warnings():
        # Python sees libxenstore's thread. What libxl does in a child is made for that.
        warnings.simplefilter("ignore", DeprecationWarning)
        return posix.fork()


def sigchld_owner(library: Library) -> str | None:
    """Who has a handler for SIGCHLD that libxl would abort over, or None.

    The kernel is asked: Python does not know of the handlers that libev and libuv install.
    """
    action = ffi.new("struct sigaction *")
    libc.sigaction(signal.SIGCHLD, ffi.NULL, action)
    if int(ffi.cast("uintptr_t", action.handler)) in (int(signal.SIG_DFL), int(signal.SIG_IGN)):
        return None
    path, base = mapped_object(action.handler)
    if base == library.base:
        return None
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler):
        return f"the signal handler {handler!r}"
    return path or "code that no file is known of"


class Children:
    """A ctx's mode and children."""

    def __init__(self, ctx: Ctx) -> None:
        self._ctx = ctx
        self.mode = SigchldOwner.LIBXL
        self._fork: Callable[[], int] | None = None
        self._reaped: Callable[[int, int], object] | None = None
        self._pids: set[int] = set()
        self._structs: list[CData] = []
        self._set(SigchldOwner.LIBXL, None, None)

    def pending(self) -> bool:
        """Whether libxl has, or may have, a child that it has not seen the end of."""
        if self.mode != SigchldOwner.MAINLOOP and not self._ctx.operations.in_progress():
            # libxl has reaped them without telling anybody: no operation ends before its children.
            self._pids.clear()
        return bool(self._pids)

    def always(self) -> bool:
        """Whether the mode has libxl watch its SIGCHLD pipe all the time."""
        return self.mode in (SigchldOwner.LIBXL_ALWAYS, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP)

    def setmode(self, hooks: Any) -> None:
        """Take an IChildProcHooks, or None for the default."""
        mode, fork, reaped = SigchldOwner.LIBXL, None, None
        if hooks is not None:
            try:
                owner, fork, reaped = hooks.chldowner, hooks.fork_replacement, hooks.reaped_callback
            except AttributeError as error:
                raise TypeError(f"hooks must provide IChildProcHooks, or be None: {error}") from error
            mode = SigchldOwner(owner)
            for name, function in (("fork_replacement", fork), ("reaped_callback", reaped)):
                if function is not None and not callable(function):
                    raise TypeError(f"{name} must be callable or None, not {function!r}")
        if self.pending():
            raise MisuseError("childproc_setmode while libxl has children: call it first, or when no operation is left")
        if mode not in (SigchldOwner.LIBXL, SigchldOwner.MAINLOOP):
            self._check_sigchld(mode)
        self._set(mode, fork, reaped)

    def check_pump(self) -> None:
        """Before libxl goes on with operations, some of which fork later than at their start."""
        if self.mode != SigchldOwner.MAINLOOP and self._ctx.operations.forking:
            self._check_sigchld(self.mode)

    def check_start(self, function: str, synchronous: bool) -> None:
        """Before an operation that forks is started: can it, and will its child be reaped?"""
        for other in self._ctx.others():
            # One that reaps whatever it finds would take the other's children, whose operations then never end.
            mode = other.children.mode
            if mode is _ALWAYS or (other.operations.forking and not {mode, self.mode}.isdisjoint(_REAP_ALL)):
                raise MisuseError(
                    f"{function}, in mode {self.mode.name}, while another engine has or may have children in mode "
                    f"{mode.name}: several engines want MAINLOOP, or else LIBXL_ALWAYS_SELECTIVE_REAP, each of them"
                )
        if self.mode != SigchldOwner.MAINLOOP:
            self._check_sigchld(self.mode)
        elif synchronous:
            raise MisuseError(
                f"a synchronous {function} would wait for ever for its child, which nobody can report while the call "
                "blocks: pass an AsyncHow, or leave SIGCHLD to libxl (SigchldOwner.LIBXL)"
            )

    def reaped(self, pid: int, status: int) -> bool:
        """libxl_childproc_reaped."""
        self._check_mainloop("childproc_reaped")
        for name, value in (("pid", pid), ("status", status)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {value!r}")
        if not 0 < pid < 2**31 or not 0 <= status < 2**31:
            raise ValueError(f"pid and status must be as from waitpid, not {pid} and {status}")
        if self._ctx.lib.libxl_childproc_reaped(self._ctx.pointer, pid, status) == UnknownChild.code:
            return False
        self._pids.discard(pid)
        return True

    def sigchld_occurred(self) -> None:
        """libxl_childproc_sigchld_occurred."""
        self._check_mainloop("childproc_sigchld_occurred")
        self._ctx.lib.libxl_childproc_sigchld_occurred(self._ctx.pointer)
        for pid in list(self._pids):
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                self._pids.discard(pid)

    def _set(self, mode: SigchldOwner, fork: Any, reaped: Any) -> None:
        struct = ffi.new("libxl_childproc_hooks *")
        struct.chldowner = mode
        struct.fork_replacement = _fork_replacement
        if reaped is not None:
            struct.reaped_callback = _reaped_callback
        self.mode, self._fork, self._reaped = mode, fork, reaped
        # Another thread, inside libxl, may be reading the former one.
        self._structs.append(struct)
        self._ctx.lib.libxl_childproc_setmode(self._ctx.pointer, struct, self._ctx.handle)

    def _check_sigchld(self, mode: SigchldOwner) -> None:
        owner = sigchld_owner(self._ctx.library)
        if owner is not None:
            raise MisuseError(
                f"in mode {mode.name} libxl needs SIGCHLD for itself, but {owner} has it: use SigchldOwner.MAINLOOP, "
                "and report libxl's children with childproc_reaped"
            )

    def _check_mainloop(self, function: str) -> None:
        if self.mode != SigchldOwner.MAINLOOP:
            raise MisuseError(
                f"{function} is for SigchldOwner.MAINLOOP; in mode {self.mode.name} libxl reaps its children itself"
            )

    def fork(self) -> int:
        """libxl forks. In libxl's middle processes, which fork again, nothing of the application's may run."""
        if os.getpid() != self._ctx.pid:
            with library_fork():
                return plain_fork()
        call = self._ctx.current()
        call.inside = FORK
        try:
            with library_fork(), self._ctx.no_switch():
                pid = (self._fork or plain_fork)()
            if not isinstance(pid, int) or pid < 0:
                raise TypeError(f"fork_replacement must return a pid as os.fork does, not {pid!r}")
        except OSError as error:
            ffi.errno = error.errno or errno.EAGAIN
            return -1
        except BaseException:
            ffi.errno = errno.EAGAIN
            raise
        finally:
            call.inside = None
        if pid:
            self._pids.add(pid)
        else:
            take_off()
        return pid

    def reaped_foreign(self, pid: int, status: int) -> int:
        """libxl reaped a child that is not its own."""
        assert self._reaped is not None
        call = self._ctx.current()
        call.inside = REAPED
        try:
            with self._ctx.no_switch():
                return 0 if self._reaped(pid, status) else UnknownChild.code
        except Exception as error:
            # libxl would call it a disaster as well, and then look no further: its own child may be the next.
            message = f"reaped_callback raised {error!r} for pid={pid}, status={status}"
            self._ctx.log.note(logging.ERROR, message)
            self._ctx.disaster(call, 0, message, 0, fatal=False, cause=error)
            return UnknownChild.code
        finally:
            call.inside = None


@callback("int(*)(void *)", error=-1)
def _fork_replacement(user: CData) -> int:
    ctx: Ctx = ffi.from_handle(user)
    return ctx.children.fork()


@callback("int(*)(int, int, void *)", error=0)
def _reaped_callback(pid: int, status: int, user: CData) -> int:
    ctx: Ctx = ffi.from_handle(user)
    return ctx.children.reaped_foreign(pid, status)
