# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for IOSEventHooks: timeouts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from gxl.testing.hubs.rig import Rig


async def a_timeout_is_never_early(rig: Rig) -> None:
    # libxl does not look at the clock again: an early report is an early timeout. Spans with fractions of every kind,
    # since some loops count in whole milliseconds.
    ends: dict[object, float] = {}
    late: dict[object, float] = {}
    for number in range(200):
        ends[number] = time.time() + 0.001 + number * 0.00037
        rig.sink.answers[number] = lambda n: late.__setitem__(n, time.time() - ends[n])
        rig.osevent.timeout_register(ends[number], number)
    await rig.until(lambda: len(late) == 200, "each timeout is reported")
    early = {number: seconds for number, seconds in late.items() if seconds < 0}
    assert not early, f"early by (in seconds): {early}"
    assert min(late.values()) < 0.1, f"all late, by {min(late.values())} s and more"


async def a_timeout_counts_from_now_not_from_when_the_loop_last_looked(rig: Rig) -> None:
    # A loop knows the time at which it last slept. After long work in a callback that is the past, and a timer that
    # counts from there is early by as much.
    took: list[float] = []

    def work(_: object) -> None:
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            pass
        started = time.monotonic()
        rig.sink.answers["after"] = lambda _: took.append(time.monotonic() - started)
        rig.osevent.timeout_register(time.time() + 0.05, "after")

    rig.sink.answers["work"] = work
    rig.osevent.timeout_register(0, "work")
    await rig.until(lambda: took, "the timeout is reported")
    assert took[0] >= 0.0499


async def a_timeout_that_is_due_already_is_reported_soon_but_not_from_inside_the_hook(rig: Rig) -> None:
    for moment in (0, -1.0, time.time() - 10, -math.inf):
        token = ("due", moment)
        rig.sink.inside_hook = True
        rig.osevent.timeout_register(moment, token)
        rig.sink.inside_hook = False
        await rig.until(lambda token=token: token in rig.sink.timeouts, "it is reported")  # type: ignore[misc]  # mypy infers no lambda that has a default
    await rig.turn()
    assert len([token for token in rig.sink.timeouts if isinstance(token, tuple)]) == 4


async def a_timeout_that_is_due_is_reported_soon(rig: Rig) -> None:
    for ahead in (-math.inf, -10.0, 0.0, 0.01):
        # Whoever counts whole seconds is right by chance at their end.
        if (passed := time.time() % 1) > 0.7:
            await rig.wait(rig.waiter, 1.01 - passed)

        def start(ahead: float = ahead) -> Callable[[], object]:
            token = object()
            rig.osevent.timeout_register(time.time() + ahead, token)
            return lambda: token in rig.sink.timeouts

        await rig.soon(start, f"a timeout that is due in {ahead} s is reported")


async def modify_makes_a_timeout_occur_soon(rig: Rig) -> None:
    # libxl modifies a timeout when it has lost interest: an operation or a close() may wait for nothing else.
    for ahead in (3600.0, 0.5, math.inf):

        def start(ahead: float = ahead) -> Callable[[], object]:
            token = object()
            rig.osevent.timeout_modify(rig.osevent.timeout_register(time.time() + ahead, token), 0)
            return lambda: token in rig.sink.timeouts

        await rig.soon(start, f"a timeout that was due in {ahead} s and was modified is reported")


async def modify_reports_a_timeout_at_once_and_exactly_once(rig: Rig) -> None:
    registration = rig.osevent.timeout_register(time.time() + 3600, "modified")
    rig.sink.inside_hook = True
    for _ in range(3):
        registration = rig.osevent.timeout_modify(registration, 0)
    rig.sink.inside_hook = False
    await rig.until(lambda: "modified" in rig.sink.timeouts, "it is reported")
    rig.osevent.timeout_modify(registration, 0)
    await rig.turn()
    assert rig.sink.timeouts.count("modified") == 1


async def modify_races_with_the_timeouts_own_occurrence_and_it_is_reported_once(rig: Rig) -> None:
    for delay in (0.0, 0.001, 0.002):
        token = ("race", delay)
        registration = rig.osevent.timeout_register(time.time() + delay, token)
        end = time.monotonic() + delay + 0.005
        while time.monotonic() < end:
            pass
        rig.osevent.timeout_modify(registration, 0)
        await rig.until(lambda token=token: token in rig.sink.timeouts, "it is reported")  # type: ignore[misc]  # mypy infers no lambda that has a default
        await rig.turn()
        assert rig.sink.timeouts.count(token) == 1


async def two_timeouts_due_together_may_modify_each_other(rig: Rig) -> None:
    moment = time.time() + 0.01
    registrations = {name: rig.osevent.timeout_register(moment, name) for name in ("a", "b")}
    rig.sink.answers["a"] = lambda _: rig.osevent.timeout_modify(registrations["b"], 0)
    rig.sink.answers["b"] = lambda _: rig.osevent.timeout_modify(registrations["a"], 0)
    await rig.until(lambda: len(set(rig.sink.timeouts)) == 2, "both are reported")
    await rig.turn()
    assert [rig.sink.timeouts.count(name) for name in ("a", "b")] == [1, 1]


async def a_report_may_register_the_timeout_anew(rig: Rig) -> None:
    def again(_: object) -> None:
        if rig.sink.timeouts.count("again") < 5:
            rig.osevent.timeout_register(time.time() + 0.002, "again")

    rig.sink.answers["again"] = again
    rig.osevent.timeout_register(time.time() + 0.002, "again")
    await rig.until(lambda: rig.sink.timeouts.count("again") == 5, "it is reported five times")
    await rig.turn()
    assert rig.sink.timeouts.count("again") == 5


async def a_chain_of_timeouts_that_are_due_does_not_starve_fds(rig: Rig) -> None:
    rig.sink.answers["chain"] = lambda _: rig.osevent.timeout_register(0, "chain")
    rig.osevent.timeout_register(0, "chain")
    await rig.turn()
    rig.sink.answers.clear()


async def a_thousand_timeouts_are_each_reported_once(rig: Rig) -> None:
    now = time.time()
    for number in range(1000):
        rig.osevent.timeout_register(now + 0.02 * (number % 5), number)
    await rig.until(lambda: len(rig.sink.timeouts) >= 1000, "all are reported")
    await rig.turn()
    numbers = [token for token in rig.sink.timeouts if isinstance(token, int)]
    assert sorted(numbers) == list(range(1000))


async def a_moment_that_no_clock_can_show_disturbs_nobody(rig: Rig) -> None:
    for moment in (math.nan, "soon", None, True):
        try:
            rig.osevent.timeout_register(moment, "no moment")  # type: ignore[arg-type]  # that it is refused is what is tested
        except (TypeError, ValueError):
            continue
        raise AssertionError(f"{moment!r} was accepted")
    for far in (math.inf, 1e300, 1e12):
        rig.osevent.timeout_register(far, "far")
    for number in range(10):
        rig.osevent.timeout_register(time.time() + 0.002 * (10 - number), number)
    await rig.until(lambda: len([n for n in rig.sink.timeouts if isinstance(n, int)]) == 10, "the others are reported")
    assert sorted(n for n in rig.sink.timeouts if isinstance(n, int)) == list(range(10))
    assert "no moment" not in rig.sink.timeouts
    assert "far" not in rig.sink.timeouts


async def the_same_token_may_stand_for_several_timeouts(rig: Rig) -> None:
    # The engine recycles its tokens.
    for _ in range(3):
        rig.osevent.timeout_register(time.time() + 0.005, "shared")
    await rig.until(lambda: rig.sink.timeouts.count("shared") == 3, "each is reported")
