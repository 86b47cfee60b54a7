# SPDX-License-Identifier: LGPL-2.1-or-later
"""What gxl is to be held to: each goal is a number that follows from a run's figures, and what it should not exceed.

`gross` is the limit of the short form, which CI runs beside who knows what: beyond it something is broken, not merely
slow. It has none for times, which depend on the machine; ratios, counts and sizes do not.

`bare` is the same number of the program that has nothing of gxl's, which is what Python costs by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import NamedTuple

# Figures by workload, candidate and figure's name: one a round, or None if there was none.
Results = dict[str, dict[str, dict[str, list[float | None]]]]
# System calls an eject by candidate and the call's name.
Calls = dict[str, dict[str, float]]
# None where the run lacks something that is needed.
Measure = Callable[[Results, Calls], float | None]


class Goal(NamedTuple):
    """Without `gross` the short form is blind. Without `bare` there is nothing that a bare program could tell."""

    about: str
    limit: float
    gross: float | None
    measure: Measure
    bare: Measure | None = None


class Outcome(NamedTuple):
    """What became of a goal."""

    goal: Goal
    measured: float
    bare: float | None = None

    @property
    def met(self) -> bool:
        return self.measured <= self.goal.limit

    @property
    def broken(self) -> bool:
        return self.goal.gross is not None and self.measured > self.goal.gross


# Where a figure is: its workload, candidate and name.
Place = tuple[str, str, str]


def rounds(results: Results, *places: Place) -> list[tuple[float, ...]]:
    """The figures at these places, side by side, of each round that has all of them."""
    columns = [results.get(workload, {}).get(candidate, {}).get(figure, []) for workload, candidate, figure in places]
    side_by_side = ([found for found in row if found is not None] for row in zip(*columns, strict=False))
    return [tuple(row) for row in side_by_side if len(row) == len(places)]


def figures(results: Results, workload: str, candidate: str, figure: str = "") -> list[float]:
    """One number a round; none if this was not measured."""
    return [found for (found,) in rounds(results, (workload, candidate, figure))]


def ratio(results: Results, workload: str, candidate: str, to: str, figure: str = "") -> float | None:
    """The median of the ratios within each round."""
    return _middle(
        mine / other for mine, other in rounds(results, (workload, candidate, figure), (workload, to, figure)) if other
    )


def _middle(found: Iterable[float]) -> float | None:
    values = list(found)
    return median(values) if values else None


def _to(workload: str, other: str) -> tuple[Measure, Measure]:
    """gxl's time, and that of a bare program, by another's."""
    return (
        lambda results, calls: ratio(results, workload, "gxl", other),
        lambda results, calls: ratio(results, workload, "bare", other),
    )


def _grows(figure: str, candidate: str, few: str = "a death among 10") -> Measure:
    """One death among 10,000 beside one with less to look after."""

    def measure(results: Results, calls: Calls) -> float | None:
        both = rounds(results, ("a death among 10000", candidate, figure), (few, candidate, figure))
        return _middle(much / little for much, little in both)

    return measure


def for_a_thousand(results: Results, candidate: str, figure: str = "") -> list[float]:
    """What 1,000 parked waiters more take, in each round."""
    many, few = ((f"memory at {waiters}", candidate, figure) for waiters in (2010, 10))
    return [(much - little) / 2 for much, little in rounds(results, many, few)]


def _memory(candidate: str) -> Measure:
    return lambda results, calls: _middle(size / 1024 for size in for_a_thousand(results, candidate))


def _memory_to(other: str, candidate: str) -> Measure:
    def measure(results: Results, calls: Calls) -> float | None:
        sizes = rounds(results, *((f"memory at {n}", name, "") for name in (candidate, other) for n in (2010, 10)))
        return _middle((many - few) / (their_many - their_few) for many, few, their_many, their_few in sizes)

    return measure


def _held(candidate: str) -> Measure:
    def measure(results: Results, calls: Calls) -> float | None:
        more = [_middle(for_a_thousand(results, candidate, what)) for what in ("fds", "threads", "timers")]
        return sum(found for found in more if found is not None) if None not in more else None

    return measure


def _figure(workload: str, candidate: str, figure: str, unit: float = 1) -> Measure:
    return lambda results, calls: _middle(found / unit for found in figures(results, workload, candidate, figure))


def _pause_to_call(results: Results, calls: Calls) -> float | None:
    place = "storm of 1000", "gxl"
    return _middle((call + beyond) / call for call, beyond in rounds(results, (*place, "call"), (*place, "beyond")))


def _idle_beside(other: str) -> Measure:
    def measure(results: Results, calls: Calls) -> float | None:
        both = rounds(results, ("idle", "gxl", ""), ("idle", other, ""))
        return _middle(mine - theirs for mine, theirs in both)

    return measure


def in_all(calls: dict[str, float]) -> float:
    """System calls without futex(2).

    libxenstore has a thread that reads. How often it and the one that asks have to wait for one another, depends on
    which of them is faster, and in one program differs from run to run by more than all that gxl adds.
    """
    return sum(count for name, count in calls.items() if name != "futex")


def _more_calls(candidate: str) -> Measure:
    def measure(results: Results, calls: Calls) -> float | None:
        return in_all(calls[candidate]) - in_all(calls["C"]) if candidate in calls and "C" in calls else None

    return measure


_TIMED = [
    *("eject ping-pong", "burst of 200 ejects"),
    *(f"a death among {waiters}" for waiters in (1, 10, 1000, 10_000)),
    *(f"storm of {domains}" for domains in (10, 100, 1000, 10_000)),
    *(f"storm of {domains}, one greenlet" for domains in (1000, 10_000)),
]
_BEYOND = "longest pause in a storm of {}, {}without libxl's call in it, ms"
_EMBEDDED = "longest pause in a storm of 10,000, embedded engine, ms"
_AT_WORK = ", and of it at work"
_SHARE = "from libxl's return to the application, a death among 10,000 / "
# Against what programs do that have no gxl: ahead in each workload.
AHEAD = [
    goal
    for other in ("threadpool", "thread")
    for goal in (
        *(Goal(f"{workload}, gxl / {other}", 1.0, 4, *_to(workload, other)) for workload in _TIMED),
        Goal(
            f"memory of 1,000 parked waiters, gxl / {other}",
            *(1.0, 3, _memory_to(other, "gxl"), _memory_to(other, "bare")),
        ),
        Goal(f"wake-ups a second when idle, gxl beyond {other}", 0, 1, _idle_beside(other)),
    )
]
GOALS = [
    Goal("eject ping-pong, gxl / C", 1.10, 6, *_to("eject ping-pong", "C")),
    Goal("one death among 10 waiters, gxl / C", 1.25, 8, *_to("a death among 10", "C")),
    *(
        Goal(f"storm of {domains:,}, a greenlet {takers}, gxl / C, an event", 1.4, 20, *_to(workload, "C"))
        for domains in (10_000, 1000)
        for takers, workload in (
            ("each", f"storm of {domains}"),
            ("for all", f"storm of {domains}, one greenlet"),
        )
    ),
    Goal("burst of 200 ejects, gxl / C", 1.05, 4, *_to("burst of 200 ejects", "C")),
    # Beside 10 waiters among the same 10,000 domains: what libxl goes through before, and leaves behind, is the same.
    # Beside 10 domains it is not.
    *(
        Goal(
            f"{_SHARE}{among}: {what}",
            *(1.1, gross, _grows(figure, "gxl", workload), _grows(figure, "bare", workload)),
        )
        for among, workload in (
            ("among 10,000 of which 10 have a waiter", "a death among 10000, 10 wait"),
            ("among 10", "a death among 10"),
        )
        for what, figure, gross in (("functions called", "calls", 1.5), ("time", "share", None))
    ),
    Goal("one death, 10,000 waiters / 10, embedded engine", 1.5, 5, _grows("", "embedded")),
    Goal("MiB for 1,000 parked waiters", 8.5, 10, _memory("gxl"), _memory("bare")),
    Goal("fds, threads and timers for 1,000 parked waiters", 0, 0, _held("gxl"), _held("bare")),
    Goal("wake-ups a second when idle", 0, 1, _figure("idle", "gxl", "")),
    *(
        Goal(
            _BEYOND.format(f"{domains:,}", "" if candidate == "gxl" else f"{candidate}, "),
            *(1, None, _figure(f"storm of {domains}", candidate, "beyond", 1e3)),
            None if candidate != "gxl" else _figure(f"storm of {domains}", "bare", "beyond", 1e3),
        )
        for candidate, domains in (("gxl", 10_000), ("gxl", 1000), ("gxl-asyncio", 1000))
    ),
    Goal("libxl's longest call and the rest of the longest pause / that call, storm of 1,000", 1.3, 8, _pause_to_call),
    *(
        Goal(_EMBEDDED + of_it, 5, None, _figure("storm of 10000", "embedded", figure, 1e3))
        for of_it, figure in (("", "pause"), (_AT_WORK, "worked"))
    ),
    Goal("system calls an eject beyond C's", 2, 12, _more_calls("gxl"), _more_calls("bare")),
]


def outcomes(results: Results, calls: Calls) -> list[Outcome]:
    """Of each goal for which there are figures."""
    measured = (
        (goal, goal.measure(results, calls), goal.bare(results, calls) if goal.bare is not None else None)
        for goal in (*GOALS, *AHEAD)
    )
    return [Outcome(goal, value, bare) for goal, value, bare in measured if value is not None]
