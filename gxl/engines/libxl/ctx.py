# SPDX-License-Identifier: LGPL-2.1-or-later
"""One libxl_ctx: the guard at its door, and all that C keeps pointers to until ctx_free.

Threads are told apart by their native ids. A patched process has others, one for each greenlet, while C and its lock
know only threads.
"""

from __future__ import annotations

import errno
import logging
import os
import posix
import warnings
import weakref
from _thread import allocate_lock
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gxl import shield
from gxl.engines.libxl.calls import DISASTER, LOCKED, Call, raise_all
from gxl.engines.libxl.children import Children
from gxl.engines.libxl.collecting import collecting
from gxl.engines.libxl.events import Events
from gxl.engines.libxl.evgens import Evgens
from gxl.engines.libxl.loading import CData, Library, ffi, load, unavailable
from gxl.engines.libxl.log import Log
from gxl.engines.libxl.operations import Operations
from gxl.engines.libxl.osevents import OSEvents
from gxl.engines.libxl.store import open_connections
from gxl.errors import Disaster, EngineUnavailable, GxlError, MisuseError
from gxl.forking import in_library_fork
from gxl.unpatched import unpatched

# Not the thread's native id: to ask for that is a system call, each time.
_get_ident: Callable[[], int] = unpatched("_thread").get_ident


