# SPDX-License-Identifier: LGPL-2.1-or-later
"""Forks an engine's children and learns how they end, beside whatever else in the process forks and reaps.

Calls posix.fork and posix.close: monkey-patching replaces those of os, by a fork that re-initialises the loop in the
child, and by a close that waits for the loop's next turn.
"""

from __future__ import annotations

import os
import posix
import select
import sys
import warnings
from collections.abc import Callable
from functools import partial
from itertools import starmap

from zope.interface import implementer

from gxl.errors import GxlError, MisuseError
from gxl.forking import library_fork
from gxl.hubhooks.epollset import EpollSet, Interest
from gxl.interfaces import IChildProcHooks, IEventSink, IHubBinding, SigchldOwner
from gxl.shield import Shield

Cancel = Callable[[], object]
Reaper = Callable[[int, Callable[[int], object]], Cancel]

# A status that the loop has reaped reaches its child watcher within a turn or two of the loop. A turn may be long, on a
# busy machine; so the grace is counted in turns that are each at least this long.
_GRACE_TURNS = 5
_GRACE_TURN = 0.01
_LOOK_AGAIN = 0.05
_STATUS_LOST = 255 << 8  # what libxl itself assumes of a child whose status it can't have


# Children that their hub left behind when it was closed, where no loop reaps what it finds. As with subprocess's, each
# one that has ended is reaped when the next is made.
_orphans: set[int] = set()


def _reap_orphans() -> None:
    for pid in tuple(_orphans):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0]
        except ChildProcessError:  # in a fork of this process, or somebody else was faster
            ended = pid
        if ended:
            _orphans.discard(pid)


class _Child:
    __slots__ = ("cancels", "pid", "pidfd")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd: Interest | None = None
        self.cancels: list[Cancel] = []


