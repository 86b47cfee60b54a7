# SPDX-License-Identifier: LGPL-2.1-or-later
"""Providers with a fault of children."""

from __future__ import annotations

import os
from typing import Any

from broken_hubs.faults import fault
from gxl.errors import GxlError
from gxl.hubhooks.children import Children
from gxl.interfaces import SigchldOwner


@fault("a_childs_status_is_reported_as_from_waitpid")
class ReportsExitCodes(Children):
    def _finish(self, child: Any, status: int) -> None:
        super()._finish(child, os.waitstatus_to_exitcode(status))


@fault("a_child_that_stops_and_goes_on_is_not_reported_until_it_ends")
class TakesAStopForTheEnd(Children):
    def _watch(self, child: Any) -> None:
        super()._watch(child)

        def look() -> None:
            if child in self._children:
                if os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOHANG):
                    self._finish(child, 0)
                else:
                    child.cancels.append(self._later(0, look))

        look()


@fault("a_status_that_somebody_took_is_reported_as_a_failure_once")
class SaysNothingOfALostStatus(Children):
    def _lost(self, child: Any) -> None:
        self._binding.report(GxlError("a status was lost"))


@fault("the_applications_own_children_are_left_to_it")
class ReapsEverybodysChildren(Children):
    def _ended(self, child: Any, pidfd: int, events: int, revents: int) -> None:
        super()._ended(child, pidfd, events, revents)
        os.kill(os.getpid(), 0)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for other in tuple(self._children):
                if other.pid == pid:
                    self._finish(other, 0)


@fault("a_child_leaves_no_fd_behind")
class KeepsPidfds(Children):
    def _drop(self, child: Any) -> None:
        if child.pidfd is not None:
            os.dup(child.pidfd.fd)
        super()._drop(child)


@fault("in_the_engines_own_child_fork_replacement_is_a_plain_fork")
class ForksInOneProcessOnly(Children):
    def fork_replacement(self) -> int:
        self._binding.check_caller()
        return super().fork_replacement()


@fault("close_forgets_the_children")
class ForksAfterClose(Children):
    def close(self) -> None:
        super().close()
        self._closed = False


@fault("the_loop_reaps")
class LeavesReapingToTheEngine(Children):
    chldowner = SigchldOwner.LIBXL


@fault("a_child_that_is_dead_before_anybody_looks_is_reported")
class MissesAChildThatIsDeadAlready(Children):
    def _watch(self, child: Any) -> None:
        self._later(0, lambda: _is_dead(child.pid) or super(MissesAChildThatIsDeadAlready, self)._watch(child))


@fault("dozens_that_die_at_once_are_each_reported_once")
class TakesOneSignalForOneChild(Children):
    ended = False

    def _ended(self, child: Any, pidfd: int, events: int, revents: int) -> None:
        if self.ended:
            os.waitpid(child.pid, 0)
            self._drop(child)
        else:
            self.ended = True
            self._later(0, self._go_on)
            super()._ended(child, pidfd, events, revents)

    def _go_on(self) -> None:
        self.ended = False


@fault("a_child_is_gone_when_it_is_reported_and_the_next_may_be_forked_there")
class ReportsBeforeItReaps(Children):
    def _ended(self, child: Any, pidfd: int, events: int, revents: int) -> None:
        self._finish(child, 0)
        os.waitpid(child.pid, 0)


@fault("a_childs_end_is_reported_soon")
class LooksForItsChildrenNowAndThen(Children):
    def _ended(self, child: Any, pidfd: int, events: int, revents: int) -> None:
        self._fds.change(child.pidfd, 0)
        ended = super()._ended
        self._later(0.8, lambda: ended(child, pidfd, events, revents))


@fault("an_operation_that_forks_ends_and_leaves_no_child")
class ReapsNobody(Children):
    def _ended(self, child: Any, pidfd: int, events: int, revents: int) -> None:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        assert result is not None
        self._finish(child, result.si_status << 8)


def _is_dead(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