class Ctx:
    """A libxl_ctx and everything that lives as long as it.

    `refusal`, if there is one, makes the error that every call gets; `dead` is the disaster behind it.
    """

    def __init__(self) -> None:
        self.ctx = self
        self.library: Library = load()
        self.lib: Any = self.library.lib
        self.pid = os.getpid()
        self.claimed = False
        """Whether a Context owns the engine."""
        self.no_switch: Callable[[], AbstractContextManager[object]] = nullcontext
        self.refusal: Callable[[], GxlError] | None = None
        self.dead: Disaster | None = None
        self.notice: Callable[[], object] = _nothing
        """Called when events may be waiting: see ICollectedEngine.event_notify."""
        self.hangup_fd: int | None = None
        self._connection: tuple[int, int] | None = None
        self._let_go = False
        self._calls: dict[int, Call] = {}
        # As new: making one costs as much as a call of C.
        self._unused: list[Call] = []
        self._waiting: set[int] = set()
        self._idle_wakes: list[int] = []
        self.log = Log(self.library)
        self.pointer: CData = self._alloc()
        self.handle: CData = ffi.new_handle(self)
        self.events = Events(self)
        self.collecting = collecting(self)
        self.osevents = OSEvents(self)
        self.evgens = Evgens(self)
        self.operations = Operations(self)
        self.children = Children(self)
        _open.add(self)

    def _alloc(self) -> CData:
        out = ffi.new("libxl_ctx **")
        with _opening:
            try:
                before = open_connections(self.library)
                rc = self.lib.libxl_ctx_alloc(out, 0, 0, self.log.xtl)
                opened = open_connections(self.library).items() - before.items()
            except OSError:  # no fd is left to look with
                self.lib.libxl_ctx_free(out[0])  # NULL is allowed
                self.log.close()
                raise
        # Two, if another thread has opened one of its own meanwhile. Then nobody knows which is libxl's.
        self._connection = opened.pop() if len(opened) == 1 else None
        if rc == 0:
            self._have_watch_pipe(out[0])
            return out[0]
        said = [message for _, message in self.log.take()]
        self.log.close()
        raise _not_opened(self.library, rc, said)

    def _have_watch_pipe(self, pointer: CData) -> None:
        """Make libxenstore open its watch pipe now. It would with the first watch, and libxl abort if no fd were left.

        By any watch of libxl's: its callers can be told that there is no fd, now and only now.
        """
        try:
            for fd in os.pipe2(os.O_CLOEXEC):
                posix.close(fd)
        except OSError:
            self.lib.libxl_ctx_free(pointer)
            self.log.close()
            raise
        evgen = ffi.new("libxl_evgen_domain_death **")
        if self.lib.libxl_evenable_domain_death(pointer, 0, 0, evgen) == 0:
            self.lib.libxl_evdisable_domain_death(pointer, evgen[0])

    def watch_hangup(self) -> None:
        """Provide hangup_fd: libxl's own socket, under another number, since libxenstore closes its own unasked.

        libxenstore reads it in a thread, which ends without a word when the daemon goes; the fd that libxl is shown
        stays silent.
        """
        if self._connection is not None:
            fd, inode = self._connection
            try:
                copy = os.dup(fd)
            except OSError:  # libxenstore was faster
                return
            if os.fstat(copy).st_ino == inode:
                self.hangup_fd = copy
            else:
                posix.close(copy)

    def enter(self, function: str, nested: bool = True, even_dead: bool = False) -> Call:
        """Begin a call of `function`, to be ended by leave().

        `nested`: it may be made from a callback. `even_dead`: it may be made after a disaster.
        """
        if self.refusal is not None and not (even_dead and self.dead is not None and self.refusal == self.dead.again):
            raise self.refusal()
        thread = _get_ident()
        try:
            call = self._unused.pop()
        except IndexError:
            call = Call()
        call.thread = thread
        if thread in self._calls:
            self._nest(call, self._calls[thread], function, nested)
        # A Context's hooks are quick. Others' may take their time, and Ctrl-C must reach them.
        call.shielded = self.claimed and shield.hold()
        self._calls[thread] = call
        return call

    def _nest(self, call: Call, outer: Call | None, function: str, nested: bool) -> None:
        stale = None
        if outer is not None and outer.inside is None:
            # It has ended, but a signal handler raised as leave() began.
            stale, outer = outer, outer.outer
        if outer is not None and (not nested or outer.inside in LOCKED):
            raise MisuseError(
                f"{function} can't be called inside {outer.inside}: note what is to be done, and do it when the "
                "engine call that led there has returned"
            )
        call.outer = outer
        if stale is not None:
            call.untimed, call.failed = stale.untimed, stale.failed

    def leave(self, call: Call) -> None:
        """End a call: pass on libxl's log, and raise what callbacks raised."""
        shielded = call.shielded
        try:
            if call.outer or call.untimed or call.failed or call.raised or call.freed or self._waiting:
                self._unwind(call)
            else:
                self._calls.pop(call.thread, None)
                self.log.drain()
                self._unused.append(call)
        finally:
            if shielded:
                shield.let_go()

    def _unwind(self, call: Call) -> None:
        outer = call.outer
        if outer is None:
            try:
                if call.untimed and self.refusal is None:
                    self.notice()  # what these bring, nobody has collected
                    self.osevents.let_occur(call.untimed)
            finally:
                self._calls.pop(call.thread, None)
        else:
            outer.untimed += call.untimed
            self._calls[call.thread] = outer
        if self._waiting:
            self.wake_waiting()
        self.settle(call)

    def settle(self, call: Call) -> None:
        """What is due each time that C has returned."""
        if call.failed:
            self._report_failed(call)
        if call.outer is None or call.outer.inside is None:
            self.log.drain()
        if call.raised:
            raised, call.raised = call.raised, []
            raise_all(raised)

    def others(self) -> list[Ctx]:
        """The other ctxs of this process."""
        return [ctx for ctx in list(_open) if ctx is not self]

    def current(self) -> Call:
        """The innermost call of this thread: the one in which a callback runs."""
        return self._calls[_get_ident()]

    def refuse(self, message: str) -> None:
        """From now on every call raises MisuseError(message)."""
        self.refusal = lambda: MisuseError(message)

    def disaster(
        self, call: Call, type: int, message: str, errnoval: int, *, fatal: bool, cause: BaseException | None = None
    ) -> None:
        """Tell the application that events may be missing, by its hook or else by raising from `call`."""
        disaster = Disaster(type, message, errnoval)
        disaster.__cause__ = cause
        if fatal:
            self.dead = disaster
            self.refusal = disaster.again
        hook = self.events.disaster_hook
        if hook is None:
            call.raised.append(disaster)
            return
        before, call.inside = call.inside, DISASTER
        try:
            with self.no_switch():
                hook(type, message, errnoval)
        except BaseException as error:
            call.raised.append(error)
        finally:
            call.inside = before

    def _report_failed(self, call: Call) -> None:
        failed, call.failed = call.failed, []
        for hook, failure in failed:
            message = f"libxl waits for something that the event loop has refused to watch: {failure}"
            self.log.note(logging.CRITICAL, message)
            # Without the fd libxl is deaf; without the timeout one operation ends before its time.
            self.disaster(call, 0, message, 0, fatal=hook.startswith("fd_"), cause=failure.__cause__)

    def borrow_wake(self) -> int:
        """An eventfd that becomes readable when another thread has been inside the engine."""
        wake = self._idle_wakes.pop() if self._idle_wakes else os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waiting.add(wake)
        return wake

    def return_wake(self, wake: int) -> None:
        """Give it back. It stays open until ctx_free: another thread may be about to write to it."""
        self._waiting.discard(wake)
        self._idle_wakes.append(wake)

    def wake_waiting(self, but: int = -1) -> None:
        """Make the threads that wait for events look at the queue and at the fds again."""
        for wake in list(self._waiting):
            if wake != but:
                os.eventfd_write(wake, 1)

    def free(self) -> None:
        """libxl_ctx_free, if it is safe, and the end of all that C pointed to. Idempotent."""
        if self.pointer is None:
            return
        call = self.enter("ctx_free", nested=False, even_dead=True)
        try:
            self._check_idle()
            self.lib.libxl_ctx_free(self.pointer)
            self.pointer = None
            self.refuse("the engine is closed: ctx_free has been called")
            _open.discard(self)
        finally:
            try:
                self.leave(call)
            finally:
                if self.pointer is None:
                    self.log.close()
                    if self.hangup_fd is not None:
                        posix.close(self.hangup_fd)
                    for wake in self._idle_wakes:
                        posix.close(wake)

    def _check_idle(self) -> None:
        """Raises MisuseError where libxl_ctx_free would abort the process."""
        operations = self.operations.in_progress()
        if operations:
            raise MisuseError(f"ctx_free with {operations} operations under way: ao_abort them, and see them end")
        if self.children.pending():
            raise MisuseError("ctx_free with children pending: reap them, and report them to childproc_reaped")
        if any(thread != _get_ident() for thread in list(self._calls)):
            raise MisuseError("ctx_free while another thread is inside the engine: let it come out first")

    def postfork_child_noexec(self) -> None:
        """libxl_postfork_child_noexec, in a child."""
        if os.getpid() == self.pid:
            raise MisuseError("postfork_child_noexec is for a forked child: here it would cut off the engine")
        if self.pointer is None or self._let_go:
            raise MisuseError("postfork_child_noexec has been called, or the engine was closed before the fork")
        self._let_go = True
        self.lib.libxl_postfork_child_noexec(self.pointer)
        self.refuse("postfork_child_noexec has been called: open another engine in this process")

    def __del__(self) -> None:
        if getattr(self, "pointer", None) is not None and os.getpid() == self.pid:
            # Freeing here would be at an unforeseeable moment, perhaps inside a hook, perhaps with a child pending.
            warnings.warn(f"an engine was dropped without ctx_free: {self.library.version}", ResourceWarning, 1)