@implementer(IChildProcHooks)
class Children:
    """Two sources for one exit status, whichever comes first.

    One is the loop's child watcher, for loops that reap whatever child they find and drop the status of a pid that
    nobody watches. The other is a pidfd: a SIGCHLD gets lost when somebody installs another handler, and a status when
    somebody calls os.waitpid(-1), and libxl's operation would hang for ever.

    `later(seconds, f)` starts a timer, and returns what cancels it. For loops that reap by themselves, `prepare()` runs
    before each fork, and `reaper(pid, tell)` starts the loop's child watcher, which is to call tell(status), and
    returns what cancels it.
    """

    chldowner = SigchldOwner.MAINLOOP
    reaped_callback = None

    def __init__(
        self,
        binding: IHubBinding,
        sink: IEventSink,
        fds: EpollSet,
        later: Callable[[float, Callable[[], object]], Cancel],
        prepare: Callable[[], object] | None = None,
        reaper: Reaper | None = None,
    ) -> None:
        self._binding = binding
        self._sink = sink
        self._fds = fds
        self._prepare = prepare
        self._reaper = reaper
        self._later = later
        self._pid = os.getpid()
        self._closed = False
        self._children: set[_Child] = set()
        _reap_orphans()

    def fork_replacement(self) -> int:
        """Fork a child and watch it (IChildProcHooks.fork_replacement)."""
        if os.getpid() != self._pid:
            # libxl's middle process forks its own child, and waits for it itself. There is no loop here.
            with library_fork(), self._binding.no_switch():
                return posix.fork()
        self._binding.check_caller()
        if self._closed:
            raise MisuseError("this hub binding is closed: it can't watch another child")
        _reap_orphans()
        if self._prepare is not None:
            self._prepare()
        made: list[int] = []
        try:
            # An at-fork handler that switches would run the parent's greenlets in libxl's child. Python 3.12 warns if
            # there are threads; as an error, that would lose the pid of a child that exists.
            with library_fork(), self._binding.no_switch(), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                # Stored without a bytecode in between, where a signal handler could raise and lose the pid.
                made.extend(starmap(posix.fork, ((),)))
        except BaseException as error:
            if not made:
                raise
            self._binding.report(error)
        if made[0]:
            self._watch(_Child(made[0]))
        return made[0]

    def _watch(self, child: _Child) -> None:
        self._children.add(child)
        if self._reaper is not None:
            child.cancels.append(self._reaper(child.pid, partial(self._told, child)))
        try:
            pidfd = os.pidfd_open(child.pid)
        except OSError:
            # Linux before 5.3, or out of fds.
            if self._reaper is None:
                child.cancels.append(self._later(_LOOK_AGAIN, lambda: self._look(child)))
            return
        child.pidfd = self._fds.watch(pidfd, select.POLLIN, child, self._ended)

    def _ended(self, child: _Child, pidfd: int, events: int, revents: int) -> None:
        with Shield():  # a status can be had once
            self._ask(child, pidfd)

    def _ask(self, child: _Child, pidfd: int) -> None:
        assert child.pidfd is not None
        try:
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            # Reaped already: by the loop, whose child watcher is about to be called, or by a stranger.
            self._fds.change(child.pidfd, 0)
            self._wait_for_the_loop(child, _GRACE_TURNS)
            return
        if result is not None:
            exited = result.si_code == os.CLD_EXITED
            core = 0x80 if result.si_code == os.CLD_DUMPED else 0
            self._finish(child, result.si_status << 8 if exited else result.si_status | core)

    def _look(self, child: _Child) -> None:
        try:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
        except ChildProcessError:
            self._lost(child)
            return
        if pid:
            self._finish(child, status)
        else:
            child.cancels = [self._later(_LOOK_AGAIN, lambda: self._look(child))]

    def _wait_for_the_loop(self, child: _Child, turns: int) -> None:
        if not turns:
            self._lost(child)
        elif child in self._children:
            child.cancels.append(self._later(_GRACE_TURN, lambda: self._wait_for_the_loop(child, turns - 1)))

    def _lost(self, child: _Child) -> None:
        self._binding.report(
            GxlError(
                f"somebody else took the exit status of process {child.pid}, which was forked for libxl: libxl is told "
                "that it failed. Does the application call os.wait, or os.waitpid(-1)?"
            )
        )
        self._finish(child, _STATUS_LOST)

    def _told(self, child: _Child, status: int) -> None:
        try:
            self._finish(child, status)
        except BaseException:  # Ctrl-C struck as it began, and the loop tells a status once
            self._finish(child, status)
            raise

    def _finish(self, child: _Child, status: int) -> None:
        if child not in self._children:
            return
        with Shield():
            # First of all: the pid is free, and may be that of the next child already when libxl forks in answer.
            self._drop(child)
            try:
                self._sink.child_reaped(child.pid, status)
            except BaseException as error:
                self._binding.report(error)

    def _drop(self, child: _Child) -> None:
        self._children.remove(child)
        for cancel in child.cancels:
            cancel()
        if child.pidfd is not None:
            self._fds.forget(child.pidfd)
            posix.close(child.pidfd.fd)

    def close(self) -> None:
        """Watch no child any more. A loop that reaps by itself goes on reaping them; elsewhere gxl does, some time."""
        self._closed = True
        for child in tuple(self._children):
            self._drop(child)
            if self._reaper is None and os.getpid() == self._pid:
                _orphans.add(child.pid)
        _reap_orphans()


def reaper_beside_gevent(call_soon: Callable[[Callable[[], object]], object]) -> Reaper | None:
    """In a process that gevent has patched, what learns of a child from gevent's loop; elsewhere None.

    There, whatever waits lets gevent's loop run; and from the first gevent.subprocess on that reaps every child, and
    tells only its own watchers. `call_soon`: how to get from there to the hub that is used.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_anything_patched():
        return None
    hub = sys.modules["gevent"].get_hub()
    if not (hub.main_hub and hub.loop.default):
        return None  # libev and libuv watch children on their default loop alone

    def watch(pid: int, tell: Callable[[int], object]) -> Cancel:
        watcher = hub.loop.child(pid, ref=False)
        watcher.start(lambda: call_soon(partial(tell, watcher.rstatus)))

        def discard() -> None:
            watcher.stop()
            watcher.close()

        return discard

    return watch
