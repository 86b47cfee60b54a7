# SPDX-License-Identifier: LGPL-2.1-or-later
"""Providers with a fault in the life of a binding."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

from broken_hubs.faults import fault
from gxl.errors import MisuseError
from gxl.hubhooks import asyncio as right
from gxl.hubhooks.children import Children


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


@fault("after_close_nothing_is_reported_and_nothing_is_left")
class KeepsItsFds(right.AsyncioBinding):
    def close(self) -> None:
        self._closed = True
        self.osevent.close()


@fault("after_close_nothing_is_reported_and_nothing_is_left")
class GoesOnAfterClose(right._OSEvent):
    def close(self) -> None:
        pass


@fault("a_wake_up_from_a_report_ends_a_wait")
@fault("a_wake_up_from_a_callback_ends_a_wait")
class LosesWakeUpsFromCallbacks(right._Waiter):
    def wake(self) -> None:
        if asyncio.current_task() is not None:
            super().wake()


@fault("a_wake_up_from_a_report_ends_a_wait")
class NoticesAWakeUpFromAReportWhenTheTimeIsUp(right._Waiter):
    def wake(self) -> None:
        self._woken = True
        if asyncio.current_task() is not None:
            self._resume()


@fault("a_forked_child_hears_nothing_of_what_its_parent_watched")
class HearsInAChildWhatItsParentWatched(right.AsyncioBinding):
    made: list[Any] = []  # noqa: RUF012  shared by all on purpose: that is the fault

    def __init__(self, loop: Any, sink: Any) -> None:
        super().__init__(loop, sink)
        right._bindings.discard(self)  # which would close it in a child
        for other in self.made:
            if other.pid != os.getpid() and not other._closed:
                loop.add_reader(other._fileno, other._fds.dispatch)
        self.made.append(self)


@fault("close_works_inside_a_report")
@fault("after_close_nothing_is_reported_and_nothing_is_left")
class ClosesInTheNextTurn(right.AsyncioBinding):
    def close(self) -> None:
        self.loop.call_soon(super().close)


@fault("close_works_inside_a_report")
class CannotCloseInsideAReport(right._OSEvent):
    inside = False

    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        def tell(*report: Any) -> None:
            self.inside = True
            self._binding.sink.fd_ready(*report)
            self.inside = False

        return self._fds.watch(fd, events, for_libxl, tell)

    def close(self) -> None:
        if self.inside:
            raise MisuseError("not now")
        super().close()


@fault("after_close_nothing_is_reported_and_nothing_is_left")
class LeavesAThread(right.AsyncioBinding):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.over = threading.Event()
        threading.Thread(target=self.over.wait, args=(5,), daemon=True).start()

    def __del__(self) -> None:
        self.over.set()


@fault("two_bindings_do_not_disturb_each_other")
class ReportsToTheLatestBinding(right._OSEvent):
    latest: Any = None

    def __init__(self, binding: Any, fds: Any) -> None:
        super().__init__(binding, fds)
        type(self).latest = binding.sink

    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        return self._fds.watch(fd, events, for_libxl, lambda *report: self.latest.fd_ready(*report))


@fault("an_engines_child_keeps_the_parents_loop_unharmed")
class TidiesUpInTheChild(Children):
    def fork_replacement(self) -> int:
        pid = super().fork_replacement()
        if pid == 0:
            for key in self._fds._table:
                self._fds._epoll.unregister(key)
        return pid
