# SPDX-License-Identifier: LGPL-2.1-or-later
"""Providers with a fault in waiting and in running code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from broken_hubs.faults import fault
from gxl.hubhooks import asyncio as right


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
    everybody: list[Any] = []  # noqa: RUF012  shared by all on purpose: that is the fault

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
        return contextlib.nullcontext()


@fault("the_guard_refuses_to_switch_and_only_while_it_is_entered")
class DoesNotNestItsGuard(right.AsyncioBinding):
    entered = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._guarded = lambda: self.entered

    def no_switch(self) -> Any:
        return self._enter()

    @contextlib.contextmanager
    def _enter(self) -> Iterator[None]:
        self.entered = True
        try:
            yield
        finally:
            self.entered = False


@fault("a_reported_exception_is_swallowed")
class LetsReportsOut(right.AsyncioBinding):
    def report(self, exc: BaseException) -> None:
        raise exc


@fault("everything_has_the_contracts_shape")
class LacksAMethod(right.AsyncioBinding):
    spawn = None  # type: ignore[assignment]  # that it is missing is the fault


@fault("everything_has_the_contracts_shape")
class LacksAHook(right._OSEvent):
    timeout_deregister = None  # type: ignore[assignment]  # that it is missing is the fault


@fault("what_is_spawned_may_wait_and_so_may_what_it_spawns")
class LeavesWhatItSpawnedWhereItFirstWaits(right.AsyncioBinding):
    def spawn(self, f: Callable[[], Any]) -> None:
        def run() -> None:
            coroutine = f()
            coroutine.send(None)
            coroutine.close()

        self.loop.call_soon(run)


@fault("what_is_to_be_called_soon_is")
class CallsLate(right.AsyncioBinding):
    def call_soon(self, f: Callable[[], object]) -> None:
        self.later(0.3, f)


@fault("what_is_spawned_runs_soon")
class SpawnsLate(right.AsyncioBinding):
    def spawn(self, f: Callable[[], object]) -> None:
        self.later(0.3, lambda: self._run(f))


@fault("a_wake_up_ends_a_wait_soon")
class WakesLate(right._Waiter):
    def wake(self) -> None:
        self._woken = True
        self._binding.later(0.3, self._resume)


@fault("a_wait_ends_soon_after_its_time")
class WaitsTooLong(right._Waiter):
    async def awaited(self, timeout: float | None) -> bool:
        return await super().awaited(timeout and timeout + 0.3)
