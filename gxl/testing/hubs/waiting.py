# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for IHubBinding and IWaiter that need no fds or timeouts: waiting, running code, the guard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from zope.interface.verify import verifyClass, verifyObject

from gxl.errors import MisuseError
from gxl.interfaces import (
    IAwaitableWaiter,
    IChildProcHooks,
    ICoroutineBinding,
    IHub,
    IHubBinding,
    IOSEventHooks,
    IPolledBinding,
    ITurnBinding,
    IWaiter,
)
from gxl.testing.hubs.rig import Rig


async def everything_has_the_contracts_shape(rig: Rig) -> None:
    things = [
        (IHub, rig.hub),
        (IHubBinding, rig.binding),
        (IWaiter, rig.waiter),
        (IOSEventHooks, rig.binding.osevent),
        (IChildProcHooks, rig.binding.childproc),
    ]
    if rig.binding.osevent is None:
        things.append((IPolledBinding, rig.binding))
    if ITurnBinding.providedBy(rig.binding):
        things.append((ITurnBinding, rig.binding))
    if IAwaitableWaiter.providedBy(rig.waiter) or ICoroutineBinding.providedBy(rig.binding):
        things += [(IAwaitableWaiter, rig.waiter), (ICoroutineBinding, rig.binding)]
    for interface, thing in things:
        if thing is not None:
            verifyObject(interface, thing)
            verifyClass(interface, type(thing))


async def a_wake_up_is_kept_until_somebody_waits_and_used_up_by_that(rig: Rig) -> None:
    waiter = rig.binding.waiter()
    waiter.wake()
    waiter.wake()
    assert await rig.wait(waiter, None) is True
    assert await rig.wait(waiter, 0) is False
    waiter.wake()
    assert await rig.wait(waiter, 0) is True


async def a_wait_ends_when_its_time_is_up_and_not_before(rig: Rig) -> None:
    waiter = rig.binding.waiter()
    for span in (0.0001, 0.001, 0.0123, 0.0307):
        started = time.monotonic()
        assert await rig.wait(waiter, span) is False
        took = time.monotonic() - started
        assert span <= took < span + 2, took


async def a_wait_ends_soon_after_its_time(rig: Rig) -> None:
    took = []
    for _ in range(4):
        started = time.monotonic()
        await rig.wait(rig.waiter, 0.01)
        took.append(time.monotonic() - started)
    assert min(took) < 0.1, took


async def a_wake_up_ends_a_wait_soon(rig: Rig) -> None:
    # By spawned code, which in some loops is a thread.
    def start() -> Callable[[], object]:
        woken: list[bool] = []
        waiter = rig.binding.waiter()

        async def sleep() -> None:
            rig.binding.call_soon(waiter.wake)
            woken.append(await rig.wait(waiter, None))
            rig.waiter.wake()

        rig.spawn(sleep)
        return lambda: woken

    await rig.soon(start, "a wake-up ends a wait")


async def one_waiter_is_woken_and_no_other(rig: Rig) -> None:
    woken = []
    waiters: dict[int, IWaiter] = {}

    async def wait(number: int) -> None:
        waiter = waiters[number] = rig.binding.waiter()
        rig.waiter.wake()
        if await rig.wait(waiter, 10):
            woken.append(number)
            rig.waiter.wake()

    for number in range(5):
        rig.spawn(lambda number=number: wait(number))  # type: ignore[misc]  # mypy infers no lambda that has a default
    await rig.until(lambda: len(waiters) == 5, "all wait")
    waiters[3].wake()
    await rig.until(lambda: woken, "one was woken")
    await rig.turn()
    assert woken == [3]
    for waiter in waiters.values():
        waiter.wake()
    await rig.until(lambda: len(woken) == 5, "all were woken")


async def call_soon_calls_in_order_and_not_from_inside(rig: Rig) -> None:
    called: list[int] = []
    for number in range(3):
        rig.binding.call_soon(lambda number=number: called.append(number))  # type: ignore[misc]  # mypy infers no lambda that has a default
    assert called == []
    rig.binding.call_soon(rig.waiter.wake)
    await rig.until(lambda: len(called) == 3, "all were called")
    assert called == [0, 1, 2]


async def what_is_to_be_called_soon_is(rig: Rig) -> None:
    def start() -> Callable[[], object]:
        called: list[bool] = []

        def note() -> None:
            called.append(True)
            rig.waiter.wake()

        rig.binding.call_soon(note)
        return lambda: called

    await rig.soon(start, "what is to be called soon is called")


async def what_is_spawned_runs_soon(rig: Rig) -> None:
    def start() -> Callable[[], object]:
        run: list[bool] = []

        def note() -> None:
            run.append(True)
            rig.waiter.wake()

        rig.binding.spawn(note)
        return lambda: run

    await rig.soon(start, "what is spawned runs")


async def what_is_spawned_may_wait_and_so_may_what_it_spawns(rig: Rig) -> None:
    done: list[str] = []

    async def inner() -> None:
        await rig.wait(rig.binding.waiter(), 0.001)
        done.append("inner")
        rig.waiter.wake()

    async def outer() -> None:
        rig.spawn(inner)
        await rig.wait(rig.binding.waiter(), 0.001)
        done.append("outer")
        rig.waiter.wake()

    rig.spawn(outer)
    await rig.until(lambda: len(done) == 2, "both are done")


async def what_is_spawned_does_not_run_inside_the_call(rig: Rig) -> None:
    inside = [True]
    seen: list[bool] = []

    def note() -> None:
        # A thread may be as fast as that, and is no switch.
        seen.append(inside[0] and threading.get_ident() == here)
        rig.waiter.wake()

    here = threading.get_ident()
    rig.binding.spawn(note)
    inside[0] = False
    await rig.until(lambda: seen, "it is run")
    assert seen == [False]


async def the_guard_refuses_to_switch_and_only_while_it_is_entered(rig: Rig) -> None:
    waiter = rig.binding.waiter()

    async def refused() -> bool:
        try:
            await rig.wait(waiter, 0.001)
        except MisuseError:
            return True
        return False

    for _ in range(2):
        with rig.binding.no_switch():
            assert await refused()
            with rig.binding.no_switch():
                assert await refused()
            assert await refused(), "the inner guard ended the outer one"
            waiter.wake()
            assert await rig.wait(waiter, None) is True, "what needs no switch is allowed"
            rig.binding.call_soon(waiter.wake)
            rig.binding.spawn(waiter.wake)
        assert await rig.wait(waiter, 10) is True
        assert not await refused()
        try:
            with rig.binding.no_switch():
                raise KeyError
        except KeyError:
            pass
        assert not await refused(), "an exception left the guard behind"
        while await rig.wait(waiter, 0.001):
            pass


async def a_reported_exception_is_swallowed(rig: Rig) -> None:
    for error in (RuntimeError("reported by a test; no reason to worry"), BaseException("likewise")):
        rig.binding.report(error)
