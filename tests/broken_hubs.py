# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hub providers with one fault each, made from the asyncio hub, and the case that has to find it."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from gxl.errors import GxlError
from gxl.hubhooks import asyncio as right
from gxl.hubhooks.children import Children
from gxl.interfaces import IHub

FAULTS: dict[str, tuple[Callable[[], IHub], str]] = {}
"""By name: the broken provider, and the case."""


class Hub(right.AsyncioHub):
    """The asyncio hub with another binding, other hooks, other waiters or other children."""

    def __init__(self, binding: Any, hooks: Any, waiter: Any, children: Any) -> None:
        self._parts = binding, hooks, waiter, children

    def attach(self, sink: Any) -> Any:
        binding, hooks, waiter, children = self._parts
        made = binding(asyncio.get_running_loop(), sink)
        made.osevent = hooks(made, made._fds)
        made.childproc = children(made, sink, made._fds, made.later)
        if waiter is not right._Waiter:
            made.waiter = lambda: waiter(made)
        return made


def fault(case: str) -> Callable[[type], type]:
    """Notes a broken part under its name, and which case has to find it."""

    def note(part: type) -> type:
        parts = {
            kind: part if issubclass(part, kind) else kind
            for kind in (right.AsyncioBinding, right._OSEvent, right._Waiter, Children)
        }
        FAULTS[part.__name__] = (lambda: Hub(*parts.values())), case
        return part

    return note