def _nothing() -> None:
    pass


_open: weakref.WeakSet[Ctx] = weakref.WeakSet()
# One at a time: what is opened meanwhile is libxl's. Not threading's, which in a patched process switches greenlets.
_opening = allocate_lock()


def _forked() -> None:
    if not in_library_fork():
        for ctx in list(_open):
            ctx.refuse("this engine belongs to the parent process: call postfork_child_noexec and open another one")


os.register_at_fork(after_in_child=_forked)


def _not_opened(library: Library, rc: int, said: list[str]) -> EngineUnavailable:
    """Why libxl_ctx_alloc failed. Its rc is always the same; its log knows."""
    attempts = [(library.version, message) for message in said] or [(library.version, f"libxl_ctx_alloc: {rc}")]
    text = "\n".join(said)
    if any(os.strerror(code) in text for code in (errno.EACCES, errno.EPERM)):
        return unavailable("No permission to talk to Xen: run as root, in the control domain.", attempts)
    if "connect to xenstore" in text:
        return unavailable("Xen is there, but xenstored can't be reached: is it running?", attempts)
    if "libxc handle" in text:
        return unavailable("There is no Xen here: /dev/xen/privcmd can't be opened.", attempts)
    return unavailable(f"libxl could not open a ctx ({rc}).", attempts)