@fault("an_fd_is_reported_for_as_long_as_it_is_ready")
class ReportsOnce(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        def once(*report: Any) -> None:
            self._fds.change(interest, 0)
            self._binding.sink.fd_ready(*report)

        interest = self._fds.watch(fd, events, for_libxl, once)
        return interest


@fault("an_fd_is_reported_with_its_token_fd_events_and_what_it_is_ready_for")
class ReportsTheFdForItsToken(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        return super().fd_register(fd, events, fd)


@fault("modify_changes_what_is_watched_at_once")
class IgnoresModify(right._OSEvent):
    def fd_modify(self, fd: int, registration: object, events: int) -> Any:
        return registration


@fault("modify_changes_what_is_watched_at_once")
class ModifiesLater(right._OSEvent):
    def fd_modify(self, fd: int, registration: Any, events: int) -> Any:
        self._binding.later(0.02, lambda: self._fds.change(registration, events))
        return registration


@fault("a_deregistered_fd_is_not_reported")
class DeregistersLater(right._OSEvent):
    def fd_deregister(self, fd: int, registration: Any) -> None:
        self._binding.later(0.02, lambda: self._fds.forget(registration))


@fault("an_fd_registered_for_nothing_is_never_reported")
class TakesNothingForReading(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        return super().fd_register(fd, events or select.POLLIN, for_libxl)


@fault("an_fd_may_be_registered_twice_and_each_is_told_its_own")
class KnowsOneRegistrationPerFd(right._OSEvent):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._by_fd: dict[int, Any] = {}

    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        if fd in self._by_fd:
            self._fds.forget(self._by_fd[fd])
        self._by_fd[fd] = super().fd_register(fd, events, for_libxl)
        return self._by_fd[fd]


@fault("urgent_data_is_reported_even_if_nothing_else_is_watched")
class KnowsReadingAndWritingOnly(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        return super().fd_register(fd, events & (select.POLLIN | select.POLLOUT), for_libxl)


@fault("an_fd_that_is_not_open_is_refused_and_leaves_no_trace")
class FailsAndIsLeftWithATrace(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        try:
            return super().fd_register(fd, events, for_libxl)
        except OSError:
            self._binding.later(0, lambda: self._binding.sink.fd_ready(for_libxl, fd, events, events))
            raise


@fault("an_fd_that_is_not_open_is_refused_and_leaves_no_trace")
class AcceptsAnything(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        try:
            return super().fd_register(fd, events, for_libxl)
        except (OSError, TypeError, ValueError):
            return None


@fault("a_regular_file_is_always_ready")
class RefusesFiles(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        if os.path.isfile(f"/proc/self/fd/{fd}") or "(deleted)" in os.readlink(f"/proc/self/fd/{fd}"):
            raise PermissionError(1, "as epoll says")
        return super().fd_register(fd, events, for_libxl)


@fault("a_busy_fd_starves_neither_timeouts_nor_others")
class ServesTheFirstOnly(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        def tell(*report: Any) -> None:
            lowest = min(self._fds._table)
            if fd == lowest or not select.select([lowest], [], [], 0)[0]:
                self._binding.sink.fd_ready(*report)

        return self._fds.watch(fd, events, for_libxl, tell)


@fault("a_timeout_is_never_early")
class CountsWholeMilliseconds(right._OSEvent):
    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        left = int((abs - time.time()) * 1000) / 1000
        return super().timeout_register(time.time() + left - 0.0002, for_libxl)


@fault("a_timeout_counts_from_now_not_from_when_the_loop_last_looked")
class CountsFromTheLastTurn(right._OSEvent):
    looked = 0.0

    def _due(self, timeout: Any) -> None:
        self.looked = time.time()
        super()._due(timeout)

    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        late = time.time() - self.looked if self.looked and abs else 0
        return super().timeout_register(abs - late, for_libxl)


@fault("a_timeout_that_is_due_already_is_reported_soon_but_not_from_inside_the_hook")
class ReportsInsideTheHook(right._OSEvent):
    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        if abs <= time.time():
            self._binding.sink.timeout_due(for_libxl)
            return right._Timeout(for_libxl, 0)
        return super().timeout_register(abs, for_libxl)


@fault("a_timeout_that_is_due_already_is_reported_soon_but_not_from_inside_the_hook")
class SleepsForEverIfLate(right._OSEvent):
    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        return super().timeout_register(abs if abs == 0 or abs > time.time() else 1e12, for_libxl)


@fault("modify_reports_a_timeout_at_once_and_exactly_once")
class IgnoresTimeoutModify(right._OSEvent):
    def timeout_modify(self, registration: Any, abs: float) -> Any:
        return registration


@fault("modify_reports_a_timeout_at_once_and_exactly_once")
class ReportsEachModify(right._OSEvent):
    def timeout_modify(self, registration: Any, abs: float) -> Any:
        self._binding.later(0, lambda: self._binding.sink.timeout_due(registration.for_libxl))
        return registration


@fault("the_same_token_may_stand_for_several_timeouts")
class KnowsTimeoutsByTheirToken(right._OSEvent):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._by_token: dict[object, Any] = {}

    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        if for_libxl in self._by_token:
            self.timeout_deregister(self._by_token[for_libxl])
        self._by_token[for_libxl] = super().timeout_register(abs, for_libxl)
        return self._by_token[for_libxl]


@fault("a_thousand_timeouts_are_each_reported_once")
class HasOneTimer(right._OSEvent):
    latest: Any = None

    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        if self.latest is not None:
            self.timeout_deregister(self.latest)
        self.latest = super().timeout_register(abs, for_libxl)
        return self.latest


@fault("a_moment_that_no_clock_can_show_disturbs_nobody")
class AcceptsAnyMoment(right._OSEvent):
    def timeout_register(self, abs: Any, for_libxl: object) -> Any:
        return super().timeout_register(abs if isinstance(abs, float) and abs == abs else 0, for_libxl)


@fault("a_wake_up_is_kept_until_somebody_waits_and_used_up_by_that")
class ForgetsWakeUps(right._Waiter):
    def wake(self) -> None:
        if self._future is not None:
            super().wake()


@fault("a_wake_up_is_kept_until_somebody_waits_and_used_up_by_that")
class StaysAwake(right._Waiter):
    def _used_up(self) -> bool:
        return self._woken


@fault("a_wait_ends_when_its_time_is_up_and_not_before")
class WaitsTooShort(right._Waiter):
    async def awaited(self, timeout: float | None) -> bool:
        return await super().awaited(timeout and timeout / 2)


@fault("one_waiter_is_woken_and_no_other")
class WakesEverybody(right._Waiter):
    everybody: list[Any] = []  # noqa: RUF012

    def __init__(self, binding: Any) -> None:
        super().__init__(binding)
        self.everybody.append(self)

    def wake(self) -> None:
        for waiter in self.everybody:
            if waiter._binding is self._binding:
                right._Waiter.wake(waiter)


@fault("call_soon_calls_in_order_and_not_from_inside")
class CallsAtOnce(right.AsyncioBinding):
    def call_soon(self, f: Callable[[], object]) -> None:
        f()


@fault("call_soon_calls_in_order_and_not_from_inside")
class CallsTheLatestFirst(right.AsyncioBinding):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._stack: list[Callable[[], object]] = []

    def call_soon(self, f: Callable[[], object]) -> None:
        self._stack.append(f)
        super().call_soon(lambda: self._stack.pop()())


@fault("what_is_spawned_does_not_run_inside_the_call")
class SpawnsAtOnce(right.AsyncioBinding):
    def spawn(self, f: Callable[[], object]) -> None:
        self._run(f)


@fault("the_guard_refuses_to_switch_and_only_while_it_is_entered")
class GuardsNothing(right.AsyncioBinding):
    def no_switch(self) -> Any:
        return right._Guard()


@fault("the_guard_refuses_to_switch_and_only_while_it_is_entered")
class DoesNotNestItsGuard(right.AsyncioBinding):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        guard = self._guard

        class Flat(right._Guard):
            def __enter__(self) -> None:
                guard.depth = 1

            def __exit__(self, *exc_info: object) -> None:
                guard.depth = 0

        self.flat = Flat()

    def no_switch(self) -> Any:
        return self.flat


@fault("a_callback_of_the_loop_cannot_wait")
class LetsCallbacksBlock(right.AsyncioBinding):
    def check_can_block(self, instead: str) -> None:
        time.sleep(0.01)


@fault("another_native_thread_is_refused")
class ServesAnyThread(right.AsyncioBinding):
    def check_caller(self) -> None:
        self._thread = threading.get_ident()
        super().check_caller()


@fault("a_forked_child_is_refused_and_may_close")
class ServesAnyProcess(right.AsyncioBinding):
    def check_caller(self) -> None:
        pass


@fault("a_forked_child_that_only_closes_leaves_the_parents_loop_unharmed")
class TakesFromTheParent(right.AsyncioBinding):
    def close(self) -> None:
        self.pid = self._fds._pid = os.getpid()
        for interest in [i for watched in self._fds._table.values() for i in watched.interests]:
            self._fds.forget(interest)
        super().close()


@fault("a_reported_exception_is_swallowed")
class LetsReportsOut(right.AsyncioBinding):
    def report(self, exc: BaseException) -> None:
        raise exc


@fault("after_close_nothing_is_reported_and_nothing_is_left")
class KeepsItsFds(right.AsyncioBinding):
    def close(self) -> None:
        self._closed = True
        self.osevent.close()


@fault("after_close_nothing_is_reported_and_nothing_is_left")
class GoesOnAfterClose(right._OSEvent):
    def close(self) -> None:
        pass


@fault("everything_has_the_contracts_shape")
class LacksAMethod(right.AsyncioBinding):
    spawn = None  # type: ignore[assignment]


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
